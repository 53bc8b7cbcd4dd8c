"""The sessions and agents that coding agents name in their headers.

Each client has its own way. A name that no client would send (overlong, not printable) is not cut into shape: what is
not certain to be the same session would join calls that have nothing to do with each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from sidestream.providers.jsons import parse

if TYPE_CHECKING:
    from collections.abc import Mapping

_LONGEST_NAME: Final = 200
_CODEX: Final = "x-codex-turn-metadata"
_NAMING: Final = frozenset({"x-claude-code-session-id", "x-session-id", _CODEX})
"""One of these has to be there."""


class Session(msgspec.Struct, frozen=True):
    """A client's session, and which of its agents calls; "" for the main one."""

    id: str
    agent: str = ""
    parent: tuple[str, str] | None = None
    """Session and agent that this one works for."""

    @property
    def key(self) -> tuple[str, str]:
        """What calls of the same agent have in common."""
        return self.id, self.agent


def session_of(headers: Mapping[str, str]) -> Session | None:
    """The session that these headers name (lower-case names); None if they name none.

    Claude Code names a session, an agent of it and that agent's parent; an agent without a parent works for the main
    conversation. OpenCode names a session and the one it works for. Codex sends a JSON object with a session, a thread
    of it (the main one has the session's name) and the thread that this one works for.
    """
    if _NAMING.isdisjoint(headers):
        return None
    session = _claude_code(headers) or _opencode(headers) or _codex(headers)
    if session is not None and session.parent == session.key:
        return Session(session.id, session.agent)
    return session


def name_in(value: Any) -> str | None:
    """A name for something, without the space around it; None where this is none: empty, overlong, not printable."""
    name = value.strip() if isinstance(value, str) else ""
    return name if 0 < len(name) <= _LONGEST_NAME and name.isprintable() else None


def _is_unusable(value: Any) -> bool:
    """Whether this names something, but not so that it can be known again."""
    return isinstance(value, str) and bool(value.strip()) and name_in(value) is None


def _claude_code(headers: Mapping[str, str]) -> Session | None:
    called, above = headers.get("x-claude-code-agent-id"), headers.get("x-claude-code-parent-agent-id")
    session, agent, parent = name_in(headers.get("x-claude-code-session-id")), name_in(called), name_in(above)
    if session is None or _is_unusable(called):
        return None
    if agent is None:
        return Session(session)
    return Session(session, agent, None if _is_unusable(above) else (session, parent or ""))


def _opencode(headers: Mapping[str, str]) -> Session | None:
    session = name_in(headers.get("x-session-id"))
    if session is None:
        return None
    parent = name_in(headers.get("x-parent-session-id"))
    return Session(session, "", (parent, "") if parent is not None else None)


def _codex(headers: Mapping[str, str]) -> Session | None:
    told = parse(headers[_CODEX]) if _CODEX in headers else None
    if not isinstance(told, dict):
        return None
    thread = name_in(told.get("thread_id"))
    session = name_in(told.get("session_id")) or thread
    if session is None or _is_unusable(told.get("thread_id")):
        return None
    return Session(session, _thread(session, thread), _codex_parent(told, session))


def _codex_parent(told: Mapping[str, Any], session: str) -> tuple[str, str] | None:
    other = name_in(told.get("parent_session_id"))
    thread = name_in(told.get("parent_thread_id"))
    if thread is None:
        return (other, "") if other is not None else None
    if other is None and name_in(told.get("session_id")) is None:
        return thread, ""  # threads are all that it names
    return other or session, _thread(other or session, thread)


def _thread(session: str, thread: str | None) -> str:
    """The name of an agent: the main thread of a session has the session's name."""
    return thread if thread is not None and thread != session else ""
