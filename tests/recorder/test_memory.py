"""Exchanges through memory: within a budget, and nothing lost without a word."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from journaling import begin, end
from recording import REQUEST, incompressible, told
from sidestream.recorder.memory import Clearing, Memory
from sidestream.store.rows import State
from sidestream.store.shelf import Shelf
from sidestream.traces.entries import Kind
from stored import an_item, moved

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
def memory() -> Memory:
    return Memory(10_000, asyncio.Event())


def take(memory: Memory) -> list[str]:
    """Read all, as if it were stored and delivered at once."""
    ids = []
    while (batch := memory.read(1 << 20)).found:
        ids += [record.id for record in batch.records]
        memory.done(batch)
    memory.stands(0, 0)
    return ids


async def test_what_is_told_is_read_in_order_of_its_ends(memory: Memory) -> None:
    first = memory.open()
    assert first is not None
    memory.put(Kind.BEGIN, first, 0.0, begin("first"))
    told(memory, "second")
    memory.put(Kind.END, first, 1.0, end())
    assert (["second", "first"], 2) == (take(memory), memory.captured)


async def test_what_is_under_way_can_be_looked_at(memory: Memory) -> None:
    told(memory, "a", outcome=None, answer=b"so far")
    assert [] == take(memory)
    assert [("a", 6, True)] == [(each.begin.id, each.response_bytes, each.answering) for each in memory.glimpses()]
    assert (b"so far",) == memory.partial("a").response_chunks
    with pytest.raises(LookupError):
        memory.partial("b")


async def test_the_end_of_an_exchange_is_told(memory: Memory) -> None:
    arrived = asyncio.Event()
    memory = Memory(10_000, arrived)
    number = told(memory, "a", outcome=None)
    assert not arrived.is_set()
    memory.put(Kind.END, number, 1.0, end())
    assert arrived.is_set()


async def test_beyond_the_budget_exchanges_are_dropped_counted_and_logged_once_per_burst(memory: Memory) -> None:
    with capture_logs() as logs:
        told(memory, "a", body=bytes(9_750))
        assert [None, None, None] == [memory.open() for _ in range(3)]
        assert ["a"] == take(memory)
        told(memory, "b")
    assert ({"memory": 3}, 2) == (dict(memory.dropped), memory.captured)
    assert [("capture_dropped", None), ("captures_dropped", 3)] == [(e["event"], e.get("count")) for e in logs]


async def test_an_exchange_that_outgrows_the_budget_is_given_up_and_its_room_given_back(memory: Memory) -> None:
    number = told(memory, "large", outcome=None, body=bytes(9_750))
    with capture_logs():
        assert not (memory.put(Kind.RESPONSE, number, 0.0, bytes(200)) and memory.put(Kind.RESPONSE, number, 0.0, b"x"))
    assert ([], {"memory": 1}, True) == (take(memory), dict(memory.dropped), memory.ready)
    told(memory, "b")
    assert ["b"] == take(memory)


async def test_the_end_of_an_exchange_is_taken_whatever_else_waits(memory: Memory) -> None:
    number = told(memory, "a", outcome=None)
    told(memory, "large", outcome=None, body=bytes(9_600))
    assert memory.put(Kind.END, number, 1.0, end())
    assert ["a"] == take(memory)


async def test_what_is_in_the_store_and_not_delivered_counts_against_the_budget(memory: Memory) -> None:
    told(memory, "a")
    memory.done(memory.read(1 << 20))
    memory.stands(10_000, 1)
    assert not memory.ready
    memory.stands(9_999, 1)
    assert memory.ready


async def test_what_was_read_counts_until_the_store_says_otherwise(memory: Memory) -> None:
    told(memory, "a", body=bytes(9_750))
    memory.done(memory.read(1 << 20))
    assert (False, 0) == (memory.ready, memory.unstored)
    memory.stands(0, 0)
    assert memory.ready


async def test_what_was_read_but_not_stored_still_waits(memory: Memory) -> None:
    told(memory, "a")
    told(memory, "b", outcome=None)
    batch = memory.read(1 << 20)
    assert 2 == memory.unstored
    memory.done(batch)
    assert 1 == memory.unstored


async def test_what_waits_is_told_in_bytes(memory: Memory) -> None:
    told(memory, "a", body=bytes(5_000))
    assert 5_000 < memory.waiting < 6_000
    memory.done(memory.read(1 << 20))
    assert 0 == memory.waiting


async def test_abandoned_exchanges_leave_nothing_behind(memory: Memory) -> None:
    number = told(memory, "a", outcome=None)
    memory.put(Kind.ABANDON, number, 0.0, b"")
    assert ([], 0) == (take(memory), memory.unstored)


async def test_after_its_end_it_takes_nothing_and_says_so(memory: Memory) -> None:
    memory.close()
    with capture_logs() as logs:
        assert memory.open() is None
    assert ({"stopped": 1}, False) == (dict(memory.dropped), memory.ready)
    assert [("capture_dropped", "stopped")] == [(entry["event"], entry["reason"]) for entry in logs]


async def test_an_invalid_entry_costs_its_own_exchange_only(memory: Memory) -> None:
    number = memory.open()
    assert number is not None
    memory.put(Kind.BEGIN, number, 0.0, b"\xc1")
    memory.put(Kind.END, number, 0.0, end())
    told(memory, "good")
    with capture_logs() as logs:
        assert (["good"], 0) == (take(memory), memory.unstored)
    assert ["memory_entry_invalid"] == [entry["event"] for entry in logs]


async def test_strict_durability_is_refused(memory: Memory) -> None:
    with pytest.raises(OSError, match="memory"):
        await memory.committed(told(memory, "a", outcome=None))


async def test_the_budget_stays_right_while_another_thread_reads() -> None:
    """Counting in two threads at once would lose some of it."""
    memory = Memory(1 << 40, asyncio.Event())
    ending = threading.Event()
    read: list[str] = []

    def reader() -> None:
        while not ending.is_set() or memory._entries:  # noqa: SLF001  # until all of it is read
            batch = memory.read(1000)
            read.extend(record.id for record in batch.records)
            memory.done(batch)

    thread = threading.Thread(target=reader)
    thread.start()
    for number in range(3000):
        told(memory, str(number), body=REQUEST)
    ending.set()
    await asyncio.to_thread(thread.join, 10)
    memory.stands(0, 0)
    assert ([str(number) for number in range(3000)], 0, 0) == (read, memory.unstored, memory._under_way)  # noqa: SLF001


@pytest.fixture
async def shelf() -> AsyncIterator[Shelf]:
    shelf = Shelf(None)
    yield shelf
    await shelf.close()


async def fill(shelf: Shelf, state: State, *names: str) -> None:
    """Store exchanges of about 10 kB each, whose deliveries are in this state."""
    items = [an_item(name, ["listsink"], request_chunks=(incompressible(20_000),)) for name in names]
    await shelf.call(shelf.store.commit, items)
    for row in await shelf.call(shelf.store.deliveries):
        if row.exchange in names:
            await shelf.call(moved, shelf.store, row, state)


async def states(shelf: Shelf) -> list[tuple[str, State]]:
    return sorted((row.exchange, row.state) for row in await shelf.call(shelf.store.deliveries))


async def test_what_was_delivered_does_not_count_and_what_waits_does(memory: Memory, shelf: Shelf) -> None:
    await fill(shelf, State.DELIVERED, "a", "b")
    await Clearing(memory, shelf).clear()
    assert (0, 0) == (memory.stored, memory.stored_exchanges)
    await fill(shelf, State.RETRY_AT, "c")
    await Clearing(memory, shelf).clear()
    assert (True, 1) == (memory.stored > 5_000, memory.stored_exchanges)


async def test_what_was_delivered_leaves_the_store_but_for_what_later_turns_are_placed_by(
    memory: Memory, shelf: Shelf
) -> None:
    await fill(shelf, State.DELIVERED, *"abcdefgh")
    before = await shelf.call(shelf.store.held_bytes)
    await Clearing(memory, shelf).clear()
    assert 8 == await shelf.call(shelf.store.count)
    assert await shelf.call(shelf.store.held_bytes) < before - 70_000


async def test_the_older_half_of_what_waits_for_somebody_makes_room_and_nothing_else_does(shelf: Shelf) -> None:
    memory = Memory(50_000, asyncio.Event())
    await fill(shelf, State.DELIVERED, "done")
    await fill(shelf, State.PARKED, "p1", "p2", "p3", "p4")
    await fill(shelf, State.RETRY_AT, "waits")
    with capture_logs() as logs:
        await Clearing(memory, shelf).clear()
    assert [
        ("done", State.DELIVERED),
        ("p1", State.DEAD),
        ("p2", State.DEAD),
        ("p3", State.PARKED),
        ("p4", State.PARKED),
        ("waits", State.RETRY_AT),
    ] == await states(shelf)
    assert ({"parked": 2}, 3, 6) == (
        dict(memory.dropped),
        memory.stored_exchanges,
        await shelf.call(shelf.store.count),
    )
    assert [("capture_dropped", "parked")] == [(entry["event"], entry["reason"]) for entry in logs]


async def test_where_what_is_kept_takes_much_fewer_are_kept(
    memory: Memory, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidestream.recorder.memory._KEPT", 8)
    clearing = Clearing(memory, shelf)
    await fill(shelf, State.DELIVERED, *"abcdefgh")
    kept = []
    with monkeypatch.context() as small:
        small.setattr("sidestream.recorder.memory._KEPT_BYTES", 0)
        for _ in range(5):
            await clearing.clear()
            kept.append(await shelf.call(shelf.store.count))
    assert [8, 4, 2, 1, 0] == kept
    for _ in range(4):
        await clearing.clear()
    await fill(shelf, State.DELIVERED, *"ijklmnop")
    await clearing.clear()
    assert 8 == await shelf.call(shelf.store.count)
