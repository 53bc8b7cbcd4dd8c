"""Numbers for charts are those of the turns that began in each span of time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from conversing import START, Call, assistant, text, tool_result, tool_use, user
from sidestream.store.database import Database
from sidestream.store.overviews import Overviews
from sidestream.store.rows import Item, Replacement
from sidestream.store.shapes import Bucket, Percentiles, Tokens, ToolSummary, Unclear
from sidestream.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def database() -> Iterator[Database]:
    database = Database.open(None)
    yield database
    database.close()


def add(database: Database, *calls: Call, **facts: Any) -> None:
    """Store calls, with these facts instead of their own."""
    for call in calls:
        reading = call.reading()
        Store(database).commit([Item(call.record(), replace(reading, metadata=reading.metadata | facts), None, ())])


def a_call(name: str, at: float, *, seconds: float = 1.0, answered: bool = True, **facts: Any) -> Call:
    return Call(name, [user(f"Question {name}")], [text("Fine.")] if answered else None, START + at, seconds, **facts)


def a_tool_run(name: str, at: float, tool: str, took: float, *, failed: bool = False) -> list[Call]:
    """A call of a tool, and the turn that brings its result so many seconds after."""
    asked, called = user(f"Use it, {name}"), [tool_use(f"t-{name}", tool)]
    result = tool_result(f"t-{name}", "result") | ({"is_error": True} if failed else {})
    return [
        Call(f"{name}1", [asked], called, START + at),
        Call(f"{name}2", [asked, assistant(called), user(result)], [text("Done.")], START + at + 1.0 + took),
    ]


def test_each_turn_is_in_the_bucket_in_which_it_began(database: Database) -> None:
    add(database, a_call("a", 0), a_call("b", 9.9, answered=False), a_call("c", 10), a_call("out", 30))
    found = Overviews(database).overview(None, START, START + 30, 3)
    assert (START, START + 30, 10.0) == (found.since, found.until, found.seconds)
    assert [(START, 2, 1), (START + 10, 1, 0), (START + 20, 0, 0)] == [
        (bucket.start, bucket.turns, bucket.errors) for bucket in found.buckets
    ]
    assert (START, 3, 1) == (found.total.start, found.total.turns, found.total.errors)


def test_an_empty_span_has_all_its_buckets(database: Database) -> None:
    found = Overviews(database).overview("demo", 0.0, 10.0, 2)
    assert [Bucket(start=0.0), Bucket(start=5.0)] == found.buckets
    assert (Bucket(start=0.0), [], {}) == (found.total, found.tools, found.models)


def test_tokens_and_costs_are_sums(database: Database) -> None:
    usage = {"input_tokens": 10, "output_tokens": 5, "cache_read_input_tokens": 3, "cache_creation_input_tokens": 2}
    add(database, a_call("a", 0), a_call("b", 1), usage=usage, cost={"usd": 0.1})
    add(database, a_call("c", 2), usage=None)
    total = Overviews(database).overview(None, START, START + 10, 1).total
    assert (Tokens(input=20, output=10, cache_read=6, cache_written=4), 0.2) == (total.tokens, total.cost)


def test_percentiles_are_those_of_whole_answers(database: Database) -> None:
    add(database, *(a_call(f"a{n}", n, seconds=float(n)) for n in range(1, 101)))
    add(database, a_call("cut", 1, seconds=500.0, complete=False), a_call("failed", 2, seconds=900.0, answered=False))
    total = Overviews(database).overview(None, START, START + 1000, 7).total
    assert Percentiles(p50=50.0, p95=95.0, p99=99.0) == total.durations
    assert Percentiles(p50=0.1, p95=0.1, p99=0.1) == total.first_bytes


def test_without_a_whole_answer_there_are_no_durations(database: Database) -> None:
    add(database, a_call("cut", 1, complete=False))
    total = Overviews(database).overview(None, START, START + 10, 1).total
    assert (None, Percentiles(p50=0.1, p95=0.1, p99=0.1)) == (total.durations, total.first_bytes)


def test_only_the_dataset_that_is_asked_for_counts(database: Database) -> None:
    add(database, a_call("a", 0), a_call("b", 1, dataset="other"))
    numbers = [
        Overviews(database).overview(name, START, START + 9, 1).total.turns for name in ("demo", "other", "x", None)
    ]
    assert [1, 1, 0, 2] == numbers


def test_models_are_counted_the_most_used_first(database: Database) -> None:
    add(database, a_call("a", 0), model="m1")
    add(database, a_call("b", 1), a_call("c", 2), model="m2")
    add(database, a_call("d", 3), model=None)
    assert [("m2", 2), ("m1", 1)] == list(Overviews(database).overview(None, START, START + 9, 3).models.items())


def test_tools_took_from_the_call_to_the_result_and_the_slowest_comes_first(database: Database) -> None:
    add(database, *a_tool_run("a", 0, "fast", 0.5), *a_tool_run("b", 100, "slow", 8.0))
    add(database, *a_tool_run("c", 200, "slow", 2.0, failed=True), a_call("d", 300))
    found = Overviews(database).overview(None, START, START + 1000, 10)
    assert [
        ToolSummary(name="slow", calls=2, errors=1, p50=2.0, p95=8.0),
        ToolSummary(name="fast", calls=1, errors=0, p50=0.5, p95=0.5),
    ] == found.tools


def test_a_result_that_is_sent_again_counts_once(database: Database) -> None:
    begun, failed = a_tool_run("a", 0, "look", 2.0, failed=True)
    failed.content = None
    again = Call("a3", failed.messages, [text("Done.")], START + 5)
    add(database, begun, failed, again)
    found = Overviews(database).overview(None, START, START + 100, 1)
    assert [ToolSummary(name="look", calls=1, errors=1, p50=2.0, p95=2.0)] == found.tools


def test_tools_that_are_left_out_are_counted(database: Database) -> None:
    calls = [tool_use(f"t{n}", f"tool{n:02}") for n in range(60)]
    add(database, Call("a", [user("All of them.")], calls, START))
    found = Overviews(database).overview(None, START, START + 1, 1)
    assert ([f"tool{n:02}" for n in range(50)], 10) == ([tool.name for tool in found.tools], found.tools_left)


def test_what_comes_after_somebody_looked_is_there_when_they_look_again(database: Database) -> None:
    overviews = Overviews(database)
    add(database, a_call("a", 0), a_call("b", 4000))
    before = overviews.overview(None, START, START + 7200, 2)
    assert before == overviews.overview(None, START, START + 7200, 2)
    add(database, a_call("late", 1, seconds=9.0))
    after = overviews.overview(None, START, START + 7200, 2)
    assert ([1, 1], [2, 1]) == ([part.turns for part in before.buckets], [part.turns for part in after.buckets])
    assert (3, Percentiles(p50=1.0, p95=9.0, p99=9.0)) == (after.total.turns, after.total.durations)


def test_what_is_removed_after_somebody_looked_is_gone_when_they_look_again(database: Database) -> None:
    overviews = Overviews(database)
    add(database, a_call("a", 0), a_call("b", 4000))
    assert 2 == overviews.overview("demo", START, START + 7200, 2).total.turns
    with database.transaction():
        database.run("DELETE FROM exchanges WHERE id = 'b'")
    assert [1, 0] == [part.turns for part in overviews.overview("demo", START, START + 7200, 2).buckets]


def test_a_turn_that_is_read_again_counts_as_it_is_then(database: Database) -> None:
    overviews, call = Overviews(database), a_call("a", 0)
    add(database, call)
    assert 10 == overviews.overview(None, START, START + 10, 1).total.tokens.input
    reading = call.reading()
    again = replace(reading, metadata=reading.metadata | {"usage": {"input_tokens": 70}})
    ((sequence,),) = database.rows("SELECT sequence FROM exchanges")
    Store(database).replace([Replacement(sequence, again, None)])
    assert 70 == overviews.overview(None, START, START + 10, 1).total.tokens.input


@pytest.mark.parametrize(
    ("since", "until", "buckets"),
    [
        (1.0, 1.0, 1),
        (2.0, 1.0, 1),
        (math.nan, 1.0, 1),
        (0.0, math.inf, 1),
        (-1.7e308, 1.7e308, 1),
        (0.0, 1.0, 0),
        (0.0, 1.0, 501),
    ],
)
def test_a_span_that_is_none_is_unclear(database: Database, since: float, until: float, buckets: int) -> None:
    with pytest.raises(Unclear):
        Overviews(database).overview(None, since, until, buckets)
