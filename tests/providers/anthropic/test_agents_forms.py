"""What frameworks send back of an answer is known again as that answer, in whatever form they do (recorded calls)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from model_provider import stream
from sidestream.providers.anthropic import Anthropic
from sidestream.traces.states import states_of

if TYPE_CHECKING:
    from sidestream.providers.base import Said, Understood

RECORDED = Path(__file__).parent.parent.parent / "fixtures" / "agents"
MANNERS = ["plain", "streamed"]


def understood(framework: str, manner: str) -> list[Understood]:
    calls = json.loads((RECORDED / f"{framework}.json").read_text())[manner]
    return [understand(call, streamed=manner == "streamed") for call in calls]


def understand(call: dict[str, Any], *, streamed: bool) -> Understood:
    response = stream(call["answer"]) if streamed else json.dumps(call["answer"]).encode()
    content_type = "text/event-stream; charset=utf-8" if streamed else "application/json"
    request = json.dumps(call["asked"]).encode()
    return Anthropic().understand(request=request, response=response, content_type=content_type, status=200)


def said(*turns: Understood) -> list[Said]:
    """What was asked and answered in `turns`, one after the other."""
    return [each for turn in turns for each in (*turn.asked, *([turn.answer] if turn.answer else []))]


@pytest.mark.parametrize("manner", MANNERS)
@pytest.mark.parametrize("framework", ["handwritten", "tool_runner", "langchain", "pydantic_ai"])
def test_each_request_passes_through_what_the_turns_before_have_left(framework: str, manner: str) -> None:
    turns = understood(framework, manner)
    left = [states_of(said(turn))[-1] for turn in turns]
    places = [[states_of(turn.asked).index(state) + 1 for state in left[:n]] for n, turn in enumerate(turns)]
    assert [[], [2], [2, 4], [2, 4, 6], [2, 4, 6, 8]] == places


@pytest.mark.parametrize("manner", MANNERS)
def test_a_message_thread_s_replay_passes_through_what_its_turns_have_left(manner: str) -> None:
    """Its requests do not repeat the history, but put behind one another they are what a later request repeats."""
    turns = understood("tool_runner_with_threads", manner)
    assert [1, 1, 1, 7, 9] == [len(turn.asked) for turn in turns]
    left = [states_of(said(*turns[:n]))[-1] for n in (1, 2, 3)]
    assert [2, 4, 6] == [states_of(turns[3].asked).index(state) + 1 for state in left]


@pytest.mark.parametrize("manner", MANNERS)
def test_a_message_thread_names_the_answer_that_it_goes_on_from(manner: str) -> None:
    turns = understood("tool_runner_with_threads", manner)
    threads = [turn.parameters["thread"] for turn in turns]
    continued = [{"type": "continue", "previous_message_id": turn.id} for turn in turns[:2]]
    assert [{"type": "create"}, *continued, {"type": "create"}, {"type": "create"}] == threads
