"""What a message is known by when a client sends it back: the form in which all its possible forms are the same.

Clients and SDKs change messages on their way from an answer into the next request: they move cache marks, write null
fields or leave them out, join and split texts, drop thinking and what the provider's own tools did. All of that is left
out here, or brought to one form. What remains is what was said, asked of tools, and shown; a word of it changed makes
another message. Whether two messages mean the same to a model is not known here, nor what becomes of the result.

It takes cleaned JSON of any shape; nothing in it raises, and work is linear in the message.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any, Final

import msgspec

from sidestream.providers.anthropic.rendering import Json, blocks, kind_of, string
from sidestream.providers.digests import dense

if TYPE_CHECKING:
    from collections.abc import Callable

_SIZE: Final = 16
_MARKS: Final = frozenset({"cache_control", "caller", "citations", "index"})
"""Fields of blocks that say nothing of their content."""
_NO_TEXT: Final = frozenset({"", "(nocontent)"})
"""Texts of assistants that mean none; the other is what Claude Code puts in place of an answer without content."""
_OF_THE_PROVIDER: Final = frozenset(
    {"server_tool_use", "mcp_tool_use", "mcp_tool_listing", "container_upload", "fallback"}
)
_REMINDERS: Final = re.compile(r"(?:<system-reminder>(?>.*?</system-reminder>)\s*+)++", re.DOTALL)
"""A text of nothing else is what a coding agent puts beside its user's words, and moves or leaves out the next time."""
_EXACT: Final = 2**53
"""From here on not every integer is a float, and JavaScript clients round them."""

_encode = msgspec.json.Encoder(order="sorted").encode


def known_by(role: str, content: Any) -> tuple[str, tuple[bytes, ...]]:
    """The `text` and the `units` of a `sidestream.providers.base.Said` with this role and content."""
    if role != "assistant":
        return "", tuple(unit for block in blocks(content) if (unit := _unit(block)) is not None)
    texts: list[str] = []
    units: list[bytes] = []
    for block in blocks(content):
        kind = kind_of(block)
        if kind == "text":
            text = dense(string(block.get("text")))
            if text not in _NO_TEXT:
                texts.append(text)
        elif not _is_of_the_provider(kind) and (unit := _unit(block)) is not None:
            units.append(unit)
    return "".join(texts), tuple(units)


def outline_of(role: str, content: Any) -> tuple[bytes, ...] | None:
    """The `outline` of such a `Said`; None where it is as its `units`."""
    found = blocks(content)
    if role == "assistant" or all(kind_of(block) != "tool_result" for block in found):
        return None
    units = (_result_of(block) if kind_of(block) == "tool_result" else _unit(block) for block in found)
    return tuple(unit for unit in units if unit is not None)


def compaction_of(content: Any) -> bytes:
    """The `compaction` of a `sidestream.providers.base.Said`: what the last such block is known by; b"" without one."""
    found = [block for block in blocks(content) if kind_of(block) == "compaction"]
    return _compaction(found[-1]) if found and _compacted(found[-1]) else b""


def _is_of_the_provider(kind: str) -> bool:
    """Whether such a block tells what the provider itself did; many clients do not send it back."""
    return kind in _OF_THE_PROVIDER or kind.endswith("_tool_result")


def _digest(*parts: str | bytes) -> bytes:
    hashed = hashlib.blake2b(digest_size=_SIZE)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        hashed.update(b"%d:" % len(data))
        hashed.update(data)
    return hashed.digest()


def _unit(block: Json) -> bytes | None:
    """The digest of a block; None if it does not count."""
    return _UNITS.get(kind_of(block), _unknown)(block)


def _text(block: Json) -> bytes | None:
    text = string(block.get("text")).strip()
    return _digest("text", text) if text and not _REMINDERS.fullmatch(text) else None


def _tool_use(block: Json) -> bytes:
    arguments = block.get("input")
    canonical = _canonical({} if arguments is None else arguments)
    return _digest("tool_use", string(block.get("id")), string(block.get("name")), canonical)


def _tool_result(block: Json) -> bytes:
    error = "error" if block.get("is_error") is True else ""
    return _digest("tool_result", string(block.get("tool_use_id")), error, *_inner(block.get("content")))


def _result_of(block: Json) -> bytes:
    """Which call a result is of."""
    return _digest("result of", string(block.get("tool_use_id")))


def _inner(content: Any) -> list[bytes]:
    """The units of the content of a block; tool calls and results mean nothing there."""
    found = (_INNER.get(kind_of(block), _unknown)(block) for block in blocks(content))
    return [unit for unit in found if unit is not None]


def _image(block: Json) -> bytes:
    source = block.get("source")
    return _digest("image", *_origin(source)) if isinstance(source, dict) else _unknown(block)


def _document(block: Json) -> bytes:
    source = block.get("source")
    if not isinstance(source, dict):
        return _unknown(block)
    title, context = (string(block.get(key)).strip() for key in ("title", "context"))
    inner = _inner(source.get("content")) if source.get("type") == "content" else _origin(source)
    return _digest("document", title, context, *inner)


def _origin(source: Json) -> list[str | bytes]:
    """Where the bytes of an image or a document are, or what they are."""
    for key in ("data", "url", "file_id"):
        value = source.get(key)
        if isinstance(value, str):
            return [string(source.get("type")), key, value.strip()]
    return [_canonical(source, _MARKS)]


def _compaction(block: Json) -> bytes:
    return _digest("compaction", _compacted(block))


def _compacted(block: Json) -> str:
    """What a history was made into; "" where that has failed."""
    return string(block.get("content")).strip() or string(block.get("encrypted_content"))


def _unknown(block: Json) -> bytes:
    return _digest("block", _canonical(block, _MARKS))


def _canonical(value: Any, without: frozenset[str] = frozenset()) -> bytes:
    """JSON text that is the same for all ways to write a value: fields that are null, or named here, are left out."""
    return _encode(_bare(value, without))


def _bare(value: Any, without: frozenset[str]) -> Any:
    kind = type(value)
    if kind is dict:
        return {key: _bare(item, without) for key, item in value.items() if item is not None and key not in without}
    if kind is list:
        return [_bare(item, without) for item in value]
    return _number(value) if kind is int or kind is float else value


def _number(value: float) -> float | str:
    """1.0 as 1, and what is too large for exact floats as a float."""
    if -_EXACT < value < _EXACT:
        return int(value) if value == int(value) else value
    try:
        return float(value)
    except OverflowError:  # an integer of more than 300 digits
        return hex(int(value))


_INNER: Final[dict[str, Callable[[Json], bytes | None]]] = {"text": _text, "image": _image, "document": _document}
_UNITS: Final[dict[str, Callable[[Json], bytes | None]]] = {
    "text": _text,
    "image": _image,
    "document": _document,
    "compaction": _compaction,
    "tool_use": _tool_use,
    "tool_result": _tool_result,
    "thinking": lambda _: None,
    "redacted_thinking": lambda _: None,
}
