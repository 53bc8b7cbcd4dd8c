"""What of a message can be found."""

from __future__ import annotations

from typing import Any

import pytest

from sidestream.traces.searchable import LONGEST, searchable


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"role": "user", "content": "Hello"}, "Hello"),
        ([{"role": "system", "content": "Be brief."}], "Be brief."),
        ({"role": "thinking", "content": "Hm", "signature": "c2ln"}, "Hm"),
        ({"role": "tool", "tool_call_id": "t1", "tool_name": "look", "content": "found"}, "look\nfound"),
        (
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "See"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                ],
            },
            "See",
        ),
        (
            {
                "role": "assistant",
                "content": "",
                "metadata": {"model": "claude"},
                "tool_calls": [
                    {"function": {"name": "look", "arguments": {"a": [1, 2.5, {"b": "c"}], "d": None, "e": True}}},
                    {"function": {"name": "run", "arguments": {"_raw": "{"}}},
                ],
            },
            "look\na\n1\n2.5\nb\nc\nd\ne\nrun\n_raw\n{",
        ),
    ],
)
def test_text_names_and_arguments_in_order(content: Any, expected: str) -> None:
    assert expected == searchable(content)


@pytest.mark.parametrize(
    "content",
    [
        [{"name": "look", "description": "Look something up.", "input_schema": {}}],
        [],
        {},
        {"content": "x"},
        {"role": 1, "content": "x"},
        [{"role": "system", "content": "x"}, "y"],
        "text",
        7,
        None,
        {"role": "user"},
        {"role": "user", "content": [1, {"text": 2}, None], "tool_calls": [1, {"function": 2}], "tool_name": 3},
        {"role": "user", "content": {"text": "x"}, "tool_calls": "x"},
    ],
)
def test_what_is_no_message_has_no_words(content: Any) -> None:
    assert "" == searchable(content)


def test_arguments_may_be_as_deep_as_they_like() -> None:
    deep: Any = "end"
    for _ in range(100_000):
        deep = [deep]
    message = {"role": "assistant", "tool_calls": [{"function": {"name": "look", "arguments": {"x": deep}}}]}
    assert "look\nx\nend" == searchable(message)


def test_only_so_much_of_a_message_can_be_found() -> None:
    assert LONGEST == len(searchable({"role": "user", "content": "x " * LONGEST}))
