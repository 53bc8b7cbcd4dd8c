"""The story has everything that it is told for."""

from __future__ import annotations

from typing import Any

import pytest

from sidestream.demo import tools
from sidestream.demo.story import ANSWERS


def test_it_has_thinking_text_and_parallel_tool_calls() -> None:
    kinds = [[block["type"] for block in answer.content] for answer in ANSWERS]
    assert ["thinking", "text", "tool_use", "tool_use"] == kinds[0]
    assert ["tool_use"] * 3 + ["end_turn"] == [answer.stop_reason for answer in ANSWERS]


def test_every_thought_is_signed() -> None:
    thoughts = [block for answer in ANSWERS for block in answer.content if block["type"] == "thinking"]
    assert thoughts
    assert all(thought["signature"] for thought in thoughts)


@pytest.mark.parametrize(
    "call", [block for answer in ANSWERS for block in answer.content if block["type"] == "tool_use"]
)
def test_every_tool_it_calls_is_announced_with_these_arguments(call: dict[str, Any]) -> None:
    (definition,) = [tool for tool in tools.definitions() if tool["name"] == call["name"]]
    assert list(call["input"]) == list(definition["input_schema"]["properties"])
