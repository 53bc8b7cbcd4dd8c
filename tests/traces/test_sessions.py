"""Sessions, agents and parents, as the headers of coding agents name them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidestream.traces.record import kept_headers
from sidestream.traces.sessions import Session, session_of

CLAUDE = "x-claude-code-session-id"
AGENT = "x-claude-code-agent-id"
PARENT = "x-claude-code-parent-agent-id"
CODEX = "x-codex-turn-metadata"


def codex(**metadata: Any) -> dict[str, str]:
    return {CODEX: json.dumps(metadata)}


@pytest.mark.parametrize(
    ("headers", "session"),
    [
        ({CLAUDE: "s"}, Session("s")),
        ({CLAUDE: "s", AGENT: "a", PARENT: "b"}, Session("s", "a", ("s", "b"))),
        ({CLAUDE: "s", AGENT: "a"}, Session("s", "a", ("s", ""))),
        ({CLAUDE: "s", PARENT: "b"}, Session("s")),
        ({CLAUDE: "s", AGENT: " ", PARENT: ""}, Session("s")),
        ({"x-session-id": "s"}, Session("s")),
        ({"x-session-id": "s", "x-parent-session-id": "t"}, Session("s", "", ("t", ""))),
        (codex(session_id="s"), Session("s")),
        (codex(thread_id="t"), Session("t")),
        (codex(session_id="s", thread_id="s"), Session("s")),
        (codex(session_id="s", thread_id="t"), Session("s", "t")),
        (codex(session_id="s", thread_id="t", parent_thread_id="u"), Session("s", "t", ("s", "u"))),
        (codex(session_id="s", thread_id="t", parent_thread_id="s"), Session("s", "t", ("s", ""))),
        (codex(thread_id="t", parent_thread_id="u"), Session("t", "", ("u", ""))),
        (codex(session_id="s", parent_session_id="r"), Session("s", "", ("r", ""))),
        (codex(session_id="s", parent_session_id="r", parent_thread_id="u"), Session("s", "", ("r", "u"))),
        (codex(session_id=7, thread_id="t"), Session("t")),
    ],
)
def test_each_client_names_its_sessions_in_its_own_way(headers: dict[str, str], session: Session) -> None:
    assert session == session_of(headers)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {AGENT: "a", PARENT: "b"},
        {"x-parent-session-id": "t"},
        {CODEX: ""},
        {CODEX: "no JSON"},
        {CODEX: '["session_id"]'},
        {CODEX: "null"},
        {CODEX: "[" * 5000},
        codex(session_id=7, thread_id=None),
        codex(turn_id="t"),
    ],
)
def test_headers_that_name_no_session_give_none(headers: dict[str, str]) -> None:
    assert session_of(headers) is None


@pytest.mark.parametrize(
    "headers",
    [
        {CLAUDE: "s", AGENT: "a", PARENT: "a"},
        {"x-session-id": "s", "x-parent-session-id": "s"},
        codex(session_id="s", thread_id="t", parent_thread_id="t"),
        codex(session_id="s", parent_session_id="s"),
    ],
)
def test_what_names_itself_as_its_parent_has_none(headers: dict[str, str]) -> None:
    session = session_of(headers)
    assert session is not None
    assert session.parent is None


def test_space_around_a_name_is_no_part_of_it() -> None:
    assert Session("s", "a", ("s", "b")) == session_of({CLAUDE: " s ", AGENT: "\ta", PARENT: "b "})


def test_a_name_may_have_200_characters() -> None:
    assert Session("s" * 200) == session_of({CLAUDE: "s" * 200})


@pytest.mark.parametrize("name", ["s" * 201, "s\0", "s\x7f", "a\nb", "\ud83d", "\u202e", "   "])
def test_what_cannot_be_a_name_names_nothing(name: str) -> None:
    assert session_of({CLAUDE: name}) is None
    assert session_of({"x-session-id": name}) is None
    assert session_of(codex(session_id=name)) is None


@pytest.mark.parametrize("name", ["a" * 201, "a\0"])
def test_an_agent_with_an_unusable_name_is_not_taken_for_the_main_one(name: str) -> None:
    assert session_of({CLAUDE: "s", AGENT: name}) is None
    assert session_of(codex(session_id="s", thread_id=name)) is None


def test_a_parent_with_an_unusable_name_is_not_taken_for_the_main_conversation() -> None:
    assert Session("s", "a") == session_of({CLAUDE: "s", AGENT: "a", PARENT: "b" * 201})


def test_a_record_keeps_the_headers_that_name_sessions() -> None:
    for headers in (
        {"X-Claude-Code-Session-Id": "s", "X-Claude-Code-Agent-Id": "a", "X-Claude-Code-Parent-Agent-Id": "b"},
        {"X-Session-Id": "s", "X-Parent-Session-Id": "t"},
        {"X-Codex-Turn-Metadata": '{"session_id": "s", "thread_id": "t"}'},
    ):
        lower = {name.lower(): value for name, value in headers.items()}
        assert lower == kept_headers(headers)
        assert session_of(lower) is not None


@given(
    st.dictionaries(
        st.sampled_from([CLAUDE, AGENT, PARENT, "x-session-id", "x-parent-session-id", CODEX]),
        st.text()
        | st.dictionaries(
            st.sampled_from(["session_id", "thread_id", "parent_thread_id", "parent_session_id"]),
            st.text() | st.none() | st.integers() | st.lists(st.text()),
        ).map(json.dumps),
    )
)
def test_no_header_makes_it_raise(headers: dict[str, str]) -> None:
    session = session_of(headers)
    assert session is None or (session.id.isprintable() and session.parent != session.key)
