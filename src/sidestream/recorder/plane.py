"""The trace plane, put together: a source of captured exchanges, the store, and the sinks, on one event loop.

It is the same in a process of its own, in a thread, and, without a journal, beside the relay. A failure of any part is
that part's: the store's is retried, a sink's is the sink's, and nothing here can reach a relayed byte.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import structlog

from sidestream.errors import SidestreamError
from sidestream.providers import PROVIDERS
from sidestream.recorder import chores
from sidestream.recorder.announcing import Announcer
from sidestream.recorder.indexer import EVERY, Indexer
from sidestream.recorder.ingestion import Ingestion
from sidestream.recorder.memory import Clearing, Memory
from sidestream.recorder.underway import UnderWay
from sidestream.sinks.delivery import Deliverer
from sidestream.tasks import spawn, where
from sidestream.viewer.feed import Feed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidestream.config import Retention
    from sidestream.sinks.base import Sink
    from sidestream.store.desk import Desk
    from sidestream.store.reading import Journals
    from sidestream.store.rows import Lane
    from sidestream.store.shelf import Shelf
    from sidestream.traces.keys import Keys

log = structlog.get_logger()

_PAUSES = 0.05, 0.25
"""Seconds between batches, unless much waits, at first and at most: traces come later by that, and cost much less."""
_PAUSES_IN_MEMORY = 0.005, 0.005
_KEEP_HOUSE_EVERY = 60.0
_CLEAR_MEMORY_EVERY = 0.25


class Plane:
    """Call `start` and `stop` on one event loop, in this order. `arrived` is set when the source has something new.

    `feed` tells what happens, and `under_way` what has not ended yet, where there is a `desk` to look things up at.
    """

    def __init__(
        self,
        source: Memory | Journals,
        shelf: Shelf,
        sinks: Sequence[Sink],
        *,
        keys: Keys,
        retention: Retention | None,
        arrived: asyncio.Event,
        desk: Desk | None = None,
    ) -> None:
        self.shelf = shelf
        self.keys = keys
        self.sinks = sinks
        self.pruned = 0
        self._source = source
        self._retention = retention
        self._deliverers = {sink.name: Deliverer(sink, shelf.store, shelf.call, keys) for sink in sinks}
        pauses = _PAUSES_IN_MEMORY if isinstance(source, Memory) else _PAUSES
        self._ingestion = Ingestion(source, shelf, PROVIDERS, sinks, self._stored, arrived, *pauses)
        self.feed = Feed()
        self.under_way = UnderWay(source, self._ingestion, desk, PROVIDERS) if desk is not None else None
        self._announcing: asyncio.Task[None] | None = None
        self._desk = desk
        self._ingesting: asyncio.Task[None] | None = None
        self._stopping = False
        self._house: asyncio.Task[None] | None = None
        self._indexing: asyncio.Task[None] | None = None
        self._clearing = Clearing(source, shelf) if isinstance(source, Memory) else None
        self._facts: dict[str, Any] = {}

    async def start(self) -> None:
        """Begin to take in, and to deliver; both when what an earlier version has stored is read."""
        await self.shelf.patiently(self.shelf.store.forget_sinks, [sink.name for sink in self.sinks])
        if self.under_way is not None and self._desk is not None:
            self._ingestion.watcher = announcer = Announcer(self.feed, self.under_way, self._desk)
            self._announcing = spawn(announcer.run(), name="announcing")
        self._ingesting = spawn(self._ingest(), name="ingestion")
        self._house = spawn(self._keep_house(), name="house-keeping")

    async def until(self, stopping: asyncio.Event) -> None:
        """Wait until `stopping` is set, or ingestion has failed for a reason that nobody thought of: that is raised."""
        told = spawn(stopping.wait(), name="end of the recorder")
        try:
            tasks = [told, *([self._ingesting] if self._ingesting else [])]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            told.cancel()
        if self._ingesting is not None and self._ingesting.done():
            self._ingesting.result()

    async def stop(self, seconds: float) -> None:
        """Take in all there is and deliver what can be delivered, within `seconds`; what is left stays in the store."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        self._stopping = True
        self._ingestion.finish()
        if self._ingesting is not None:
            await asyncio.wait([self._ingesting], timeout=seconds)
            if not self._ingesting.done():
                log.warning("ingestion_cut", limit_seconds=seconds)
        await _cancel(self._ingesting, self._house, self._indexing, self._announcing)
        self.feed.close()
        left = max(0.0, until - loop.time())
        await asyncio.gather(*(deliverer.stop(left) for deliverer in self._deliverers.values()))
        self._ingestion.close()
        try:
            if self._clearing:
                await self._clearing.clear()
            if self._desk:
                await self._desk.close()  # first: only the last to close empties SQLite's log, and readers cannot
            await self.shelf.close()
        except SidestreamError as error:
            log.warning("store_not_closed", error=type(error).__name__, where=where(error))

    def key_seen(self, fingerprint: str) -> None:
        """A key has become known, or was seen again: what waits for it may go on."""
        for deliverer in self._deliverers.values():
            deliverer.key_seen(fingerprint)

    def wake(self, name: str, lane: Lane) -> None:
        """There are rows of this sink and lane to be delivered again."""
        if deliverer := self._deliverers.get(name):
            deliverer.reopen([lane])

    def snapshot(self) -> dict[str, Any]:
        """What is counted, in the shape of `sidestream.stats.RecorderStats`."""
        segments = 0 if isinstance(self._source, Memory) else self._source.counters.set_aside
        return {
            "received": self._ingestion.received,
            "understood": self._ingestion.understood,
            "failed": self._ingestion.failed + self.shelf.refused,
            "store_failures": self._ingestion.store_failures,
            "set_aside": {"segments": segments, "stores": self.shelf.set_aside},
            "pruned": self.pruned,
            "deliveries": {name: asdict(deliverer.counters) for name, deliverer in self._deliverers.items()},
            "gauges": {
                **self._facts,
                "breakers_open": {name: deliverer.breakers_open for name, deliverer in self._deliverers.items()},
                "keys": len(self.keys),
            },
        }

    async def refresh(self) -> None:
        """Have `snapshot` tell of the store as it is now, if there is one."""
        if self._stopping:
            return
        backlog, oldest = 0, None
        if not isinstance(self._source, Memory):
            backlog = await asyncio.to_thread(self._source.backlog_bytes)
            oldest = await asyncio.to_thread(self._source.oldest_unread)
        with contextlib.suppress(SidestreamError):
            counts = await self.shelf.call(self.shelf.store.counts)
            self._facts = {"deliveries": counts, "store_bytes": await self.shelf.call(self.shelf.store.size)}
        self._facts |= {"backlog_bytes": backlog, "oldest_unread_seconds": oldest or 0.0}

    async def _ingest(self) -> None:
        if not await self._caught_up():
            return
        for deliverer in self._deliverers.values():
            await deliverer.start()
        if self._clearing is None:  # what is in memory is gone before anybody looks for it
            self._indexing = spawn(self._keep_index(), name="index of words")
        await self._ingestion.run()

    async def _caught_up(self) -> bool:
        """After an upgrade, read what an earlier version has stored; False where it is to stop before that is done."""
        count = 0
        async with contextlib.aclosing(chores.catch_up(self.shelf, PROVIDERS)) as pages:
            async for page in pages:
                count += page
                if self._stopping:
                    break
        if not count:
            return True
        left = await self.shelf.patiently(self.shelf.store.unread, 1) if self._stopping else []
        log.info("store_read_again", count=count, complete=not left)
        return not left

    def _stored(self, name: str, lanes: set[Lane]) -> None:
        self._deliverers[name].wake(lanes)

    async def _keep_index(self) -> None:
        indexer, failing = Indexer(self.shelf), False
        while True:
            try:
                await indexer.work()
            except Exception as error:  # noqa: BLE001  # the top of a background worker
                if not failing:
                    log.warning("indexing_failed", error=type(error).__name__, where=where(error))
                failing = True
            else:
                failing = False
            await asyncio.sleep(EVERY)

    async def _keep_house(self) -> None:
        failing = False
        while True:
            await asyncio.sleep(_CLEAR_MEMORY_EVERY if self._clearing else _KEEP_HOUSE_EVERY)
            try:
                if self._clearing:
                    await self._clearing.clear()
                elif self._retention:
                    pruned = await chores.prune(self.shelf, self._retention.age, self._retention.bytes)
                    self.pruned += pruned.exchanges
            except Exception as error:  # noqa: BLE001  # the top of a background worker
                if not failing:
                    log.warning("pruning_failed", error=type(error).__name__, where=where(error))
                failing = True
            else:
                failing = False


async def _cancel(*tasks: asyncio.Task[None] | None) -> None:
    for task in tasks:
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
