"""Traces into an Invariant Explorer, through its push API.

What a reply means: 200 is a stored trace. 429, 502, 503, 504 and a broken network mean "later". Any other answer is
final, 500 too: Explorer stores a trace before it is done with the request and has no protection against duplicates, and
many of its 500s say that the trace itself is at fault. A connection lost, or a timeout, after the request was sent is
ambiguous. It is tried again, so a trace may arrive twice; each push says which exchange and which attempt it is in
``metadata.sidestream``, so that the copies can be told.

What Explorer would stumble over is changed in the pushed copy only (`_message` and below).
"""

from __future__ import annotations

import asyncio
import io
import re
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import aiohttp
import msgspec
import structlog

from sidestream.errors import Retryable, Undeliverable
from sidestream.options import Duration, Secret, Size
from sidestream.sinks.base import ATTEMPTS, BACKOFF, QUEUE, QUEUE_BYTES, Sink, encoded, memory_of

if TYPE_CHECKING:
    from sidestream.traces.model import Message, Trace

_TIMEOUT = Duration(30)
_LONGEST_RETRY_AFTER = 300.0
_ENCODE_IN_THREAD_FROM = 256 << 10
_REPLY_LIMIT = 64 << 10
# Shorter than any server's of note (uvicorn: 5 s), or a push would meet a connection that is just being closed.
_KEEPALIVE_SECONDS = 2.0
_LATER = frozenset({429, 502, 503, 504})
_HINTS = {
    307: "; is `url` the address of the Explorer itself?",
    401: ": the key is not valid there",
    404: "; is `url` the address of the Explorer itself?",
    413: ": the trace is too large",
    500: ": not tried again, as it may have been stored",
}
_RESERVED_METADATA = frozenset({"tool_calls", "uploader"})
# Explorer blanks a text with one of these words in it, and decodes one that begins with "base64_img: " as an image. A
# zero-width space between the halves keeps the text readable and the words from being recognised.
_ZERO_WIDTH_SPACE = "\u200b"
_SEAMS = re.compile(
    r"(?<=local)(?=_img_link)|(?<=s3)(?=_img_link)|(?<=local_base64)(?=_img)|(?<=\Abase64)(?=_img: )",
)
_IN_ALL_SEAMS = "_img"
_INLINE_IMAGE = re.compile(r"data:image/[^;,]+;base64,")

_log = structlog.get_logger()


class Explorer(Sink):
    """Push every answered call to the Explorer at `url`.

    The key is the one the call brought along, or `api_key`. `concurrency` pushes run at the same time, each of them for
    at most `timeout` seconds.
    """

    def __init__(
        self,
        *,
        url: str,
        api_key: Secret | None = None,
        concurrency: int = 4,
        timeout: Duration = _TIMEOUT,
        queue: int = QUEUE,
        queue_bytes: Size = QUEUE_BYTES,
        attempts: int = ATTEMPTS,
        backoff: Duration = BACKOFF,
    ) -> None:
        if concurrency < 1:
            raise ValueError("concurrency must be 1 or more")
        if not timeout > 0:
            raise ValueError("timeout must be more than 0")
        super().__init__(workers=concurrency, queue=queue, queue_bytes=queue_bytes, attempts=attempts, backoff=backoff)
        self._push_url = f"{_origin(url)}/api/v1/push/trace"
        self._api_key = api_key or None
        if self._api_key and not _is_sendable(self._api_key):
            raise ValueError("api_key must be printable ASCII without spaces: inv- and 64 hexadecimal digits")
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        self._concurrency = concurrency
        self._session: aiohttp.ClientSession

    @property
    def needs_trace_key(self) -> bool:
        """True when there is no `api_key` to fall back to."""
        return self._api_key is None

    def accepts(self, trace: Trace) -> bool:
        """Only calls the provider answered with a 2xx: its error answers are not conversations."""
        status = trace.metadata.get("status")
        return isinstance(status, int) and 200 <= status <= 299

    def offer(self, trace: Trace, credential: Secret | None) -> None:
        """As `Sink.offer`; a trace without a key is skipped."""
        if credential or self._api_key or not self.accepts(trace):
            super().offer(trace, credential)
            return
        self.counters.skipped += 1
        if self.counters.skipped == 1:
            _log.warning("sink_trace_skipped", sink=self.name, exchange=trace.id, reason="no Explorer key; logged once")

    async def open(self) -> None:
        """Open a session of our own: no cookies, no proxies from the environment."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._concurrency, keepalive_timeout=_KEEPALIVE_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=self._timeout,
            trust_env=False,
            auto_decompress=False,
            headers={"Accept-Encoding": "identity", "Content-Type": "application/json"},
        )

    async def close(self) -> None:
        """Close it."""
        await self._session.close()

    async def deliver(self, trace: Trace, credential: Secret | None) -> None:
        """Push `trace`; see the module for what the replies mean."""
        key = credential or self._api_key
        if not key or not _is_sendable(key):
            raise Undeliverable("the key of this call cannot be sent in a header")
        body = io.BytesIO(await self._body(trace))  # which aiohttp sends in pieces; a large `bytes` goes in one
        headers = {"Authorization": f"Bearer {key.reveal()}"}
        try:
            async with self._session.post(self._push_url, data=body, headers=headers, allow_redirects=False) as reply:
                await _judge(reply)
        except TimeoutError as error:
            raise Retryable(f"no reply within {Duration(self._timeout.total or 0)}") from error
        except (aiohttp.ClientError, OSError) as error:
            raise Retryable(f"the connection failed: {type(error).__name__}") from error

    async def _body(self, trace: Trace) -> bytes:
        mark = {"exchange": trace.id, "attempt": self.attempt}
        try:
            if memory_of(trace) < _ENCODE_IN_THREAD_FROM:
                return _push(trace, mark)
            return await asyncio.to_thread(_push, trace, mark)
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


def _is_sendable(key: Secret) -> bool:
    value = key.reveal()
    return value.isascii() and value.isprintable() and " " not in value


async def _judge(reply: aiohttp.ClientResponse) -> None:
    if reply.status in _LATER:
        raise Retryable(f"Explorer answered {reply.status}", after=_retry_after(reply.headers.get("Retry-After")))
    if reply.status != 200:
        raise Undeliverable(f"Explorer answered {reply.status}{_HINTS.get(reply.status, '')}")
    try:
        body = await _read(reply)
    except (aiohttp.ClientError, OSError):
        return  # the trace was stored before the reply began; Explorer is known to hang up in the middle of it
    try:
        msgspec.json.decode(body, type=_Stored)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Undeliverable("the answer is 200, but not an Explorer's; is `url` right?") from error


class _Stored(msgspec.Struct):
    """The reply to a push, as far as we need it."""

    id: list[str]


async def _read(reply: aiohttp.ClientResponse) -> bytes:
    body = b""
    async for chunk in reply.content.iter_any():
        body += chunk
        if len(body) > _REPLY_LIMIT:
            break
    return body


def _retry_after(value: str | None) -> float | None:
    """Seconds to wait (RFC 9110, 10.2.3: a number or a date), five minutes at most; None for neither."""
    if value is None:
        return None
    if value.isascii() and value.isdigit():
        seconds = float(value)
    else:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return min(max(seconds, 0.0), _LONGEST_RETRY_AFTER)


def _push(trace: Trace, mark: dict[str, Any]) -> bytes:
    """The request body for one trace, as Explorer can take it."""
    metadata = {f"{key}_" if key in _RESERVED_METADATA else key: value for key, value in trace.metadata.items()}
    ours = metadata.get("sidestream")
    metadata["sidestream"] = {**ours, **mark} if isinstance(ours, dict) else mark
    messages = encoded(map(_message, trace.messages))
    rest = msgspec.json.encode({"dataset": trace.dataset, "metadata": [metadata]})[1:]
    return b"".join((b'{"messages":[', messages, b"],", rest))


def _message(message: Message) -> Message:
    copy: Message = _with_seams(message)
    if isinstance(copy.get("content"), list):
        copy["content"] = [_part(part) for part in copy["content"]]
    if "tool_calls" in copy:
        copy["tool_calls"] = [_tool_call(call) for call in copy["tool_calls"] or []]
    return copy


def _with_seams(value: Any) -> Any:
    """A copy of a JSON value in which no text, as a key neither, says a word that Explorer acts on."""
    if isinstance(value, str):
        return _SEAMS.sub(_ZERO_WIDTH_SPACE, value) if _IN_ALL_SEAMS in value else value
    if isinstance(value, list):
        return [_with_seams(item) for item in value]
    if isinstance(value, dict):
        return {_with_seams(key): _with_seams(item) for key, item in value.items()}
    return value


def _part(part: Any) -> Any:
    """A part of a content list; an image that is not inline fails the whole push, so it becomes a text."""
    if not isinstance(part, dict) or part.get("type") != "image_url":
        return part
    image = part.get("image_url")
    url = image.get("url") if isinstance(image, dict) else None
    if isinstance(url, str) and _INLINE_IMAGE.match(url):
        return part
    return {"type": "text", "text": "[image that is not inline]"}


def _tool_call(call: dict[str, Any]) -> dict[str, Any]:
    """A tool call whose function has a name and whose arguments are an object, as Explorer insists."""
    function = call.get("function")
    if not isinstance(function, dict):
        function = {} if function is None else {"arguments": function}
    arguments = function.get("arguments", {})
    if not isinstance(arguments, dict):
        arguments = {"_raw": arguments}
    return {**call, "function": {"name": "unknown", **function, "arguments": arguments}}
