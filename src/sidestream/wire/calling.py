"""Calls to an upstream: a request goes out over a pooled connection, and the answer's head comes back.

aiohttp's connector makes and keeps the connections: names, TLS, proxies and the pool are its business, and its parser
reads the answers. What its session decides anew for each request (redirects, cookies, authentication, default headers,
timers) is decided here once for all requests to an upstream, and a head goes out as it is given.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp.http import HttpProcessingError, StreamWriter
from multidict import CIMultiDict

from sidestream.errors import UpstreamFailed
from sidestream.tasks import spawn

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from aiohttp.connector import Connection
    from multidict import CIMultiDictProxy

    from sidestream.wire.upstream import Upstream

READ_AT_ONCE = 1 << 16
"""Bytes of an answer that wait for their reader before no more is read: what a stalled stream takes."""

_PARSING: dict[str, Any] = {
    "auto_decompress": False,
    "max_field_size": 1 << 16,
    "max_headers": 1000,
    "max_line_size": 1 << 16,
    "read_bufsize": READ_AT_ONCE,
    "read_until_eof": True,
}
_MOST_INTERIM = 1000
"""Interim responses (1xx) before an answer. Who works at something for long sends one every few seconds."""
_IDEMPOTENT = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PUT"})


class Calls:
    """All calls to one upstream, over one connector."""

    def __init__(self, upstream: Upstream, connector: aiohttp.BaseConnector) -> None:
        limit = upstream.limits.connect
        self._loop = asyncio.get_running_loop()
        self._connector = connector
        self._timeout = aiohttp.ClientTimeout(total=None, connect=limit, sock_connect=limit)
        # What a connector must know of a request in order to connect: nothing of the request itself.
        self._way = aiohttp.ClientRequest(
            "GET", upstream.origin, loop=self._loop, ssl=upstream.ssl, proxy=upstream.proxy
        )
        self._first = (("Host", self._way.headers["Host"]),)
        self._absolute = upstream.proxy is not None and upstream.origin.scheme == "http"
        self._base = f"{upstream.origin if self._absolute else ''}{upstream.base_path}"

    async def call(
        self,
        method: str,
        target: str,
        headers: CIMultiDict[str],
        body: bytes | AsyncIterator[bytes] | None,
        sent: Callable[[], None],
    ) -> Answer:
        """Send a request, and wait for the head of its answer.

        `headers` go out as they are, after ``Host``; only the body's framing is added where it is missing. `sent` is
        called when the whole body is on its way. What kept a request from being answered is raised: an
        `aiohttp.ClientError`, an `OSError`, or `UpstreamFailed`. A request that by its method may be sent twice is sent
        once more if its connection ended before there was an answer.
        """
        again = method in _IDEMPOTENT and (body is None or isinstance(body, bytes))
        while True:
            try:
                return await self._attempt(method, target, headers, body, sent)
            except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
                if not again or isinstance(error, aiohttp.ClientConnectorError):
                    raise
                again = False

    async def _attempt(
        self,
        method: str,
        target: str,
        headers: CIMultiDict[str],
        body: bytes | AsyncIterator[bytes] | None,
        sent: Callable[[], None],
    ) -> Answer:
        try:
            connection = await self._connector.connect(self._way, [], self._timeout)
        except TimeoutError as error:
            raise aiohttp.ConnectionTimeoutError("the upstream could not be reached in time") from error
        answer = Answer(connection)
        try:
            protocol = connection.protocol
            assert protocol is not None  # noqa: S101  # it was just connected
            protocol.set_response_params(skip_payload=method == "HEAD", **_PARSING)
            writer = StreamWriter(protocol, self._loop)
            await writer.write_headers(f"{method} {self._base}{target} HTTP/1.1", self._head(headers, body, writer))
            await answer.send(writer, body, sent)
            await answer.receive()
        except BaseException:
            answer.close()
            raise
        return answer

    def _head(
        self, headers: CIMultiDict[str], body: bytes | AsyncIterator[bytes] | None, writer: StreamWriter
    ) -> CIMultiDict[str]:
        head = CIMultiDict(self._first)
        if self._absolute and (wanted := self._way.headers.get("Proxy-Authorization")):
            head["Proxy-Authorization"] = wanted
        head.extend(headers)
        if body is not None and "Content-Length" not in head:
            if isinstance(body, bytes):
                head["Content-Length"] = str(len(body))
            else:
                head["Transfer-Encoding"] = "chunked"
                writer.enable_chunking()
        if self._connector.force_close:
            head["Connection"] = "close"
        return head


class Answer:
    """An upstream's answer: its head, once `receive` has returned, and `content` to read its body from."""

    __slots__ = ("_connection", "_sending", "content", "headers", "protocol", "reason", "status")

    status: int
    reason: str
    headers: CIMultiDictProxy[str]
    content: aiohttp.StreamReader

    def __init__(self, connection: Connection) -> None:
        self.protocol = connection.protocol
        """Of the connection; another answer's, as soon as this one has been received whole."""
        self._connection: Connection | None = connection
        self._sending: asyncio.Task[None] | None = None

    @property
    def connected(self) -> bool:
        """Whether the connection is this answer's still: more of it may come."""
        return self._connection is not None

    async def send(
        self, writer: StreamWriter, body: bytes | AsyncIterator[bytes] | None, sent: Callable[[], None]
    ) -> None:
        """Send the head that `writer` holds, and the body: in one write what is here already."""
        if body is None:
            writer.set_eof()
        elif isinstance(body, bytes):
            await writer.write(body, drain=False)
            writer.set_eof()
            if self.protocol is not None and self.protocol.writing_paused:
                self._sending = spawn(self._drain(writer, sent), name="upload")
            else:
                sent()
        else:
            writer.send_headers()  # an upstream may answer before there is any of it
            self._sending = spawn(self._copy(writer, body, sent), name="upload")

    async def receive(self) -> None:
        """Wait for the head."""
        protocol = self.protocol
        assert protocol is not None  # noqa: S101  # it was just connected
        for _ in range(_MOST_INTERIM):
            try:
                message, content = await protocol.read()
            except HttpProcessingError as error:
                raise UpstreamFailed("the upstream did not speak HTTP") from error
            if not 100 <= message.code <= 199 or message.code == 101:
                break
        else:
            raise UpstreamFailed("the upstream sent one interim response after the other")
        if (problem := _misframed(message.headers)) is not None:
            raise UpstreamFailed(problem)  # before the pool can have the connection back
        self.status = message.code
        self.reason = message.reason
        self.headers = message.headers
        self.content = content
        content.on_eof(self._received)

    def close(self) -> None:
        """Let go of it: a connection on which more could come, or go, ends."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._sending is not None:
            self._sending.cancel()
        transport = connection.transport
        if transport is not None and transport.get_write_buffer_size():
            transport.abort()  # a peer that reads nothing would keep it open until the rest of the request has gone
        connection.close()

    def _received(self) -> None:
        if self._sending is not None and not self._sending.done():
            self.close()
        elif self._connection is not None:
            self._connection.release()
            self._connection = None

    async def _drain(self, writer: StreamWriter, sent: Callable[[], None]) -> None:
        try:
            await writer.drain()
        except (OSError, aiohttp.ClientError) as error:
            self._unsent(error)
        else:
            sent()

    async def _copy(self, writer: StreamWriter, pieces: AsyncIterator[bytes], sent: Callable[[], None]) -> None:
        try:
            if self.protocol is not None and self.protocol.writing_paused:
                await writer.drain()
            async for piece in pieces:
                await writer.write(piece)
            sent()
            await writer.write_eof()
        except Exception as error:  # noqa: BLE001  # whatever it is, the call cannot be answered
            self._unsent(error)

    def _unsent(self, error: Exception) -> None:
        """Have `receive` fail, unless the answer has come."""
        if self.protocol is not None:
            self.protocol.set_exception(aiohttp.ClientConnectionError("the request could not be sent"), error)


def transfer_coding(headers: CIMultiDictProxy[str]) -> str | None:
    """As the parser takes it: all fields are one list, and only blanks and tabs are white space."""
    codings = headers.getall("Transfer-Encoding", None)
    return ",".join(codings).strip(" \t").lower() if codings is not None else None


def _misframed(headers: CIMultiDictProxy[str]) -> str | None:
    """Why nobody knows for sure where the body ends; None if everybody does."""
    names = "".join(headers)
    if " " in names or "\t" in names:  # the parser takes 'Content-Length : 2' for a length, others may not
        return "the upstream sent white space in a field's name"
    if transfer_coding(headers) not in {None, "chunked", "identity"}:
        return "the upstream used a transfer coding other than 'chunked'"
    return None
