"""A recorder that is looked at while exchanges run: a relay's journal, step by step, and the plane that reads it."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar, cast

import msgspec
from aiohttp import web

from journaling import ROOMY, end
from recording import a_call, eventually, told
from sidestream.recorder.plane import Plane
from sidestream.store.desk import Desk
from sidestream.store.directory import Directory
from sidestream.store.journal import Journal
from sidestream.store.library import Library
from sidestream.store.reading import Journals
from sidestream.store.shelf import Shelf
from sidestream.traces.entries import Kind
from sidestream.traces.keys import Keys
from sidestream.viewer import events
from sidestream.viewer.backstage import BACKSTAGE
from sidestream.viewer.rendering import MOUNT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from sidestream.recorder.underway import UnderWay
    from sidestream.viewer.backstage import Backstage
    from sidestream.viewer.feed import Event, Listener

T = TypeVar("T")

BEGAN = 1000.0


class Watched:
    """A relay that writes what a test says, and the recorder that reads it."""

    def __init__(self, journal: Journal, source: Journals, plane: Plane, desk: Desk) -> None:
        assert plane.under_way is not None
        self.journal = journal
        self.source = source
        self.plane = plane
        self.desk = desk
        self.under_way: UnderWay = plane.under_way

    def begin(self, number: int, answer: bytes = b"") -> int:
        """Begin a call of an agent's run (`recording.a_call`), answered so far; its number in the journal."""
        return told(
            self.journal,
            f"call-{number}",
            outcome=None,
            body=a_call(number)[0],
            answer=answer,
            started_at=BEGAN + 10 * number,
        )

    def more(self, number: int, data: bytes, at: float = 1.0) -> None:
        """More of an answer has come."""
        assert self.journal.put(Kind.RESPONSE, number, at, data)

    def end(self, number: int, kind: Kind = Kind.END) -> None:
        """The exchange is over."""
        assert self.journal.put(kind, number, 2.0, end() if kind is Kind.END else b"")

    async def call(self, number: int) -> None:
        """A call from its beginning to its end, and into the store."""
        received = self.plane.snapshot()["received"]
        self.end(self.begin(number, a_call(number)[1]))
        await self.until(received + 1)

    async def until(self, received: int) -> None:
        """Wait until so many exchanges are in the store."""
        await eventually(lambda: self.plane.snapshot()["received"] >= received)


@asynccontextmanager
async def watched(folder: Path) -> AsyncIterator[Watched]:
    """A relay and a recorder on ``folder/data``."""
    directory = Directory(folder / "data")
    directory.prepare()
    journal = Journal(directory.journal, strict=False, **ROOMY)
    journal.start()
    source, desk = Journals(directory.journal), Desk(directory.store)
    plane = Plane(
        source,
        Shelf(directory.store),
        [],
        keys=Keys(bytes(32)),
        retention=None,
        arrived=asyncio.Event(),
        desk=desk,
    )
    await plane.start()
    try:
        yield Watched(journal, source, plane, desk)
    finally:
        await journal.stop(5)
        await plane.stop(5)
        await desk.close()


@asynccontextmanager
async def answering(plane: Plane, desk: Desk, socket: Path) -> AsyncIterator[None]:
    """The live feed and the turns of a plane on a unix socket, where the recorder's viewer has them."""

    async def turn(request: web.Request) -> web.Response:
        try:
            found = await desk.look(Library.turn, request.match_info["exchange"])
        except LookupError:
            raise web.HTTPNotFound from None
        return web.Response(body=msgspec.json.encode(found), content_type="application/json")

    viewer = web.Application()
    viewer[BACKSTAGE] = cast("Backstage", plane)
    viewer.add_routes(events.routes)
    viewer.router.add_get("/ui/api/turns/{exchange}", turn)
    viewer.on_shutdown.append(events.let_go)
    app = web.Application()
    app.add_subapp(MOUNT, viewer)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=1)
    await runner.setup()
    socket.unlink(missing_ok=True)
    await web.UnixSite(runner, str(socket)).start()
    try:
        yield
    finally:
        await runner.cleanup()


async def record(folder: Path, ready: Callable[[], None]) -> None:
    """Record what is in ``folder/data``, and answer, until the process is killed."""
    directory = Directory(folder / "data")
    shelf, desk = Shelf(directory.store), Desk(directory.store)
    positions = await shelf.patiently(shelf.store.positions)
    source = Journals(directory.journal, positions=positions)
    plane = Plane(source, shelf, [], keys=Keys(bytes(32)), retention=None, arrived=asyncio.Event(), desk=desk)
    await plane.start()
    async with answering(plane, desk, directory.socket):
        ready()
        await asyncio.Event().wait()


async def found(look: Callable[[], Awaitable[T]], wanted: Callable[[T], object]) -> T:
    """What is found as soon as it is as wanted; ten seconds at most."""
    async with asyncio.timeout(10):
        while not wanted(there := await look()):  # noqa: ASYNC110  # other threads' doing
            await asyncio.sleep(0.005)
    return there


async def heard(listener: Listener, kind: str) -> dict[str, Any]:
    """The data of the next event of this kind, whatever comes before it."""
    async with asyncio.timeout(10):
        while (event := await anext(listener)).kind != kind:
            pass
    return data_of(event)


def data_of(event: Event) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(event.data)
    return data


def streamed(*texts: str) -> list[bytes]:
    """The beginning of a streamed answer in pieces: with each comes more of its text."""
    message = {
        "id": "msg",
        "type": "message",
        "role": "assistant",
        "model": "m-1",
        "content": [],
        "usage": {"input_tokens": 7},
    }
    begin: list[dict[str, Any]] = [
        {"type": "message_start", "message": message},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    ]
    begun = b"".join(map(_framed, begin))
    pieces = [
        _framed({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": each}})
        for each in texts
    ]
    return [begun + pieces[0], *pieces[1:]] if pieces else [begun]


def _framed(event: dict[str, Any]) -> bytes:
    return f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()
