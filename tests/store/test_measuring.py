"""Whatever happens to turns, what is told of runs is what their turns come to."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from conversing import START, Call, Json, assistant, text, tool_result, tool_use, user
from sidestream.store.database import Database
from sidestream.store.rows import Item, Replacement
from sidestream.store.store import Store
from sidestream.traces.conversation import BEGINNINGS, CHILDREN, Rule

if TYPE_CHECKING:
    from collections.abc import Iterator
    from random import Random

ANNOUNCED = {"x-stainless-retry-count": "1"}
SUMS = ("tool_calls", "tool_errors", "input", "output", "cache_read", "cache_written")


@pytest.fixture
def database() -> Iterator[Database]:
    database = Database.open(None)
    yield database
    database.close()


def add(database: Database, *calls: Call) -> None:
    for call in calls:
        Store(database).commit([Item(call.record(), call.reading(), None, ())])


def table(database: Database, name: str) -> list[dict[str, Any]]:
    names = [column for (column,) in database.rows("SELECT name FROM pragma_table_info(?)", name)]
    return [dict(zip(names, row, strict=True)) for row in database.rows(f"SELECT * FROM {name}")]  # noqa: S608  # a test's own word


class Afresh:
    """What the rows about runs have to be, from those of their turns."""

    def __init__(self, database: Database) -> None:
        self._measures = {row["sequence"]: row for row in table(database, "measures")}
        self._begins = {
            trace: (title, rule, parent)
            for trace, title, rule, parent in database.rows(
                "SELECT trace, title, rule, parent FROM turns JOIN exchanges USING (sequence) WHERE trace = id"
            )
        }
        self._by_trace: dict[str, list[dict[str, Any]]] = {}
        for row in sorted(self._measures.values(), key=lambda each: (each["started_at"], each["sequence"])):
            self._by_trace.setdefault(row["trace"], []).append(row)

    @property
    def runs(self) -> dict[str, dict[str, Any]]:
        return {trace: self._summed(turns) | self._begun(trace) for trace, turns in self._by_trace.items()}

    @property
    def tools(self) -> Counter[tuple[str, str]]:
        return Counter((name, row["trace"]) for row in self._measures.values() for name in json.loads(row["tools"]))

    @property
    def datasets(self) -> dict[str, tuple[int, int]]:
        turns = Counter(row["dataset"] for row in self._measures.values())
        runs = Counter(rows[0]["dataset"] for rows in self._by_trace.values())
        return {dataset: (runs[dataset], turns[dataset]) for dataset in turns}

    def _summed(self, turns: list[dict[str, Any]]) -> dict[str, Any]:
        last = turns[-1]
        return {name: sum(turn[name] for turn in turns) for name in SUMS} | {
            "trace": last["trace"],
            "dataset": last["dataset"],
            "latest": last["sequence"],
            "latest_at": last["started_at"],
            "state": last["state"],
            "model": last["model"],
            "started_at": turns[0]["started_at"],
            "ended_at": max(turn["ended_at"] for turn in turns),
            "turns": len(turns),
            "errors": sum(turn["state"] != "answered" for turn in turns),
            "cost": sum(turn["cost"] or 0 for turn in turns),
            "priced": sum(turn["cost"] is not None for turn in turns),
        }

    def _begun(self, trace: str) -> dict[str, Any]:
        """How it begins, as long as the turn that it began with is there."""
        if trace not in self._begins:
            return {}
        title, rule, parent = self._begins[trace]
        above = parent if rule in BEGINNINGS else None
        kind = "child" if rule in CHILDREN else "branch" if rule == Rule.EXTENDS_EARLIER else "run"
        left = self._measures.get(above) if above is not None else None
        return {"title": title, "kind": kind, "above": above, "parent": left["trace"] if left is not None else None}


def check(database: Database) -> None:
    """Everything that is kept of runs is what their turns come to."""
    assert database.rows("SELECT sequence, trace, started_at, ended_at FROM turns ORDER BY 1") == database.rows(
        "SELECT sequence, trace, started_at, ended_at FROM measures ORDER BY 1"
    )
    afresh = Afresh(database)
    kept, expected = {row["trace"]: row for row in table(database, "runs")}, afresh.runs
    assert {trace: row | expected.get(trace, {}) for trace, row in kept.items()} == kept
    assert expected.keys() == kept.keys()
    assert afresh.tools == {(row["name"], row["trace"]): row["calls"] for row in table(database, "run_tools")}
    assert afresh.datasets == {row["dataset"]: (row["runs"], row["turns"]) for row in table(database, "dataset_counts")}
    parents = {row["trace"] for row in table(database, "measures")}
    assert all(row["parent"] is None or row["parent"] in parents for row in kept.values())


class World:
    """Agents at work, whose calls become known in any order."""

    def __init__(self, random: Random) -> None:
        self.calls: list[Call] = []
        self._random = random
        self._numbers = itertools.count(1)
        self._histories: list[list[Json]] = []

    def step(self) -> None:
        number = next(self._numbers)
        history = list(self._random.choice([[], *self._histories]))
        asked = [*history, self._asked(history, number)]
        for _ in range(self._random.choice([0, 0, 1, 2])):
            self._call(asked, None)
        if self._random.random() < 0.2:
            self._call(asked, [text(f"A long answer that breaks off, {number}")], complete=False)
        content = self._answer(number)
        self._call(asked, content, headers=ANNOUNCED if self._random.random() < 0.3 else {})
        self._histories.append([*asked, assistant(content)])

    def _asked(self, history: list[Json], number: int) -> Json:
        called = [block["id"] for block in history[-1]["content"] if block["type"] == "tool_use"] if history else []
        results = [
            tool_result(identity, f"Result {number}") | {"is_error": self._random.random() < 0.3} for identity in called
        ]
        if results:
            return user(*results)
        tasks = [
            block["input"]["prompt"]
            for known in self._histories
            for block in known[-1]["content"]
            if "prompt" in block.get("input", {})
        ]
        return user(self._random.choice([f"Question {number}", "The same question", *tasks]))

    def _answer(self, number: int) -> list[Json]:
        task = f"Find out everything about number {number} for me."
        kinds = [
            [text(f"Answer {number}")],
            [text(f"Answer {number}")],
            [tool_use(f"t{number}", "look"), tool_use(f"u{number}", "look"), tool_use(f"v{number}", "re\x00ad")],
            [tool_use(f"t{number}", "agent", prompt=task)],
        ]
        return self._random.choice(kinds)

    def _call(self, asked: list[Json], content: list[Json] | None, **facts: Any) -> None:
        number = next(self._numbers)
        dataset = self._random.choice(["demo"] * 9 + ["other"])
        self.calls.append(Call(f"c{number}", asked, content, START + 3 * number, dataset=dataset, **facts))


@given(st.randoms(use_true_random=False), st.integers(1, 12))
@settings(max_examples=40)
def test_runs_are_what_their_turns_come_to_whatever_happens(random: Random, steps: int) -> None:
    world = World(random)
    for _ in range(steps):
        world.step()
    calls = list(world.calls)
    if random.random() < 0.7:
        random.shuffle(calls)
    database = Database.open(None)
    store = Store(database, now=lambda: START)
    try:
        while calls:
            some, calls = calls[:4], calls[4:]
            store.commit([_priced(call, random) for call in some])
            check(database)
            random.choice([_nothing, _nothing, _prune, _replace, _discard])(store, random)
            check(database)
        store.prune(age=None, max_bytes=0, most=10_000)
        check(database)
    finally:
        database.close()


def _priced(call: Call, random: Random) -> Item:
    reading = call.reading()
    cost = random.choice([{}, {"cost": {"usd": random.random()}}])
    return Item(call.record(), replace(reading, metadata=reading.metadata | cost), None, ())


def _nothing(store: Store, random: Random) -> None:
    pass


def _prune(store: Store, random: Random) -> None:
    store.prune(age=None, max_bytes=0, most=random.randint(1, 4))


def _discard(store: Store, random: Random) -> None:
    store.discard_finished(random.randint(0, 8))


def _replace(store: Store, random: Random) -> None:
    again = [sequence for sequence, _ in store.exchanges() if random.random() < 0.5]
    random.shuffle(again)
    store.replace([Replacement(sequence, store.reading(sequence), None) for sequence in again])


def test_nothing_is_left_of_what_is_removed(database: Database) -> None:
    asked, called = user("Look it up"), [tool_use("t1"), tool_use("t2", "agent", prompt="Find out everything for me.")]
    results = user(tool_result("t1", "no") | {"is_error": True}, tool_result("t2", "yes"))
    child = Call("child", [user("Find out everything for me.")], [text("It is so.")], START + 2)
    again = Call("c2", [asked, assistant(called), results], [text("Sorry.")], START + 5)
    add(database, Call("c1", [asked], called, START), child, again)
    tables = ("measures", "tool_results", "runs", "run_tools", "dataset_counts")
    assert [3, 2, 2, 2, 1] == [len(table(database, name)) for name in tables]
    with database.transaction():
        database.run("DELETE FROM exchanges")
    assert [0] * 5 == [len(table(database, name)) for name in tables]


def test_what_tools_answered_has_the_name_they_were_called_by_and_the_time_they_took(database: Database) -> None:
    asked, called = user("Look it up"), [tool_use("t1"), tool_use("t2", "read")]
    results = user(tool_result("t2", "no") | {"is_error": True}, tool_result("t1", "yes"), tool_result("t9", "what?"))
    again = Call("c2", [asked, assistant(called), results], [text("Sorry.")], START + 5)
    add(database, Call("c1", [asked], called, START, seconds=2.0), again)
    assert [("read", 1, 3.0), ("look", 0, 3.0), ("", 0, None)] == database.rows(
        "SELECT name, failed, seconds FROM tool_results ORDER BY place"
    )


def test_a_turn_that_comes_late_moves_those_after_it_with_all_that_they_count(database: Database) -> None:
    asked, more, again = user("Question"), user("More"), user("And more")
    first = Call("c1", [asked], [text("Answer 1")], START)
    second = Call("c2", [asked, assistant([text("Answer 1")]), more], [tool_use("t1")], START + 10)
    third = Call(
        "c3", [*second.messages, assistant(second.content or []), user(tool_result("t1", "x")), again], [], START + 20
    )
    add(database, second, third)
    assert [("c2", 2, 1)] == database.rows("SELECT trace, turns, tool_calls FROM runs")
    add(database, first)
    assert [("c1", 3, 1)] == database.rows("SELECT trace, turns, tool_calls FROM runs")
    assert [("look", "c1", 1)] == database.rows("SELECT * FROM run_tools")
    check(database)


def test_an_error_of_a_tool_that_the_provider_runs_counts_with_the_answer(database: Database) -> None:
    problem = {"type": "web_search_tool_result_error", "error_code": "unavailable"}
    answer: list[Json] = [
        {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {}},
        {"type": "web_search_tool_result", "tool_use_id": "s1", "content": problem},
    ]
    add(database, Call("c1", [user("Search for it")], answer, START))
    assert [(1, 1)] == database.rows("SELECT tool_calls, tool_errors FROM runs")
    assert [("web_search", 1, None)] == database.rows("SELECT name, failed, seconds FROM tool_results")
