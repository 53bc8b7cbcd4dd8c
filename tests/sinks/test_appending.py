"""Whatever becomes of an append, a run is one trace in order, and no two appends to a trace are ever under way."""

from __future__ import annotations

import dataclasses
import itertools
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from delivering import SOON, Bench
from exploring import a_sink, an_append, opened
from growing import Agent
from sidestream.errors import Ambiguous, Gone, Retryable
from sidestream.options import Duration, Secret
from sidestream.sinks.base import Found
from sidestream.store.rows import State
from sidestream.testing import FakeExplorer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sidestream.sinks.explorer import Explorer
    from sidestream.testing import PushedTrace

OTHER = Secret("inv-" + "c" * 64)
SETTLE = 0.15
PATIENT = dataclasses.replace(SOON, settle=SETTLE)
"""It waits for an Explorer that is slower than `TIMEOUT`."""
TIMEOUT = Duration(0.25)


@pytest.fixture
async def explorer() -> AsyncIterator[FakeExplorer]:
    async with FakeExplorer() as explorer:
        explorer.append_seconds = 0.002
        yield explorer


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    yield bench
    await bench.close()


def sink_of(explorer: FakeExplorer, **options: Any) -> Explorer:
    return a_sink(explorer.url, timeout=TIMEOUT, settle=Duration(SETTLE), **options)


@asynccontextmanager
async def after_the_first(
    bench: Bench, explorer: FakeExplorer, agent: Agent, **options: Any
) -> AsyncIterator[tuple[Explorer, Any]]:
    """A sink at work that has pushed the first turn of `agent`."""
    sink = sink_of(explorer, **options)
    await bench.run_of(sink, agent.call())
    async with bench.delivering(sink, PATIENT) as engine:
        await bench.until({"a1": "delivered"})
        yield sink, engine


def words(trace: PushedTrace) -> list[str]:
    return [message["content"] for message in trace.messages if message["content"] != "Be brief."]


def run(turns: int) -> list[str]:
    return [f"{letter}{number}" for number in range(1, turns + 1) for letter in "aA"]


async def test_a_run_is_one_trace_and_each_of_its_messages_is_there_once(explorer: FakeExplorer, bench: Bench) -> None:
    sink = sink_of(explorer)
    await bench.run_of(sink, *Agent().calls(5))
    async with bench.delivering(sink):
        rows = await bench.until({f"a{n}": "delivered" for n in range(1, 6)})

    [trace] = explorer.traces
    assert run(5) == words(trace)
    assert {trace.id} == {row.remote for row in rows}
    assert [trace.id] * 4 == explorer.appends


async def test_the_last_message_of_each_turn_says_which_it_is_and_what_is_known_of_it(
    explorer: FakeExplorer, bench: Bench
) -> None:
    sink = sink_of(explorer)
    await bench.run_of(sink, *Agent().calls(2))
    async with bench.delivering(sink):
        await bench.until({"a1": "delivered", "a2": "delivered"})

    metadata = [message.get("metadata", {}) for message in explorer.traces[0].messages]
    marks = [facts["sidestream"] for facts in metadata if "sidestream" in facts]
    assert [
        {"exchange": "a1", "turn": 1, "rule": "first"},
        {"exchange": "a2", "turn": 2, "rule": "extends_tip"},
    ] == marks
    assert ("claude-x", "end_turn", "completed", 1.0) == tuple(
        metadata[-1][fact] for fact in ("model", "stop_reason", "outcome", "duration")
    )


async def test_a_branch_is_a_trace_below_the_one_it_left(explorer: FakeExplorer, bench: Bench) -> None:
    agent = Agent()
    sink = sink_of(explorer)
    await bench.run_of(sink, *agent.calls(2), *agent.fork("b", 1).calls(1))
    async with bench.delivering(sink):
        await bench.until({"a1": "delivered", "a2": "delivered", "b1": "delivered"})

    trunk, branch = explorer.traces
    assert ["b1", "B1"] == words(branch)
    assert ("a1", None) == (trunk.metadata["name"], trunk.metadata.get("hierarchy_path"))
    assert ("b1", ["a1"]) == (branch.metadata["name"], branch.metadata["hierarchy_path"])
    origin = {"kind": "branch", "trace": "a1", "turn": "a1", "number": 1, "path": ["a1"]}
    assert origin == branch.metadata["sidestream"]["origin"]


FAILURES = [
    {"drop": True, "store": True},
    {"drop": True},
    {"status": 500, "store": True},
    {"status": 500},
    {"status": 500, "times": 3},
    {"hang": True, "store": True},
    {"hang": True},
    {"status": 502, "store": True},
    {"status": 502, "times": 2},
    {"status": 503, "retry_after": 0.01},
    {"status": 504, "store": True},
    {"status": 408},
    {"status": 429, "retry_after": 0.01},
    {"status": 302},
]


@pytest.mark.parametrize("failure", FAILURES, ids=str)
async def test_whatever_happens_to_an_append_it_is_there_once_and_in_its_place(
    explorer: FakeExplorer, bench: Bench, failure: dict[str, Any]
) -> None:
    agent = Agent()
    async with after_the_first(bench, explorer, agent) as (sink, engine):
        explorer.fail_next(path="/messages", **failure)
        engine.wake(await bench.run_of(sink, *agent.calls(3)))
        await bench.until({f"a{n}": "delivered" for n in range(1, 5)}, 20)

    assert [run(4)] == [words(trace) for trace in explorer.traces]
    assert not explorer.frozen


async def test_an_append_that_goes_on_after_its_client_has_left_is_not_met_by_another_one(
    explorer: FakeExplorer, bench: Bench
) -> None:
    """It takes longer than the client waits, and is over before the destination has settled."""
    agent = Agent()
    async with after_the_first(bench, explorer, agent) as (sink, engine):
        explorer.append_seconds = (TIMEOUT + SETTLE) * 0.8
        engine.wake(await bench.run_of(sink, *agent.calls(2)))
        await bench.until({"a1": "delivered", "a2": "delivered", "a3": "delivered"}, 20)

    assert [run(3)] == [words(trace) for trace in explorer.traces]
    assert not explorer.frozen


async def test_a_key_that_is_refused_and_taken_later_loses_nothing(explorer: FakeExplorer, bench: Bench) -> None:
    agent = Agent()
    key = explorer_key = "inv-" + "a" * 64
    async with after_the_first(bench, explorer, agent) as (sink, engine):
        explorer.refused.add(explorer_key)
        engine.wake(await bench.run_of(sink, *agent.calls(2)))
        await bench.until({"a1": "delivered", "a2": "parked", "a3": "parked"})
        explorer.refused.discard(key)
        anew = await bench.call(lambda: bench.store.redeliver(states=[State.PARKED]))
        engine.reopen([lane for _, lane in anew.lanes])
        await bench.until({"a1": "delivered", "a2": "delivered", "a3": "delivered"})

    assert [run(3)] == [words(trace) for trace in explorer.traces]


async def test_with_another_key_it_is_another_trace_with_all_of_it(explorer: FakeExplorer, bench: Bench) -> None:
    """The trace is not there for that one."""
    agent = Agent()
    async with after_the_first(bench, explorer, agent):
        pass
    sink = sink_of(explorer, api_key=OTHER)
    await bench.run_of(sink, *agent.calls(2))
    async with bench.delivering(sink, PATIENT):
        await bench.until({"a1": "delivered", "a2": "delivered", "a3": "delivered"})

    assert [run(1), run(3)] == [words(trace) for trace in explorer.traces]


async def test_what_is_too_large_leaves_a_word_in_its_place(explorer: FakeExplorer, bench: Bench) -> None:
    agent = Agent()
    async with after_the_first(bench, explorer, agent) as (sink, engine):
        explorer.fail_next(413, path="/messages")
        engine.wake(await bench.run_of(sink, *agent.calls(2)))
        await bench.until({"a1": "delivered", "a2": "dead", "a3": "delivered"})

    note = "[turn 2 could not be delivered: Explorer answered 413: it is too large]"
    assert [["a1", "A1", note, "a3", "A3"]] == [words(trace) for trace in explorer.traces]


@pytest.mark.parametrize("lost", [False, True])
async def test_where_the_trace_was_deleted_all_of_it_is_pushed_again(
    explorer: FakeExplorer, bench: Bench, lost: bool
) -> None:
    """Found out at the append, or at the look after one whose answer was lost."""
    agent = Agent()
    async with after_the_first(bench, explorer, agent) as (sink, engine):
        if lost:
            explorer.fail_next(path="/messages", drop=True)
        explorer.traces.clear()
        engine.wake(await bench.run_of(sink, *agent.calls(2)))
        rows = await bench.until({"a1": "delivered", "a2": "delivered", "a3": "delivered"})

    assert [run(3)] == [words(trace) for trace in explorer.traces]
    assert [None, explorer.traces[0].id, explorer.traces[0].id] == [row.remote for row in rows]
    assert [1, 2 if lost else 1, 1] == [row.attempts for row in rows]


async def test_a_push_whose_answer_breaks_off_is_found_so_that_the_next_turn_knows_where(
    explorer: FakeExplorer, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(_reply: Any) -> None:
        monkeypatch.undo()

    monkeypatch.setattr("sidestream.sinks.explorer_replies.pushed", nothing)
    sink = sink_of(explorer)
    await bench.run_of(sink, *Agent().calls(2))
    async with bench.delivering(sink, PATIENT) as engine:
        await bench.until({"a1": "delivered", "a2": "delivered"})

    assert [run(2)] == [words(trace) for trace in explorer.traces]
    assert 1 == engine.counters.found


async def test_what_was_being_appended_when_the_engine_was_stopped_is_looked_for_by_the_next_one(
    explorer: FakeExplorer, bench: Bench
) -> None:
    agent = Agent()
    async with after_the_first(bench, explorer, agent) as (sink, engine):
        explorer.append_seconds = SETTLE / 2
        engine.wake(await bench.run_of(sink, agent.call()))
        await explorer.wait_for_requests(2)
    async with bench.delivering(sink_of(explorer), PATIENT):
        await bench.until({"a1": "delivered", "a2": "delivered"})

    assert [run(2)] == [words(trace) for trace in explorer.traces]
    assert (1, False) == (len(explorer.appends), explorer.frozen)


async def test_what_an_operator_has_sent_again_at_once_still_waits_for_the_append_under_way(
    explorer: FakeExplorer, bench: Bench
) -> None:
    """The row is parked while the end of its append is unclear, and then somebody says: send it all the same."""
    agent = Agent()
    async with after_the_first(bench, explorer, agent) as (sink, engine):
        explorer.append_seconds = TIMEOUT + SETTLE / 2
        lanes = await bench.run_of(sink, agent.call())
        engine.wake(lanes)
        await bench.until({"a1": "delivered", "a2": "retry_at"})
        await bench.call(lambda: bench.store.park(sink.name, "", "somebody"))
        await bench.call(lambda: bench.store.redeliver(states=[State.PARKED]))
        engine.reopen(lanes)
        await bench.until({"a1": "delivered", "a2": "delivered"}, 10)

    assert not explorer.frozen


async def test_runs_that_are_under_way_at_the_same_time_do_not_wait_for_each_other(
    explorer: FakeExplorer, bench: Bench
) -> None:
    sink = a_sink(explorer.url)
    explorer.append_seconds = 0.05
    for number in range(4):
        await bench.run_of(sink, *(_in(call, number) for call in Agent().calls(3)))
    async with bench.delivering(sink):
        await explorer.wait_for_appends(8)

    assert 2 <= explorer.most_appending
    assert [run(3)] * 4 == [words(trace) for trace in explorer.traces]


def _in(call: Any, number: int) -> Any:
    return dataclasses.replace(call, id=f"{call.id}-{number}", dataset=f"d{number}")


# The sink alone


async def test_a_turn_that_was_appended_is_found_in_its_trace(explorer: FakeExplorer) -> None:
    async with opened(explorer.url) as sink:
        remote = await sink.deliver(an_append(None, "x1", 1), None, 1)
        assert remote == await sink.deliver(an_append(remote), None, 1)
        assert Found(remote) == await sink.find(an_append(remote), None)
        assert await sink.find(an_append(remote, "x3", 3), None) is None

    assert ["x1", "x2"] == [m["metadata"]["sidestream"]["exchange"] for m in explorer.traces[0].messages]


async def test_where_there_is_no_such_trace_any_more_it_is_gone(explorer: FakeExplorer) -> None:
    async with opened(explorer.url) as sink:
        remote = await sink.deliver(an_append(None, "x1", 1), None, 1)
        explorer.traces.clear()
        for attempt in (sink.deliver(an_append(remote), None, 1), sink.find(an_append(remote), None)):
            with pytest.raises(Gone):
                await attempt


@pytest.mark.parametrize("status", [429, 500, 502, 503])
async def test_an_explorer_in_trouble_cannot_be_asked_for_a_trace_now(explorer: FakeExplorer, status: int) -> None:
    explorer.fail_next(status, method="GET")
    async with opened(explorer.url) as sink:
        with pytest.raises(Retryable):
            await sink.find(an_append("t1"), None)


async def test_an_append_is_not_sent_before_the_one_whose_end_was_not_seen_must_be_over(explorer: FakeExplorer) -> None:
    async with opened(explorer.url, timeout=Duration(0.05), settle=Duration(3600)) as sink:
        remote = await sink.deliver(an_append(None, "x1", 1), None, 1)
        explorer.fail_next(path="/messages", hang=True)
        with pytest.raises(Ambiguous):
            await sink.deliver(an_append(remote), None, 1)
        asked = len(explorer.requests)
        with pytest.raises(Retryable, match="under way"):
            await sink.deliver(an_append(remote), None, 2)

    assert asked == len(explorer.requests)


# Anything


LOST: list[dict[str, Any]] = [{"drop": True}, {"hang": True}, {"status": 500}]
SCRIPTS = [{**script, "store": store} for script in LOST for store in (False, True)]
SCRIPTS += [{"status": status, "store": True, "path": "/messages"} for status in (408, 502, 503, 504)]
SCRIPTS += [{"status": 429}, {"status": 503}, {"status": 503, "method": "GET"}, {"hang": True, "method": "GET"}]


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(st.sampled_from(SCRIPTS), max_size=6), st.sets(st.integers(1, 9), max_size=2))
async def test_a_run_of_ten_turns_is_one_trace_whatever_the_explorer_does(
    scripts: list[dict[str, Any]], restarts: set[int]
) -> None:
    hasty = dataclasses.replace(SOON, settle=0.03)
    bench = Bench()
    async with FakeExplorer() as explorer:
        explorer.append_seconds = 0.001
        for script in scripts:
            explorer.fail_next(**script)
        calls = Agent().calls(10)
        names: list[str] = []
        for begin, end in _pieces(restarts, 10):
            sink = a_sink(explorer.url, timeout=Duration(0.03), settle=Duration(0.03))
            await bench.run_of(sink, *calls[begin:end])
            names += [call.id for call in calls[begin:end]]
            async with bench.delivering(sink, hasty):
                await bench.until(dict.fromkeys(names, "delivered"), 20)
        assert [run(10)] == [words(trace) for trace in explorer.traces]
        assert not explorer.frozen
    await bench.close()


def _pieces(cuts: set[int], end: int) -> list[tuple[int, int]]:
    edges = [0, *sorted(cuts), end]
    return list(itertools.pairwise(edges))
