"""A block takes the deltas that fit it and leaves the others to the extras."""

from __future__ import annotations

from typing import Any

import pytest

from sidestream.providers.anthropic.blocks import Block, apply_delta
from sidestream.providers.jsons import Budget


@pytest.mark.parametrize(
    ("value", "delta", "leftover"),
    [
        ({"type": "text", "text": ""}, {"type": "text_delta", "text": "x"}, None),
        ({"type": "text", "text": ""}, {"type": "thinking_delta", "thinking": "x"}, "deltas"),
        ({"type": "text", "text": ""}, {"type": "novel_delta"}, "deltas"),
        ({"type": "text", "text": ""}, {"type": ["text_delta"]}, "deltas"),
        ({"type": "text", "text": ""}, {"type": "text_delta", "text": 1}, "malformed"),
        ({"type": "text", "text": "", "citations": 1}, {"type": "citations_delta", "citation": {}}, "malformed"),
        ({"type": ["text"]}, {"type": "text_delta", "text": "x"}, "deltas"),
        ("no block", {"type": "text_delta", "text": "x"}, "deltas"),
    ],
)
def test_a_delta_that_does_not_fit_is_left_over(value: Any, delta: dict[str, Any], leftover: str | None) -> None:
    assert apply_delta(Block(value, is_open=True, budget=Budget()), delta) == leftover


def test_a_block_can_be_built_in_between() -> None:
    block = Block({"type": "tool_use", "input": {}}, is_open=True, budget=Budget())
    apply_delta(block, {"type": "input_json_delta", "partial_json": '{"a": '})
    assert (block.build(), block.raw) == ({"type": "tool_use", "input": {}}, '{"a": ')
    apply_delta(block, {"type": "input_json_delta", "partial_json": "1}"})
    assert (block.build(), block.raw) == ({"type": "tool_use", "input": {"a": 1}}, None)
