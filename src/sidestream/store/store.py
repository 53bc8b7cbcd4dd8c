"""The store: captured exchanges, what was understood of them, and where they are on their way to the sinks.

It knows rows, not the network: it is told what to write, in transactions of one sort or another, and never decides what
is to be sent. Everything is synchronous, and for one thread at a time; its owner runs it off the event loop. Any call
may raise `StoreUnavailable` (nothing was written; try again) or `StoreCorrupt` (go on with `start_over`).
"""

from __future__ import annotations

import time
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from sidestream.providers import PROVIDERS
from sidestream.store import removal, retention
from sidestream.store.captures import Captures
from sidestream.store.contents import Contents
from sidestream.store.conversations import Conversations
from sidestream.store.database import Database, set_aside
from sidestream.store.deliveries import Deliveries
from sidestream.store.dispatch import Dispatch
from sidestream.store.exchanges import Exchanges
from sidestream.store.faults import StoreCorrupt
from sidestream.store.indexing import Indexing
from sidestream.store.packing import Packer
from sidestream.store.positions import Positions
from sidestream.store.pushed import Pushed
from sidestream.store.rows import Redelivered
from sidestream.store.turns import Turns
from sidestream.traces.conversation import PUSHES
from sidestream.traces.pushing import pushed
from sidestream.traces.understanding import understand

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from pathlib import Path

    from sidestream.store.pushed import Imported
    from sidestream.store.rows import Carried, Deleted, Delivery, Item, Lane, Position, Pruned, Replacement, State
    from sidestream.traces.model import Message, Reading, Turn, Unit
    from sidestream.traces.pushing import PushedTurn
    from sidestream.traces.record import Record

log = structlog.get_logger()

_UNCHANGED: Mapping[str, Position | None] = MappingProxyType({})


class Store:
    """One store. `open` it to write, `open_reader` to read only."""

    def __init__(self, database: Database, *, full_sync: bool = False, now: Callable[[], float] = time.time) -> None:
        self._database = database
        packer = Packer()
        self._captures = Captures(database, packer)
        contents = Contents(database, packer)
        conversations = Conversations(database, contents, self._readable)
        self._deliveries = Deliveries(database)
        self._exchanges = Exchanges(database, packer, self._captures, contents, conversations, self._deliveries)
        self._turns = Turns(database, contents)
        self._dispatch = Dispatch(database, self._turns, self.reading)
        self._pushed = Pushed(database, contents, conversations)
        self._positions = Positions(database)
        self._indexing = Indexing(database, contents)
        self._full_sync = full_sync
        self._now = now

    @classmethod
    def open(cls, path: Path | None, *, full_sync: bool = False, now: Callable[[], float] = time.time) -> Store:
        """Open or make the store; None keeps it in memory. With `full_sync`, commits survive a power cut.

        A damaged file is set aside, and a new one begun. `SidestreamError` for a file of a newer version, or of
        something else; it is not touched.
        """
        try:
            database = Database.open(path, full_sync=full_sync)
        except StoreCorrupt:
            if path is None:
                raise
            set_aside(path, now())
            database = Database.open(path, full_sync=full_sync)
        return cls(database, full_sync=full_sync, now=now)

    @classmethod
    def open_reader(cls, path: Path) -> Store:
        """Open an existing store read-only, beside its owner; `SidestreamError` if there is none."""
        return cls(Database.open_reader(path))

    def start_over(self) -> Store:
        """After `StoreCorrupt`: set the file aside, and begin a new store in its place.

        Where the file was deleted, or replaced by somebody, go on with what is there now.
        """
        path, gone = self._database.path, self._database.gone()
        self._database.abandon()
        if gone:
            log.error("store_deleted", store=str(path))
        elif path is not None and path.exists():
            set_aside(path, self._now())
        return Store.open(path, full_sync=self._full_sync, now=self._now)

    @property
    def refused(self) -> int:
        """Exchanges that could not be stored, for what they are: a defect of ours, logged each time."""
        return self._exchanges.refused

    def gone(self) -> bool:
        """Whether the file has been deleted or replaced, so that nobody will find what is in here; cheap.

        Each write asks this first, and raises `StoreCorrupt` then.
        """
        return self._database.gone()

    def close(self) -> None:
        """Close it; safe to call twice."""
        self._database.close()

    def commit(
        self,
        items: Sequence[Item],
        *,
        positions: Mapping[str, Position | None] = _UNCHANGED,
        carried: Sequence[Carried] = (),
        released: Sequence[tuple[str, int]] = (),
    ) -> list[Item]:
        """Store exchanges together with how far the journal has been read: all of it, or nothing.

        A position of None forgets a relay, and all that was carried for it. `released` names carried exchanges, by
        relay and number, that have ended. Returns the items that are new: those whose id is known are passed over.
        One whose turn cannot be stored, for a defect of ours, is stored without it, and not delivered.
        """
        if not (items or positions or carried or released):
            return []
        with self._database.transaction():
            self._exchanges.expect(items)
            new = [item for item in items if self._exchanges.add(item, self._now())]
            self._positions.note(positions, carried, released)
        return new

    def record(self, sequence: int) -> Record:
        """An exchange as it was captured; `LookupError` if it is not there or damaged."""
        return self._captures.record(sequence)

    def reading(self, sequence: int) -> Reading:
        """An exchange read again from its capture; `LookupError` if that is not there, or cannot be read."""
        record = self._captures.record(sequence)
        if record.provider not in PROVIDERS:
            raise LookupError(f"exchange {sequence} is of a provider that is not known")
        return understand(record, PROVIDERS[record.provider])

    def turn(self, delivery: Delivery, unit: Unit) -> Turn:
        """What a sink that delivers these units is to be told; `LookupError` if that is not there, or damaged."""
        return self._dispatch.turn(delivery, unit)

    def unread(self, most: int) -> list[tuple[int, Record]]:
        """Sequence and record of exchanges that an earlier version stored, and `replace` has not had yet; in order.

        At most `most`, fewer where they are large, and none only where there are none. Damaged ones are logged, noted,
        and passed over.
        """
        return self._exchanges.unread(most)

    def exchanges(self, *, dataset: str | None = None, since: float | None = None) -> Iterator[tuple[int, Record]]:
        """Sequence and record of each exchange, in order of arrival; one at a time, with no lock held in between.

        `since` is Unix time: those that began then or later. Damaged ones are logged, and passed over.
        """
        return self._exchanges.all(dataset, since)

    def count(self, *, dataset: str | None = None, since: float | None = None) -> int:
        """How many exchanges `exchanges` would give."""
        return self._exchanges.count(dataset, since)

    def replace(self, replacements: Sequence[Replacement]) -> list[tuple[str, Lane]]:
        """Put what was understood anew in the place of the old, all or nothing; none of these is `unread` any more.

        Returns the sinks and lanes that have something to deliver by it. Exchanges that are gone are passed over.
        """
        lanes: dict[tuple[str, Lane], None] = {}
        with self._database.transaction():
            for each in replacements:
                if lane := self._exchanges.replace(each):
                    lanes |= dict.fromkeys((sink, lane) for sink in each.sinks)
        return list(lanes)

    def positions(self) -> dict[str, Position]:
        """How far the journal of each relay has been read."""
        return self._positions.all()

    def carried(self) -> list[Carried]:
        """The exchanges under way that outlive their segments."""
        return self._positions.carried()

    def lanes(self, sink: str) -> list[Lane]:
        """Lanes with open deliveries."""
        return self._deliveries.lanes(sink)

    def head(self, sink: str, lane: Lane) -> Delivery | None:
        """The oldest open delivery of a lane."""
        return self._deliveries.head(sink, lane)

    def following(self, head: Delivery, most: int) -> list[Delivery]:
        """The deliveries, `most` at most, that can be sent after the head of a lane whatever becomes of it."""
        return self._deliveries.following(head, most)

    def save(self, deliveries: Sequence[Delivery]) -> None:
        """Write all of deliveries that changes on the way, all or nothing.

        Those that are gone are passed over, and so are those that began anew after they were read; of these it is only
        noted if it is clear now whether the earlier attempt arrived.
        """
        self._deliveries.save(deliveries)

    def park(self, sink: str, fingerprint: str, reason: str) -> int:
        """Have all of a key's deliveries wait that are not being sent; how many."""
        return self._deliveries.park(sink, fingerprint, reason)

    def unpark(self, sink: str, fingerprint: str | None, reasons: Collection[str] | None = None) -> list[Lane]:
        """Give parked deliveries of a key (None: of any) another chance; the lanes they are in.

        `reasons` restricts it to those parked for one of them. The time after which they are given up begins anew.
        """
        return self._deliveries.unpark(sink, fingerprint, reasons, self._now())

    def expire_leases(self, sink: str) -> int:
        """After a start: what was being sent may have arrived, and is to be tried again now; how many."""
        return self._deliveries.expire_leases(sink)

    def forget_sinks(self, configured: Collection[str]) -> None:
        """Park what is open for a sink not among these, and take up again what was parked so for one that is."""
        self._deliveries.forget_sinks(configured, self._now())

    def counts(self) -> dict[str, dict[str, int]]:
        """How many deliveries are in which state, by sink. Costs the same however many there are."""
        return self._deliveries.counts()

    def deliveries(
        self,
        *,
        states: Collection[State] | None = None,
        sink: str | None = None,
        dataset: str | None = None,
        limit: int = 1000,
        before: int | None = None,
    ) -> list[Delivery]:
        """Deliveries, newest first; for the next page, `before` is the last one's id."""
        return self._deliveries.all(states=states, sink=sink, dataset=dataset, limit=limit, before=before)

    def redeliver(
        self,
        *,
        states: Collection[State],
        sink: str | None = None,
        dataset: str | None = None,
        exchange: str | None = None,
    ) -> Redelivered:
        """Begin dead, parked or delivered ones anew, as `states` says. Open ones are left alone.

        Where the last attempt of a dead one is unclear, it is looked up before it is sent again. A parked one is sent,
        even where that is unclear: somebody has decided.
        """
        return self._deliveries.redeliver(states=states, sink=sink, dataset=dataset, exchange=exchange)

    def undelivered(self, run: str, sink: str) -> list[int]:
        """The turns of a run, its branches and children that are not on their way to a sink: not yet, or not any more.

        Those that were delivered are not among them. `LookupError` for no such run.
        """
        return self._deliveries.undelivered(run, sink)

    def deliver(
        self, turns: Sequence[int], sink: str, accepts: Callable[[Turn], bool] = lambda _turn: True
    ) -> Redelivered:
        """Have turns delivered to a sink, as far as they are `undelivered`.

        `accepts` is the sink's word on each turn, of which it is shown what that added.
        """
        found = self._deliveries.still_undelivered(turns, sink)
        wanted = [each for each in found if self._is_wanted(each[0], accepts)]
        with self._database.transaction():
            for sequence, lane in wanted:
                self._deliveries.add(sequence, lane, [sink])
        return Redelivered(len(wanted), [(sink, lane) for lane in dict.fromkeys(lane for _, lane in wanted)])

    def push(
        self, dataset: str, messages: Sequence[Message], metadata: Mapping[str, Any], *, trace: str | None = None
    ) -> str:
        """Store messages that were not captured here: a new run, or a turn more of the run `trace`; the run's id.

        `LookupError` if there is no such run, or it is not one that was pushed.
        """
        turn = pushed(dataset, messages, metadata, trace=trace)
        with self._database.transaction():
            return self._pushed.push(turn, self._now())

    def take_in(self, turns: Sequence[PushedTurn]) -> Imported:
        """Store turns of elsewhere, with the names that they have there, all or nothing; those of a run in order.

        What is there is passed over.
        """
        with self._database.transaction():
            return self._pushed.take_in(turns, self._now())

    def describe(self, dataset: str, metadata: dict[str, Any], *, replace: bool = False) -> dict[str, Any]:
        """Add to what is said of a dataset as a whole, or `replace` that; what is said of it now."""
        with self._database.transaction():
            return self._pushed.describe(dataset, metadata, replace=replace)

    def forget_remote(self, sink: str, remote: str) -> None:
        """The destination does not have this trace any more: nothing was told there."""
        self._deliveries.forget_remote(sink, remote)

    def unfinished(self) -> tuple[int, int]:
        """Bytes and number of the exchanges with deliveries that are open or parked."""
        return self._exchanges.unfinished()

    def prune(self, *, age: float | None, max_bytes: int | None, most: int = 200, after: int = 0) -> Pruned:
        """Remove at most `most` exchanges, oldest first: those older than `age` seconds, then those beyond `max_bytes`.

        Never one that is still to be delivered; one that is parked, only for its age. What a wrong clock does is said
        in `sidestream.store.retention`. `after` is the `reached` of the step before.
        """
        limits = retention.Limits(self._now(), age, max_bytes)
        return retention.prune(self._database, self._captures, limits, most=most, after=after)

    def delete(self, *, run: str | None = None, dataset: str | None = None, most: int = 200) -> Deleted:
        """Remove at most `most` exchanges of a run, its branches and children, or of a dataset, whatever their state.

        From then on the store is `purging`.
        """
        return removal.delete(self._database, self._captures, run=run, dataset=dataset, most=most)

    def index(self, most: int) -> bool:
        """Bring the index of words closer to what is stored, by about `most` bytes of text; whether there is more."""
        return self._indexing.step(most)

    def unindex(self, most: int) -> bool:
        """Take about so many bytes of text out of it that are gone; whether there may be more."""
        return self._indexing.take_out(most)

    def merge_index(self, pages: int) -> bool:
        """Merge about so many pages (4 KiB) of the index, if there is any need for that; whether there was."""
        return self._indexing.merge(pages)

    def purge_index(self, pages: int) -> bool:
        """Merge so many of them into an index that has nothing of what is gone; whether there may be more.

        `index` is to be called until there is nothing more before that, and not in between.
        """
        return self._indexing.purge(pages)

    def stale_texts(self) -> int:
        """Texts that are gone, and of which the index may have words until it is purged."""
        return self._indexing.stale()

    def purging(self) -> int:
        """How many steps of `delete` there were of which there may still be something in the file; 0 as a rule."""
        return self._indexing.purging()

    def purged(self, steps: int) -> None:
        """Since there were so many, the index was purged, and SQLite's log emptied: nothing is left of these."""
        self._indexing.purged(steps)

    def discard_finished(self, keep: int) -> int:
        """In memory: of exchanges with nothing left to deliver, and not parked, remove what is large; how many.

        What later turns are placed by is kept of the newest `keep` of them.
        """
        return retention.discard_finished(self._database, self._captures, keep)

    def vacuum(self, pages: int) -> bool:
        """Give up to `pages` free pages (4 KiB) back, and empty SQLite's log; False if a reader is in the way of that.

        Until it was True once, what has been removed may still be found in the log.
        """
        return self._database.vacuum(pages)

    def shrink(self, pages: int) -> bool:
        """Give up to so many free pages back, and leave SQLite's log as it is; whether there are others."""
        return self._database.shrink(pages)

    def size(self) -> int:
        """Bytes on the disk."""
        return self._database.file_bytes()

    def held_bytes(self) -> int:
        """Bytes of what is in use, in memory or in the file; room left by what was removed is not counted."""
        return self._database.live_bytes()

    def _is_wanted(self, sequence: int, accepts: Callable[[Turn], bool]) -> bool:
        """Whether a sink wants a turn; what somebody pushed without a status was not refused by any provider."""
        try:
            turn = self._turns.turn(sequence)
        except LookupError:
            return True  # its delivery will say why it cannot be
        assumed = {"status": 200} if turn.rule in PUSHES else {}
        return accepts(msgspec.structs.replace(turn, metadata=assumed | turn.metadata))

    def _readable(self, sequence: int) -> Reading | None:
        try:
            return self.reading(sequence)
        except LookupError:
            return None
