"""Exchanges in pieces, and a store that only remembers, for the tests of the journal."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgspec

from sidestream.store.reading import Journals
from sidestream.traces.entries import Begin, End, Entry, Head, Kind

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sidestream.store.reading import Batch
    from sidestream.store.rows import Carried, Position
    from sidestream.traces.record import Record

ROOMY: dict[str, Any] = {"memory": 1 << 30, "disk": 1 << 40, "min_free": 0}


def begin(name: str) -> bytes:
    return msgspec.msgpack.encode(
        Begin(
            id=name,
            dataset="d",
            provider="anthropic",
            fingerprint="",
            method="POST",
            path="/v1/messages",
            request_headers={},
            started_at=1.0,
        )
    )


def head(status: int = 200) -> bytes:
    return msgspec.msgpack.encode(Head(status=status, response_headers={}, time_to_first_byte=0.5))


def end(outcome: str = "completed") -> bytes:
    return msgspec.msgpack.encode(
        End(
            request_truncated=False,
            request_complete=True,
            response_truncated=False,
            outcome=outcome,
            error=None,
            duration=2.0,
            end_verifiable=True,
            exact=True,
        )
    )


def pieces(number: int, name: str, *chunks: bytes, ended: bool = True) -> list[Entry]:
    """The entries of an exchange with these response chunks."""
    entries = [Entry(Kind.BEGIN, number, 0.0, begin(name)), Entry(Kind.REQUEST, number, 0.0, b"request")]
    entries += [Entry(Kind.RESPONSE, number, float(at), chunk) for at, chunk in enumerate(chunks)]
    return [*entries, Entry(Kind.END, number, 2.0, end())] if ended else entries


def until(condition: Callable[[], object]) -> None:
    """Wait for something that happens in another thread or process; ten seconds at most."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


class Memory:
    """What a store would have: applies a batch as one transaction."""

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}
        self.positions: dict[str, Position] = {}
        self.carried: dict[tuple[str, int], Carried] = {}

    def journals(self, root: Path) -> Journals:
        return Journals(root, positions=self.positions, carried=list(self.carried.values()))

    def commit(self, batch: Batch) -> None:
        for record in batch.records:
            self.records.setdefault(record.id, record)
        for exchange in batch.carried:
            self.carried[exchange.relay, exchange.number] = exchange
        for key in batch.released:
            self.carried.pop(key, None)
        for relay, position in batch.positions.items():
            if position is None:
                self.positions.pop(relay, None)
            else:
                self.positions[relay] = position

    def take_all(self, journals: Journals, most_bytes: int = 1 << 20) -> None:
        while (batch := journals.read(most_bytes)).found:
            self.commit(batch)
            journals.done(batch)


def drained(root: Path) -> dict[str, Record]:
    """All records of the journals below `root`, by id."""
    memory = Memory()
    memory.take_all(memory.journals(root))
    return memory.records
