"""What an operator asks for: the same with a running recorder and without one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from sidestream.errors import SidestreamError
from sidestream.providers import PROVIDERS
from sidestream.recorder import chores
from sidestream.recorder.chores import Progress
from sidestream.store.rows import Item, Lane, State
from sidestream.store.shelf import Shelf
from sidestream.testing import ListSink
from sidestream.traces.model import Unit
from stored import a_record, a_run, an_item, moved

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from sidestream.traces.model import Turn

ALL: dict[str, Any] = {"dataset": None, "since": None, "redeliver": False}


@pytest.fixture
async def shelf(tmp_path: Path) -> AsyncIterator[Shelf]:
    shelf = Shelf(tmp_path / "store.db")
    yield shelf
    await shelf.close()


async def fill(shelf: Shelf, *items: Item) -> None:
    await shelf.call(shelf.store.commit, items)


async def delivered(shelf: Shelf) -> None:
    for row in await shelf.call(shelf.store.deliveries):
        await shelf.call(moved, shelf.store, row, State.DELIVERED)


async def states(shelf: Shelf) -> list[tuple[str, str]]:
    rows = await shelf.call(shelf.store.deliveries)
    return sorted((row.exchange, str(row.state)) for row in rows)


async def turn(shelf: Shelf, exchange: str) -> Turn:
    """What a sink is told of an exchange."""
    (row,) = [row for row in await shelf.call(shelf.store.deliveries) if row.exchange == exchange]
    return await shelf.call(shelf.store.turn, row, Unit.TURN)


async def reprocessed(shelf: Shelf, *sinks: ListSink, **options: Any) -> list[Progress]:
    return [step async for step in chores.reprocess(shelf, PROVIDERS, sinks, **{**ALL, **options})]


async def test_reading_again_sends_nothing_again(shelf: Shelf) -> None:
    await fill(shelf, *(an_item(f"x{number}", ["listsink"]) for number in range(120)))
    await delivered(shelf)
    steps = await reprocessed(shelf, ListSink())
    assert Progress(120, 120, 0) == steps[-1]
    assert len(steps) > 2
    assert {"delivered"} == {state for _, state in await states(shelf)}
    assert [] == (await turn(shelf, "x0")).messages  # as the request has none


async def test_with_redeliver_the_result_goes_to_every_sink_that_accepts_it(shelf: Shelf) -> None:
    await fill(shelf, an_item("x1", ["listsink"]), an_item("x2", []))
    await delivered(shelf)
    woken: list[tuple[str, Lane]] = []
    await reprocessed(shelf, ListSink(), redeliver=True, wake=lambda *lane: woken.append(lane))
    assert ([("x1", "pending"), ("x2", "pending")], [("listsink", Lane("", "demo"))]) == (await states(shelf), woken)


async def test_a_run_is_delivered_in_steps_but_for_what_has_arrived_or_is_on_its_way(shelf: Shelf) -> None:
    await fill(shelf, *a_run("r", 12), *a_run("other", 2))
    run = await shelf.call(shelf.store.deliver, [1, 2], "listsink")
    rows = await shelf.call(shelf.store.deliveries)
    await shelf.call(moved, shelf.store, rows[0], State.DELIVERED)
    woken: list[tuple[str, Lane]] = []
    count = await chores.deliver(shelf, "r-0", ListSink(), lambda *lane: woken.append(lane))
    assert (2, 10) == (run.count, count)
    assert {("listsink", Lane("", "demo"))} == set(woken)
    assert 12 == len(await states(shelf))
    assert 0 == await chores.deliver(shelf, "r-0", ListSink(), lambda *_lane: None)
    with pytest.raises(LookupError):
        await chores.deliver(shelf, "nobody's", ListSink(), lambda *_lane: None)


async def test_what_is_removed_while_a_run_is_delivered_is_passed_over(shelf: Shelf) -> None:
    await fill(shelf, *a_run("r", 3))
    turns = await shelf.call(shelf.store.undelivered, "r-0", "listsink")
    await chores.delete(shelf, run="r-0", quietly=True)
    assert 0 == (await shelf.call(shelf.store.deliver, turns, "listsink")).count


async def test_only_one_dataset_or_only_what_is_young(shelf: Shelf) -> None:
    await fill(
        shelf,
        an_item("old", started_at=100.0),
        an_item("young", started_at=200.0),
        an_item("other", dataset="other", started_at=200.0),
    )
    assert [Progress(0, 1, 0), Progress(1, 1, 0)] == await reprocessed(shelf, dataset="demo", since=150.0)
    assert Progress(2, 2, 0) == (await reprocessed(shelf, dataset="demo"))[-1]
    assert [Progress(0, 0, 0)] == await reprocessed(shelf, dataset="nobody's")


async def test_what_cannot_be_understood_keeps_what_was_understood_before(shelf: Shelf) -> None:
    await fill(shelf, an_item("x1", ["listsink"], provider="nobody"))
    before = await turn(shelf, "x1")
    with capture_logs():
        assert Progress(1, 1, 1) == (await reprocessed(shelf, ListSink(), redeliver=True))[-1]
    assert before == await turn(shelf, "x1")


async def test_what_could_not_be_understood_once_becomes_a_turn(shelf: Shelf) -> None:
    await fill(shelf, Item(a_record("x1"), None, "KeyError", []))
    await reprocessed(shelf, ListSink(), redeliver=True)
    assert "x1" == (await turn(shelf, "x1")).id
    assert [("x1", "pending")] == await states(shelf)


async def test_large_exchanges_are_read_in_smaller_pages(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chores, "_BYTES_AT_ONCE", 100)
    await fill(shelf, *(an_item(f"x{number}", request_chunks=(bytes(200),)) for number in range(3)))
    assert [0, 1, 2, 3] == [step.done for step in await reprocessed(shelf)]


async def test_a_store_that_is_replaced_meanwhile_ends_it_with_a_word(shelf: Shelf) -> None:
    await fill(shelf, *(an_item(f"x{number}") for number in range(120)))
    steps = chores.reprocess(shelf, PROVIDERS, [], **ALL)
    await anext(steps)
    await anext(steps)
    await shelf.call(shelf._start_over)  # noqa: SLF001  # as another call does that finds damage
    with pytest.raises(SidestreamError, match="replaced"):
        await anext(steps)


async def test_pruning_goes_on_until_there_is_nothing_more(shelf: Shelf) -> None:
    await fill(shelf, *(an_item(f"x{number}", []) for number in range(450)))
    pruned = await chores.prune(shelf, None, 0)
    assert (450, 0, False) == (pruned.exchanges, await shelf.call(shelf.store.count), pruned.more)
    assert pruned.bytes > 0


async def test_pruning_gives_the_room_back(shelf: Shelf) -> None:
    items = [an_item(f"x{number}", [], request_chunks=(os.urandom(20_000),)) for number in range(40)]
    await fill(shelf, *items)
    before = await shelf.call(shelf.store.size)
    await chores.prune(shelf, None, 0)
    assert await shelf.call(shelf.store.size) < before / 2


async def test_what_is_to_be_delivered_is_not_pruned(shelf: Shelf) -> None:
    await fill(shelf, an_item("waits", ["listsink"]), an_item("done", []))
    assert 1 == (await chores.prune(shelf, 0.0, 0)).exchanges
    assert ["waits"] == [record.id for _, record in await shelf.call(lambda: list(shelf.store.exchanges()))]


async def test_deleting_goes_on_until_there_is_nothing_more_and_is_one_line(shelf: Shelf) -> None:
    others = [an_item(f"y{number}", [], dataset="other") for number in range(3)]
    await fill(shelf, *(an_item(f"x{number}", ["listsink"]) for number in range(450)), *others)
    with capture_logs() as logs:
        assert 450 == await chores.delete(shelf, dataset="demo")
    counted = {"exchanges": 450, "turns": 450, "undelivered": 450}
    assert [{"event": "traces_deleted", "log_level": "info", "dataset": "demo", **counted}] == logs
    assert 3 == await shelf.call(shelf.store.count)


async def test_deleting_what_is_not_there_says_nothing(shelf: Shelf) -> None:
    with capture_logs() as logs:
        assert 0 == await chores.delete(shelf, run="nobody's")
    assert [] == logs
