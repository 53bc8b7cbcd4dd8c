"""Traces into an Invariant Explorer, through its push API.

What a reply means: 200 is a stored trace. 429, 502, 503, 504, and a connection that could not be made, mean "later".
401 and 403 speak of the key. After 500, a lost connection or a timeout nobody knows: Explorer stores a trace before it
is done with the request, and has no protection against duplicates. Any other answer is final.

So each push says in ``metadata.sidestream`` which exchange it is, and `Explorer.find` looks for that among the traces
of the dataset before anything of which nobody knows is sent again.
"""

from __future__ import annotations

import asyncio
import io
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlsplit

import aiohttp
import msgspec
from yarl import URL

from sidestream.errors import Ambiguous, DeliveryError, Retryable, Unauthorized, Undeliverable
from sidestream.options import Duration, Secret
from sidestream.sinks.base import Found, Sink, memory_of
from sidestream.sinks.explorer_push import push_body
from sidestream.sinks.key_file import KeyFile, is_sendable

if TYPE_CHECKING:
    from sidestream.traces.model import Trace

T = TypeVar("T")

_TIMEOUT = Duration(30)
_SETTLE = Duration(10)
_CONNECT_SECONDS = 10.0
_IN_THREAD_FROM = 256 << 10
_REPLY_LIMIT = 64 << 10
_LIST_LIMIT = 256 << 20
_LIST_SECONDS = 600.0
# Shorter than any server's of note (uvicorn: 5 s), or a push would meet a connection that is just being closed.
_KEEPALIVE_SECONDS = 2.0
_LATER = frozenset({429, 502, 503, 504})
_HINTS = {
    307: "; is `url` the address of the Explorer itself?",
    404: "; is `url` the address of the Explorer itself?",
    413: ": the trace is too large",
}


class Explorer(Sink):
    """Push every answered call to the Explorer at `url`.

    The key is the one the call brought along. Where it brought none, or that key is not known any more after a
    restart, it is `api_key`, or the one in the file `api_key_file`, which may be replaced at any time. `concurrency`
    pushes run at the same time, each of them for at most `timeout` seconds. One whose end was not seen, or that was
    answered with 500, is looked for `settle` seconds later, before it is sent again.
    """

    def __init__(
        self,
        *,
        url: str,
        api_key: Secret | None = None,
        api_key_file: str | None = None,
        concurrency: int = 4,
        timeout: Duration = _TIMEOUT,
        settle: Duration = _SETTLE,
    ) -> None:
        if concurrency < 1:
            raise ValueError("concurrency must be 1 or more")
        if not timeout > 0:
            raise ValueError("timeout must be more than 0")
        if api_key and api_key_file:
            raise ValueError("api_key and api_key_file must not both be given")
        if api_key and not is_sendable(api_key):
            raise ValueError("api_key must be printable ASCII without spaces: inv- and 64 hexadecimal digits")
        self.concurrency = concurrency
        self.settle = settle
        self._api = f"{_origin(url)}/api/v1"
        self._api_key = api_key or None
        self._key_file = KeyFile(api_key_file) if api_key_file is not None else None
        self._timeout = timeout
        self._session: aiohttp.ClientSession

    @property
    def needs_trace_key(self) -> bool:
        """True when there is no key to fall back to."""
        return self._api_key is None and self._key_file is None

    def accepts(self, trace: Trace) -> bool:
        """Only calls the provider answered with a 2xx: its error answers are not conversations."""
        status = trace.metadata.get("status")
        return isinstance(status, int) and 200 <= status <= 299

    async def open(self) -> None:
        """Open a session of our own: no cookies, no proxies from the environment."""
        connect = min(_CONNECT_SECONDS, self._timeout / 2)  # so that a timeout tells whether anything was sent
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=self._timeout, connect=connect),
            trust_env=False,
            auto_decompress=False,
            headers={"Accept-Encoding": "identity"},
        )

    async def close(self) -> None:
        """Close it."""
        await self._session.close()

    async def deliver(self, trace: Trace, credential: Secret | None, attempt: int) -> str | None:
        """Push `trace`; returns its id there. See the module for what the replies mean."""
        headers = {**await self._authorization(credential), "Content-Type": "application/json"}
        data = io.BytesIO(await _body(trace, attempt))  # which aiohttp sends in pieces; a large `bytes` goes in one
        push = f"{self._api}/push/trace"
        try:
            async with self._session.post(push, data=data, headers=headers, allow_redirects=False) as reply:
                return await _judge(reply)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise Retryable(f"there is no connection: {type(error).__name__}") from error
        except TimeoutError as error:
            raise Ambiguous(f"no reply within {self._timeout}") from error
        except (aiohttp.ClientError, OSError) as error:
            raise Ambiguous(f"the connection failed: {type(error).__name__}") from error

    async def find(self, trace: Trace, credential: Secret | None) -> Found | None:
        """Look for a trace that says to be this exchange, among those of the user's dataset."""
        headers = await self._authorization(credential)
        try:
            identity = await self._get("user/identity", headers, _REPLY_LIMIT)
            user = quote(_decoded(identity, _Identity).username, safe="")
            body = await self._get(
                f"dataset/byuser/{user}/{quote(trace.dataset, safe='')}/traces", headers, _LIST_LIMIT
            )
        except _NotThereError:
            return None
        except (aiohttp.ClientError, OSError) as error:  # TimeoutError is one of the latter
            raise Retryable(f"Explorer could not be asked: {type(error).__name__}") from error
        if len(body) < _IN_THREAD_FROM:
            return _found(body, trace.id)
        return await asyncio.to_thread(_found, body, trace.id)

    async def _authorization(self, credential: Secret | None) -> dict[str, str]:
        key = credential or self._api_key
        if key is None and self._key_file is not None:
            key = await asyncio.to_thread(self._key_file.read)
        if not key or not is_sendable(key):
            raise Unauthorized("the key of the call cannot be sent in a header")
        return {"Authorization": f"Bearer {key.reveal()}"}

    async def _get(self, path: str, headers: dict[str, str], limit: int) -> bytes:
        url = URL(f"{self._api}/{path}", encoded=True)
        timeout = aiohttp.ClientTimeout(total=_LIST_SECONDS, connect=self._timeout / 2, sock_read=self._timeout)
        async with self._session.get(url, headers=headers, allow_redirects=False, timeout=timeout) as reply:
            if reply.status == 404 and path.startswith("dataset/"):
                raise _NotThereError
            if reply.status == 500:
                raise Retryable("Explorer could not be asked: it answered 500")
            if reply.status != 200:
                raise _refusal(reply)
            body = await _read(reply, limit)
        if len(body) > limit:
            raise Ambiguous("Explorer's list of traces is too long")
        return body


class _NotThereError(Exception):
    """The dataset does not exist."""


class _Stored(msgspec.Struct):
    """The reply to a push, as far as we need it."""

    id: list[str]


class _Identity(msgspec.Struct):
    username: str


class _Listed(msgspec.Struct):
    """One trace of a dataset, as far as we need it; what others pushed may have anything as metadata."""

    id: str
    extra_metadata: Any = None


async def _body(trace: Trace, attempt: int) -> bytes:
    mark = {"exchange": trace.id, "attempt": attempt}
    try:
        if memory_of(trace) < _IN_THREAD_FROM:
            return push_body(trace, mark)
        return await asyncio.to_thread(push_body, trace, mark)
    except (TypeError, ValueError, AttributeError, RecursionError) as error:
        # A surrogate, which Explorer would take and then choke on; or not a trace at all.
        raise Undeliverable(f"the trace cannot be pushed as JSON: {type(error).__name__}") from error


def _origin(url: str) -> str:
    """`url` without trailing slashes, if it can be one; an error does not repeat it, it may hold a password."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 (raises for a bad one)
    except ValueError as error:
        raise ValueError("url is not a URL") from error
    if not url.isprintable() or " " in url or parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("url must be the address of an Explorer, such as https://explorer.example.com")
    if "@" in parts.netloc:
        raise ValueError("url must not hold a user name or password; the key goes into api_key")
    if "?" in url or "#" in url:
        raise ValueError("url must not have a query or a fragment")
    return url.rstrip("/")


async def _judge(reply: aiohttp.ClientResponse) -> str | None:
    """The id of the stored trace, if the whole reply came; or what its status means."""
    if reply.status == 500:
        raise Ambiguous("Explorer answered 500", server_error=True)
    if reply.status != 200:
        raise _refusal(reply)
    try:
        body = await _read(reply, _REPLY_LIMIT)
    except (aiohttp.ClientError, OSError):
        return None  # the trace was stored before the reply began; Explorer is known to hang up in the middle of it
    try:
        ids = msgspec.json.decode(body, type=_Stored).id
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Undeliverable("the answer is 200, but not an Explorer's; is `url` right?") from error
    return ids[0] if ids else None


def _refusal(reply: aiohttp.ClientResponse) -> DeliveryError:
    said = f"Explorer answered {reply.status}"
    if reply.status in _LATER:
        return Retryable(said, after=_retry_after(reply.headers.get("Retry-After")))
    if reply.status in {401, 403}:
        return Unauthorized(f"{said}: the key is not valid there")
    return Undeliverable(f"{said}{_HINTS.get(reply.status, '')}")


async def _read(reply: aiohttp.ClientResponse, limit: int) -> bytes:
    """The body; a little more than `limit` bytes of it at most."""
    body = bytearray()
    async for chunk in reply.content.iter_any():
        body += chunk
        if len(body) > limit:
            break
    return bytes(body)


def _found(body: bytes, exchange: str) -> Found | None:
    for listed in _decoded(body, list[_Listed]):
        metadata = listed.extra_metadata
        mark = metadata.get("sidestream") if isinstance(metadata, dict) else None
        if isinstance(mark, dict) and mark.get("exchange") == exchange:
            return Found(listed.id)
    return None


def _decoded(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Ambiguous("the answer is not an Explorer's; is `url` right?") from error


def _retry_after(value: str | None) -> float | None:
    """Seconds to wait (RFC 9110, 10.2.3: a number or a date); None for neither."""
    if value is None:
        return None
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        return max(parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except (ValueError, OverflowError):
        return None
