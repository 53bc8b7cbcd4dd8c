"""Runs in lines: which are listed, in which order, and what is told of each."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from conversing import START, Call, Json, assistant, text, tool_result, tool_use, user
from growing import Agent
from sidestream.store import runs as under_test
from sidestream.store.database import Database
from sidestream.store.rows import Item
from sidestream.store.runs import Runs
from sidestream.store.shapes import DatasetSummary, RunFilter, RunKind, Tokens, TurnState, Unclear
from sidestream.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator

ALL = RunFilter(everything=True)
IDS = ("aaaa1111" + "0" * 24, "aaaa2222" + "0" * 24, "bbbb" + "0" * 28)


@pytest.fixture
def database() -> Iterator[Database]:
    database = Database.open(None)
    yield database
    database.close()


@pytest.fixture
def runs(database: Database) -> Runs:
    return Runs(database)


def add(database: Database, *calls: Call, **facts: Any) -> None:
    """Store calls, one by one, with these facts instead of their own."""
    store = Store(database)
    for call in calls:
        reading = call.reading()
        store.commit([Item(call.record(), replace(reading, metadata=reading.metadata | facts), None, ())])


def remove(database: Database, *calls: Call) -> None:
    with database.transaction():
        database.run_many("DELETE FROM exchanges WHERE id = ?", [(call.id,) for call in calls])


def a_call(name: str, at: float = 0.0, *, content: list[Json] | None = None, **facts: Any) -> Call:
    """A run of one call."""
    return Call(name, [user(f"Question {name}")], content or [text("Fine.")], START + at, **facts)


def a_task(name: str = "p", at: float = 0.0) -> list[Call]:
    """A call that has a sub-agent do something, the sub-agent's call, and the result."""
    task = f"Find out everything about {name} for me."
    asked, called = user(f"Delegate it, {name}"), [tool_use(f"t-{name}", "agent", prompt=task)]
    result = user(tool_result(f"t-{name}", "found"))
    return [
        Call(f"{name}1", [asked], called, START + at),
        Call(f"{name}-child", [user(task)], [text("It is so.")], START + at + 2),
        Call(f"{name}2", [asked, assistant(called), result], [text("Done.")], START + at + 5),
    ]


def listed(runs: Runs, wanted: RunFilter, limit: int = 50, before: str | None = None) -> list[str]:
    return [run.id for run in runs.page(wanted, limit=limit, before=before).runs]


def test_a_run_in_a_line_sums_up_its_turns(database: Database, runs: Runs) -> None:
    agent = Agent("a", START)
    usage = {"input_tokens": 10, "output_tokens": 5, "cache_read_input_tokens": 3, "cache_creation_input_tokens": 2}
    add(database, *agent.calls(2), usage=usage, cost={"usd": 0.25}, model="m1")
    add(database, agent.call(answer=False, name="failed"), model="m2")
    run = runs.summary("a1")
    assert ("a1", "demo", "a1", RunKind.RUN, None) == (run.id, run.dataset, run.title, run.kind, run.parent)
    assert ("m2", TurnState.FAILED, 3, 1) == (run.model, run.state, run.turns, run.errors)
    assert (START + 10, START + 31) == (run.started_at, run.ended_at)
    assert (Tokens(input=20, output=10, cache_read=6, cache_written=4), 0.5) == (run.tokens, run.cost)


def test_a_run_stands_as_its_latest_turn_does_so_a_retry_makes_up_for_a_failure(database: Database, runs: Runs) -> None:
    agent = Agent("a", START)
    failed = agent.call(answer=False, name="failed")
    add(database, agent.call(), failed)
    run = runs.summary("failed")
    assert (TurnState.ANSWERED, 2, 1) == (run.state, run.turns, run.errors)


def test_without_a_price_there_is_no_cost(database: Database, runs: Runs) -> None:
    add(database, a_call("a"))
    assert runs.summary("a").cost is None


def test_a_run_that_is_not_there_is_not_found(runs: Runs) -> None:
    for lookup in (runs.summary, runs.run, runs.turn, runs.find):
        with pytest.raises(LookupError):
            lookup("a")


def test_runs_are_listed_newest_first_and_page_by_page(database: Database, runs: Runs) -> None:
    add(database, *(a_call(name, at) for name, at in (("b", 5), ("a", 5), ("c", 9), ("d", 1), ("e", 0.5))))
    first = runs.page(RunFilter(), limit=2, before=None)
    second = runs.page(RunFilter(), limit=2, before=first.next)
    third = runs.page(RunFilter(), limit=2, before=second.next)
    assert ["c", "b", "a", "d", "e"] == [run.id for page in (first, second, third) for run in page.runs]
    assert third.next is None


@pytest.mark.parametrize("token", ["", "x", "é", "W10", "WzEsMl0", "Wzk5OTllOTk5LCJhIl0", "a" * 10_000])
def test_what_is_no_page_is_unclear(runs: Runs, token: str) -> None:
    with pytest.raises(Unclear):
        runs.page(RunFilter(), limit=1, before=token)


@pytest.mark.parametrize("limit", [0, -1, 1001])
def test_a_page_of_no_size_is_unclear(runs: Runs, limit: int) -> None:
    with pytest.raises(Unclear):
        runs.page(RunFilter(), limit=limit, before=None)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (RunFilter(), ["cut", "failed", "tool", "other", "good"]),
        (RunFilter(dataset="o"), ["other"]),
        (RunFilter(dataset="\ud800"), []),
        (RunFilter(model="m2"), ["tool", "other"]),
        (RunFilter(state=TurnState.CUT), ["cut"]),
        (RunFilter(state=TurnState.RUNNING), []),
        (RunFilter(tool="look"), ["tool"]),
        (RunFilter(tool="lo"), []),
        (RunFilter(errors=True), ["cut", "failed"]),
        (RunFilter(errors=False), ["tool", "other", "good"]),
        (RunFilter(since=START + 2), ["cut", "failed", "tool"]),
        (RunFilter(until=START + 2), ["other", "good"]),
        (RunFilter(since=math.nan), []),
        (RunFilter(dataset="demo", model="m2", tool="look", errors=False, since=START, until=START + 9), ["tool"]),
    ],
)
def test_only_runs_as_wanted_are_listed(database: Database, runs: Runs, wanted: RunFilter, expected: list[str]) -> None:
    failed = Call("failed", [user("Question failed")], None, START + 3)
    add(database, a_call("good"), failed, a_call("cut", 4, complete=False), model="m1")
    add(database, a_call("other", 1, dataset="o"), a_call("tool", 2, content=[tool_use("t")]), model="m2")
    assert expected == listed(runs, wanted)


def test_a_tool_whose_result_is_an_error_is_one_of_the_run(database: Database, runs: Runs) -> None:
    asked, called = user("Look it up"), [tool_use("t1"), tool_use("t2", "read")]
    results = user(tool_result("t1", "no") | {"is_error": True}, tool_result("t2", "yes"))
    again = Call("c2", [asked, assistant(called), results], [text("Sorry.")], START + 5)
    add(database, Call("c1", [asked], called, START), again)
    run = runs.run("c1")
    assert (2, 1, 0) == (run.summary.tool_calls, run.summary.tool_errors, run.summary.errors)
    assert [(["look", "read"], 0), ([], 1)] == [(turn.tools, turn.tool_errors) for turn in run.turns]
    assert ["c1"] == listed(runs, RunFilter(errors=True))


def test_branches_and_children_are_listed_only_with_everything(database: Database, runs: Runs) -> None:
    agent = Agent("a", START)
    calls = agent.calls(3)
    branch = agent.fork("b", 1).calls(2)
    add(database, *calls, *branch, *a_task("p", 1000))
    assert ["p1", "a1"] == listed(runs, RunFilter())
    assert ["p-child", "p1", "b1", "a1"] == listed(runs, ALL)
    child, run, left, whole = runs.page(ALL, limit=9, before=None).runs
    assert [(RunKind.CHILD, "p1"), (RunKind.RUN, None), (RunKind.BRANCH, "a1"), (RunKind.RUN, None)] == [
        (each.kind, each.parent) for each in (child, run, left, whole)
    ]
    assert [0, 1, 0, 1] == [each.children for each in (child, run, left, whole)]


def test_a_child_whose_parent_is_gone_is_listed_by_itself(database: Database, runs: Runs) -> None:
    parent, child, rest = a_task()
    add(database, parent, child, rest)
    remove(database, parent)
    assert ["p1", "p-child"] == listed(runs, RunFilter())
    assert (RunKind.CHILD, None) == (runs.summary("p-child").kind, runs.summary("p-child").parent)
    assert 0 == runs.summary("p1").children


def test_a_run_without_its_first_turn_keeps_its_name(database: Database, runs: Runs) -> None:
    first, second = Agent("a", START).calls(2)
    add(database, first, second)
    remove(database, first)
    run = runs.summary("a1")
    assert ("a1", 1, START + 20) == (run.title, run.turns, run.started_at)
    remove(database, second)
    assert [] == listed(runs, ALL)


def test_a_run_has_its_turns_in_order_and_says_how_they_are_connected(database: Database, runs: Runs) -> None:
    agent = Agent("a", START)
    first, failed, second = agent.call(), agent.call(answer=False, name="failed"), agent.call()
    add(database, first, second, failed)
    turns = runs.run("a1").turns
    assert [
        ("a1", 1, "first", None, None, TurnState.ANSWERED, 200),
        ("failed", 2, "extends_tip", "a1", None, TurnState.FAILED, 529),
        ("a2", 3, "retry_incomplete", "a1", "failed", TurnState.ANSWERED, 200),
    ] == [(turn.id, turn.number, turn.rule, turn.parent, turn.retry_of, turn.state, turn.status) for turn in turns]
    assert {("a1", "claude-x", 1.0, 0.1)} == {
        (turn.run, turn.model, turn.duration, turn.time_to_first_byte) for turn in (turns[0], turns[2])
    }


def test_some_turns_of_a_run_are_told_with_their_numbers(database: Database, runs: Runs) -> None:
    add(database, *Agent("a", START).calls(5))
    assert [("a2", 2), ("a3", 3)] == [(turn.id, turn.number) for _, turn in runs.turns("a1", first=2, count=2)]
    assert ["a1"] == [turn.id for _, turn in runs.turns("a1", first=-7, count=1)]
    assert [] == runs.turns("a1", first=6, count=10)
    assert [] == runs.turns("a1", first=1, count=-1)


def test_one_turn_is_told_as_in_its_run(database: Database, runs: Runs) -> None:
    add(database, *Agent("a", START).calls(4))
    assert [turn for _, turn in runs.turns("a1", first=1, count=9)] == [
        runs.turn(f"a{number}")[1] for number in range(1, 5)
    ]


def test_each_member_of_a_family_knows_all_others(database: Database, runs: Runs) -> None:
    agent = Agent("a", START)
    calls = agent.calls(3)
    branch = agent.fork("b", 2)
    calls += branch.calls(2)
    twig = branch.fork("c", 3)
    calls += twig.calls(2)
    add(database, *calls, a_call("other", 500))
    families = [[(each.run.id, each.turn) for each in runs.run(name).related] for name in ("a1", "b1", "c1")]
    assert [[("a1", None), ("b1", "a2"), ("c1", "b1")]] * 3 == families


def test_a_very_large_family_is_cut_which_is_told(
    database: Database, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(under_test, "_MOST_RELATED", 2)
    agent = Agent("a", START)
    calls = agent.calls(2)
    calls += [agent.fork(letter, 1).call() for letter in "bcd"]
    add(database, *calls)
    assert [2, 2, 3, 3] == [len(runs.run(name).related) for name in ("a1", "b1", "c1", "d1")]
    assert [2, 2, 1, 1] == [runs.run(name).related_left for name in ("a1", "b1", "c1", "d1")]


def test_runs_are_found_by_their_ids_and_those_of_their_turns(database: Database, runs: Runs) -> None:
    agent = Agent("a", START)
    add(database, agent.call(name=IDS[0]), agent.call(name=IDS[2]), a_call(IDS[1], 500))
    names = [IDS[0], IDS[2], "aaaa1", "AAAA1111-0000", "bbbb", "aaaa2222"]
    assert [IDS[0]] * 5 + [IDS[1]] == [runs.find(name) for name in names]


@pytest.mark.parametrize("name", ["aaa", "cccc", "", "%", "aaaa*", "\ud800", "g" * 4])
def test_what_is_no_beginning_of_an_id_finds_nothing(database: Database, runs: Runs, name: str) -> None:
    add(database, a_call(IDS[0]))
    with pytest.raises(LookupError):
        runs.find(name)


def test_where_it_is_not_clear_which_run_is_meant_those_are_named(database: Database, runs: Runs) -> None:
    add(database, a_call(IDS[0]), a_call(IDS[1], 500))
    with pytest.raises(LookupError, match=f"{IDS[0]}, {IDS[1]}"):
        runs.find("aaaa")


def test_datasets_are_told_the_one_with_the_latest_turn_first(database: Database, runs: Runs) -> None:
    add(database, *Agent("a", START).calls(2), a_call("b", 500, dataset="other"), a_call("c", 1))
    assert [
        DatasetSummary(name="other", runs=1, turns=1, last_at=START + 500),
        DatasetSummary(name="demo", runs=2, turns=3, last_at=START + 20),
    ] == runs.datasets()


def test_a_dataset_with_nothing_in_it_is_none(database: Database, runs: Runs) -> None:
    call = a_call("a")
    add(database, call)
    remove(database, call)
    assert [] == runs.datasets()
