"""What files hold, as turns."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidestream.traces.importing import Importer, Unusable

if TYPE_CHECKING:
    from sidestream.traces.pushing import PushedTurn

UUID = "0199c0de-0000-7000-8000-000000000001"
USER = {"role": "user", "content": "Hello"}
ANSWER = {"role": "assistant", "content": "Hi"}
SYSTEM = {"role": "system", "content": "Be brief."}
LINE: dict[str, Any] = {
    "id": "x1",
    "dataset": "d",
    "trace": "x1",
    "turn": 1,
    "rule": "first",
    "messages": [SYSTEM, USER, ANSWER],
    "metadata": {"model": "m", "message_complete": True, "started_at": "2026-11-22T10:00:00+00:00"},
}
TURN: dict[str, Any] = {
    "turn": {"id": "x1", "started_at": 1795341600.0, "duration": 2.0},
    "system": [SYSTEM],
    "messages": [USER, ANSWER],
    "answered": 1,
    "facts": {"model": "m"},
    "changed": [],
}
RUN: dict[str, Any] = {"format": "sidestream-run/1", "run": {"id": "x1", "dataset": "d"}, "turns": [TURN]}
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda below: (
        st.lists(below, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["messages", "role", "turn", "turns", "run", "facts", "format", "metadata", "trace", "rule", "id"]
            ),
            below,
            max_size=4,
        )
    ),
    max_leaves=12,
)


def mark(name: str) -> dict[str, Any]:
    return ANSWER | {"metadata": {"sidestream": {"exchange": name, "turn": 1, "rule": "first"}, "model": f"m-{name}"}}


def turns(value: Any, dataset: str | None = None) -> list[PushedTurn]:
    return Importer(dataset).turns(value)


def names(found: list[PushedTurn]) -> list[tuple[str | None, str | None]]:
    return [(turn.id, turn.trace) for turn in found]


def test_a_run_is_its_turns() -> None:
    [turn] = turns(RUN)
    assert ("d", "x1", "x1", 1) == (turn.dataset, turn.id, turn.trace, turn.answered)
    assert ([SYSTEM], [USER, ANSWER], {"model": "m"}) == (turn.system, turn.messages, turn.facts)
    assert (1795341600.0, 1795341602.0) == (turn.started_at, turn.ended_at)


def test_a_line_is_a_turn() -> None:
    [turn] = turns(LINE)
    assert ("d", "x1", "x1", 1) == (turn.dataset, turn.id, turn.trace, turn.answered)
    assert ([SYSTEM], [USER, ANSWER], 1795341600.0) == (turn.system, turn.messages, turn.started_at)


def test_a_system_message_in_the_middle_of_a_run_stays_where_it_is() -> None:
    [turn] = turns(LINE | {"rule": "extends_tip", "id": "x2"})
    assert ([], [SYSTEM, USER, ANSWER], "x1") == (turn.system, turn.messages, turn.trace)


def test_an_attempt_that_said_nothing_new_is_a_turn_too() -> None:
    [line] = turns(LINE | {"messages": []})
    [of_run] = turns(RUN | {"turns": [TURN | {"messages": [], "answered": 0}]})
    assert [] == line.messages == of_run.messages


def test_a_trace_of_an_explorers_is_a_run() -> None:
    trace = {"id": UUID, "name": "N", "dataset": "d", "messages": [SYSTEM, USER], "extra_metadata": {"model": "m"}}
    [turn] = turns(trace)
    name = UUID.replace("-", "")
    assert (name, name, [SYSTEM], "d") == (turn.id, turn.trace, turn.system, turn.dataset)
    assert {"model": "m", "metadata": {"name": "N"}} == turn.facts


def test_what_a_sidestream_has_put_there_comes_back_as_the_turns_that_it_was() -> None:
    messages = [SYSTEM, USER, mark("x1"), USER, mark("x2"), USER]
    metadata = {"sidestream": {"exchange": "x1", "trace": "x1"}, "model": "m-x1", "status": 200}
    found = turns({"id": UUID, "messages": messages, "extra_metadata": metadata})
    assert [("x1", "x1"), ("x2", "x1")] == names(found)[:2]
    assert [[USER, mark("x1")], [USER, mark("x2")], [USER]] == [turn.messages for turn in found]
    assert [200, None, None] == [turn.facts.get("status") for turn in found]
    assert ["m-x1", "m-x2"] == [turn.facts["model"] for turn in found[:2]]


def test_a_call_that_was_pushed_by_itself_has_its_own_name() -> None:
    metadata = {"sidestream": {"exchange": "x7", "attempt": 1}}
    assert [("x7", "x7")] == names(turns({"id": UUID, "messages": [USER], "extra_metadata": metadata}))


def test_messages_alone_are_a_trace_that_has_the_same_name_each_time() -> None:
    first, again = turns([[USER], [USER], [ANSWER]]), turns([[USER], [USER], [ANSWER]])
    assert names(first) == names(again)
    assert 3 == len({turn.id for turn in first})


def test_a_list_may_hold_anything_that_a_line_may() -> None:
    assert [("x1", "x1")] * 2 == names(turns([RUN, LINE]))
    assert [] == turns([])


def test_what_only_speaks_of_a_dataset_is_no_turn() -> None:
    assert [] == turns({"metadata": {"created_on": "today"}})


def test_all_can_be_put_into_one_dataset() -> None:
    found = turns([RUN, LINE, {"messages": [USER]}], "mine")
    assert ["mine"] * 3 == [turn.dataset for turn in found]
    assert ["pushed"] == [turn.dataset for turn in turns([{"messages": [USER]}])]


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (1, "neither a run, nor a turn, nor a trace"),
        ({}, "messages must be a non-empty list of messages"),
        ([1], "neither a run, nor a turn, nor a trace"),
        ([[[[]]]], "lists of lists of lists"),
        (RUN | {"format": "sidestream-run/2"}, "a run in a format of another version of sidestream"),
        (RUN | {"run": 1}, "run must be an object"),
        (RUN | {"turns": {}}, "turns must be a list"),
        (RUN | {"turns": [TURN, 1]}, r"turns\[1\]: not a turn"),
        (RUN | {"turns": [TURN | {"answered": 3}]}, r"turns\[0\]: answered must say"),
        (RUN | {"turns": [TURN | {"messages": [1]}]}, r"turns\[0\]: messages\[0\] must be an object with a role"),
        (LINE | {"id": "../x"}, "id must be a name"),
        (LINE | {"messages": None}, "messages must be a non-empty list"),
        (LINE | {"metadata": None}, "metadata must be an object"),
        ({"messages": [USER], "metadata": [1]}, "its metadata must be an object"),
    ],
)
def test_what_is_unusable_is_told(value: Any, problem: str) -> None:
    with pytest.raises(Unusable, match=f"^{problem}"):
        turns(value)


@settings(max_examples=200)
@given(json_values)
def test_any_value_is_turns_or_unusable(value: Any) -> None:
    try:
        found = turns(value)
    except Unusable:
        return
    json.dumps([turn.messages for turn in found], allow_nan=False)
