"""What was not captured here, as turns."""

from __future__ import annotations

from typing import Any

import pytest

from sidestream.traces.pushing import facts_of, fault_of, metadata_of, moment, name_of, pushed, reading_of

USER = {"role": "user", "content": "Hello"}
ANSWER = {"role": "assistant", "content": "Hi"}
SYSTEM = {"role": "system", "content": "Be brief."}
TOOL = {"role": "tool", "tool_call_id": "1", "content": "ok"}


def test_a_system_prompt_at_the_beginning_is_kept_apart() -> None:
    turn = pushed("d", [SYSTEM, USER, SYSTEM, ANSWER], {})
    assert ([SYSTEM], [USER, SYSTEM, ANSWER]) == (turn.system, turn.messages)


def test_what_is_only_a_system_prompt_is_what_was_said() -> None:
    turn = pushed("d", [SYSTEM], {})
    assert ([], [SYSTEM]) == (turn.system, turn.messages)


def test_what_is_put_behind_a_run_has_no_system_prompt_of_its_own() -> None:
    assert [SYSTEM, USER] == pushed("d", [SYSTEM, USER], {}, trace="t").messages


@pytest.mark.parametrize(
    ("messages", "metadata", "answered"),
    [
        ([USER, ANSWER], {}, 1),
        ([USER, ANSWER, TOOL, ANSWER, USER], {}, 4),
        ([USER], {}, 0),
        ([USER, ANSWER, TOOL, {"role": "thinking", "content": ""}, ANSWER], {"message_complete": True}, 2),
        ([USER, ANSWER, {**TOOL, "metadata": {"server": "anthropic"}}, ANSWER], {"message_complete": True}, 3),
        ([USER, ANSWER, USER], {"message_complete": False}, 0),
        ([ANSWER], {"message_complete": True}, 1),
    ],
)
def test_the_answer_is_told_by_roles(messages: list[Any], metadata: dict[str, Any], answered: int) -> None:
    assert answered == pushed("d", messages, metadata).answered


def test_facts_of_the_right_shape_are_facts_and_nothing_else_is_lost() -> None:
    good = {"model": "m", "usage": {"input_tokens": 1}, "status": None, "duration": 1.5, "message_complete": True}
    bad = {"cost": 3, "outcome": 1, "error": "x", "time_to_first_byte": -1, "tokens_per_second": True, "mine": [1]}
    assert good | {"metadata": bad} == facts_of(good | bad)
    assert good | bad == metadata_of(facts_of(good | bad))


def test_metadata_of_the_name_that_the_rest_is_kept_under_comes_back() -> None:
    metadata = {"metadata": {"metadata": 1}, "model": "m"}
    assert metadata == metadata_of(facts_of(metadata))


def test_what_the_last_message_says_of_its_turn_counts() -> None:
    last = {**ANSWER, "metadata": {"model": "m", "started_at": "2026-11-22T10:00:00+00:00", "duration": 2, "id": "msg"}}
    turn = pushed("d", [USER, last], {"model": "better"})
    assert ("better", 2, 1795341600.0) == (turn.facts["model"], turn.facts["duration"], turn.started_at)
    assert turn.messages == [USER, last]


def test_times_of_messages_are_those_of_a_turn_that_says_none() -> None:
    turn = pushed(
        "d", [USER | {"timestamp": "2026-11-22T10:00:00Z"}, ANSWER | {"timestamp": "2026-11-22T10:00:07"}], {}
    )
    reading = reading_of(turn, "x", turn.started_at or 0)
    assert (1795341600.0, 1795341607.0) == (reading.call.started_at, reading.call.ended_at)


def test_an_end_before_the_beginning_is_none() -> None:
    turn = pushed("d", [USER, ANSWER | {"timestamp": "1999-01-01"}], {})
    assert 1e9 == reading_of(turn, "x", 1e9).call.ended_at


@pytest.mark.parametrize("value", ["", "x", "0000", "9999-12-31T23:59:59-23:59", None, True, float("nan"), -1, 1e300])
def test_what_is_no_moment_is_none(value: Any) -> None:
    assert moment(value) is None


def test_arguments_that_are_text_become_what_they_say() -> None:
    texts = ['{"a": 1}', "[1]", "{", '{"a": NaN}']
    calls = [{"id": str(n), "function": {"name": "f", "arguments": text}} for n, text in enumerate(texts)]
    turn = pushed("d", [ANSWER | {"tool_calls": [*calls, 1]}], {})
    *converted, odd = turn.messages[0]["tool_calls"]
    expected = [{"a": 1}, {"_raw": "[1]"}, {"_raw": "{"}, {"a": "NaN"}]
    assert expected == [call["function"]["arguments"] for call in converted]
    assert odd == 1


def test_a_trace_is_called_what_its_metadata_says() -> None:
    assert "A name" == name_of(facts_of({"name": " A\nname "}))
    assert "" == name_of(facts_of({"name": 1}))


def test_where_nothing_is_known_of_a_call_it_is_answered() -> None:
    assert reading_of(pushed("d", [USER], {}), "x", 1.0).call.answered
    assert not reading_of(pushed("d", [USER], {"message_complete": False, "status": 529}), "x", 1.0).call.answered


@pytest.mark.parametrize(
    ("messages", "fault"),
    [
        ([USER], None),
        ([], " must be a non-empty list of messages"),
        ({}, " must be a non-empty list of messages"),
        ([USER, 1], "[1] must be an object with a role"),
        ([{"role": ""}], "[0] must be an object with a role"),
        ([ANSWER | {"tool_calls": {}}], "[0].tool_calls must be a list of functions with arguments"),
    ],
)
def test_messages_are_checked(messages: Any, fault: str | None) -> None:
    assert fault == fault_of(messages)
