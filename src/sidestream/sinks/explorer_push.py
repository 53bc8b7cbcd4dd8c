"""Turns as Explorer can take them: what it would stumble over is changed, in the pushed copy only."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

from sidestream.sinks.base import encoded
from sidestream.traces.model import Unit

if TYPE_CHECKING:
    from sidestream.traces.model import Message, Turn

_RESERVED_METADATA = frozenset({"tool_calls", "uploader"})
_SHOWN_FACTS = (
    *("model", "usage", "stop_reason", "message_complete", "outcome", "started_at", "duration", "time_to_first_byte"),
    *("tokens_per_second", "cost", "changed", "request_id", "error", "transport_error"),
)
_LARGEST_FACT = 2048
"""Bytes of JSON."""
# Explorer blanks a text with one of these words in it, and decodes one that begins with "base64_img: " as an image. A
# zero-width space between the halves keeps the text readable and the words from being recognised.
_ZERO_WIDTH_SPACE = "\u200b"
_SEAMS = re.compile(
    r"(?<=local)(?=_img_link)|(?<=s3)(?=_img_link)|(?<=local_base64)(?=_img)|(?<=\Abase64)(?=_img: )",
)
_IN_ALL_SEAMS = "_img"
_INLINE_IMAGE = re.compile(r"data:image/[^;,]+;base64,")


def push_body(turn: Turn, mark: dict[str, Any], unit: Unit) -> bytes:
    """The request body for a new trace. `mark` is added to what its metadata says of sidestream."""
    metadata = {f"{key}_" if key in _RESERVED_METADATA else key: value for key, value in turn.metadata.items()}
    ours = metadata.get("sidestream")
    metadata["sidestream"] = (
        (ours if isinstance(ours, dict) else {}) | (_place(turn) if unit is Unit.TRACE else {}) | mark
    )
    if turn.title:
        metadata["name"] = turn.title
    if turn.origin is not None:
        metadata["hierarchy_path"] = turn.origin.path
    rest = msgspec.json.encode({"dataset": turn.dataset, "metadata": [metadata]})[1:]
    return b"".join((b'{"messages":[', _messages(turn, unit), b"],", rest))


def append_body(turn: Turn) -> bytes:
    """The request body for what is put behind a trace."""
    return b"".join((b'{"messages":', _messages(turn, Unit.TRACE), b"}"))


def _messages(turn: Turn, unit: Unit) -> bytes:
    """The messages; where traces grow, the last one says which turn it ends, and what is known of that."""
    messages = turn.messages
    if unit is Unit.TRACE and messages:
        mark = {"exchange": turn.id, "turn": turn.number, "rule": turn.rule}
        before = messages[-1].get("metadata")
        facts = (before if isinstance(before, dict) else {}) | _facts(turn) | {"sidestream": mark}
        messages = [*messages[:-1], {**messages[-1], "metadata": facts}]
    return encoded(messages, _json)


def _place(turn: Turn) -> dict[str, Any]:
    """Where a trace begins."""
    place: dict[str, Any] = {"trace": turn.trace, "turn": turn.number, "rule": turn.rule}
    if turn.origin is not None:
        place["origin"] = msgspec.structs.asdict(turn.origin)
    return place


def _facts(turn: Turn) -> dict[str, Any]:
    """What is worth a look at each turn, and small."""
    facts = {key: turn.metadata[key] for key in _SHOWN_FACTS if turn.metadata.get(key) is not None}
    if len(msgspec.json.encode(facts)) <= _LARGEST_FACT:  # as nearly always
        return facts
    return {key: fact for key, fact in facts.items() if len(msgspec.json.encode(fact)) <= _LARGEST_FACT}


def _json(message: Message) -> bytes:
    """A message as Explorer can take it. Few have to be searched for words to be broken: JSON escapes none of these."""
    data = msgspec.json.encode(_message(message))
    return msgspec.json.encode(_message(_with_seams(message))) if _IN_ALL_SEAMS.encode() in data else data


def _message(message: Message) -> Message:
    changes: Message = {}
    if isinstance(message.get("content"), list):
        changes["content"] = [_part(part) for part in message["content"]]
    if "tool_calls" in message:
        changes["tool_calls"] = [_tool_call(call) for call in message["tool_calls"] or []]
    return message | changes if changes else message


def _with_seams(value: Any) -> Any:
    """A copy of a JSON value in which no text, as a key neither, says a word that Explorer acts on."""
    if isinstance(value, str):
        return _SEAMS.sub(_ZERO_WIDTH_SPACE, value) if _IN_ALL_SEAMS in value else value
    if isinstance(value, list):
        return [_with_seams(item) for item in value]
    if isinstance(value, dict):
        return {_with_seams(key): _with_seams(item) for key, item in value.items()}
    return value


def _part(part: Any) -> Any:
    """A part of a content list; an image that is not inline fails the whole push, so it becomes a text."""
    if not isinstance(part, dict) or part.get("type") != "image_url":
        return part
    image = part.get("image_url")
    url = image.get("url") if isinstance(image, dict) else None
    if isinstance(url, str) and _INLINE_IMAGE.match(url):
        return part
    return {"type": "text", "text": "[image that is not inline]"}


def _tool_call(call: dict[str, Any]) -> dict[str, Any]:
    """A tool call whose function has a name and whose arguments are an object, as Explorer insists."""
    function = call.get("function")
    if not isinstance(function, dict):
        function = {} if function is None else {"arguments": function}
    arguments = function.get("arguments", {})
    if not isinstance(arguments, dict):
        arguments = {"_raw": arguments}
    return {**call, "function": {"name": "unknown", **function, "arguments": arguments}}
