"""Readings and turns."""

from __future__ import annotations

import msgspec

from sidestream.providers.base import Said
from sidestream.traces.conversation import Call
from sidestream.traces.model import Reading, Turn, title_of

SYSTEM = {"role": "system", "content": "Be kind."}
HI = {"role": "user", "content": "Hi"}
THOUGHT = {"role": "thinking", "content": "A greeting."}
HELLO = {"role": "assistant", "content": "Hello"}
CALL = Call(
    scope=b"",
    started_at=0.0,
    ended_at=1.0,
    states=(),
    leaving=None,
    answered=True,
    complete=True,
    digests=(),
    texts=(),
    roles=(),
)


def reading(answer: Said | None) -> Reading:
    return Reading(
        id="1",
        dataset="d",
        system=[SYSTEM],
        asked=[Said(role="user", shown=[HI])],
        answer=answer,
        tools=[{"name": "look"}],
        metadata={"model": "m"},
        call=CALL,
    )


def test_a_turn_is_plain_json() -> None:
    turn = Turn(id="1", dataset="d", messages=[HI], metadata={"model": "m"}, trace="0")
    assert {
        "id": "1",
        "dataset": "d",
        "messages": [HI],
        "metadata": {"model": "m"},
        "trace": "0",
        "number": 1,
        "rule": "first",
        "title": "",
        "origin": None,
        "remote": None,
        "weight": 0,
        "told_until": 0,
    } == msgspec.json.decode(msgspec.json.encode(turn))


def test_a_reading_by_itself_is_a_trace_of_one_turn_with_all_that_was_said() -> None:
    turn = reading(Said(role="assistant", shown=[THOUGHT, HELLO])).turn()
    assert [SYSTEM, HI, THOUGHT, HELLO] == turn.messages
    assert ("1", "1", "d", 1, {"model": "m"}) == (turn.id, turn.trace, turn.dataset, turn.number, turn.metadata)


def test_without_an_answer_it_ends_with_the_request() -> None:
    assert [SYSTEM, HI] == reading(None).turn().messages


def test_a_title_is_how_the_user_begins() -> None:
    assert title_of([SYSTEM, {"role": "user", "content": " Fix\n the  test "}, HI]) == "Fix the test"
    assert (
        title_of([{"role": "user", "content": [{"type": "text", "text": "Fix it"}, {"type": "image_url"}]}]) == "Fix it"
    )


def test_a_title_is_short() -> None:
    title = title_of([{"role": "user", "content": "word " * 1000}])
    assert title.endswith("…")
    assert len(title) <= 80


def test_what_no_user_began_has_no_title() -> None:
    assert not title_of([SYSTEM, HELLO, {"role": "user", "content": None}, {"role": "user", "content": [None, {}]}])
