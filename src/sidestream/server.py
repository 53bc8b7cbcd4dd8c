"""The standalone gateway's HTTP server: aiohttp's, set up for relaying, with as many connections as it can serve."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import TYPE_CHECKING, Any

import structlog
from aiohttp import HttpVersion10, web
from yarl import URL

from sidestream.edge import FrontDoor, TurnedAway
from sidestream.processes import listening
from sidestream.tasks import spawn
from sidestream.wire.routes import OTHER_VERSION, SPOKEN_HERE

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Sequence

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
_MOST_PARTING = 32
"""Connections that are turned away and still there: beyond it they are closed at once, answer read or not."""
_PAUSE = 0.3
"""Seconds between closing the listening socket and closing connections: those just accepted still get their answer."""
_HEAD_TIMEOUT = 30.0
"""Seconds from the first byte of a request's head to its last."""
_ANYWHERE = URL("/*")
"""Where a request goes whose target is no path: to no route, and so to an answer of ours instead of aiohttp's."""


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
        self._parting: set[TurnedAway] = set()

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
            TurnedAway(transport, self._parting)
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
