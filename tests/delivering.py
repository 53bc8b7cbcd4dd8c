"""A real store with rows for a sink to deliver, and what tests of deliveries wait for."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from sidestream.options import Secret
from sidestream.providers.base import Said
from sidestream.sinks.delivery import Deliverer
from sidestream.sinks.policy import Policy
from sidestream.store.rows import Delivery, Item, Lane
from sidestream.store.store import Store
from sidestream.traces.conversation import Call
from sidestream.traces.model import Message, Reading, Turn, title_of
from sidestream.traces.record import Record
from sidestream.traces.states import digest, scope_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from conversing import Call as Scripted
    from sidestream.sinks.base import Sink

T = TypeVar("T")

SOON = Policy(
    first_wait=0.002,
    longest_wait=0.02,
    shortest_wait=0.001,
    longest_asked=0.05,
    settle=0.005,
    key_wait=0.005,
    refused_rest=3600,
    grace=1,
)
"""As the default, but in a hurry."""
STANDSTILL = Policy(
    first_wait=3600, longest_wait=3600, shortest_wait=3600, settle=3600, key_wait=0.005, refused_rest=3600
)
"""A second attempt is never made while a test runs."""
HELLO: Message = {"role": "user", "content": "Hello"}


def a_turn(name: str = "x1", *messages: Message, dataset: str = "demo", **metadata: Any) -> Turn:
    """The only turn of its trace."""
    said = list(messages) or [HELLO]
    about = {"status": 200, "model": "m"} | metadata
    return Turn(id=name, dataset=dataset, messages=said, metadata=about, trace=name, title=title_of(said))


def a_reading(turn: Turn, fingerprint: str) -> Reading:
    """What such a turn comes from: a request without an answer."""
    asked = Said(role="user", shown=turn.messages, units=(digest(turn.id),))
    call = Call(
        scope=scope_of(turn.dataset, "anthropic", fingerprint),
        started_at=1.0,
        ended_at=2.0,
        states=(digest("state", turn.id),),
        leaving=digest("state", turn.id),
        answered=False,
        complete=False,
        digests=(digest(turn.id),),
        texts=("",),
        roles=("user",),
    )
    return Reading(
        id=turn.id,
        dataset=turn.dataset,
        system=[],
        asked=[asked],
        answer=None,
        tools=[],
        metadata=turn.metadata,
        call=call,
    )


def a_record(name: str, dataset: str, fingerprint: str) -> Record:
    return Record(
        id=name,
        dataset=dataset,
        provider="anthropic",
        fingerprint=fingerprint,
        method="POST",
        path="/v1/messages",
        request_headers={},
        request_chunks=(),
        outcome="completed",
        started_at=1.0,
        duration=1.0,
    )


class KnownKeys(dict[str, Secret]):
    def all(self) -> dict[str, Secret]:
        return dict(self)


class Bench:
    """The store of one test, and its thread. `failing` is raised by calls from the engine as long as it is set."""

    def __init__(self, path: Path | None = None) -> None:
        self.store = Store.open(path)
        self.keys = KnownKeys()
        self.failing: Exception | None = None
        self.visits = 0
        self.saved: list[tuple[str, str]] = []
        self._thread = ThreadPoolExecutor(1)
        self._visited = asyncio.Condition()

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """What the engine gets."""
        try:
            if self.failing:
                raise self.failing
            return await self.call(function, *args)
        finally:
            async with self._visited:
                self.visits += 1
                self._visited.notify_all()

    def engine(self, sink: Sink, policy: Policy = SOON, **options: Any) -> Deliverer:
        return Deliverer(sink, self.store, self.run, self.keys, policy=policy, **options)

    @asynccontextmanager
    async def delivering(
        self, sink: Sink, policy: Policy = SOON, stop: float = 0, **options: Any
    ) -> AsyncIterator[Deliverer]:
        engine = self.engine(sink, policy, **options)
        await engine.start()
        try:
            yield engine
        finally:
            await engine.stop(stop)

    async def add(self, sink: Sink, *turns: Turn, fingerprint: str = "") -> list[Lane]:
        """Commit turns to be delivered to `sink`, each of a trace of its own; their lanes."""
        records = [a_record(turn.id, turn.dataset, fingerprint) for turn in turns]
        readings = [a_reading(turn, fingerprint) for turn in turns]
        items = [Item(record, reading, None, [sink.name]) for record, reading in zip(records, readings, strict=True)]
        await self.call(self.store.commit, items)
        return [Lane(fingerprint, turn.dataset) for turn in turns]

    async def run_of(self, sink: Sink, *calls: Scripted) -> list[Lane]:
        """Commit the calls of agents, to be delivered to `sink` where it accepts them; their lanes."""
        readings = [call.reading() for call in calls]
        wanted = [[sink.name] if sink.accepts(reading.turn()) else [] for reading in readings]
        items = [
            Item(call.record(), reading, None, sinks)
            for call, reading, sinks in zip(calls, readings, wanted, strict=True)
        ]
        await self.call(self.store.commit, items)
        return [Lane("", call.dataset) for call in calls]

    async def rows(self) -> list[Delivery]:
        """All rows, oldest first."""
        return (await self.call(self.store.deliveries))[::-1]

    async def states(self) -> list[tuple[str, str]]:
        return [(row.exchange, str(row.state)) for row in await self.rows()]

    async def until(self, states: dict[str, str], seconds: float = 5) -> list[Delivery]:
        """The rows, once they are in these states; `TimeoutError` says in which they are instead."""
        found: dict[str, str] = {}
        try:
            async with asyncio.timeout(seconds), self._visited:
                while (found := dict(await self.states())) != states:
                    await self._visited.wait()
        except TimeoutError:
            raise TimeoutError(f"expected {states}, found {found}") from None
        return await self.rows()

    async def visited(self, n: int) -> None:
        """Wait until the engine has been to the store `n` times more."""
        async with asyncio.timeout(5), self._visited:
            wanted = self.visits + n
            await self._visited.wait_for(lambda: self.visits >= wanted)

    async def close(self) -> None:
        await self.call(self.store.close)
        self._thread.shutdown()
