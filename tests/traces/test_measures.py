"""What is told of a turn in a few words and numbers, whatever its facts and messages look like."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conversing import Call, text, tool_result, tool_use, user
from sidestream.store.shapes import Tokens, TurnState
from sidestream.traces.measures import CALL, measure, tool_calls, tool_results

if TYPE_CHECKING:
    from sidestream.traces.model import Message

FACTS: dict[str, Any] = {
    "model": "claude-x",
    "usage": {
        "input_tokens": 10,
        "output_tokens": 5,
        "cache_read_input_tokens": 300,
        "cache_creation_input_tokens": 20,
    },
    "stop_reason": "end_turn",
    "outcome": "completed",
    "message_complete": True,
    "status": 200,
    "time_to_first_byte": 0.25,
    "tokens_per_second": 6.5,
    "cost": {"usd": 0.0000035, "prices": "list"},
}
WHOLE = {"message_complete": True}
PART = {"message_complete": False}
ERROR = {"type": "overloaded_error"}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "role": st.just("tool") | JSON,
            "tool_name": JSON,
            "tool_call_id": JSON,
            "metadata": st.just({"is_error": True}) | JSON,
            "tool_calls": st.lists(st.fixed_dictionaries({"id": JSON, "function": JSON}) | JSON, max_size=3) | JSON,
        },
    ),
    max_size=4,
)


def state(*, answered: bool = True, **facts: Any) -> TurnState:
    return measure(FACTS | facts, answered=answered).state


def said(call: Call) -> tuple[list[Message], list[Message]]:
    """The messages of a call's request, and of its answer."""
    reading = call.reading()
    asked = [message for each in reading.asked for message in each.shown]
    return asked, reading.answer.shown if reading.answer is not None else []


def test_facts_become_numbers() -> None:
    found = measure(FACTS, answered=True)
    assert (TurnState.ANSWERED, 200, "claude-x", "end_turn") == (
        found.state,
        found.status,
        found.model,
        found.stop_reason,
    )
    assert (0.25, 6.5, 3500) == (found.first_byte, found.rate, found.cost)
    assert Tokens(input=10, output=5, cache_read=300, cache_written=20) == found.tokens


def test_what_is_not_known_is_none_or_nothing() -> None:
    found = measure({}, answered=False)
    assert [None] * 6 == [
        found.status,
        found.model,
        found.stop_reason,
        found.first_byte,
        found.rate,
        found.cost,
    ]
    assert Tokens() == found.tokens


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (WHOLE, TurnState.ANSWERED),
        (WHOLE | {"outcome": "client_disconnected"}, TurnState.ANSWERED),
        (WHOLE | {"stop_reason": "refusal"}, TurnState.REFUSED),
        (PART | {"stop_reason": "refusal"}, TurnState.CUT),
        (PART, TurnState.CUT),
        (PART | {"error": ERROR}, TurnState.CUT),
        (PART | {"outcome": "upstream_failed"}, TurnState.CUT),
        (PART | {"outcome": "client_disconnected"}, TurnState.ABANDONED),
        (WHOLE | {"status": 500, "error": ERROR}, TurnState.FAILED),
    ],
)
def test_an_answer_is_in_one_of_four_states(facts: dict[str, Any], expected: TurnState) -> None:
    assert expected is state(**facts)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"status": 529, "error": ERROR}, TurnState.FAILED),
        ({"status": None, "outcome": "upstream_failed"}, TurnState.FAILED),
        ({"outcome": "completed"}, TurnState.FAILED),
        ({"status": 529, "outcome": "client_disconnected"}, TurnState.FAILED),
        ({"status": None, "outcome": "client_disconnected"}, TurnState.ABANDONED),
    ],
)
def test_without_an_answer_a_turn_failed_unless_the_client_did_not_wait(
    facts: dict[str, Any], expected: TurnState
) -> None:
    assert expected is state(answered=False, **PART, **facts)


@pytest.mark.parametrize("count", [-1, 1.5, True, "7", None, 1 << 41])
def test_what_is_no_count_of_tokens_counts_as_none(count: Any) -> None:
    assert Tokens() == measure({"usage": {"input_tokens": count}}, answered=True).tokens


@pytest.mark.parametrize("usd", [float("nan"), float("inf"), -0.01, "1", 10_001, None])
def test_what_is_no_price_is_not_known(usd: Any) -> None:
    assert measure({"cost": {"usd": usd}}, answered=True).cost is None


def test_names_are_short_and_can_be_printed() -> None:
    assert "a\N{REPLACEMENT CHARACTER}b" == measure({"model": "a\x1bb"}, answered=True).model
    assert "x" * 199 + "…" == measure({"model": "x" * 201}, answered=True).model


def test_the_tools_of_an_answer_are_named_in_order() -> None:
    call = Call("c", [user("Go.")], [text("So:"), tool_use("t1", "look"), tool_use("t2", "read")], 0.0)
    _, answer = said(call)
    assert ["look", "read"] == [each.name for each in tool_calls(answer)]


def test_a_result_is_known_by_the_call_that_it_answers() -> None:
    begun = Call("c", [user("Go.")], [tool_use("t1", "look"), tool_use("t2", "read")], 0.0)
    history = [user("Go."), {"role": "assistant", "content": begun.content}]
    results = user(tool_result("t2", "fine"), tool_result("t1", "no") | {"is_error": True})
    asked, _ = said(Call("d", [*history, results], [text("Done.")], 1.0))
    calls = {each.call: each.name for each in tool_calls(said(begun)[1])}
    found = tool_results(asked)
    assert [("read", False), ("look", True)] == [(each.name, each.failed) for each in found]
    assert ["read", "look"] == [calls[each.call] for each in found]


@given(JSON, MESSAGES, st.booleans())
def test_nothing_in_it_raises_and_everything_fits_into_a_row(facts: Any, messages: list[Any], answered: bool) -> None:
    inside = {"usage": dict.fromkeys(FACTS["usage"], facts), "cost": {"usd": facts}}
    for every in (dict.fromkeys(FACTS, facts), dict.fromkeys(FACTS, facts) | inside):
        found = measure(every, answered=answered)
        tokens = [getattr(found.tokens, name) for name in Tokens.__struct_fields__]
        assert all(0 <= number < 1 << 63 for number in (found.status or 0, found.cost or 0, *tokens))
    calls = [(each.call, each.name) for each in tool_calls(messages)]
    calls += [(each.call, each.name) for each in tool_results(messages)]
    assert all(len(call) == CALL and len(name.encode()) <= 800 for call, name in calls)
