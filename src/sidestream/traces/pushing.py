"""What was not captured here, as turns: messages that somebody pushed over Explorer's API, or that come from a file.

Another sidestream says in the metadata of what it pushes what it knows of each exchange (`sidestream.sinks.explorer`).
That is taken for this turn's facts, as far as each has the shape it should have; what else there is in the metadata is
kept beside them, under ``metadata``. So nothing is lost, and nobody who reads facts has to expect anything of them.

Messages and metadata are anybody's: they are cleaned here (`sidestream.providers.jsons.clean`). Pure.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from sidestream.providers.base import Said
from sidestream.providers.jsons import UNREADABLE, clean, parse
from sidestream.traces.conversation import Call
from sidestream.traces.model import Message, Reading, title_of
from sidestream.traces.states import scope_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PROVIDER: Final = "pushed"
"""In the place of a provider's name, where nobody knows which it was."""
SNIPPETS: Final = "pushed"
"""The dataset of what names none."""
_NUMBER: Final = (int, float)
_SHAPES: Final[Mapping[str, type | tuple[type, ...]]] = {
    "model": str,
    "usage": dict,
    "stop_reason": str,
    "message_complete": bool,
    "outcome": str,
    "exchange": str,
    "provider": str,
    "status": int,
    "time_to_first_byte": _NUMBER,
    "duration": _NUMBER,
    "started_at": str,
    "via_gateway": bool,
    "request_id": str,
    "parameters": dict,
    "tools": dict,
    "system": dict,
    "cache": dict,
    "tokens_per_second": _NUMBER,
    "cost": dict,
    "changed": list,
    "request_complete": bool,
    "end_verifiable": bool,
    "exact": bool,
    "truncated": list,
    "undecoded": dict,
    "error": dict,
    "transport_error": str,
    "extras": dict,
    "sidestream": dict,
}
"""The facts of a turn (`sidestream.traces.understanding.understand`), and what a sidestream says of itself."""
_OURS: Final = "metadata"
_ANSWERING: Final = frozenset({"assistant", "thinking"})
_MOST: Final = 1e9
"""Seconds, statuses and rates beyond this are made up."""
_LATEST: Final = 32503680000.0  # the year 3000


class PushedTurn(msgspec.Struct, frozen=True, kw_only=True):
    """A turn that was not captured here. Everything in it is cleaned."""

    dataset: str
    messages: list[Message]
    """What it adds, at least one; without the system prompt."""
    facts: dict[str, Any]
    id: str | None = None
    """What it was called where it comes from; None for a new name."""
    trace: str | None = None
    """The run it is put behind. With an `id`, it may be the same, for one that begins a run, or one that is not there:
    then the run is begun."""
    system: list[Message] = []
    """The system prompt, as messages; empty for that of the turn before."""
    answered: int = 0
    """How many of the last of `messages` are the answer."""
    started_at: float | None = None
    """Unix time; None where nobody says."""
    ended_at: float | None = None


def pushed(
    dataset: str, messages: Sequence[Message], metadata: Mapping[str, Any], *, trace: str | None = None
) -> PushedTurn:
    """The turn that messages become, with what is said about all of them; `trace` is the run that they are put behind.

    What the last message says of its turn counts, too.
    """
    cleaned: list[Message] = [_with_objects(message) for message in clean(list(messages))]
    told = cleaned[-1].get("metadata")
    beside: dict[str, Any] = clean(dict(metadata))
    facts = {**(sound(told)[0] if isinstance(told, dict) else {}), **facts_of(beside)}
    system = _leading_system(cleaned) if trace is None else 0
    if system == len(cleaned):
        system = 0
    started = moment(facts.get("started_at")) or moment(cleaned[0].get("timestamp"))
    return PushedTurn(
        dataset=dataset,
        messages=cleaned[system:],
        facts=facts,
        trace=trace,
        system=cleaned[:system],
        answered=answer_of(cleaned[system:], facts),
        started_at=started,
        ended_at=moment(cleaned[-1].get("timestamp")),
    )


def fault_of(messages: Any) -> str | None:
    """Why a parsed value cannot be the messages of a trace, in words that follow on its name; None if it can be."""
    if not isinstance(messages, list) or not messages:
        return " must be a non-empty list of messages"
    for place, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str) or not message["role"]:
            return f"[{place}] must be an object with a role"
        calls = message.get("tool_calls")
        if calls is not None and not (isinstance(calls, list) and all(map(_is_call, calls))):
            return f"[{place}].tool_calls must be a list of functions with arguments"
    return None


def facts_of(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Cleaned metadata as facts: those that have the right shape, and, under ``metadata``, the rest."""
    facts, rest = sound(metadata)
    return facts | ({_OURS: rest} if rest else {})


def metadata_of(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The reverse of `facts_of`."""
    rest = facts.get(_OURS)
    return {key: fact for key, fact in facts.items() if key != _OURS} | (rest if isinstance(rest, dict) else {})


def sound(metadata: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The facts among cleaned metadata, and what is none."""
    facts: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for key, value in metadata.items():
        (facts if _is_sound(key, value) else rest)[key] = value
    return facts, rest


def moment(value: Any) -> float | None:
    """Unix time of an ISO 8601 text (UTC, if it does not say), or of a number of seconds; None for anything else."""
    if isinstance(value, str):
        try:
            then = datetime.fromisoformat(value)
            seconds = (then if then.tzinfo else then.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            return None
    elif type(value) in _NUMBER:
        seconds = value
    else:
        return None
    return float(seconds) if 0 < seconds < _LATEST else None


def answer_of(messages: Sequence[Message], facts: Mapping[str, Any]) -> int:
    """How many of the last messages are the answer, as far as their roles tell.

    Where nothing is known of a call, these are all from the first that a model said.
    """
    told = [_is_answers(message) for message in messages]
    if "message_complete" not in facts:
        return len(told) - told.index(True) if True in told else 0
    return next((number for number, answers in enumerate(reversed(told)) if not answers), len(told))


def reading_of(turn: PushedTurn, identity: str, started_at: float) -> Reading:
    """What is stored of it, as if it had been read from a capture. Nothing is ever placed by it."""
    duration = turn.facts.get("duration")
    ended = turn.ended_at if duration is None else started_at + duration
    asked = turn.messages[: len(turn.messages) - turn.answered]
    answered = turn.answered > 0 or "message_complete" not in turn.facts
    about = {"outcome": "completed", "message_complete": True, "started_at": _iso(started_at), "via_gateway": False}
    facts = about | turn.facts
    return Reading(
        id=identity,
        dataset=turn.dataset,
        system=turn.system,
        asked=[Said(role=str(message.get("role")), shown=[message]) for message in asked],
        answer=Said(role="assistant", shown=turn.messages[len(asked) :]) if answered else None,
        tools=[],
        metadata=facts,
        call=Call(
            scope=scope_of(turn.dataset, PROVIDER, ""),
            started_at=started_at,
            ended_at=max(started_at, ended or started_at),
            states=(),
            leaving=None,
            answered=answered,
            complete=facts["message_complete"] is True,
            digests=(),
            texts=(),
            roles=(),
        ),
    )


def name_of(facts: Mapping[str, Any]) -> str:
    """What whoever pushed it calls the trace; "" for nothing."""
    name = metadata_of(facts).get("name")
    return title_of([{"role": "user", "content": name}]) if isinstance(name, str) else ""


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat()


def _is_answers(message: Message) -> bool:
    """Whether a model, or a tool that its provider runs, said this."""
    about = message.get("metadata")
    server = isinstance(about, dict) and "server" in about
    return message.get("role") in _ANSWERING or (message.get("role") == "tool" and server)


def _leading_system(messages: Sequence[Message]) -> int:
    return next((place for place, each in enumerate(messages) if each.get("role") != "system"), len(messages))


def _is_sound(key: str, value: Any) -> bool:
    shape = _SHAPES.get(key)
    if shape is None:
        return False
    if value is None:
        return True
    if not isinstance(value, shape) or (isinstance(value, bool) and shape is not bool):
        return False
    return not isinstance(value, _NUMBER) or (math.isfinite(value) and 0 <= value < _MOST)


def _is_call(call: Any) -> bool:
    function = call.get("function") if isinstance(call, dict) else None
    return isinstance(function, dict) and isinstance(function.get("arguments"), dict | str)


def _with_objects(message: Message) -> Message:
    """The message with the arguments of its tool calls as objects; where they are text, that is what it says."""
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return message
    return {**message, "tool_calls": [_with_object(call) for call in calls]}


def _with_object(call: Any) -> Any:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(arguments := function.get("arguments"), str):
        return call
    read = parse(arguments)
    read = {"_raw": arguments} if read is UNREADABLE or not isinstance(read, dict) else clean(read)
    return {**call, "function": {**function, "arguments": read}}
