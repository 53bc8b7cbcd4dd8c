"""The journals, the recorder's side: what relays write down is read, and put together to records.

`Journals.read` gives what is new in all of them; once that is safe in the store, `Journals.done` lets go of the files
that are no longer needed. In between nothing is changed on disk, so whatever happens then, the next recorder reads the
same again; it goes on from the positions the store has. A position is the beginning of the oldest exchange still open,
so some records come a second time, and the store knows them by their ids. An exchange that is open for so long that it
would keep many segments is *carried*: what there is of it goes to the store, and the segments can go.

A relay is alive while it holds its lock. What stands at the very end of its journal and is not a whole entry may be one
half-written, or be seen while it is being written; it is looked at again until the relay has gone on to the next
segment, or is dead. After that an incomplete entry is where it died, and a wrong one is damage. From damage on nothing
in that segment can be believed: it is set aside, to ``corrupt/`` beside the journals, and as nobody knows what was in
it, the exchanges that were open there end as ``interrupted``.

The times of files are not relied on; clocks are set back.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from sidestream.store import segments
from sidestream.store.rows import Carried, Position
from sidestream.store.segments import DamagedError
from sidestream.traces.entries import Entry, Kind
from sidestream.traces.gathering import Gathering

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from sidestream.traces.gathering import Glimpse
    from sidestream.traces.record import Record

log = structlog.get_logger()

_BITE = 1 << 20
_GRACE = 10.0
"""Seconds for which a directory without a lock is one that is just being made."""
_SEGMENTS_BEHIND = 4
"""An exchange that began more segments ago than this is carried."""
_CHUNK_BYTES = 64
"""Bytes of memory that a chunk of a record takes besides its own."""
_BEGIN, _RESPONSE, _END = int(Kind.BEGIN), int(Kind.RESPONSE), int(Kind.END)
_RELAY = re.compile(r"[0-9a-f]{32}")


@dataclass(slots=True)
class ReadingCounters:
    """What the reading counts; since the start, never reset."""

    interrupted: int = 0
    """Exchanges whose end was not to be found."""
    set_aside: int = 0
    """Damaged segments."""
    invalid: int = 0
    """Exchanges with an entry that is not what its kind says: a defect of ours."""


@dataclass(slots=True)
class Batch:
    """What a read has found, to be stored in one transaction."""

    records: list[Record] = field(default_factory=list)
    positions: dict[str, Position | None] = field(default_factory=dict)
    """Where to go on, for relays where that has changed. None: that relay is finished, and to be forgotten."""
    carried: list[Carried] = field(default_factory=list)
    """Take the place of those with the same relay and number."""
    released: list[tuple[str, int]] = field(default_factory=list)
    """Relay and number of carried exchanges that have ended."""
    size: int = 0
    """Bytes of the journals read, and of memory that records and what is carried take."""
    damaged: list[Path] = field(default_factory=list)
    """Segments that `Journals.done` will set aside."""

    @property
    def found(self) -> bool:
        """Whether there was anything, also if it is nothing to store yet."""
        return bool(self.size or self.records or self.positions or self.carried or self.released)


class Journals:
    """All journals below `root`, for one thread; `spool` is where long bodies lie meanwhile.

    `positions` and `carried` are what the store has. A batch must be stored before the next read; if that fails for
    good, these `Journals` have gone too far, and new ones are to be made from what the store has.
    """

    def __init__(
        self,
        root: Path,
        spool: Path | None = None,
        *,
        positions: Mapping[str, Position] | None = None,
        carried: Sequence[Carried] = (),
    ) -> None:
        self.counters = ReadingCounters()
        self._root = root
        self._spool = spool
        self._relays: dict[str, _Relay] = {}
        self._turns: deque[str] = deque()
        self._failed = False
        positions = positions or {}
        for relay in dict.fromkeys((*positions, *(exchange.relay for exchange in carried))):
            known = [exchange for exchange in carried if exchange.relay == relay]
            self._add(relay, positions.get(relay), known)

    def read(self, most_bytes: int) -> Batch:
        """What is new, taken from all relays in turn, until its size is `most_bytes` or, with the last record, more.

        `OSError`s are logged, not raised. `SpoolError`: these `Journals` have lost what they had gathered.
        """
        batch = Batch()
        gone = self._look()
        idle = 0
        while idle < len(self._turns) and batch.size < most_bytes:
            relay = self._relays[self._turns[0]]
            idle = 0 if self._bite(relay, batch, most_bytes, gone=relay.name in gone) else idle + 1
            self._turns.rotate(-1)
        for relay in self._relays.values():
            relay.tell(batch, most_bytes)
        return batch

    def done(self, batch: Batch) -> None:
        """The batch is safe: delete what is not needed any more, and set aside what is damaged."""
        for path in batch.damaged:
            self._set_aside(path)
        for name, position in batch.positions.items():
            relay = self._relays.get(name)
            if relay is None:
                continue
            if position is None:
                relay.forgotten = True
            else:
                relay.unlink(before=position.segment)
        for name, relay in list(self._relays.items()):
            if relay.forgotten and relay.remove():
                del self._relays[name]
                self._turns.remove(name)

    def glimpses(self) -> list[Glimpse]:
        """The exchanges that are under way, as far as has been read."""
        return [glimpse for relay in self._relays.values() for glimpse in relay.glimpses()]

    def partial(self, identity: str) -> Record:
        """What there is so far of an exchange under way; `LookupError` if it is not. `SpoolError` as for `read`."""
        for relay in self._relays.values():
            if record := relay.partial(identity):
                return record
        raise LookupError(identity)

    def forgotten(self) -> None:
        """The store has been replaced by a new one: with the next batch it is told everything that it has to know."""
        for relay in self._relays.values():
            relay.tell_anew()

    def backlog_bytes(self) -> int:
        """Bytes that have not been read yet, in all journals."""
        return sum(relay.backlog() for relay in list(self._relays.values()))

    def oldest_unread(self) -> float | None:
        """For how many seconds the oldest of these have waited, as far as this process knows; None: there are none."""
        now = time.monotonic()
        ages = [now - relay.caught_up for relay in list(self._relays.values()) if relay.backlog()]
        return max(ages, default=None)

    def _add(self, name: str, position: Position | None, carried: Sequence[Carried] = ()) -> None:
        self._relays[name] = _Relay(self._root / name, self._spool, position, carried, self.counters)
        self._turns.append(name)

    def _look(self) -> frozenset[str]:
        """Find new relays; those of the known ones whose directories are gone."""
        try:
            with os.scandir(self._root) as entries:
                found = {entry.name for entry in entries if _RELAY.fullmatch(entry.name)}
        except FileNotFoundError:
            found = set()
        except OSError as error:
            failed, self._failed = self._failed, True
            if not failed:
                log.error("journal_unreadable", error=_name(error))
            return frozenset()
        self._failed = False
        for name in sorted(found - self._relays.keys()):
            self._add(name, None)
        return frozenset(self._relays.keys() - found)

    @staticmethod
    def _bite(relay: _Relay, batch: Batch, most: int, *, gone: bool) -> bool:
        if relay.finished:
            return False
        if gone:
            return relay.finish(batch, most)
        try:
            found = relay.read(batch, most)
        except OSError as error:
            failed, relay.failed = relay.failed, True
            if not failed:
                log.error("journal_unreadable", relay=relay.name, error=_name(error))
            return False
        relay.failed = False
        return found

    def _set_aside(self, path: Path) -> None:
        folder = self._root.parent / "corrupt"
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            path.replace(folder / f"{path.parent.name}-{path.name}")
        except FileNotFoundError:
            return
        except OSError as error:
            log.error("segment_not_set_aside", relay=path.parent.name, segment=path.name, error=_name(error))


class _Relay:
    """The journal of one relay, as far as it has been read."""

    def __init__(
        self,
        path: Path,
        spool: Path | None,
        position: Position | None,
        carried: Sequence[Carried],
        counters: ReadingCounters,
    ) -> None:
        self.name = path.name
        self.finished = False
        """There is nothing more to come."""
        self.forgotten = False
        """The store needs nothing of it any more."""
        self.failed = False
        self.caught_up = time.monotonic()
        """When everything there was had been read."""
        self._path = path
        self._counters = counters
        self._seen = time.monotonic()
        self._dead = False
        self._at = position or Position(0, 0)
        """Up to where it has been read; segment 0 stands for the beginning."""
        self._told = position
        self._kept_from = 0
        self._gathering = Gathering(spool)
        self._needed: dict[int, Position] = {}
        """Open exchanges, and from where on they are needed."""
        self._carried: set[int] = set()
        """Those of which the store has a part."""
        self._untold: set[int] = set()
        """... and no longer has."""
        self._interrupting = False
        """What is open has no continuation: it is ended before anything more is read."""
        self._skip: dict[int, Position] = {}
        """Up to where what is read again is contained in what was carried."""
        for exchange in carried:
            self._resume(exchange)

    def read(self, batch: Batch, most: int) -> bool:
        """Read on, a megabyte or one entry, until the batch is full. False: there is nothing more for now."""
        if self._interrupting:
            self._interrupt(batch, most)
            return True
        alive = self._alive()  # first: what it wrote before it died is then seen below
        found = segments.numbers(self._path)
        segment, offset = self._at
        following = _after(segment, found)
        if segment not in found:
            return self._end_of_segment(found, batch, most, alive=alive)
        try:
            end, wait = self._end_of(segment, found, alive=alive)
            if self._consume(end, batch, most):
                return True
            damaged = end is not None and offset < end  # there is less than had been written
        except DamagedError:
            if alive and following is None:
                return self._at.offset > offset
            damaged = True
        if damaged:
            self._damaged(segment, following, batch, most)
            return True
        if wait:
            return False
        return self._end_of_segment(found, batch, most, alive=alive)

    def tell(self, batch: Batch, most: int) -> None:
        """Put into the batch what is to be carried, and the position to go on from if it has changed."""
        if self.finished:
            return
        if not self._interrupting:
            self._carry(batch, most)
        position = min([self._at, *self._needed.values()])  # what was carried may be needed from further on only
        if position not in {self._told, Position(0, 0)}:
            batch.positions[self.name] = self._told = position

    def tell_anew(self) -> None:
        """The store does not know what it has been told."""
        self._told = None
        self._untold = set(self._carried)

    def finish(self, batch: Batch, most: int) -> bool:
        """All that is there has been read, and nothing more will come. True: it is not all in the batch yet."""
        if not self._interrupt(batch, most):
            return True
        batch.positions[self.name] = None
        self.finished = True
        return False

    def unlink(self, before: int) -> None:
        """Delete the segments before this one."""
        if before <= self._kept_from:
            return
        try:
            for number in segments.numbers(self._path):
                if number < before:
                    (self._path / segments.name(number)).unlink(missing_ok=True)
        except OSError as error:
            log.error("segment_not_deleted", relay=self.name, error=_name(error))
            return
        self._kept_from = before

    def remove(self) -> bool:
        """Delete the directory; False if that is to be tried again."""
        try:
            shutil.rmtree(self._path)
        except FileNotFoundError:
            return True
        except OSError as error:
            failed, self.failed = self.failed, True
            if not failed:
                log.error("journal_not_deleted", relay=self.name, error=_name(error))
            return False
        return True

    def glimpses(self) -> list[Glimpse]:
        """The exchanges that are open."""
        return self._gathering.glimpses()

    def partial(self, identity: str) -> Record | None:
        """What there is so far of one of them."""
        return self._gathering.partial(identity)

    def backlog(self) -> int:
        """Bytes that have not been read yet."""
        segment, offset = self._at
        total = 0
        if self.finished:
            return 0
        with contextlib.suppress(OSError):  # it may be vanishing right now
            for number in segments.numbers(self._path):
                if number >= segment:
                    total += (self._path / segments.name(number)).stat().st_size
                if number == segment:
                    total -= offset
        return max(total, 0)

    def _resume(self, exchange: Carried) -> None:
        self._carried.add(exchange.number)
        try:
            self._gathering.unpack(exchange.number, exchange.state)
        except ValueError:
            self._counters.invalid += 1
            log.error("carried_exchange_lost", relay=self.name)
            return
        self._needed[exchange.number] = self._skip[exchange.number] = exchange.position

    def _alive(self) -> bool:
        if self._dead:
            return False
        try:
            lock = os.open(self._path / "lock", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            self._dead = time.monotonic() - self._seen > _GRACE
            return not self._dead
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(lock)
        self._dead = True
        return False

    def _end_of(self, segment: int, found: Sequence[int], *, alive: bool) -> tuple[int | None, bool]:
        """Where a segment ends, as the following one says; and whether that one is still to be waited for."""
        following = segment + 1
        if following not in found:
            return None, False
        try:
            end = segments.before(self._beginning(following), following)
        except DamagedError:
            return None, False
        return end, end is None and alive and following == found[-1]

    def _beginning(self, segment: int) -> bytes:
        with (self._path / segments.name(segment)).open("rb", buffering=0) as file:
            return file.read(segments.HEADER_SIZE)

    def _consume(self, end: int | None, batch: Batch, most: int) -> bool:
        """Take what is there up to `end`; whether that was anything. `DamagedError` when something wrong is next."""
        segment, offset = self._at
        with (self._path / segments.name(segment)).open("rb", buffering=0) as file:
            want = _BITE
            while end is None or offset < end:
                length = want if end is None else min(want, end - offset)
                data = os.pread(file.fileno(), length, offset)
                done = 0
                if not data:
                    self.caught_up = time.monotonic()
                if offset == 0:
                    if segments.before(data, segment) is None:
                        return False
                    done = segments.HEADER_SIZE
                try:
                    for after, entry in segments.entries(data, done):
                        self._take(entry, offset + done, batch)
                        done = after
                        if batch.size >= most:
                            break
                finally:
                    self._at = Position(segment, offset + done)
                    batch.size += done
                if done:
                    return True
                want = segments.needed(data)
                if len(data) < length or (end is not None and offset + want > end):
                    return False
        return False

    def _take(self, entry: Entry, start: int, batch: Batch) -> None:
        kind, number, _, _ = entry
        if kind == _RESPONSE and not self._skip:  # nearly all there is
            self._gathering.add(entry)
            return
        if self._skip and number in self._skip and (self._at.segment, start) < self._skip[number]:
            return
        try:
            record = self._gathering.add(entry)
        except ValueError:
            self._counters.invalid += 1
            log.error("journal_entry_invalid", relay=self.name, kind=kind)
            self._over(number, batch)
            return
        if record is not None:
            _put(record, batch)
        if kind == _BEGIN:
            self._over(number, batch)
            self._needed[number] = Position(self._at.segment, start)
        elif kind >= _END:
            self._over(number, batch)

    def _over(self, number: int, batch: Batch) -> None:
        self._needed.pop(number, None)
        self._skip.pop(number, None)
        self._untold.discard(number)
        if number in self._carried:
            self._carried.discard(number)
            batch.carried[:] = [other for other in batch.carried if (other.relay, other.number) != (self.name, number)]
            batch.released.append((self.name, number))

    def _carry(self, batch: Batch, most: int) -> None:
        for number, begun in self._needed.items():
            if self._at.segment - begun.segment > _SEGMENTS_BEHIND or number in self._untold:
                carried = Carried(self.name, number, self._at, self._gathering.pack(number))
                batch.carried.append(carried)
                batch.size += len(carried.state)
                self._needed[number] = self._at
                self._carried.add(number)
                self._untold.discard(number)
                if batch.size >= most:  # the others with the next batch
                    return

    def _end_of_segment(self, found: Sequence[int], batch: Batch, most: int, *, alive: bool) -> bool:
        """Go on to the following segment; without one, wait for it, or that was all."""
        segment, offset = self._at
        following = _after(segment, found)
        if following is None:
            return not alive and self.finish(batch, most)
        end, wait = self._end_of(segment, found, alive=alive)
        if wait:
            return False
        if segment and (following != segment + 1 or (end is not None and end != offset)):
            log.error("journal_gap_found", relay=self.name, segment=following)
            self._interrupt(batch, most)
        self._at = Position(following, 0)
        return True

    def _damaged(self, segment: int, following: int | None, batch: Batch, most: int) -> None:
        offset = self._at.offset
        self._counters.set_aside += 1
        batch.damaged.append(self._path / segments.name(segment))
        self._interrupt(batch, most)
        self._at = Position(following or segment + 1, 0)
        log.error("segment_set_aside", relay=self.name, segment=segment, offset=offset)

    def _interrupt(self, batch: Batch, most: int) -> bool:
        """End all open exchanges, for their remaining pieces are lost. False: the batch is full, and some are left."""
        self._interrupting = True
        for number, record in self._gathering.interrupted():
            self._counters.interrupted += 1
            self._over(number, batch)
            _put(record, batch)
            if batch.size >= most and len(self._gathering):
                return False
        for number in {*self._needed, *self._carried}:
            self._over(number, batch)
        self._interrupting = False
        return True


def _put(record: Record, batch: Batch) -> None:
    batch.records.append(record)
    batch.size += record.size + _CHUNK_BYTES * (len(record.request_chunks) + len(record.response_chunks))


def _after(segment: int, found: Sequence[int]) -> int | None:
    return next((number for number in found if number > segment), None)


def _name(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, type(error).__name__)
