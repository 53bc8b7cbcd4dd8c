"""An agent's run becomes one trace: whichever way it comes in, whatever happens to the recorder in the middle."""

from __future__ import annotations

import asyncio
import json
from contextlib import closing
from typing import TYPE_CHECKING, Any

import msgspec
from structlog.testing import capture_logs

from journaling import ROOMY
from recording import a_call, called, in_memory, journaled, said_in, said_in_calls
from sidestream.providers import PROVIDERS
from sidestream.recorder import chores
from sidestream.recorder.memory import Memory
from sidestream.store.conversations import Conversations
from sidestream.store.database import STEPS, Database
from sidestream.store.directory import Directory
from sidestream.store.journal import Journal
from sidestream.testing import ListSink
from sidestream.traces.model import Reading, Turn, Unit

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import pytest

    from sidestream.recorder.plane import Plane

EVERYTHING: dict[str, Any] = {"dataset": None, "since": None}


def places(turns: Iterable[Turn]) -> list[tuple[str, int, str]]:
    return [(turn.trace, turn.number, turn.rule) for turn in turns]


def places_of_run(first: int, last: int) -> list[tuple[str, int, str]]:
    return [("call-1", number, "extends_tip" if number > 1 else "first") for number in range(first, last + 1)]


async def write_calls(folder: Path, *numbers: int) -> None:
    directory = Directory(folder / "data")
    directory.prepare()
    journal = Journal(directory.journal, strict=False, **ROOMY)
    journal.start()
    for number in numbers:
        called(journal, number)
    await journal.stop(5)


async def recorded(folder: Path, *numbers: int) -> list[Turn]:
    """What a recorder delivers that runs as long as it takes to record these calls."""
    await write_calls(folder, *numbers)
    sink = ListSink()
    plane = journaled(folder, sink)
    await plane.start()
    await plane.stop(10)
    return sink.turns


async def turns_in(plane: Plane) -> list[Turn]:
    """What the store has of all turns that a sink was told."""
    store = plane.shelf.store
    rows = await plane.shelf.call(store.deliveries)
    return [await plane.shelf.call(store.turn, row, Unit.TURN) for row in rows[::-1]]


async def captures_gone(plane: Plane, sequence: int) -> None:
    """Wait until what was captured of an exchange has been let go."""
    async with asyncio.timeout(5):
        while True:
            try:
                await plane.shelf.call(plane.shelf.store.record, sequence)
            except LookupError:
                return
            await asyncio.sleep(0.005)


async def test_a_run_through_memory_is_one_trace_although_what_was_delivered_is_let_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sidestream.recorder.plane._CLEAR_MEMORY_EVERY", 0.01)
    memory, sink = Memory(1 << 20, asyncio.Event()), ListSink()
    plane = in_memory(memory, sink)
    await plane.start()
    for number in range(1, 6):
        called(memory, number)
        await sink.wait_for(number)
        await captures_gone(plane, number)
    await plane.stop(5)
    assert (places_of_run(1, 5), said_in_calls(1, 5)) == (places(sink.turns), said_in(sink.turns))


async def test_a_run_through_a_journal_is_one_trace_although_the_recorder_is_restarted(tmp_path: Path) -> None:
    first = await recorded(tmp_path, 1, 2)
    second = await recorded(tmp_path, 3, 4, 5)
    assert places_of_run(1, 5) == places([*first, *second])
    assert (said_in_calls(1, 2), said_in_calls(3, 5)) == (said_in(first), said_in(second))


async def test_reading_again_changes_nothing_about_turns_and_sends_them_again_as_they_were(tmp_path: Path) -> None:
    delivered = await recorded(tmp_path, 1, 2, 3, 4, 5)
    plane = journaled(tmp_path)
    before = await turns_in(plane)
    for redeliver in (False, True):
        async for _ in chores.reprocess(plane.shelf, PROVIDERS, [ListSink()], **EVERYTHING, redeliver=redeliver):
            pass
        assert before == await turns_in(plane)
    await plane.shelf.close()
    again = await recorded(tmp_path)
    assert (places_of_run(1, 5), delivered) == (places(again), again)


def write_old_store(folder: Path, *states: str) -> None:
    """A store of version 2 with the first calls of a run, whose deliveries are in these states."""
    directory = Directory(folder / "data")
    directory.prepare()
    with closing(Database.open(directory.store, steps=STEPS[:2])) as database, database.transaction():
        for number, state in enumerate(states, 1):
            _write_old(database, number)
            database.run(
                "INSERT INTO deliveries (sequence, sink, fingerprint, dataset, state)"
                " VALUES (?, 'listsink', '', 'd', ?)",
                number,
                state,
            )


def _write_old(database: Database, number: int) -> None:
    """As that version did: each blob begins with a byte that says that the rest is not compressed."""
    request, response = a_call(number)
    at = 1000.0 + 10 * number
    facts = {
        "id": f"call-{number}",
        "dataset": "d",
        "provider": "anthropic",
        "method": "POST",
        "path": "/v1/messages",
        "request_headers": {},
        "status": 200,
        "outcome": "completed",
        "started_at": at,
        "duration": 2.0,
    }
    database.run(
        "INSERT INTO exchanges"
        " (id, dataset, provider, fingerprint, started_at, stored_at, status, outcome, model, size, stored)"
        " VALUES (?, 'd', 'anthropic', '', ?, ?, 200, 'completed', 'm', ?, 2000)",
        f"call-{number}",
        at,
        at,
        len(request + response),
    )
    chunks = msgspec.msgpack.encode(([len(request)], [len(response)], [1.0]))
    blobs = [b"\0" + data for data in (json.dumps(facts).encode(), chunks, request, response)]
    database.run("INSERT INTO captures VALUES (?, ?, ?, ?, ?)", number, *blobs)
    database.run("INSERT INTO traces VALUES (?, ?)", number, b"\0{}")


async def test_after_an_upgrade_what_waited_is_delivered_and_the_run_goes_on(tmp_path: Path) -> None:
    write_old_store(tmp_path, "delivered", "delivered", "pending")
    with capture_logs() as logs:
        turns = await recorded(tmp_path, 4)
    assert (places_of_run(3, 4), said_in_calls(3, 4)) == (places(turns), said_in(turns))
    assert [(3, True)] == [(e["count"], e["complete"]) for e in logs if e["event"] == "store_read_again"]


async def test_what_is_read_is_not_read_again_at_the_next_start(tmp_path: Path) -> None:
    write_old_store(tmp_path, "delivered")
    await recorded(tmp_path)
    with capture_logs() as logs:
        await recorded(tmp_path)
    assert [] == [entry for entry in logs if entry["event"] == "store_read_again"]


async def test_a_recorder_that_is_stopped_while_it_reads_an_old_store_goes_on_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_old_store(tmp_path, "delivered", "pending", "pending")
    with capture_logs() as logs:
        with monkeypatch.context() as slow:
            slow.setattr(chores, "_UNREAD_AT_ONCE", 1)
            assert [] == await recorded(tmp_path)
        turns = await recorded(tmp_path)
    assert (places_of_run(2, 3), said_in_calls(2, 3)) == (places(turns), said_in(turns))
    told = [(entry["count"], entry["complete"]) for entry in logs if entry["event"] == "store_read_again"]
    assert [(1, False), (2, True)] == told


async def test_what_cannot_be_placed_of_an_old_store_holds_up_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = Conversations.replace

    def failing(self: Conversations, sequence: int, reading: Reading) -> None:
        if sequence == 2:
            raise KeyError("sk-canary")
        replace(self, sequence, reading)

    monkeypatch.setattr(Conversations, "replace", failing)
    write_old_store(tmp_path, "pending", "pending", "pending")
    with capture_logs() as logs:
        turns = await recorded(tmp_path)
    assert ["call-1", "call-3"] == [turn.id for turn in turns]
    assert ["call-2"] == [entry["exchange"] for entry in logs if entry["event"] == "exchange_not_understood"]
    assert "canary" not in str(logs)
