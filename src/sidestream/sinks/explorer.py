"""Traces into an Invariant Explorer, through its push API.

Explorer stores a trace before it is done with the request, and has no protection against duplicates. After a lost
connection, a timeout, and some replies (`sidestream.sinks.explorer_replies`), nobody knows whether a trace arrived.

So each push says in ``metadata.sidestream`` which exchange it is, and `Explorer.find` looks for that among the traces
of the dataset before anything of which nobody knows is sent again.
"""

from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

import aiohttp
from yarl import URL

from sidestream.errors import Ambiguous, Retryable, Unauthorized, Undeliverable
from sidestream.options import Duration, Secret
from sidestream.sinks import explorer_replies as replies
from sidestream.sinks.base import Found, Sink, memory_of
from sidestream.sinks.explorer_list import Search
from sidestream.sinks.explorer_push import push_body
from sidestream.sinks.key_file import KeyFile, is_sendable

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from sidestream.traces.model import Trace

_TIMEOUT = Duration(30)
_SETTLE = Duration(10)
_CONNECT_SECONDS = 10.0
_IN_THREAD_FROM = 256 << 10
_LIST_SECONDS = 600.0
# Shorter than any server's of note (uvicorn: 5 s), or a push would meet a connection that is just being closed.
_KEEPALIVE_SECONDS = 2.0


class Explorer(Sink):
    """Push every answered call to the Explorer at `url`.

    The key is the one the call brought along. Where it brought none, or that key is not known any more after a
    restart, it is `api_key`, or the one in the file `api_key_file`, which may be replaced at any time. `concurrency`
    pushes run at the same time, each of them for at most `timeout` seconds. One whose end was not seen, or that was
    answered with 500 or the like, is looked for `settle` seconds later, before it is sent again.
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
        self._looking: asyncio.Lock

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
        self._looking = asyncio.Lock()
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
        """Push `trace`; returns its id there."""
        headers = {**await self._authorization(credential), "Content-Type": "application/json"}
        data = io.BytesIO(await _body(trace, attempt))  # which aiohttp sends in pieces; a large `bytes` goes in one
        push = f"{self._api}/push/trace"
        try:
            async with self._session.post(push, data=data, headers=headers, allow_redirects=False) as reply:
                return await replies.pushed(reply)
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
            async with self._looking:  # one at a time: a list can be long
                return await self._search(trace, headers)
        except (aiohttp.ClientError, OSError) as error:  # TimeoutError is one of the latter
            raise Retryable(f"Explorer could not be asked: {type(error).__name__}") from error

    async def _search(self, trace: Trace, headers: dict[str, str]) -> Found | None:
        async with self._get("user/identity", headers) as reply:
            if reply.status != 200:
                raise replies.unanswered(reply)
            user = quote(await replies.username(reply), safe="")
        search = Search(trace.id)
        async with self._get(f"dataset/byuser/{user}/{quote(trace.dataset, safe='')}/traces", headers) as reply:
            if reply.status == 404:
                return None  # the dataset does not exist
            if reply.status != 200:
                raise replies.unanswered(reply)
            async for data in reply.content.iter_any():
                search.feed(data)
                if search.found is not None:
                    return search.found
        search.end()
        return search.found

    async def _authorization(self, credential: Secret | None) -> dict[str, str]:
        key = credential or self._api_key
        if key is None and self._key_file is not None:
            key = await asyncio.to_thread(self._key_file.read)
        if not key or not is_sendable(key):
            raise Unauthorized("the key of the call cannot be sent in a header")
        return {"Authorization": f"Bearer {key.reveal()}"}

    def _get(self, path: str, headers: dict[str, str]) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        url = URL(f"{self._api}/{path}", encoded=True)
        timeout = aiohttp.ClientTimeout(total=_LIST_SECONDS, connect=self._timeout / 2, sock_read=self._timeout)
        return self._session.get(url, headers=headers, allow_redirects=False, timeout=timeout)


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
