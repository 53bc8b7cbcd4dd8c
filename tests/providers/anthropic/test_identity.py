"""A message is known again in every form that a client may send it back in, and no other message is taken for it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from effort import effort
from sidestream.providers.anthropic.identity import compaction_of, known_by, outline_of

Json = dict[str, Any]

CALL = {"type": "tool_use", "id": "toolu_1", "name": "run", "input": {"command": "ls", "times": 1}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "done"}
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw=="}}
DOCUMENT = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "All of it."}}
SEARCH = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "a"}}
FOUND = {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []}
MARK = {"cache_control": {"type": "ephemeral"}}


def text(words: Any, **more: Any) -> Json:
    return {"type": "text", "text": words, **more}


def source(**of: Any) -> Json:
    return {"type": "image", "source": of}


ALIKE: list[tuple[str, Any, Any]] = [
    ("user", "Hi", [text("Hi")]),
    ("user", "Hi", text("Hi")),
    ("user", "Hi", ["Hi"]),
    ("user", "Hi", " \n Hi\t"),
    ("user", [text("Hi")], [text("Hi", **MARK)]),
    ("user", [text("Hi")], [{"text": "Hi", "cache_control": None, "citations": None, "type": "text"}]),
    ("user", [text("Hi")], [text(" "), text("Hi"), text("")]),
    ("user", "", []),
    ("user", None, []),
    ("user", 5, "5"),
    ("user", [RESULT], [RESULT | MARK | {"is_error": False}]),
    ("user", [RESULT], [RESULT | {"content": [text("done ", **MARK)], "is_error": None}]),
    ("user", [RESULT | {"content": ""}], [{"type": "tool_result", "tool_use_id": "toolu_1"}]),
    ("user", [RESULT | {"content": []}], [RESULT | {"content": None}]),
    ("user", [RESULT | {"content": [IMAGE]}], [RESULT | {"content": [IMAGE | MARK]}]),
    (
        "user",
        [RESULT | {"content": [DOCUMENT]}],
        [RESULT | {"content": [DOCUMENT | {"title": "", "source": {"type": "text", "data": "All of it."}}]}],
    ),
    (
        "user",
        [RESULT | {"content": [IMAGE]}],
        [RESULT | {"content": [source(type="base64", media_type="image/webp", data="iVBORw==")]}],
    ),
    ("user", [IMAGE], [source(type="base64", media_type="image/webp", data="iVBORw==") | MARK]),
    ("user", [source(type="url", url="u")], [source(type="url", url="u", media_type=None)]),
    ("user", [DOCUMENT], [DOCUMENT | {"title": None, "context": "", "citations": {"enabled": True}}]),
    (
        "user",
        [DOCUMENT | {"source": {"type": "content", "content": "a"}}],
        [DOCUMENT | {"source": {"type": "content", "content": [text("a", **MARK)]}}],
    ),
    ("user", [DOCUMENT], [DOCUMENT | {"source": {"type": "text", "media_type": None, "data": "All of it.\n"}}]),
    ("user", [{"type": "hologram", "a": 1, "b": None}], [{"a": 1.0, "type": "hologram", **MARK}]),
    ("user", [{"a": {"b": []}}], [{"a": {"b": [], "c": None}}]),
    ("assistant", "One. Two.", [text("One."), text(" Two.")]),
    ("assistant", "One. Two.", [text("One. ", citations=[{"url": "u"}]), text(""), text("Two.\n")]),
    ("assistant", "One.\nTwo.", "One.\u00a0Two."),
    ("assistant", [text("One."), CALL, text("Two.")], [text("One.\n\nTwo."), CALL]),
    ("assistant", [text("One."), CALL], [CALL, text("One.")]),
    ("assistant", [CALL], [text("(no content)"), CALL]),
    ("assistant", [], "(no content)"),
    ("assistant", [CALL], [CALL | MARK | {"caller": {"type": "direct"}, "index": 1, "extra": None}]),
    ("assistant", [CALL], [CALL | {"input": {"times": 1.0, "command": "ls", "cwd": None}}]),
    ("assistant", [CALL | {"input": {}}], [{"type": "tool_use", "id": "toolu_1", "name": "run"}]),
    ("assistant", [CALL | {"input": {"n": 2**60 + 1}}], [CALL | {"input": {"n": 2.0**60}}]),
    ("assistant", [CALL | {"input": {"n": -0.0}}], [CALL | {"input": {"n": 0}}]),
    ("assistant", "Hi", [{"type": "thinking", "thinking": "hm", "signature": "s"}, text("Hi")]),
    ("assistant", "Hi", [{"type": "redacted_thinking", "data": "x"}, text("Hi")]),
    ("assistant", "Hi", [SEARCH, FOUND, text("Hi")]),
    (
        "assistant",
        "Hi",
        [
            SEARCH | {"type": "mcp_tool_use", "server_name": "wiki"},
            FOUND | {"type": "mcp_tool_result"},
            {"type": "mcp_tool_listing", "tools": []},
            {"type": "container_upload", "file_id": "file_1"},
            {"type": "fallback", "from": {"model": "a"}, "to": {"model": "b"}},
            text("Hi"),
        ],
    ),
    (
        "assistant",
        [{"type": "compaction", "content": "All.", "encrypted_content": None}],
        [{"type": "compaction", "content": "All.\n", **MARK}],
    ),
]

DIFFERENT: list[tuple[str, Any, Any]] = [
    ("user", "Hi", "Ho"),
    ("user", "a b", "ab"),
    ("user", "a b", [text("a"), text("b")]),
    ("user", [text("a"), text("b")], [text("b"), text("a")]),
    ("user", [text("a"), RESULT], [RESULT, text("a")]),
    ("user", "Hi", [text("Hi"), IMAGE]),
    ("user", [IMAGE], [source(type="base64", media_type="image/png", data="iVBORx==")]),
    ("user", [IMAGE], [IMAGE | {"type": "document"}]),
    ("user", [source(type="url", url="a")], [source(type="file", file_id="a")]),
    ("user", [source(type="url", url="a")], [source(type="url", url="b")]),
    ("user", [source(type="hologram", a=1)], [source(type="hologram", a=2)]),
    ("user", [{"type": "image", "source": "a"}], [{"type": "image", "source": "b"}]),
    ("user", [{"type": "document", "source": None}], [{"type": "document", "source": 5}]),
    ("user", [DOCUMENT], [DOCUMENT | {"source": {"type": "text", "data": "Some of it."}}]),
    ("user", [DOCUMENT], [DOCUMENT | {"title": "T"}]),
    (
        "user",
        [DOCUMENT | {"source": {"type": "content", "content": "a"}}],
        [DOCUMENT | {"source": {"type": "content", "content": [text("a"), IMAGE]}}],
    ),
    ("user", [RESULT], [RESULT | {"content": "failed"}]),
    ("user", [RESULT], [RESULT | {"is_error": True}]),
    ("user", [RESULT], [RESULT | {"tool_use_id": "toolu_2"}]),
    ("user", [RESULT], [RESULT | {"content": [text("done"), IMAGE]}]),
    ("user", [RESULT], "done"),
    ("user", [{"type": "hologram", "a": 1}], [{"type": "hologram", "a": 2}]),
    ("user", [{"type": "hologram"}], [{"type": "telegram"}]),
    ("user", [FOUND], []),
    ("user", [{"type": "container_upload", "file_id": "a"}], [{"type": "container_upload", "file_id": "b"}]),
    ("assistant", "Hi", "Ho"),
    ("assistant", [CALL], [CALL | {"name": "stop"}]),
    ("assistant", [CALL], [CALL | {"id": "toolu_2"}]),
    ("assistant", [CALL], [CALL | {"id": "toolu_1r", "name": "un"}]),
    ("assistant", [CALL], [CALL | {"input": {"command": "ls ", "times": 1}}]),
    ("assistant", [CALL], [CALL | {"input": {"command": "ls", "times": "1"}}]),
    ("assistant", [CALL | {"input": {"a": True}}], [CALL | {"input": {"a": 1}}]),
    ("assistant", [CALL | {"input": {"a": [1, None]}}], [CALL | {"input": {"a": [None, 1]}}]),
    ("assistant", [CALL | {"input": {"a": 10**400}}], [CALL | {"input": {"a": 10**400 + 1}}]),
    ("assistant", [CALL | {"input": MARK}], [CALL | {"input": {}}]),
    ("assistant", [CALL, CALL | {"id": "toolu_2"}], [CALL | {"id": "toolu_2"}, CALL]),
    ("assistant", [CALL], [CALL, CALL]),
    ("assistant", [{"type": "compaction", "content": "a"}], [{"type": "compaction", "content": "b"}]),
    (
        "assistant",
        [{"type": "compaction", "content": None, "encrypted_content": "a"}],
        [{"type": "compaction", "content": None, "encrypted_content": "b"}],
    ),
]


@pytest.mark.parametrize(("role", "one", "other"), ALIKE)
def test_forms_of_one_message_are_known_by_the_same(role: str, one: Any, other: Any) -> None:
    assert known_by(role, one) == known_by(role, other)


@pytest.mark.parametrize(("role", "one", "other"), DIFFERENT)
def test_another_message_is_known_by_something_else(role: str, one: Any, other: Any) -> None:
    assert known_by(role, one) != known_by(role, other)


def test_an_assistants_text_is_told_apart_from_its_units() -> None:
    said, units = known_by("assistant", [text("Let me\u2003see.\n"), CALL, text(" Done.")])
    assert ("Letmesee.Done.", [16]) == (said, [len(unit) for unit in units])


@pytest.mark.parametrize("role", ["user", "system", "tool", ""])
def test_all_that_others_say_is_in_units(role: str) -> None:
    said, units = known_by(role, [text("one"), text("two"), RESULT])
    assert ("", 3) == (said, len(units))


def test_a_compaction_is_known_by_what_came_of_it() -> None:
    made = {"type": "compaction", "content": "All.", "encrypted_content": "a"}
    fed_back = [{"type": "compaction", "content": "All.\n", **MARK}, text("Hi")]
    assert 16 == len(compaction_of([made]))
    assert compaction_of([made]) == compaction_of(fed_back)
    assert compaction_of([made]) == compaction_of([made | {"content": "Much."}, made])
    assert compaction_of([made]) != compaction_of([made | {"content": "Much."}])
    assert compaction_of([made]) != compaction_of([made | {"content": None}])


@pytest.mark.parametrize("content", ["All.", None, [text("All.")], [{"type": "compaction", "content": None}]])
def test_where_nothing_was_compacted_there_is_no_compaction(content: Any) -> None:
    assert b"" == compaction_of(content)


@given(words=st.text(st.characters(exclude_categories=["Cs"])))
def test_of_an_assistants_text_only_white_space_is_left_out(words: str) -> None:
    assume("".join(words.split()) != "(nocontent)")
    assert "".join(words.split()) == known_by("assistant", words)[0]


@pytest.mark.parametrize("role", ["user", "assistant"])
def test_a_message_twice_as_long_is_twice_the_work(role: str) -> None:
    nested: Any = "x"
    for _ in range(60):
        nested = {"type": "tool_result", "content": [nested], "a": {"b": [nested]} if nested == "x" else None}
    once = [text("word " * 100), CALL, RESULT, nested] * 100
    assert effort(lambda: known_by(role, once * 2)) < 2.1 * effort(lambda: known_by(role, once))


def test_reminders_of_a_coding_agent_are_none_of_its_users_words() -> None:
    reminder = text("<system-reminder>Be good.</system-reminder>\n<system-reminder>Now.</system-reminder>\n")
    assert known_by("user", [text("one")]) == known_by("user", [reminder, text("one")])
    assert known_by("user", [text("one")]) != known_by("user", [text(f"{reminder['text']} two"), text("one")])


def test_an_outline_is_the_same_whatever_a_tool_has_answered() -> None:
    cleared = RESULT | {"content": "[cleared]", "is_error": True}
    assert outline_of("user", [text("one"), RESULT]) == outline_of("user", [text("one"), cleared])
    assert outline_of("user", [text("one"), RESULT]) != outline_of("user", [text("two"), RESULT])
    assert outline_of("user", [RESULT]) != outline_of("user", [RESULT | {"tool_use_id": "another"}])


@pytest.mark.parametrize(("role", "content"), [("assistant", [CALL]), ("user", "Hello"), ("user", [text("one")])])
def test_most_messages_are_their_own_outline(role: str, content: Any) -> None:
    assert outline_of(role, content) is None
