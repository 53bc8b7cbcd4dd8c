"""What tests of the recorder are made of: a configuration, relays that write, and patience."""

from __future__ import annotations

import asyncio
import json
import os
import time
from typing import TYPE_CHECKING, Any, Self

import msgspec

from journaling import ROOMY, begin, end, head
from sidestream import config as configuration
from sidestream.errors import SidestreamError
from sidestream.recorder.plane import Plane
from sidestream.recorder.program import run
from sidestream.sinks.base import Sink
from sidestream.store.directory import Directory
from sidestream.store.journal import Journal
from sidestream.store.reading import Journals
from sidestream.store.shelf import Shelf
from sidestream.store.store import Store
from sidestream.tasks import spawn
from sidestream.traces.entries import Begin, Kind
from sidestream.traces.keys import Keys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from sidestream.config import Config, Retention
    from sidestream.options import Secret
    from sidestream.recorder.memory import Memory
    from sidestream.traces.entries import Intake
    from sidestream.traces.model import Turn
    from sidestream.traces.record import Record

REQUEST = b'{"messages": [{"role": "user", "content": "Hello"}]}'


class Blocked(Sink):
    """Never finishes a delivery; as a plugin ``recording:Blocked``."""

    async def deliver(self, turn: Turn, credential: Secret | None, attempt: int) -> str | None:  # noqa: ARG002
        await asyncio.Event().wait()
        return None


def a_config(folder: Path, sinks: Sequence[Any] = (), **recorder: Any) -> Config:
    """The directory is ``folder/data``."""
    return configuration.load(
        {"recorder": {"dir": str(folder / "data"), "min_free": 0, **recorder}, "sinks": list(sinks)}, {}
    )


def in_memory(memory: Memory, *sinks: Sink) -> Plane:
    """A recorder of what goes through `memory`."""
    return Plane(memory, Shelf(None), sinks, keys=Keys(bytes(32)), retention=None, arrived=memory._arrived)  # noqa: SLF001


def journaled(folder: Path, *sinks: Sink, retention: Retention | None = None) -> Plane:
    """A recorder of the journals in ``folder/data``."""
    directory = Directory(folder / "data")
    directory.prepare()
    source, shelf = Journals(directory.journal), Shelf(directory.store)
    return Plane(source, shelf, sinks, keys=Keys(bytes(32)), retention=retention, arrived=asyncio.Event())


def told(
    intake: Intake,
    name: str,
    *,
    outcome: str | None = "completed",
    body: bytes = REQUEST,
    answer: bytes = b"{}",
    started_at: float = 1.0,
) -> int:
    """Hand an exchange over, to its end unless `outcome` is None; its number."""
    number, taken = offered(intake, name, outcome=outcome, body=body, answer=answer, started_at=started_at)
    assert number is not None
    assert taken
    return number


def offered(
    intake: Intake,
    name: str,
    *,
    outcome: str | None = "completed",
    body: bytes = REQUEST,
    answer: bytes = b"{}",
    started_at: float = 1.0,
) -> tuple[int | None, bool]:
    """The same, if there is room: its number, and whether all of it was taken."""
    number = intake.open()
    if number is None:
        return None, False
    beginning = msgspec.structs.replace(msgspec.msgpack.decode(begin(name), type=Begin), started_at=started_at)
    pieces = [
        (Kind.BEGIN, msgspec.msgpack.encode(beginning)),
        (Kind.REQUEST, body),
        (Kind.HEAD, head()),
        (Kind.RESPONSE, answer),
    ]
    if outcome is not None:
        pieces.append((Kind.END, end(outcome)))
    return number, all(intake.put(kind, number, 0.0, data) for kind, data in pieces)


def called(intake: Intake, number: int) -> None:
    """Hand over one call of an agent's run; they are numbered from 1."""
    request, answer = a_call(number)
    told(intake, f"call-{number}", body=request, answer=answer, started_at=1000.0 + 10 * number)


def a_call(number: int) -> tuple[bytes, bytes]:
    """Its request, which has all that was said before, and its answer."""
    messages = [message for each in range(1, number + 1) for message in _said(each)]
    answer = {"type": "message", "id": f"msg-{number}", "model": "m", "stop_reason": "end_turn", **messages.pop()}
    return json.dumps({"model": "m", "messages": messages}).encode(), json.dumps(answer).encode()


def _said(number: int) -> list[dict[str, Any]]:
    answer = [{"type": "text", "text": f"It is {number}."}]
    return [{"role": "user", "content": f"What is {number}?"}, {"role": "assistant", "content": answer}]


def said_in_calls(first: int, last: int) -> list[tuple[str, str]]:
    """Who said what in these calls, each thing once."""
    return [
        said
        for number in range(first, last + 1)
        for said in (("user", f"What is {number}?"), ("assistant", f"It is {number}."))
    ]


def said_in(turns: Iterable[Turn]) -> list[tuple[str, str]]:
    """Who said what in these turns."""
    return [(message["role"], message["content"]) for turn in turns for message in turn.messages]


def incompressible(size: int) -> bytes:
    """A request of about so many bytes."""
    return b'{"messages": [{"role": "user", "content": "%s"}]}' % os.urandom(size // 2).hex().encode()


async def written(folder: Path, *names: str, outcome: str | None = "completed") -> None:
    """Have a relay write exchanges into ``folder/data/journal``, and end."""
    directory = Directory(folder / "data")
    directory.prepare()
    journal = Journal(directory.journal, strict=False, **ROOMY)
    journal.start()
    for name in names:
        told(journal, name, outcome=outcome)
    await journal.stop(5)


class Running:
    """A recorder in the test's own event loop, until the context ends or `end` is called."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._stopping = asyncio.Event()
        self._started: asyncio.Future[Plane] = asyncio.get_running_loop().create_future()

    async def __aenter__(self) -> Self:
        self._task = spawn(run(self._config, self._stopping, self._started.set_result), name="recorder")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.end()

    async def plane(self) -> Plane:
        async with asyncio.timeout(10):
            return await asyncio.shield(self._started)

    @property
    def recording(self) -> bool:
        return self._started.done()

    async def end(self) -> None:
        self._stopping.set()
        async with asyncio.timeout(15):
            await self._task


async def eventually(condition: Callable[[], object], seconds: float = 10) -> None:
    """Wait until something has become so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def stored_records(folder: Path) -> list[Record]:
    """All that the store in ``folder/data`` has, in order."""
    store = Store.open_reader(folder / "data" / "store.db")
    try:
        return [record for _, record in store.exchanges()]
    finally:
        store.close()


def stored_ids(folder: Path) -> list[str]:
    return [record.id for record in stored_records(folder)]


def in_store(folder: Path) -> list[str]:
    """As `stored_ids`; empty while there is no store to be read."""
    try:
        return stored_ids(folder)
    except SidestreamError:
        return []
