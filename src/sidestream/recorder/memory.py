"""Exchanges through memory, where no journal is kept: an intake for the relay that is also the recorder's source.

The store is in memory, too. What has been delivered leaves it at once, but for what later turns are placed by.
"""

from __future__ import annotations

import collections
import itertools
from typing import TYPE_CHECKING

import structlog

from sidestream.store.reading import Batch
from sidestream.store.rows import State
from sidestream.traces.entries import Entry, Kind
from sidestream.traces.gathering import Gathering

if TYPE_CHECKING:
    import asyncio

    from sidestream.store.shelf import Shelf
    from sidestream.traces.gathering import Glimpse
    from sidestream.traces.record import Record

log = structlog.get_logger()

_KEPT = 10_000
"""Turns that have been delivered, of which what later ones are placed by is kept: most take about 2 KB."""
_KEPT_BYTES = 64 << 20
"""Where they take more than this, it is fewer."""
_GIVEN_UP_AT_ONCE = 10_000
_NO_ROOM = "there was no room in memory for it"
_PAGES = 10_000


class Memory:
    """At most `limit` bytes wait: those of exchanges under way, and of traces that no sink has taken yet (`stored`).

    `read` and `done` may be called in another thread, one call at a time; everything else is for the event loop.
    `arrived` is set when an exchange has ended.
    """

    def __init__(self, limit: int, arrived: asyncio.Event) -> None:
        self.captured = 0
        self.dropped: collections.Counter[str] = collections.Counter()
        self.stored = 0
        self.stored_exchanges = 0
        self._limit = limit
        self._arrived = arrived
        self._entries: collections.deque[Entry] = collections.deque()
        self._sizes: dict[int, int] = {}
        self._under_way = 0
        self._numbers = itertools.count(1)
        self._gathering = Gathering()
        self._ended: list[int] = []
        self._done: collections.deque[int] = collections.deque()
        """What the other thread is done with; what is counted, is counted in the event loop's thread alone."""
        self._dropping: collections.Counter[str] = collections.Counter()
        self._closed = False

    @property
    def ready(self) -> bool:
        """Whether there is room."""
        self._settle()
        return not self._closed and self._full < self._limit

    @property
    def waiting(self) -> int:
        """Bytes of exchanges that are under way, or have ended and are not in the store yet."""
        self._settle()
        return self._under_way

    @property
    def unstored(self) -> int:
        """How many such exchanges there are."""
        self._settle()
        return len(self._sizes)

    def open(self) -> int | None:
        """A number for a new exchange, if there is room."""
        if not self.ready:
            self.drop("stopped" if self._closed else "memory")
            return None
        self.captured += 1
        number = next(self._numbers)
        self._sizes[number] = 0
        return number

    def put(self, kind: Kind, number: int, time: float, data: bytes) -> bool:
        """Take an entry, if there is room."""
        size = len(data)
        if self._full > self._limit and kind in {Kind.REQUEST, Kind.RESPONSE} and not self._room():
            self._entries.append(Entry(Kind.ABANDON, number, 0.0, b""))
            self._forget(number)
            self.drop("memory")
            return False
        self._entries.append(Entry(kind, number, time, data))
        self._sizes[number] += size
        self._under_way += size
        if kind in {Kind.END, Kind.ABANDON}:
            self._arrived.set()
        if kind is Kind.END:  # this one was taken whole
            self._end_of_dropping()
        return True

    async def committed(self, number: int) -> None:  # noqa: ARG002  # the protocol's
        """Never: memory does not survive a power cut."""
        raise OSError("exchanges go through memory")

    def stands(self, size: int, exchanges: int) -> None:
        """What of that which was read is still in the store, in bytes and in exchanges."""
        self._settle()
        self.stored, self.stored_exchanges = size, exchanges

    def crowded(self, size: int) -> bool:
        """Whether the store, with so many bytes in it, takes more than its share."""
        return size > self._limit // 2

    def close(self) -> None:
        """Take no more."""
        self._closed = True

    def read(self, most_bytes: int) -> Batch:
        """The next exchanges that have ended."""
        records = []
        size = 0
        while self._entries and size < most_bytes:
            entry = self._entries.popleft()
            size += len(entry.data) + 1
            try:
                record = self._gathering.add(entry)
            except ValueError:
                log.error("memory_entry_invalid", kind=int(entry.kind))
            else:
                records += [record] if record is not None else []
            if entry.kind in {Kind.END, Kind.ABANDON}:
                self._ended.append(entry.number)
        return Batch(records=records, size=size)

    def done(self, batch: Batch) -> None:  # noqa: ARG002  # the protocol's
        """What was read is in the store."""
        ended, self._ended = self._ended, []
        self._done.extend(ended)

    def glimpses(self) -> list[Glimpse]:
        """The exchanges that are under way, as far as has been read."""
        return self._gathering.glimpses()

    def partial(self, identity: str) -> Record:
        """What there is so far of an exchange under way; `LookupError` if it is not."""
        if record := self._gathering.partial(identity):
            return record
        raise LookupError(identity)

    def forgotten(self) -> None:
        """A store in memory is never replaced."""

    def drop(self, reason: str, count: int = 1) -> None:
        """So many exchanges will not be delivered after all; logged once until there is room again."""
        if not count:
            return
        self.dropped[reason] += count
        self._dropping[reason] += count
        if self._dropping[reason] == count:
            log.error("capture_dropped", reason=reason)

    @property
    def _full(self) -> int:
        return self._under_way + self.stored

    def _room(self) -> bool:
        self._settle()
        return self._full <= self._limit

    def _settle(self) -> None:
        while self._done:
            self.stored += self._forget(self._done.popleft())  # until `stands` says otherwise

    def _forget(self, number: int) -> int:
        size = self._sizes.pop(number, 0)
        self._under_way -= size
        return size

    def _end_of_dropping(self) -> None:
        for reason, count in self._dropping.items():
            log.warning("captures_dropped", reason=reason, count=count)
        self._dropping.clear()


class Clearing:
    """Lets go of what has been delivered, and tells `memory` what has not: that counts against the memory there is."""

    def __init__(self, memory: Memory, shelf: Shelf) -> None:
        self._memory = memory
        self._shelf = shelf
        self._kept = _KEPT

    async def clear(self) -> None:
        """Do so now. What waits for somebody makes room for what can be delivered."""
        call, store = self._shelf.call, self._shelf.store
        gone = await call(store.discard_finished, keep=self._kept)
        held, exchanges = await call(store.unfinished)
        if self._memory.crowded(held):
            self._memory.drop("parked", await call(self._give_up_parked))
            gone += await call(store.discard_finished, keep=self._kept)
            held, exchanges = await call(store.unfinished)
        if gone:
            await call(store.vacuum, _PAGES)
        self._memory.stands(held, exchanges)
        self._adapt(await call(store.held_bytes) - 2 * held)  # a store takes more than what it was given

    def _give_up_parked(self) -> int:
        """In the store's thread: give up the older half of what is parked; of how many exchanges."""
        store = self._shelf.store
        parked = store.deliveries(states=[State.PARKED], limit=_GIVEN_UP_AT_ONCE)
        older = parked[len(parked) // 2 :]
        for each in older:
            each.state, each.reason = State.DEAD, _NO_ROOM
        store.save(older)
        return len({each.sequence for each in older})

    def _adapt(self, kept_bytes: int) -> None:
        """Some have thousands of messages, or long answers that were cut off: then fewer are kept."""
        self._kept = self._kept // 2 if kept_bytes > _KEPT_BYTES else min(2 * self._kept + 1, _KEPT)
