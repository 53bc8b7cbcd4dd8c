"""Exchanges as rows: what was captured of each, and what was understood.

The columns are what one looks for; a record itself is in blobs that give it back exactly. Nothing that comes over the
wire may fail a commit: it would fail each time again, and the journal could never be read beyond it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import structlog

from sidestream.providers.jsons import clean_text
from sidestream.store.packing import PackedRecord, Packer
from sidestream.store.rows import Lane

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sidestream.store.database import Database
    from sidestream.store.deliveries import Deliveries
    from sidestream.store.rows import Item, Replacement
    from sidestream.traces.model import Trace
    from sidestream.traces.record import Record

_ROW_BYTES = 1024
"""About what an exchange takes beside its blobs: its rows, their indices, and pages half full."""
_INTEGERS = 1 << 63
_COLUMNS = "id, dataset, provider, fingerprint, started_at, stored_at, status, outcome, model, size, stored, error"

log = structlog.get_logger()


class Exchanges:
    """The exchanges in one database."""

    def __init__(self, database: Database, deliveries: Deliveries) -> None:
        self.refused = 0
        """Exchanges that could not be stored, for what they are: a defect of ours, logged each time."""
        self._database = database
        self._deliveries = deliveries
        self._packer = Packer()

    def add(self, item: Item, now: float) -> bool:
        """Inside a transaction: whether the exchange was new, and could be stored."""
        identity = clean_text(item.record.id)
        if self._database.rows("SELECT 1 FROM exchanges WHERE id = ?", identity):
            return False
        try:
            packed = self._packer.pack(item.record, self._database.row_bytes())
        except ValueError as error:
            self.refused += 1
            log.error("exchange_not_stored", exchange=identity, reason=str(error))
            return False
        content, error_text = self._content(item.trace, item.error)
        sequence = self._database.insert(
            f"INSERT INTO exchanges ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608  # constants
            *_columns(item.record, now),
            _model(item.trace),
            item.record.size,
            sum(map(len, packed)) + len(content or b"") + _ROW_BYTES,
            error_text,
        )
        self._database.run("INSERT INTO captures VALUES (?, ?, ?, ?, ?)", sequence, *packed)
        if content is not None:
            self._database.run("INSERT INTO traces VALUES (?, ?)", sequence, content)
            lane = Lane(clean_text(item.record.fingerprint), clean_text(item.record.dataset))
            self._deliveries.add(sequence, lane, list(dict.fromkeys(item.sinks)))
        return True

    def replace(self, new: Replacement) -> Lane | None:
        """Inside a transaction: the lane of an exchange that has something to deliver now."""
        found = self._database.rows("SELECT fingerprint, dataset FROM exchanges WHERE sequence = ?", new.sequence)
        if not found:
            return None
        content, error = self._content(new.trace, new.error)
        self._database.run("UPDATE exchanges SET error = ? WHERE sequence = ?", error, new.sequence)
        if content is None:
            return None
        self._database.run(
            "UPDATE exchanges SET model = ?, stored = stored + ?"
            " - coalesce((SELECT length(content) FROM traces WHERE traces.sequence = exchanges.sequence), 0)"
            " WHERE sequence = ?",
            _model(new.trace),
            len(content),
            new.sequence,
        )
        self._database.run(
            "INSERT INTO traces VALUES (?, ?) ON CONFLICT DO UPDATE SET content = excluded.content",
            new.sequence,
            content,
        )
        lane = Lane(*found[0])
        self._deliveries.add(new.sequence, lane, list(dict.fromkeys(new.sinks)))
        return lane

    def record(self, sequence: int) -> Record:
        """An exchange as it was captured; `LookupError` if it is not there or damaged."""
        found = self._database.rows(
            "SELECT facts, chunks, request, response FROM captures WHERE sequence = ?", sequence
        )
        if not found:
            raise LookupError(f"there is no exchange {sequence}")
        return self._record(sequence, found[0])

    def trace(self, sequence: int) -> Trace:
        """What was understood of an exchange; `LookupError` if it is not there, was not understood, or is damaged."""
        found = self._database.rows("SELECT content FROM traces WHERE sequence = ?", sequence)
        if not found:
            raise LookupError(f"there is no trace of exchange {sequence}")
        try:
            return self._packer.unpack_trace(found[0][0])
        except ValueError as error:
            raise LookupError(f"the trace of exchange {sequence} is damaged") from error

    def all(self, dataset: str | None, since: float | None) -> Iterator[tuple[int, Record]]:
        """Sequence and record of each; a query for each, so that neither memory nor a lock is held in between."""
        wanted, values = _wanted(dataset, since)
        last = 0
        while found := self._database.rows(
            "SELECT sequence, facts, chunks, request, response FROM exchanges CROSS JOIN captures USING (sequence)"  # noqa: S608  # constants
            f" WHERE sequence > ? AND {wanted} ORDER BY sequence LIMIT 1",
            last,
            *values,
        ):
            last, *packed = found[0]
            try:
                yield last, self._record(last, packed)
            except LookupError:
                log.error("exchange_unreadable", sequence=last)

    def count(self, dataset: str | None, since: float | None) -> int:
        """How many `all` would give."""
        wanted, values = _wanted(dataset, since)
        ((number,),) = self._database.rows(f"SELECT count(*) FROM exchanges WHERE {wanted}", *values)  # noqa: S608  # constants
        return int(number)

    def _content(self, trace: Trace | None, error: str | None) -> tuple[bytes | None, str | None]:
        """The trace packed, or why there is none."""
        error = error and clean_text(error)
        if trace is None:
            return None, error
        try:
            content = self._packer.pack_trace(trace)
        except ValueError as failure:
            return None, error or str(failure)
        if len(content) > self._database.row_bytes():
            return None, error or "a trace that is too large to be stored"
        return content, error

    def _record(self, sequence: int, packed: Sequence[bytes]) -> Record:
        try:
            return self._packer.unpack(PackedRecord(*packed))
        except ValueError as error:
            raise LookupError(f"exchange {sequence} is damaged") from error


def _columns(record: Record, now: float) -> tuple[str | float | int | None, ...]:
    """The first columns: text that can be encoded, and numbers that SQLite has."""
    fits = record.status is not None and -_INTEGERS <= record.status < _INTEGERS
    return (
        clean_text(record.id),
        clean_text(record.dataset),
        clean_text(record.provider),
        clean_text(record.fingerprint),
        record.started_at if math.isfinite(record.started_at) else now,
        now,
        record.status if fits else None,
        clean_text(record.outcome),
    )


def _wanted(dataset: str | None, since: float | None) -> tuple[str, list[str | float]]:
    wanted, values = "1", list[str | float]()
    if dataset is not None:
        wanted, values = f"{wanted} AND dataset = ?", [clean_text(dataset)]
    if since is not None:
        wanted, values = f"{wanted} AND started_at >= ?", [*values, since]
    return wanted, values


def _model(trace: Trace | None) -> str | None:
    model = trace.metadata.get("model") if trace is not None else None
    return clean_text(model) if isinstance(model, str) else None
