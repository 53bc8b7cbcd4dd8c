"""A real store with rows for a sink to deliver, and what tests of deliveries wait for."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from sidestream.options import Secret
from sidestream.sinks.delivery import Deliverer
from sidestream.sinks.policy import Policy
from sidestream.store.rows import Delivery, Item, Lane
from sidestream.store.store import Store
from sidestream.traces.model import Message, Trace
from sidestream.traces.record import Record

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

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


def a_trace(name: str = "x1", *messages: Message, dataset: str = "demo", **metadata: Any) -> Trace:
    return Trace(
        id=name, dataset=dataset, messages=list(messages) or [HELLO], metadata={"status": 200, "model": "m"} | metadata
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

    async def add(self, sink: Sink, *traces: Trace, fingerprint: str = "") -> list[Lane]:
        """Commit traces to be delivered to `sink`; their lanes."""
        records = [a_record(trace.id, trace.dataset, fingerprint) for trace in traces]
        items = [Item(record, trace, None, [sink.name]) for record, trace in zip(records, traces, strict=True)]
        await self.call(self.store.commit, items)
        return [Lane(fingerprint, trace.dataset) for trace in traces]

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
