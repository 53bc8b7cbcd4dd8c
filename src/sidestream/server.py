"""The standalone gateway's HTTP server: aiohttp's, set up for relaying, with errors that never quote what came in.

Only aiohttp's public classes are used. The protocol is subclassed because aiohttp's own answer to a malformed request,
and its log line, repeat raw header bytes: keys included.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import structlog
from aiohttp import web

from sidestream.app import refuse
from sidestream.errors import GatewayError
from sidestream.processes import listening

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Sequence

log = structlog.get_logger()

_OPTIONS: dict[str, Any] = {
    "access_log": None,
    "auto_decompress": False,
    "keepalive_timeout": 75.0,  # also the deadline for a request's head
    "lingering_time": 10.0,
    "max_field_size": 1 << 16,
    "max_headers": 256,
    "max_line_size": 1 << 16,
    "read_bufsize": 1 << 16,
}
_PAUSE = 0.3
"""Seconds between closing the listening socket and closing connections: those just accepted still get their answer."""


class FrontDoor(web.RequestHandler):
    """aiohttp's protocol, with another answer to what cannot be parsed, and an end to idle connections.

    When aiohttp starts to shut down, it leaves idle connections open but stops serving them: a pooled client that used
    one would wait for nothing. Here they are closed at once.
    """

    __slots__ = ("_app", "_doors", "_idle")

    def __init__(self, app: web.Application, doors: Doors, manager: web.Server, **options: Any) -> None:
        super().__init__(manager, **options)
        self._app = app
        self._doors = doors
        self._idle = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count a connection."""
        self._doors.entered(self)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget a connection."""
        super().connection_lost(exc)
        self._doors.left(self)

    def data_received(self, data: bytes) -> None:
        """Take in bytes of a request."""
        self._idle = False
        super().data_received(data)

    def begun(self) -> None:
        """Learn that the handling of a request begins: with pipelining, its bytes came before the last answer."""
        self._idle = False

    def log_access(self, request: web.BaseRequest, response: web.StreamResponse, time: float | None) -> None:  # noqa: ARG002
        """Learn that a request has been answered; nothing is logged here."""
        self._idle = True

    def close(self) -> None:
        """Stop serving this connection: at once when it is idle, else after the request under way."""
        super().close()
        if self._idle and self.transport is not None:
            self.transport.close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002  # it quotes the input
    ) -> web.StreamResponse:
        """Answer a malformed request (400), or a defect of ours (500), in the provider's error shape."""
        if isinstance(exc, ConnectionError):  # the client has merely left
            raise exc
        log.warning("request_refused", status=status, error=type(exc).__name__ if exc is not None else None)
        if request.writer.output_size > 0:
            raise ConnectionError("the response has begun; there can be no second one")
        error = GatewayError(status, "bad_request", "the request is not well-formed HTTP")
        if status >= 500:
            error = GatewayError(status, "internal_error", "the gateway failed")
        response = refuse(self._app, error)
        response.force_close()
        return response


class Doors:
    """Where connections come in: the listening sockets, and the connections that have come."""

    def __init__(self) -> None:
        self.port = 0
        self.retiring = False
        """Whether no connection is to be used again: each further answer says ``Connection: close``."""
        self.empty = asyncio.Event()
        """Whether there is no connection."""
        self.empty.set()
        self._servers: list[asyncio.AbstractServer] = []
        self._inside: set[FrontDoor] = set()

    def opened(self, server: asyncio.Server) -> None:
        """Listen there, too."""
        self._servers.append(server)
        self.port = self.port or server.sockets[0].getsockname()[1]

    def shut(self) -> None:
        """Stop listening."""
        for server in self._servers:
            server.close()

    def retire(self) -> None:
        """Stop listening, and let each connection end after its next answer; idle ones are left to their time-out.

        Closing those at once could hit one whose client has just begun to use it again.
        """
        self.retiring = True
        self.shut()

    def entered(self, door: FrontDoor) -> None:
        """A connection has come."""
        self._inside.add(door)
        self.empty.clear()

    def left(self, door: FrontDoor) -> None:
        """A connection has gone."""
        self._inside.discard(door)
        if not self._inside:
            self.empty.set()


@contextlib.asynccontextmanager
async def serving(app: web.Application, host: str, port: int, **options: Any) -> AsyncIterator[int]:
    """Serve `app`, which `create_app` made, on `host` and `port` as long as this context lasts.

    Yields the port (0 asks for any free one); `SidestreamError` if it is taken. `options` are those of `open_doors`.
    """
    sockets = listening.bind(host, port, patience=0)
    async with open_doors(app, sockets, **options) as doors:
        yield doors.port


@contextlib.asynccontextmanager
async def open_doors(
    app: web.Application,
    sockets: Sequence[socket.socket],
    *,
    handler_cancellation: bool = True,
    shutdown_timeout: float = 1.0,
    pause: float = _PAUSE,
) -> AsyncIterator[Doors]:
    """Serve `app` on listening sockets, which are closed with it, as long as this context lasts.

    At the end: stop listening, wait `pause` seconds, run the application's shutdown (which drains its streams), and
    cancel what is left after `shutdown_timeout` seconds.
    """
    runner = web.AppRunner(
        app, handler_cancellation=handler_cancellation, shutdown_timeout=shutdown_timeout, **_OPTIONS
    )
    doors = Doors()
    try:
        await runner.setup()
        server = runner.server
        assert server is not None  # noqa: S101  # setup() made it
        _announce_requests(server, doors)
        loop = asyncio.get_running_loop()
        try:
            for sock in sockets:
                doors.opened(
                    await loop.create_server(
                        lambda: FrontDoor(app, doors, server, loop=loop, **_OPTIONS),
                        sock=sock,
                        backlog=listening.BACKLOG,
                    )
                )
            yield doors
        finally:
            doors.shut()
            await asyncio.sleep(pause)
    finally:
        for sock in sockets:
            sock.close()
        await runner.cleanup()


def _announce_requests(server: web.Server, doors: Doors) -> None:
    """Have `FrontDoor.begun` called for each request, and have a connection closed after it where that is due."""
    make_request = server.request_factory

    def begin(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
        protocol.begun()
        if doors.retiring:
            message = message._replace(should_close=True)
        return make_request(message, payload, protocol, writer, task)

    server.request_factory = begin
