"""Turns that were not captured here, in a store beside those that were."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from conversing import START, Call, user
from growing import Agent
from sidestream.providers import PROVIDERS
from sidestream.recorder import chores
from sidestream.store.database import Database
from sidestream.store.library import Library
from sidestream.store.pushed import Imported
from sidestream.store.rows import Item, Lane, State
from sidestream.store.shapes import RunFilter, Tokens, TurnState
from sidestream.store.shelf import Shelf
from sidestream.store.store import Store
from sidestream.traces.model import Unit
from sidestream.traces.pushing import PushedTurn
from stored import BEGAN, Clock, a_run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sidestream.store.shapes import RunSummary

SYSTEM = {"role": "system", "content": "Be brief."}
HELLO = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
MORE = [{"role": "user", "content": "More"}, {"role": "assistant", "content": "Well"}]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(tmp_path / "store.db", now=Clock())
    yield store
    store.close()


@pytest.fixture
def library(store: Store, tmp_path: Path) -> Iterator[Library]:  # noqa: ARG001  # it makes the file
    library = Library.open(tmp_path / "store.db")
    yield library
    library.close()


def runs(library: Library) -> list[RunSummary]:
    return library.runs(RunFilter()).runs


def said(library: Library, run: str) -> list[list[dict[str, Any]]]:
    return [[*turn.system, *turn.messages] for turn in library.messages(run)]


def a_turn(name: str | None, trace: str | None, dataset: str = "d", at: float | None = BEGAN) -> PushedTurn:
    return PushedTurn(id=name, trace=trace, dataset=dataset, messages=HELLO, answered=1, facts={}, started_at=at)


def test_a_push_is_a_run(store: Store, library: Library) -> None:
    metadata = {"model": "m", "usage": {"input_tokens": 7, "output_tokens": 3}, "duration": 4.0, "cost": {"usd": 0.5}}
    name = store.push("d", [SYSTEM, *HELLO], metadata)
    [run] = runs(library)
    assert (name, "d", "Hello", "m", TurnState.ANSWERED) == (run.id, run.dataset, run.title, run.model, run.state)
    assert (Tokens(input=7, output=3), 0.5, BEGAN, BEGAN + 4) == (run.tokens, run.cost, run.started_at, run.ended_at)
    assert [[SYSTEM, *HELLO]] == said(library, name)
    assert ["pushed"] == [turn.rule for turn in library.run(name).turns]


def test_what_is_pushed_behind_a_run_is_a_turn_more(store: Store, library: Library) -> None:
    name = store.push("d", [SYSTEM, *HELLO], {})
    assert name == store.push("ignored", MORE, {"changed": ["system"]}, trace=name)
    [run] = runs(library)
    assert ("d", 2) == (run.dataset, run.turns)
    first, second = library.run(name).turns
    assert ("appended", first.id) == (second.rule, second.parent)
    changed = [turn.changed for turn in library.messages(name)]
    assert [[], ["system"]] == changed


def test_the_system_prompt_of_a_run_is_that_of_all_its_turns(store: Store, library: Library) -> None:
    name = store.push("d", [SYSTEM, *HELLO], {})
    store.push("d", MORE, {}, trace=name)
    assert [[SYSTEM], []] == [turn.system for turn in library.messages(name)]
    assert [[], []] == [turn.changed for turn in library.messages(name)]


def test_what_comes_later_is_told_later_whatever_it_says(store: Store, library: Library) -> None:
    name = store.push("d", [{"role": "user", "content": "1", "timestamp": "2026-11-22T10:00:00+00:00"}], {})
    store.push("d", [{"role": "user", "content": "2", "timestamp": "2020-01-01T00:00:00+00:00"}], {}, trace=name)
    assert ["1", "2"] == [turn[0]["content"] for turn in said(library, name)]


def test_a_run_that_is_not_there_or_was_captured_takes_nothing(store: Store, library: Library) -> None:
    store.commit(a_run("r", 1))
    for trace in ("r-0", "nowhere"):
        with pytest.raises(LookupError):
            store.push("d", HELLO, {}, trace=trace)
    assert 1 == runs(library)[0].turns


def test_no_captured_call_goes_on_from_what_was_pushed(store: Store, library: Library) -> None:
    agent = Agent("a", START)
    first, second = agent.calls(2)
    reading = first.reading()
    said_first = [message for each in reading.asked for message in each.shown]
    store.push("demo", [*reading.system, *said_first, *(reading.answer.shown if reading.answer else [])], {})
    store.commit([Item(second.record(), second.reading(), None, [])])
    assert 2 == len(runs(library))


async def test_reading_again_passes_over_what_was_never_captured(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "store.db")
    await shelf.call(shelf.store.push, "d", HELLO, {})
    await shelf.call(shelf.store.commit, a_run("r", 2))
    again = chores.reprocess(shelf, PROVIDERS, [], dataset=None, since=None, redeliver=False)
    *_, last = [progress async for progress in again]
    assert chores.Progress(done=2, total=2, failed=0) == last
    await shelf.close()


def test_an_upgrade_that_has_everything_read_again_passes_over_it_too(tmp_path: Path, store: Store) -> None:
    name = store.push("d", HELLO, {})
    store.commit(a_run("r", 2))
    database = Database.open(tmp_path / "store.db")
    with database.transaction():
        database.run("UPDATE exchanges SET unread = 1")
    assert ["r-0", "r-1"] == [record.id for _, record in store.unread(10)]
    assert [(None,)] == database.rows("SELECT error FROM exchanges WHERE id = ?", name)
    database.close()


def test_retention_removes_what_was_pushed_as_anything_else(store: Store, library: Library) -> None:
    store.push("d", HELLO, {})
    assert 0 == store.prune(age=3600, max_bytes=None).exchanges
    assert 1 == store.prune(age=3600, max_bytes=0).exchanges
    assert [] == runs(library)


def test_what_was_said_goes_with_it(store: Store, tmp_path: Path) -> None:
    store.push("d", HELLO, {"name": "N"})
    store.prune(age=None, max_bytes=0)
    reader = Database.open_reader(tmp_path / "store.db")
    assert [(0,)] == reader.rows("SELECT count(*) FROM contents")
    reader.close()


def test_imported_turns_keep_their_names_and_come_once(store: Store, library: Library) -> None:
    turns = [a_turn("x1", "x1"), a_turn("x2", "x1", at=BEGAN + 5)]
    assert Imported(new=2) == store.take_in(turns)
    assert Imported(there=2) == store.take_in(turns)
    assert Imported(new=1, there=2) == store.take_in([*turns, a_turn("x3", "x1", at=BEGAN + 9)])
    assert ["x1", "x2", "x3"] == [turn.id for turn in library.run("x1").turns]


def test_what_has_another_datasets_name_gets_a_name_of_its_own_once(store: Store, library: Library) -> None:
    turns = [a_turn("x1", "x1"), a_turn("x2", "x1", at=BEGAN + 5)]
    store.take_in(turns)
    again = [a_turn("x1", "x1", "other"), a_turn("x2", "x1", "other", at=BEGAN + 5)]
    assert Imported(new=2, renamed=2) == store.take_in(again)
    assert Imported(there=2) == store.take_in(again)
    assert [("d", 2), ("other", 2)] == sorted((run.dataset, run.turns) for run in runs(library))


def test_a_run_whose_beginning_is_not_there_is_a_run_all_the_same(store: Store, library: Library) -> None:
    assert Imported(new=2) == store.take_in([a_turn("x2", "x1"), a_turn("x3", "x1", at=BEGAN + 5)])
    assert Imported(new=1) == store.take_in([a_turn("x1", "x1", at=BEGAN - 5)])
    assert [("x1", "pushed"), ("x2", "appended"), ("x3", "appended")] == [
        (turn.id, turn.rule) for turn in library.run("x1").turns
    ]


def test_what_is_there_as_captured_is_there(store: Store, library: Library) -> None:
    store.commit(a_run("r", 2))
    turns = [a_turn("r-0", "r-0", "demo"), a_turn("r-1", "r-0", "demo"), a_turn("r-2", "r-0", "demo", at=BEGAN + 9)]
    assert Imported(new=1, there=2) == store.take_in(turns)
    assert [1, 2] == sorted(run.turns for run in runs(library))


def test_metadata_of_a_dataset_is_merged_or_replaced(store: Store, library: Library) -> None:
    assert {} == library.dataset_metadata("d")
    store.describe("d", {"a": 1, "b": {"c": 1, "d": 2}})
    assert {"a": 2, "b": {"c": 3, "d": 2}} == store.describe("d", {"a": 2, "b": {"c": 3}})
    assert {"a": 2, "b": {"c": 3, "d": 2}} == library.dataset_metadata("d")
    assert {"e": 1} == store.describe("d", {"e": 1}, replace=True)
    assert {} == library.dataset_metadata("other")


def test_a_run_is_delivered_with_all_that_belongs_to_it_but_what_was(store: Store) -> None:
    """A branch, and a run of its own; of the run, one turn was delivered and one given up."""
    agent = Agent()
    trunk = agent.calls(3)
    branch = agent.fork("b", 1).calls(1)
    other = Agent("o").calls(1)
    items = [Item(call.record(), call.reading(), None, ["explorer"]) for call in trunk[:2]]
    items += [Item(call.record(), call.reading(), None, []) for call in (*trunk[2:], *branch, *other)]
    store.commit(items)
    delivered, dead = store.deliveries()[::-1]
    delivered.state, dead.state = State.DELIVERED, State.DEAD
    store.save([delivered, dead])
    redelivered = store.deliver(store.undelivered(trunk[0].id, "explorer"), "explorer")
    assert (3, [("explorer", Lane("", "demo"))]) == (redelivered.count, redelivered.lanes)
    states = {delivery.exchange: delivery.state for delivery in store.deliveries()}
    pending = dict.fromkeys(["a2", "a3", "b1"], State.PENDING)
    assert {"a1": State.DELIVERED, **pending} == states
    assert [] == store.undelivered(trunk[0].id, "explorer")
    with pytest.raises(LookupError):
        store.undelivered("nowhere", "explorer")


def test_a_sink_is_asked_which_turns_it_wants(store: Store) -> None:
    good = store.push("d", HELLO, {})
    store.push("d", HELLO, {"status": 529, "error": {}}, trace=good)
    failed = Call("f", [user("q")], None, START)
    store.commit([Item(failed.record(), failed.reading(), None, [])])

    def accepts(turn: Any) -> bool:
        return bool(turn.metadata.get("status") == 200)

    assert 1 == store.deliver(store.undelivered(good, "explorer"), "explorer", accepts).count
    assert 0 == store.deliver(store.undelivered("f", "explorer"), "explorer", accepts).count


@pytest.mark.parametrize(
    ("unit", "second"),
    [
        (Unit.TURN, ["More", "Well"]),
        (Unit.EXCHANGE, ["Be brief.", "Hello", "Hi", "More", "Well"]),
        (Unit.TRACE, ["Be brief.", "Hello", "Hi", "More", "Well"]),
    ],
)
def test_what_was_pushed_can_be_delivered_in_any_unit(store: Store, unit: Unit, second: list[str]) -> None:
    """In `Unit.TRACE` nothing has been told before the second turn, so it brings the first one along."""
    name = store.push("d", [SYSTEM, *HELLO], {})
    store.push("d", MORE, {}, trace=name)
    store.deliver(store.undelivered(name, "sink"), "sink")
    told = [[m["content"] for m in store.turn(row, unit).messages] for row in store.deliveries()[::-1]]
    assert [["Be brief.", "Hello", "Hi"], second] == told
