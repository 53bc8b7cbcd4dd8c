"""Exchanges as rows: what was captured of each, its turn in a conversation, and whom it is to be delivered to.

There are rows of turns that were not captured here as well (`sidestream.store.pushed`): nothing of them can be read
again, so they are passed over wherever exchanges are.

The columns are what one looks for; a record itself is in blobs that give it back exactly. Nothing that comes over the
wire may fail a commit: it would fail each time again, and the journal could never be read beyond it. So an exchange
whose turn cannot be stored, for whatever reason but the database's own, is stored without one.
"""

from __future__ import annotations

import math
import sqlite3
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from sidestream.providers.jsons import clean_text
from sidestream.store.faults import StoreCorrupt, StoreUnavailable, classified
from sidestream.store.rows import Lane
from sidestream.tasks import where
from sidestream.traces.pushing import PROVIDER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sidestream.store.captures import Captures
    from sidestream.store.contents import Contents
    from sidestream.store.conversations import Added, Conversations
    from sidestream.store.database import Database
    from sidestream.store.deliveries import Deliveries
    from sidestream.store.packing import Packer
    from sidestream.store.rows import Item, Replacement
    from sidestream.traces.model import Reading
    from sidestream.traces.record import Record

_ROW_BYTES: Final = 3072
"""About what an exchange takes beside its blobs: its rows, their indices, and pages half full."""
_INTEGERS: Final = 1 << 63
_UNREAD_BYTES: Final = 64 << 20
_NOT_PLACED: Final = "a defect of sidestream: it could not be placed in its conversation"
_INSERT: Final = (
    "INSERT INTO exchanges (id, dataset, provider, fingerprint, started_at, stored_at, status, outcome, model, size,"
    " stored) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0) ON CONFLICT (id) DO NOTHING"
)
_STORED: Final = "UPDATE exchanges SET stored = ?, error = ? WHERE sequence = ?"

log = structlog.get_logger()


class Exchanges:
    """The exchanges in one database."""

    def __init__(
        self,
        database: Database,
        packer: Packer,
        captures: Captures,
        contents: Contents,
        conversations: Conversations,
        deliveries: Deliveries,
    ) -> None:
        self.refused = 0
        """Exchanges that could not be stored, for what they are: a defect of ours, logged each time."""
        self._database = database
        self._packer = packer
        self._captures = captures
        self._contents = contents
        self._conversations = conversations
        self._deliveries = deliveries

    def expect(self, items: Sequence[Item]) -> None:
        """Inside a transaction: these are about to be added."""
        self._conversations.expect(item.reading.call for item in items if item.reading is not None)

    def add(self, item: Item, now: float) -> bool:
        """Inside a transaction: whether the exchange was new, and could be stored."""
        record, reading = item.record, item.reading
        identity = clean_text(record.id)
        sequence = self._insert(record, identity, reading, now)
        if sequence is None:
            return False
        try:
            packed = self._packer.pack(record, self._database.row_bytes())
        except ValueError as error:
            self.refused += 1
            log.error("exchange_not_stored", exchange=identity, reason=str(error))
            self._database.run("DELETE FROM exchanges WHERE sequence = ?", sequence)
            return False
        failure, added = item.error and clean_text(item.error), None
        if reading is not None:
            added = self._attempt(identity, partial(self._conversations.add, sequence, reading))
            failure = failure or (_NOT_PLACED if added is None else None)
        base, said = added or (None, 0)
        captured = self._captures.add(sequence, packed, base if _is_plain(record) else None)
        # Before the deliveries, which have the row stand in other indexes.
        self._database.run(_STORED, captured + said + _ROW_BYTES, failure, sequence)
        if added is not None:
            self._deliver(sequence, Lane(clean_text(record.fingerprint), clean_text(record.dataset)), item.sinks)
        return True

    def _insert(self, record: Record, identity: str, reading: Reading | None, now: float) -> int | None:
        """The row of an exchange; its sequence, None if there is one of that name."""
        columns = (identity, *_columns(record, now), _model(reading), record.size)
        return self._database.insert(_INSERT, *columns) or None

    def replace(self, new: Replacement) -> Lane | None:
        """Inside a transaction: the lane of an exchange that has something to deliver now."""
        found = self._database.rows("SELECT id, fingerprint, dataset FROM exchanges WHERE sequence = ?", new.sequence)
        if not found:
            return None
        identity, fingerprint, dataset = found[0]
        before, failure, placed = self._contents.size(), new.error and clean_text(new.error), False
        if new.reading is not None:
            work = partial(self._conversations.replace, new.sequence, new.reading)
            placed = self._attempt(identity, work) is not None
            failure = failure if placed else failure or _NOT_PLACED
        self._database.run(
            "UPDATE exchanges SET error = ?, unread = 0, model = iif(?, ?, model), stored = max(stored + ?, ?)"
            " WHERE sequence = ?",
            failure,
            placed,
            _model(new.reading),
            self._contents.size() - before,
            _ROW_BYTES,
            new.sequence,
        )
        if not placed:
            return None
        lane = Lane(fingerprint, dataset)
        self._deliver(new.sequence, lane, new.sinks)
        return lane

    def unread(self, most: int) -> list[tuple[int, Record]]:
        """Sequence and record of the first that were never read into turns; fewer than `most` where they are large.

        Those that are damaged are logged and noted, so that they do not come again.
        """
        records: list[tuple[int, Record]] = []
        size = 0
        while len(records) < most and size < _UNREAD_BYTES:
            found = self._database.rows(
                "SELECT sequence FROM exchanges WHERE unread = 1 AND provider <> ? AND sequence > ?"
                " ORDER BY sequence LIMIT 1",
                PROVIDER,
                records[-1][0] if records else 0,
            )
            if not found:
                break
            ((sequence,),) = found
            try:
                record = self._captures.record(sequence)
            except LookupError as error:
                log.error("exchange_unreadable", sequence=sequence)
                with self._database.transaction():
                    self._database.run(
                        "UPDATE exchanges SET unread = 0, error = ? WHERE sequence = ?", str(error), sequence
                    )
                continue
            records.append((sequence, record))
            size += record.size
        return records

    def all(self, dataset: str | None, since: float | None) -> Iterator[tuple[int, Record]]:
        """Sequence and record of each; a query for each, so that neither memory nor a lock is held in between."""
        wanted, values = _wanted(dataset, since)
        last = 0
        while found := self._database.rows(
            f"SELECT sequence FROM exchanges WHERE sequence > ? AND {wanted} ORDER BY sequence LIMIT 1",  # noqa: S608  # constants
            last,
            *values,
        ):
            ((last,),) = found
            try:
                yield last, self._captures.record(last)
            except LookupError:
                log.error("exchange_unreadable", sequence=last)

    def count(self, dataset: str | None, since: float | None) -> int:
        """How many `all` would give."""
        wanted, values = _wanted(dataset, since)
        ((number,),) = self._database.rows(f"SELECT count(*) FROM exchanges WHERE {wanted}", *values)  # noqa: S608  # constants
        return int(number)

    def unfinished(self) -> tuple[int, int]:
        """Bytes and number of the exchanges with deliveries that are open or parked."""
        ((size, number),) = self._database.rows(
            "SELECT coalesce(sum(stored), 0), count(*) FROM exchanges WHERE waiting > 0 OR parked > 0"
        )
        return int(size), int(number)

    def _deliver(self, sequence: int, lane: Lane, sinks: Sequence[str]) -> None:
        self._deliveries.add(sequence, lane, list(dict.fromkeys(sinks)))

    def _attempt(self, identity: str, work: Callable[[], Added]) -> Added | None:
        """Do something with an exchange's turn: all of it, or nothing and None. What came of it."""
        try:
            with self._database.attempt():
                return work()
        except (StoreCorrupt, StoreUnavailable):
            raise
        except Exception as error:  # a defect in there would fail each time again
            if isinstance(error, sqlite3.Error | OSError) and classified(error, self._database.path) is not error:
                raise
            log.error("exchange_not_understood", exchange=identity, error=type(error).__name__, where=where(error))
            return None


def _is_plain(record: Record) -> bool:
    """Whether a request can be like another one: what is compressed has nothing in common with anything."""
    return record.request_headers.get("content-encoding", "").strip().lower() in ("", "identity")


def _columns(record: Record, now: float) -> tuple[str | float | int | None, ...]:
    """The first columns after the id: text that can be encoded, and numbers that SQLite has."""
    fits = record.status is not None and -_INTEGERS <= record.status < _INTEGERS
    return (
        clean_text(record.dataset),
        clean_text(record.provider),
        clean_text(record.fingerprint),
        record.started_at if math.isfinite(record.started_at) else now,
        now,
        record.status if fits else None,
        clean_text(record.outcome),
    )


def _wanted(dataset: str | None, since: float | None) -> tuple[str, list[str | float]]:
    wanted, values = "provider <> ?", list[str | float]([PROVIDER])
    if dataset is not None:
        wanted, values = f"{wanted} AND dataset = ?", [*values, clean_text(dataset)]
    if since is not None:
        wanted, values = f"{wanted} AND started_at >= ?", [*values, since]
    return wanted, values


def _model(reading: Reading | None) -> str | None:
    model = reading.metadata.get("model") if reading is not None else None
    return clean_text(model) if isinstance(model, str) else None
