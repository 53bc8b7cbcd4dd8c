"""One exchange with the Messages API, read: request and answer in, trace messages and facts out."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sidestream.providers import sse
from sidestream.providers.anthropic import recalling
from sidestream.providers.anthropic.assembler import Assembled, Assembler
from sidestream.providers.anthropic.converter import Conversion
from sidestream.providers.anthropic.errors import read_error
from sidestream.providers.anthropic.parameters import parameters_of
from sidestream.providers.anthropic.rendering import blocks, kind_of
from sidestream.providers.base import Understood
from sidestream.providers.cut_json import parse_cut
from sidestream.providers.extras import Extras
from sidestream.providers.jsons import MOST_VALUES, UNREADABLE, clean, is_flat, parse_clean, values_in

if TYPE_CHECKING:
    from collections.abc import Iterator

_NOTHING: Final = Assembled(message=None, complete=False, error=None, raw_inputs={}, extras={})
_PIECE: Final = 256 << 10
"""Bytes of a stream whose events exist at the same time."""
_MOST_TEXTS: Final = 64
"""Of one exchange, by which others may be known."""
_DEEPEST_TEXT: Final = 4
"""Containers around a text that a tool call passes on."""
_DELTA: Final = b"event: content_block_delta\ndata: "
_FIELDS: Final = (b"event:", b"data:", b"id:", b"retry:", b":")


def understand(*, request: bytes, response: bytes, content_type: str, status: int | None) -> Understood:
    """Read an exchange; both bodies decoded, possibly cut anywhere. Never raises."""
    asked, conversion, trouble, is_clean = _read_request(request)
    answered = _read_answer(response, content_type, failed=status is not None and status >= 400)
    message = answered.message
    if message is not None:
        conversion.add_answer(message, answered.raw_inputs)
    tools = asked.get("tools")
    parameters, had_room = parameters_of(asked)
    extras = dict(answered.extras)
    if trouble:
        extras["request"] = trouble
    if conversion.unknown:
        extras["unknown_blocks"] = conversion.unknown
    if not had_room:
        extras["parameters"] = "too_large"
    facts = message or {}
    is_clean = is_clean and is_flat(message, recalling.MOST_NESTED)
    return Understood(
        clean=is_clean,
        digests=conversion.digests if is_clean else [],
        system=conversion.system,
        asked=conversion.asked,
        answer=conversion.answer,
        previous=_previous(asked),
        tools=tools if isinstance(tools, list) else [],
        parameters=parameters,
        openings=_openings(asked.get("messages")),
        arguments=_arguments(facts.get("content")),
        message_complete=answered.complete,
        id=_text(facts.get("id")),
        model=_text(facts.get("model")) or _text(asked.get("model")),
        stop_reason=_text(facts.get("stop_reason")),
        usage=_object(facts.get("usage")),
        error=answered.error,
        extras=extras,
    )


def _previous(request: dict[str, Any]) -> str | None:
    """The answer whose thread the request continues: it has then only what is new."""
    thread = request.get("thread")
    return (_text(thread.get("previous_message_id")) or None) if isinstance(thread, dict) else None


def _openings(history: Any) -> list[str]:
    """The texts of the first message, if it is a user's: each block's, and, where there are several, all joined."""
    first = history[0] if isinstance(history, list) and history else None
    if not isinstance(first, dict) or first.get("role") != "user":
        return []
    found = [block.get("text") for block in blocks(first.get("content")) if kind_of(block) == "text"]
    texts = [text for text in found if isinstance(text, str) and text]
    return texts if len(texts) <= 1 else [*texts[: _MOST_TEXTS - 1], "\n".join(texts)]


def _arguments(content: Any) -> list[str]:
    """The texts in the inputs of the answer's calls of the client's tools, the outermost first."""
    inputs = [block.get("input") for block in blocks(content) if kind_of(block) == "tool_use"]
    texts: list[str] = []
    todo = deque((each, 0) for each in inputs)
    while todo and len(texts) < _MOST_TEXTS:
        value, depth = todo.popleft()
        if isinstance(value, str):
            texts.append(value)
        elif isinstance(value, dict | list) and depth < _DEEPEST_TEXT:
            todo.extend((item, depth + 1) for item in (value.values() if isinstance(value, dict) else value))
    return texts


class _Request(NamedTuple):
    fields: dict[str, Any]
    conversion: Conversion
    trouble: str | None
    """Where it is not simply an object, a word why."""
    clean: bool
    """Whether what the conversion shows is certain to be as `clean` leaves it."""


def _read_request(body: bytes) -> _Request:
    try:
        return _Request(*recalling.read(body), None, clean=True)
    except recalling.UnusualError:
        fields, trouble = _read_object(body)
        conversion = Conversion()
        conversion.add_request(fields)
        return _Request(fields, conversion, trouble, clean=False)


def _read_object(body: bytes) -> tuple[dict[str, Any], str | None]:
    """A body's JSON object and, where it is not simply that, a word why: ``empty, cut, too_complex, unreadable``."""
    if not body:
        return {}, "empty"
    if values_in(body) > MOST_VALUES:
        return {}, "too_complex"
    value, trouble = parse_clean(body), None
    if value is UNREADABLE:
        value, trouble = clean(parse_cut(body.decode("utf-8-sig", "replace"), keep_strings=True)), "cut"
    return (value, trouble) if isinstance(value, dict) else ({}, "unreadable")


def _read_answer(body: bytes, content_type: str, *, failed: bool) -> Assembled:
    if not body:
        return _NOTHING
    if _is_stream(body, content_type):
        told = assemble(body)
        return Assembled(
            message=None if failed else clean(told.message),
            complete=told.complete and not failed,
            error=clean(told.error),
            raw_inputs=told.raw_inputs,
            extras=clean(told.extras),
        )
    value, trouble = _read_object(body)
    if failed or value.get("type") == "error":
        return _read_error(value, body)
    if "content" not in value and value.get("type") != "message":
        trouble = trouble or "no_message"
        return Assembled(message=None, complete=False, error=None, raw_inputs={}, extras={"response": trouble})
    extras = {"response": trouble} if trouble else {}
    return Assembled(message=value, complete=not trouble, error=None, raw_inputs={}, extras=extras)


def _read_error(value: dict[str, Any], body: bytes) -> Assembled:
    extras = Extras()
    if value.keys() > {"type", "error"}:
        extras.keep("errors", value, len(body))
    error = read_error(value or UNREADABLE, body.decode("utf-8", "replace"))
    return Assembled(message=None, complete=False, error=error, raw_inputs={}, extras=extras.facts())


def assemble(body: bytes) -> Assembled:
    """The message that a whole stream tells. Most of its events are short and alike, and never become `sse.Event`s."""
    decoder, assembler = sse.Decoder(), Assembler()
    for part in _parts(body, assembler):
        for event in decoder.feed(part):
            assembler.feed(event)
    assembler.finish(decoder.finish())
    return assembler.result()


def _parts(body: bytes, assembler: Assembler) -> Iterator[bytes]:
    """What the decoder is to read of a stream: all but the usual frames, which the assembler takes as they are."""
    end = sse.plain_until(body)
    if end:
        yield b"\n"  # what follows is not the beginning of the stream
    for frame in sse.frames(body, end, _PIECE):
        if not (frame.startswith(_DELTA) and assembler.append(frame[len(_DELTA) :])):
            yield frame + sse.BLANK
    for start in range(end, len(body), _PIECE):
        yield body[start : start + _PIECE]


def _is_stream(body: bytes, content_type: str) -> bool:
    """Whether an answer is an event stream: by its first bytes where these say it, otherwise by its content type."""
    start = body[:64].removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith(b"{"):
        return False
    return start.startswith(_FIELDS) or content_type.strip().lower().startswith("text/event-stream")


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _object(value: Any) -> dict[str, Any] | None:
    return value if isinstance(value, dict) else None
