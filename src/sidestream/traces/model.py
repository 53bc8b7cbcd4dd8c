"""What an exchange becomes: a reading of it, and, placed in its conversation, the turn that sinks deliver.

A message is a JSON object of the shapes an Invariant Explorer displays: ``{"role", "content"}`` with ``tool_calls`` on
assistant messages, ``tool_call_id`` and ``tool_name`` on tool messages, and free ``metadata``.
"""

from __future__ import annotations

import enum
import re
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sidestream.providers.base import Said
    from sidestream.traces.conversation import Call

Message = dict[str, Any]

_LONGEST_TITLE = 80
_LOOKED_AT = 100_000
_REMINDER = re.compile(r"<system-reminder>.*?(?:</system-reminder>|\Z)", re.DOTALL)
"""What coding agents put in front of their user's words."""


class Unit(enum.StrEnum):
    """What a sink delivers at a time."""

    TURN = "turn"
    """What each call added to its conversation."""
    TRACE = "trace"
    """The same, to a destination where conversations grow: each turn is put behind the one before, in order."""
    EXCHANGE = "exchange"
    """Each call by itself, with all of the history that it sent along."""


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """One exchange, understood, before anything is known of others."""

    id: str
    """The exchange's id."""
    dataset: str
    system: list[Message]
    asked: list[Said]
    answer: Said | None
    tools: list[Any]
    """The definitions of tools that the call offered."""
    metadata: dict[str, Any]
    """Facts about it (`sidestream.traces.understanding.understand`)."""
    call: Call
    """What it is placed in its conversation by."""
    weight: int = 0
    """About how many bytes of memory it takes; rather more, for parts of it may be shared with other readings."""

    def turn(self) -> Turn:
        """The exchange by itself, with all of its history."""
        said = [*self.asked, *([self.answer] if self.answer is not None else [])]
        messages = [*self.system, *(message for each in said for message in each.shown)]
        return Turn(
            id=self.id,
            dataset=self.dataset,
            messages=messages,
            metadata=self.metadata,
            trace=self.id,
            weight=self.weight,
        )


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """Where a trace that is not by itself began: it left, or was called from, a turn of another."""

    kind: str
    """``branch`` or ``child``."""
    trace: str
    turn: str
    """That turn's exchange id."""
    number: int
    """That turn's place in its trace."""
    path: list[str]
    """The titles of the traces above this one, the outermost first."""


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """What one exchange added to its conversation: what sinks deliver."""

    id: str
    """The exchange's id."""
    dataset: str
    messages: list[Message]
    """What is new: of a conversation's first turn all of it, of later ones the new messages and the answer."""
    metadata: dict[str, Any]
    """Facts about the exchange (`sidestream.traces.understanding.understand`)."""
    trace: str
    """The conversation it belongs to: the id of the exchange that began it."""
    number: int = 1
    """Its place among the turns of that trace, from 1."""
    rule: str = "first"
    """By which rule it was placed there (`sidestream.traces.conversation.Rule`)."""
    title: str = ""
    """A name for the trace: how its first message begins."""
    origin: Origin | None = None
    """Where the trace left another one, or was called from."""
    remote: str | None = None
    """For `Unit.TRACE`: what the destination calls the trace that this is to be appended to; None for a new one."""
    weight: int = 0
    """About how many bytes of memory its messages and its metadata take; 0 where nobody has counted."""
    told_until: int = 0
    """For `Unit.TRACE`: the time of the last of `messages`, in microseconds since 1970. Each has a ``timestamp``."""


def title_of(messages: Iterable[Message]) -> str:
    """A name for what begins with these messages: the first words of its user, in one line; "" if there are none."""
    for message in messages:
        if message.get("role") != "user":
            continue
        words = " ".join(_REMINDER.sub(" ", _text(message.get("content"))[:_LOOKED_AT]).split())
        if words:
            return words if len(words) <= _LONGEST_TITLE else f"{words[: _LONGEST_TITLE - 1].rstrip()}…"
    return ""


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    return " ".join(text for text in texts if isinstance(text, str))
