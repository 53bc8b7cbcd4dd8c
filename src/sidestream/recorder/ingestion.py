"""From captured exchanges to the store: reads them in order, understands them, and has them committed.

One batch after the other: read, understand (in a thread, for it takes the time it takes), commit (in the store's
thread), and only then let the source forget. What is understood of a batch may be many times its size, so that goes in
portions; where the source has been read up to is committed with the last. A store that cannot be written to is tried
again for as long as it takes.
What fails for a reason nobody thought of is tried piece by piece, so that one exchange cannot hold up all that follow.
"""

from __future__ import annotations

import asyncio
import functools
import sys
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar

import structlog

from sidestream.errors import SidestreamError
from sidestream.store.rows import Item, Lane
from sidestream.tasks import where, within
from sidestream.traces.understanding import understand

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sidestream.providers.base import Provider
    from sidestream.sinks.base import Sink
    from sidestream.store.reading import Batch
    from sidestream.store.shelf import Shelf
    from sidestream.traces.gathering import Glimpse
    from sidestream.traces.model import Reading, Turn
    from sidestream.traces.record import Record

P = ParamSpec("P")
T = TypeVar("T")

log = structlog.get_logger()

_MOST_BYTES = 8 << 20
_MOST_UNDERSTOOD = 32 << 20
"""Bytes that the readings of one portion take, about, and with its last one more."""
_POLL = 0.05
_PLENTY = 1 << 20
"""Bytes of a batch from which on the next is read at once."""
_RETRY = 1.0
_TRIES = 3
"""How often a batch is tried that cannot be stored for a reason nobody thought of, before its parts are."""


class Source(Protocol):
    """Where captured exchanges come from: journals, or memory. Called in a thread, one call at a time."""

    def read(self, most_bytes: int) -> Batch:
        """What has come since, about `most_bytes` of it."""

    def done(self, batch: Batch) -> None:
        """It is in the store and can be forgotten."""

    def forgotten(self) -> None:
        """The store is a new one, and has to be told again what the next reader must know."""

    def glimpses(self) -> list[Glimpse]:
        """The exchanges that are under way, as far as has been read."""

    def partial(self, identity: str) -> Record:
        """What there is so far of one of them; `LookupError`, or `SpoolError` where it is lost."""


class Watcher(Protocol):
    """Tells people what comes in, where anybody wants to know."""

    @property
    def watching(self) -> bool:
        """Whether `seen` is wanted."""

    def stored(self, exchanges: list[str]) -> None:
        """These are in the store now."""

    def seen(self, glimpses: list[Glimpse]) -> None:
        """This is all that is under way, now that everything that was read is in the store."""


class Ingestion:
    """Drives `source` into the store; `stored` is told which lanes have something new, by sink.

    Between two batches it waits `pause` seconds; while they keep coming and nobody watches, twice as long each time, up
    to `longest_pause`.
    """

    def __init__(
        self,
        source: Source,
        shelf: Shelf,
        providers: Mapping[str, Provider],
        sinks: Sequence[Sink],
        stored: Callable[[str, set[Lane]], None],
        arrived: asyncio.Event,
        pause: float = _POLL,
        longest_pause: float = _POLL,
    ) -> None:
        self.received = 0
        self.understood = 0
        self.failed = 0
        self.store_failures = 0
        self.watcher: Watcher | None = None
        self._source = source
        self._shelf = shelf
        self._providers = providers
        self._sinks = sinks
        self._stored = stored
        self._arrived = arrived
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sidestream understanding")
        self._failing = False
        self._ending = asyncio.Event()
        self._pause = pause
        self._longest_pause = longest_pause
        self._replaced = shelf.replaced

    async def run(self) -> None:
        """Take in what comes, and, once `finish` was called, all there is."""
        pause = self._pause
        while True:
            finishing = self._ending.is_set()
            self._arrived.clear()
            size = await self.step()
            watched = self.watcher is not None and self.watcher.watching
            if size is None or watched:
                pause = self._pause
            if size is not None and self.watcher is not None and watched:
                self.watcher.seen(await self.peek(self._source.glimpses))
            if size is None and finishing:
                return
            if size is None:
                await within(_POLL, self._arrived.wait())
            elif size < _PLENTY and not finishing:
                await within(pause, self._ending.wait())  # a batch of some more costs hardly more
                pause = min(2 * pause, self._longest_pause)

    def finish(self) -> None:
        """Have `run` come to its end."""
        self._ending.set()
        self._arrived.set()

    def close(self) -> None:
        """Let go of the thread, when `run` has ended."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def peek(self, what: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call something of the source that changes nothing, between two reads."""
        call = functools.partial(what, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    async def step(self) -> int | None:
        """Take in one batch: its bytes; None if there was nothing."""
        loop = asyncio.get_running_loop()
        batch = await loop.run_in_executor(self._thread, self._read)
        if not batch.found:
            return None
        records = deque(batch.records)
        batch.records.clear()
        while len(items := await loop.run_in_executor(self._thread, self._portion, records)) and records:
            self._tell(await self._commit(items))
        about = {"positions": batch.positions, "carried": batch.carried, "released": batch.released}
        self._tell(await self._commit(items, **about))
        await loop.run_in_executor(self._thread, self._source.done, batch)
        return batch.size

    def _read(self) -> Batch:
        if self._replaced != self._shelf.replaced:
            self._replaced = self._shelf.replaced
            self._source.forgotten()
        return self._source.read(_MOST_BYTES)

    def _portion(self, records: deque[Record]) -> list[Item]:
        """What is understood of the next of these, which are taken away; as many as may be in memory at once."""
        items: list[Item] = []
        size = 0
        while records and size < _MOST_UNDERSTOOD:
            item, held = self._item(records.popleft())
            items.append(item)
            size += held
        return items

    def _tell(self, new: list[Item]) -> None:
        """These are in the store now."""
        self.received += len(new)
        if self.watcher is not None:
            self.watcher.stored([item.record.id for item in new])
        self.failed += sum(item.reading is None for item in new)
        self.understood += sum(item.reading is not None for item in new)
        for sink in self._sinks:
            lanes = {Lane(item.record.fingerprint, item.record.dataset) for item in new if sink.name in item.sinks}
            if lanes:
                self._stored(sink.name, lanes)

    def _item(self, record: Record) -> tuple[Item, int]:
        """What is understood of a record, and about how many bytes of memory that takes."""
        reading, error = understood(record, self._providers)
        if reading is None:
            return Item(record, None, error, ()), 0
        return Item(record, reading, None, accepting(self._sinks, reading.turn())), reading.weight

    async def _commit(self, items: list[Item], **about: Any) -> list[Item]:
        if (new := await self._tried(items, **about)) is not None:
            return new
        stored: list[Item] = []
        for item in items:
            if (new := await self._tried([item], tries=1)) is None:
                self.failed += 1
                log.error("exchange_not_stored", exchange=item.record.id, reason="an unexpected failure")
            else:
                stored += new
        if about:
            await self._tried([], **about, tries=sys.maxsize)
        return stored

    async def _tried(self, items: list[Item], *, tries: int = _TRIES, **about: Any) -> list[Item] | None:
        """What was new of these, or None: it failed unexpectedly, `tries` times. An unavailable store is waited for."""
        while True:
            try:
                new = await self._shelf.call(self._shelf.store.commit, items, **about)
            except Exception as error:  # noqa: BLE001  # the top of a background worker
                self._complain(error)
                tries -= not isinstance(error, SidestreamError)
                if not tries:
                    return None
                await asyncio.sleep(_RETRY)
            else:
                if self._failing:
                    self._failing = False
                    log.info("store_write_recovered")
                return new

    def _complain(self, error: Exception) -> None:
        self.store_failures += 1
        if not self._failing:
            self._failing = True
            log.error("store_write_failed", error=type(error).__name__, where=where(error))


def understood(record: Record, providers: Mapping[str, Provider]) -> tuple[Reading | None, str | None]:
    """What is read out of a record, or what kind of exception kept it from being read: a defect of ours, logged."""
    try:
        return understand(record, providers[record.provider]), None
    except (Exception, SystemExit) as error:  # noqa: BLE001  # the next record is due
        log.error("exchange_not_understood", exchange=record.id, error=type(error).__name__, where=where(error))
        return None, type(error).__name__


def accepting(sinks: Sequence[Sink], turn: Turn) -> list[str]:
    """The names of the sinks that accept an exchange, by itself and whole; a bug in there means no, logged."""
    names = []
    for sink in sinks:
        try:
            names += [sink.name] if sink.accepts(turn) else []
        except Exception as error:  # noqa: BLE001  # a plugin's bug; the other sinks are due
            log.error("sink_accepts_failed", sink=sink.name, error=type(error).__name__, where=where(error))
    return names
