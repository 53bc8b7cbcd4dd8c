"""Whatever is said: no habit of clients changes what it is known by, and each change to what is said does."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

from hypothesis import given, settings
from hypothesis import strategies as st

from sidestream.providers.anthropic.identity import known_by

if TYPE_CHECKING:
    from collections.abc import Callable

Json = dict[str, Any]


def text(words: str) -> Json:
    return {"type": "text", "text": words}


WORDS = st.text(st.sampled_from("ab é😀\n"), max_size=8).filter(lambda words: words.strip() == words != "")
NUMBERS = st.integers(-(10**20), 10**20) | st.floats(-1e6, 1e6)
VALUES = st.recursive(
    st.booleans() | NUMBERS | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=8,
)
TEXT = st.builds(text, WORDS)
PICTURE = st.builds(
    lambda data: {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}, WORDS
)
CALLS = st.builds(
    lambda words, value: {"type": "tool_use", "id": words, "name": "run", "input": {"value": value}}, WORDS, VALUES
)
RESULTS = st.builds(
    lambda words, content, error: {"type": "tool_result", "tool_use_id": words, "content": content} | error,
    WORDS,
    st.lists(TEXT | PICTURE, max_size=2) | WORDS,
    st.sampled_from([{}, {"is_error": True}]),
)
OTHERS = st.builds(lambda value: {"type": "hologram", "value": value}, VALUES)
MESSAGES = st.tuples(st.just("user"), st.lists(TEXT | PICTURE | RESULTS | OTHERS, min_size=1, max_size=4)) | st.tuples(
    st.just("assistant"), st.lists(TEXT | CALLS | OTHERS, min_size=1, max_size=4)
)


def _walk(value: Any, do: Callable[[Json], None]) -> None:
    """Do something to every object."""
    if isinstance(value, dict):
        do(value)
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else []:
        _walk(item, do)


def _reversed_keys(content: list[Json], _: str) -> None:
    def turn(value: Json) -> None:
        items = list(value.items())
        value.clear()
        value.update(reversed(items))

    _walk(content, turn)


def _null_fields(content: list[Json], _: str) -> None:
    _walk(content, lambda value: value.setdefault("zzz", None))


def _marks(content: list[Json], _: str) -> None:
    for block in content:
        block.update(cache_control={"type": "ephemeral"}, citations=[], caller={"type": "direct"}, index=3)


def _white_space(content: list[Json], role: str) -> None:
    for block in content:
        if block["type"] == "text":
            block["text"] = " " + (block["text"].replace("\n", " \n") if role == "assistant" else block["text"]) + "\n"


def _empty_texts(content: list[Json], _: str) -> None:
    content[1:1] = [text(" ")]


def _texts_as_strings(content: list[Any], _: str) -> None:
    content[:] = [block["text"] if block["type"] == "text" else block for block in content]


def _results_in_full(content: list[Json], _: str) -> None:
    for block in content:
        if isinstance(block.get("content"), str):
            block["content"] = [text(block["content"])]


def _thinking(content: list[Json], role: str) -> None:
    if role == "assistant":
        content[:0] = [{"type": "thinking", "thinking": "hm"}, {"type": "server_tool_use", "id": "a", "input": {}}]


def _texts_first(content: list[Json], role: str) -> None:
    if role == "assistant":
        content.sort(key=lambda block: block["type"] != "text")


def _split_texts(content: list[Json], role: str) -> None:
    if role == "assistant":
        halves = [[text(block["text"][:1]), text(block["text"][1:])] for block in content if block["type"] == "text"]
        content[:] = [*(half for pair in halves for half in pair), *(b for b in content if b["type"] != "text")]


HABITS = [
    _null_fields,
    _white_space,
    _results_in_full,
    _thinking,
    _texts_first,
    _split_texts,
    _marks,
    _empty_texts,
    _reversed_keys,
    _texts_as_strings,
]


@settings(max_examples=150)
@given(message=MESSAGES, habits=st.sets(st.sampled_from(HABITS)))
def test_no_habit_of_clients_changes_what_a_message_is_known_by(
    message: tuple[str, list[Json]], habits: set[Callable[[list[Json], str], None]]
) -> None:
    role, content = message
    changed = copy.deepcopy(content)
    for habit in filter(habits.__contains__, HABITS):
        habit(changed, role)
    assert known_by(role, content) == known_by(role, json.loads(json.dumps(changed)))


def _changes(value: Any) -> list[Callable[[], None]]:
    """For each word, number and switch in a message what changes it."""
    items = list(value.items() if isinstance(value, dict) else enumerate(value))
    changes: list[Callable[[], None]] = []
    for key, item in items:
        if isinstance(item, dict | list):
            changes.extend(_changes(item))
        elif key != "media_type":
            other = not item if isinstance(item, bool) else f"{item}." if isinstance(item, str) else f"{item}"
            changes.append(lambda key=key, other=other: value.__setitem__(key, other))  # type: ignore[misc]
    return changes


@settings(max_examples=150)
@given(message=MESSAGES, data=st.data())
def test_each_change_to_what_is_said_makes_another_message(
    message: tuple[str, list[Json]], data: st.DataObject
) -> None:
    role, content = message
    changed = copy.deepcopy(content)
    data.draw(st.sampled_from(_changes(changed)))()
    assert known_by(role, content) != known_by(role, changed)
