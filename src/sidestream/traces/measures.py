"""What lists, totals and charts need to know of a turn: a few words and numbers, taken from its facts and messages.

Facts are those of `sidestream.traces.understanding.understand`, messages those of `sidestream.traces.model`, of
whatever shape: both may come from somebody else. What is not as it should be counts as not known.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

import msgspec

from sidestream.store.shapes import Tokens, TurnState

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sidestream.traces.model import Message

NANO: Final = 1_000_000_000
"""Parts of a US dollar in which costs are kept, so that sums are exact."""
CALL: Final = 8
"""Bytes of what stands for the id of a tool call."""
_LONGEST_NAME: Final = 200
_MOST: Final = 1 << 40
"""Tokens or seconds beyond which a number is not counted but made up."""
_DEAREST: Final = 10_000
"""The same in US dollars. The sums of a million turns fit into 64 bits."""
_STATUSES: Final = range(1000)
_ERROR: Final = 400
"""The first HTTP status that is one."""
_LEFT: Final = "client_disconnected"
_REFUSAL: Final = "refusal"
_FAILED: Final = " (error)"
"""What the name of a tool ends with in a message that brings an error."""


class Measure(msgspec.Struct, frozen=True, kw_only=True):
    """A turn in words and numbers. What is None is not known, or there is none."""

    state: TurnState
    status: int | None
    model: str | None
    stop_reason: str | None
    first_byte: float | None
    """Seconds."""
    rate: float | None
    """Tokens per second."""
    tokens: Tokens
    cost: int | None
    """In billionths of a US dollar (`NANO`)."""


class ToolCall(msgspec.Struct, frozen=True):
    """A tool that an answer calls."""

    name: str
    call: bytes
    """Stands for the id of the call."""


class ToolResult(msgspec.Struct, frozen=True):
    """What a tool has answered."""

    name: str
    """As the message says it; "" where it does not."""
    call: bytes
    failed: bool


def measure(facts: Mapping[str, Any], *, answered: bool) -> Measure:
    """The measure of a turn; `answered` says whether there is an answer, whole or not."""
    usage = _mapping(facts.get("usage"))
    stop_reason = _name(facts.get("stop_reason"))
    status = facts.get("status")
    status = status if type(status) is int and status in _STATUSES else None
    return Measure(
        state=state_of(
            answered=answered and not (status is not None and status >= _ERROR and facts.get("error")),
            complete=facts.get("message_complete") is True,
            refused=stop_reason == _REFUSAL,
            left=facts.get("outcome") == _LEFT and (status is None or status < _ERROR),
        ),
        status=status,
        model=_name(facts.get("model")),
        stop_reason=stop_reason,
        first_byte=_number(facts.get("time_to_first_byte")),
        rate=_number(facts.get("tokens_per_second")),
        tokens=Tokens(
            input=_count(usage.get("input_tokens")),
            output=_count(usage.get("output_tokens")),
            cache_read=_count(usage.get("cache_read_input_tokens")),
            cache_written=_count(usage.get("cache_creation_input_tokens")),
        ),
        cost=_nanodollars(_mapping(facts.get("cost")).get("usd")),
    )


def state_of(*, answered: bool, complete: bool, refused: bool, left: bool) -> TurnState:
    """How a turn stands whose exchange is over; `left` says whether the client did not wait for the end of it."""
    if not answered:
        return TurnState.ABANDONED if left else TurnState.FAILED
    if complete:
        return TurnState.REFUSED if refused else TurnState.ANSWERED
    return TurnState.ABANDONED if left else TurnState.CUT


def tool_calls(messages: Iterable[Message]) -> list[ToolCall]:
    """The tools that these messages call, in order; those that the provider runs by itself, too."""
    found = []
    for message in messages:
        calls = message.get("tool_calls")
        for call in calls if isinstance(calls, list) else []:
            function = _mapping(_mapping(call).get("function"))
            found.append(ToolCall(_name(function.get("name")) or "", _digest(_mapping(call).get("id"))))
    return found


def tool_results(messages: Iterable[Message]) -> list[ToolResult]:
    """What these messages bring back from tools, in order."""
    found = []
    for message in messages:
        if message.get("role") != "tool":
            continue
        name, failed = _name(message.get("tool_name")) or "", _mapping(message.get("metadata")).get("is_error") is True
        name = name.removesuffix(_FAILED) if failed else name
        found.append(ToolResult(name, _digest(message.get("tool_call_id")), failed))
    return found


def _name(value: Any) -> str | None:
    """A word of somebody else's, short and without anything that cannot be printed; None for none."""
    if not isinstance(value, str) or not value:
        return None
    short = value if len(value) <= _LONGEST_NAME else f"{value[: _LONGEST_NAME - 1]}…"
    if short.isprintable():
        return short
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in short)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: Any) -> float | None:
    if type(value) not in {int, float} or not 0 <= value <= _MOST:  # NaN is not, either
        return None
    return float(value)


def _count(value: Any) -> int:
    return value if type(value) is int and 0 <= value <= _MOST else 0


def _nanodollars(value: Any) -> int | None:
    dollars = _number(value)
    return round(dollars * NANO) if dollars is not None and dollars <= _DEAREST else None


def _digest(identity: Any) -> bytes:
    text = identity if isinstance(identity, str) else ""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=CALL).digest()
