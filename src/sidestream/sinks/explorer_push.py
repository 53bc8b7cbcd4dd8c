"""A trace as Explorer can take it: what it would stumble over is changed, in the pushed copy only."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

from sidestream.sinks.base import encoded

if TYPE_CHECKING:
    from sidestream.traces.model import Message, Trace

_RESERVED_METADATA = frozenset({"tool_calls", "uploader"})
# Explorer blanks a text with one of these words in it, and decodes one that begins with "base64_img: " as an image. A
# zero-width space between the halves keeps the text readable and the words from being recognised.
_ZERO_WIDTH_SPACE = "\u200b"
_SEAMS = re.compile(
    r"(?<=local)(?=_img_link)|(?<=s3)(?=_img_link)|(?<=local_base64)(?=_img)|(?<=\Abase64)(?=_img: )",
)
_IN_ALL_SEAMS = "_img"
_INLINE_IMAGE = re.compile(r"data:image/[^;,]+;base64,")


def push_body(trace: Trace, mark: dict[str, Any]) -> bytes:
    """The request body for one trace, as Explorer can take it."""
    metadata = {f"{key}_" if key in _RESERVED_METADATA else key: value for key, value in trace.metadata.items()}
    ours = metadata.get("sidestream")
    metadata["sidestream"] = {**ours, **mark} if isinstance(ours, dict) else mark
    messages = encoded(map(_message, trace.messages))
    rest = msgspec.json.encode({"dataset": trace.dataset, "metadata": [metadata]})[1:]
    return b"".join((b'{"messages":[', messages, b"],", rest))


def _message(message: Message) -> Message:
    copy: Message = _with_seams(message)
    if isinstance(copy.get("content"), list):
        copy["content"] = [_part(part) for part in copy["content"]]
    if "tool_calls" in copy:
        copy["tool_calls"] = [_tool_call(call) for call in copy["tool_calls"] or []]
    return copy


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
