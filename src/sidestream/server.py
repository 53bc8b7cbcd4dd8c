"""The standalone gateway's HTTP server: aiohttp's, set up for relaying, with errors that never quote what came in.

Only aiohttp's public classes are used. The protocol is subclassed because aiohttp's own answer to a malformed request,
and its log line, repeat raw header bytes: keys included. What aiohttp sets no limit to has one here: connections, the
time and the size of a head, the framing of a body, and requests sent ahead of their turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
from typing import TYPE_CHECKING, Any, cast

import structlog
from aiohttp import EMPTY_PAYLOAD, HttpVersion10, web
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from sidestream.app import refuse
from sidestream.errors import GatewayError
from sidestream.processes import listening
from sidestream.tasks import spawn
from sidestream.wire.routes import OTHER_VERSION, SPOKEN_HERE
from sidestream.wire.sockets import bound_unsent, closed_by_peer

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Sequence

    from aiohttp import StreamReader

log = structlog.get_logger()

_OPTIONS: dict[str, Any] = {
    "access_log": None,
    "auto_decompress": False,
    "keepalive_timeout": 75.0,
    "lingering_time": 10.0,
    "max_field_size": 1 << 16,
    "max_headers": 256,
    "max_line_size": 1 << 16,
    "read_bufsize": 1 << 16,
}
_PAUSE = 0.3
"""Seconds between closing the listening socket and closing connections: those just accepted still get their answer."""
_HEAD_TIMEOUT = 30.0
"""Seconds from the first byte of a request's head to its last."""
_HEAD = 1 << 19
"""Bytes of a head, at least, before it is refused: more than one read, since a body may come in the same."""
_FRAMING = 1 << 14
_FRAMING_PER_BYTE = 1
"""A chunked body may have so many bytes of framing, and so many more per byte of content. Chunks of a byte need five:
each costs as much as one of a thousand."""
_SLICE = 1 << 12
"""Bytes of a chunked body that are parsed before somebody looks at what they were: a read has up to 256,000."""
_FINE = 8
"""The share of a slice, one of so many, that is framing where chunks are so small that others are to have a turn."""
_AHEAD = 1 << 22
"""Bytes of further requests that may come while one is being answered."""
_PARTING = 2.0
"""Seconds that a client has to take in a last answer while it still sends."""
_MOST_PARTING = 32
"""Connections that are turned away and still there: beyond it they are closed at once, answer read or not."""
_LOOK_EVERY = 1 << 18
"""Bytes between two looks at what a connection has sent, and those that are read of what will be thrown away."""
_UNSENT = 1 << 17
"""Bytes of an answer that the kernel takes beyond what is on its way to the client; by itself, it takes megabytes for
one who does not read."""
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,15})\r\n", re.IGNORECASE)
_NO_HEAD = b"\0"
"""What no head may contain: it ends the parser's wait for the rest of one."""
_NOTHING = memoryview(b"")
_ANYWHERE = URL("/*")
"""Where a request goes whose target is no path: to no route, and so to an answer of ours instead of aiohttp's."""


class FrontDoor(web.RequestHandler):
    """aiohttp's protocol, with another answer to what cannot be parsed, limits, and an end to idle connections.

    When aiohttp starts to shut down, it leaves idle connections open but stops serving them: a pooled client that used
    one would wait for nothing. Here they are closed at once.

    A read costs an addition and a comparison. Only every so many bytes somebody looks at what they were; in a chunked
    body, after each slice.
    """

    __slots__ = (
        "_ahead_from",
        "_app",
        "_chunked",
        "_content",
        "_doors",
        "_full",
        "_idle",
        "_leaving",
        "_refusal",
        "_rest",
        "_room",
        "_taken",
        "_turn",
    )

    def __init__(self, app: web.Application, doors: Doors, manager: web.Server, **options: Any) -> None:
        super().__init__(manager, **options)
        self._app = app
        self._doors = doors
        self._idle = True
        self._leaving = False
        self._content: StreamReader = EMPTY_PAYLOAD
        self._chunked = False
        self._full = False
        self._rest = _NOTHING
        self._turn: asyncio.Handle | None = None
        self._taken = 0
        self._room = _HEAD
        self._ahead_from: int | None = None
        self._refusal: GatewayError | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a connection in, or turn it away where there are too many."""
        there = cast("asyncio.Transport", transport)  # it is TCP
        if self._doors.entered(self):
            super().connection_made(transport)
            bound_unsent(there, _UNSENT)
            return
        error = GatewayError(503, "too_many_connections", "the gateway has as many connections as it can serve")
        there.write(_on_the_wire(refuse(self._app, error)))
        self._doors.turned_away(there)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget a connection."""
        super().connection_lost(exc)
        self._doors.left(self)

    def data_received(self, data: bytes) -> None:
        """Take in bytes of a request."""
        if self._leaving:
            self._throw_away(data)
            return
        if self._idle and data and self._content.is_eof():  # else the rest of a body that has been answered
            self._idle = False
            self._taken, self._room = 0, _HEAD
            self._doors.expected(self)
        if self._rest and data:
            self._rest = memoryview(bytes(self._rest) + data)
            self._wait_a_turn()
        elif len(data) > _SLICE and self._portion(data) < len(data):
            self._rest = memoryview(data)
            self._hand_on()
        elif self._taken <= self._room or self._bearable():
            self._taken += len(data)
            super().data_received(data)

    def pause_reading(self) -> None:
        """Read no more until the body's reader has caught up."""
        self._full = True
        super().pause_reading()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Go on; aiohttp says so for each piece that its reader takes, whether or not reading has paused."""
        if self._full:
            self._full = False
            super().resume_reading(resume_parser)
            if self._rest:
                self._wait_a_turn()  # the parser may be at work: the end of a body makes room, too

    def begun(self, content: StreamReader, *, chunked: bool, last: bool) -> None:
        """Learn that the handling of a request begins: with pipelining, its bytes came before the last answer.

        What comes behind the `last` one is nobody's. The parser, which has failed perhaps, would look at all of it.
        """
        self._idle = False
        self._content = content
        self._chunked = chunked
        self._taken, self._room = 0, _FRAMING
        self._ahead_from = None
        self._doors.came(self)
        if last and content.is_eof():
            super().close()

    def head_overdue(self) -> None:
        """Refuse a request whose head does not come to an end."""
        self._refuse_head(GatewayError(408, "request_timeout", "the request's head did not arrive in time"))

    def look_for_client(self) -> None:
        """End a connection that nothing is read from any more, if its client has left before its answer."""
        if self.transport is not None and not self._idle and closed_by_peer(self.transport):
            self.transport.abort()

    @property
    def idle(self) -> bool:
        """Whether no request has begun to come, and none is being answered."""
        return self._idle

    def take_no_more(self) -> None:
        """Throw away what comes, and soon read nothing any more; the connection ends after the answer under way."""
        super().close()
        self._leaving = True
        self._room = self._taken + _LOOK_EVERY

    def log_access(self, request: web.BaseRequest, response: web.StreamResponse, time: float | None) -> None:  # noqa: ARG002
        """Learn that a request has been answered; nothing is logged here."""
        self._idle = True
        if response.status == 408 and "x-sidestream-error" in response.headers and not self._content.is_eof():
            self._content.feed_eof()  # its body has stopped arriving: there is no sense in waiting for the rest
            self.take_no_more()

    def log_exception(self, *args: Any, **kwargs: Any) -> None:
        """Log what went wrong with a connection: not as a defect of ours, where its client broke the rest of a body."""
        error = kwargs.get("exc_info")
        if isinstance(error, HttpProcessingError):
            log.warning("request_refused", status=None, error=type(error).__name__)
        else:
            super().log_exception(*args, **kwargs)

    def close(self) -> None:
        """Stop serving this connection: at once when it is idle, else after the request under way."""
        super().close()
        if self._idle and self.transport is not None:
            self.transport.close()

    def _portion(self, data: bytes | memoryview) -> int:
        """How much of a read the parser may see before somebody looks at what it was.

        All of it, if it belongs to one body, and that one has a length: then nothing in it has to be looked for.
        """
        if not self._content.is_eof():
            return _SLICE if self._chunked else len(data)
        if self._taken or not self._doors.expects(self):
            return _SLICE
        head = bytes(data[:_SLICE])
        end = head.find(b"\r\n\r\n") + 4
        stated = _LENGTH.search(head, 0, end)
        return len(data) if stated and len(data) <= end + int(stated[1]) else _SLICE

    def _hand_on(self) -> None:
        """Hand a read on by portions, as long as the body's reader keeps up.

        Behind a head, and where chunks are fine, the next portion has to wait for the loop's next turn: what is in one
        read can keep the parser busy for longer than everybody else should wait.
        """
        self._turn = None
        transport, content = self.transport, self._content
        if transport is None or transport.is_closing() or self._leaving:
            self._rest = _NOTHING
        while self._rest and not self._full:
            if self._taken > self._room and not self._bearable():
                self._rest = _NOTHING
                break
            portion, before = self._portion(self._rest), content.total_bytes
            data, self._rest = bytes(self._rest[:portion]), self._rest[portion:]
            self._taken += len(data)
            super().data_received(data)
            if self._overframed():
                self._rest = _NOTHING
                break
            fine = len(data) - (content.total_bytes - before) > len(data) // _FINE
            if self._rest and (fine or self._doors.expects(self)):
                self._wait_a_turn()
                return
        if not self._full:
            super().resume_reading(resume_parser=False)

    def _throw_away(self, data: bytes) -> None:
        """Read some more, so that a client's leaving is noticed at once; but not without end."""
        self._taken += len(data)
        if self._taken > self._room and self.transport is not None:
            self.transport.pause_reading()
            self._doors.deaf(self)

    def _wait_a_turn(self) -> None:
        """Hand the rest on later, and read no more before."""
        if self.transport is not None:
            self.transport.pause_reading()
        if self._turn is None and not self._full:
            self._turn = asyncio.get_running_loop().call_soon(self._hand_on)

    def _bearable(self) -> bool:
        """Look at what has come, and refuse what is too much."""
        content = self._content
        if self._doors.expects(self):
            self._refuse_head(GatewayError(431, "head_too_large", "the request's head is too large"))
            return False
        if content.is_eof():
            if self._ahead_from is None:
                self._ahead_from = self._taken
            if self._taken - self._ahead_from > _AHEAD:
                log.warning("request_refused", status=None, error="too_much_ahead")
                self.take_no_more()
                return False
        elif self._overframed():
            return False
        self._room = self._taken + _LOOK_EVERY
        return True

    def _overframed(self) -> bool:
        """Whether a body has more framing than it may have: then it is refused."""
        content = self._content
        if content.is_eof() or self._taken - content.total_bytes <= _FRAMING + _FRAMING_PER_BYTE * content.total_bytes:
            return False
        content.set_exception(web.RequestPayloadError("more framing than body"))
        content.feed_eof()
        self.take_no_more()
        return True

    def _refuse_head(self, error: GatewayError) -> None:
        self._doors.came(self)
        self._refusal = error
        super().data_received(_NO_HEAD)

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
        if self._refusal is not None:
            status, exc = self._refusal.status, self._refusal
        what = exc.code if isinstance(exc, GatewayError) else type(exc).__name__ if exc is not None else None
        log.warning("request_refused", status=status, error=what)
        if request.writer.output_size > 0:
            raise ConnectionError("the response has begun; there can be no second one")
        error = self._refusal or GatewayError(status, "bad_request", "the request is not well-formed HTTP")
        if status >= 500:
            error = GatewayError(status, "internal_error", "the gateway failed")
        self.take_no_more()
        return refuse(self._app, error)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Write an answer to its end; after the last one to somebody who may still be sending, wait until he has gone.

        Closing a socket that holds unread bytes resets the connection, and the answer would be lost. So the client is
        told that this was all, and has `_PARTING` seconds to leave; what it sends meanwhile is thrown away. Who means
        harm has to wait as long until he can come again.
        """
        if self._leaving:
            resp.force_close()
        finished = await super().finish_response(request, resp, start_time)
        transport = self.transport
        if self._leaving and transport is not None and transport.can_write_eof() and not transport.is_closing():
            transport.write_eof()
            await asyncio.sleep(_PARTING)  # cancelled as soon as the client has left
        return finished


class _TurnedAway(asyncio.Protocol):
    """A connection whose client has its last answer: some bytes of it are thrown away, and in `_PARTING` s it ends."""

    def __init__(self, transport: asyncio.Transport, others: set[_TurnedAway]) -> None:
        self._transport = transport
        self._others = others
        self._taken = 0
        self._end = asyncio.get_running_loop().call_later(_PARTING, self.close)
        others.add(self)
        transport.set_protocol(self)
        transport.write_eof()

    def data_received(self, data: bytes) -> None:
        """Throw them away, and read nothing more where there are too many."""
        self._taken += len(data)
        if self._taken > _LOOK_EVERY:
            self._transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """It has left."""
        self._end.cancel()
        self._others.discard(self)

    def close(self) -> None:
        """Wait no longer."""
        self._transport.close()


class Doors:
    """Where connections come in: the listening sockets, and the connections that have come: `most` at once."""

    def __init__(self, most: int) -> None:
        self.port = 0
        self.retiring = False
        """Whether no connection is to be used again: each further answer says ``Connection: close``."""
        self.empty = asyncio.Event()
        """Whether there is no connection."""
        self.empty.set()
        self._most = most
        self._full = False
        self._servers: list[asyncio.AbstractServer] = []
        self._inside: dict[FrontDoor, None] = {}
        """The longest there first."""
        self._expected: dict[FrontDoor, float] = {}
        """Connections with the beginning of a head, and since when: the oldest first."""
        self._deaf: set[FrontDoor] = set()
        """Connections that nothing is read from any more: they do not learn that their client has left."""
        self._parting: set[_TurnedAway] = set()

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

    def entered(self, door: FrontDoor) -> bool:
        """A connection has come; whether there is room for it."""
        if len(self._inside) >= self._most:
            if not self._full:
                self._full = True
                log.warning("connections_refused", most=self._most)
            return False
        self._inside[door] = None
        self.empty.clear()
        return True

    def turned_away(self, transport: asyncio.Transport) -> None:
        """A connection that did not enter has its answer; to one that still sends, closing would lose it."""
        if len(self._parting) < _MOST_PARTING:
            _TurnedAway(transport, self._parting)
        else:
            transport.close()

    def left(self, door: FrontDoor) -> None:
        """A connection has gone."""
        self._expected.pop(door, None)
        self._deaf.discard(door)
        self._inside.pop(door, None)
        if self._full and len(self._inside) <= self._most * 0.9:
            self._full = False
            log.info("connections_welcomed", most=self._most)
        if not self._inside:
            self.empty.set()

    def see_off(self) -> None:
        """Close what was turned away and is still there."""
        for each in self._parting:
            each.close()

    def expected(self, door: FrontDoor) -> None:
        """A head has begun to come."""
        self._expected[door] = asyncio.get_running_loop().time()

    def expects(self, door: FrontDoor) -> bool:
        """Whether a head has begun to come, and is not here."""
        return door in self._expected

    def came(self, door: FrontDoor) -> None:
        """A head is here, or is waited for no longer."""
        self._expected.pop(door, None)

    def deaf(self, door: FrontDoor) -> None:
        """Nothing more is read from a connection."""
        self._deaf.add(door)

    async def watch(self, head_timeout: float) -> None:
        """Refuse heads that take longer than so many seconds, and make room where there is none; to within a second.

        Of connections that nothing is read from, those end whose client has left.
        """
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(1.0, head_timeout / 4))
            overdue = loop.time() - head_timeout
            for door in [door for door, since in self._expected.items() if since < overdue]:
                door.head_overdue()
            for door in list(self._deaf):
                door.look_for_client()
            if self._full:
                self._make_room()

    def _make_room(self) -> None:
        """Close connections that are idle, the longest there first: a tenth of the most, if there are so many."""
        idle = (door for door in self._inside if door.idle)
        for door in list(itertools.islice(idle, self._most // 10 + 1)):
            door.close()


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
    head_timeout: float = _HEAD_TIMEOUT,
    most_connections: int | None = None,
) -> AsyncIterator[Doors]:
    """Serve `app` on listening sockets, which are closed with it, as long as this context lasts.

    A request's head has `head_timeout` seconds. There are `most_connections` at once; unless given, as many as this
    process may have descriptors for.

    At the end: stop listening, wait `pause` seconds, run the application's shutdown (which drains its streams), and
    cancel what is left after `shutdown_timeout` seconds.
    """
    runner = web.AppRunner(
        app, handler_cancellation=handler_cancellation, shutdown_timeout=shutdown_timeout, **_OPTIONS
    )
    doors = Doors(most_connections or listening.most_connections())
    watching = spawn(doors.watch(head_timeout), name="heads")
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
            doors.see_off()
    finally:
        for sock in sockets:
            sock.close()
        await runner.cleanup()
        watching.cancel()
        await asyncio.wait([watching])


def _announce_requests(server: web.Server, doors: Doors) -> None:
    """Have `FrontDoor.begun` called for each request, and have a connection closed after it where that is due."""
    make_request = server.request_factory

    def begin(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
        protocol.begun(payload, chunked=message.chunked, last=message.should_close)
        if doors.retiring or message.upgrade:  # aiohttp loses what comes right behind an upgrade that it does not know
            message = message._replace(should_close=True)
        if message.path[0] != "/" or message.method == "CONNECT":
            message = message._replace(url=_ANYWHERE)
        spoken = message.version
        if spoken not in SPOKEN_HERE:  # an answer would repeat it
            message = message._replace(version=HttpVersion10, should_close=True)
        request = make_request(message, payload, protocol, writer, task)
        if spoken not in SPOKEN_HERE:
            request[OTHER_VERSION] = spoken
        return request

    server.request_factory = begin


def _on_the_wire(response: web.Response) -> bytes:
    """An answer to a connection of which no request is read."""
    body = response.body
    assert isinstance(body, bytes)  # noqa: S101  # `refuse` made it
    fields = {**response.headers, "Content-Length": str(len(body)), "Connection": "close"}
    lines = [f"HTTP/1.1 {response.status} {response.reason}", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body
