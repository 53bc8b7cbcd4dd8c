"""One content block of a stream, and what each kind of delta does to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from sidestream.providers.cut_json import parse_cut
from sidestream.providers.jsons import UNREADABLE, Budget, clean_text, parse

if TYPE_CHECKING:
    from collections.abc import Callable

TOOL_USES: Final = frozenset({"tool_use", "server_tool_use", "mcp_tool_use"})


class Piece(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A delta that may append text, as it was sent: of any type, and with values of any."""

    type: Any
    text: Any = None
    thinking: Any = None
    partial_json: Any = None


class Block:
    """A content block in the making: what it began with, and the pieces that came since.

    `raw` is the text of a tool's arguments where it is not whole JSON; `build` sets it.
    """

    __slots__ = ("_budget", "kind", "open", "pieces", "raw", "value")

    def __init__(self, value: Any, *, is_open: bool, budget: Budget) -> None:
        self.value = value
        kind = value.get("type") if isinstance(value, dict) else None
        self.kind = kind if isinstance(kind, str) else ""
        self.open = is_open
        self.pieces: list[str] = []
        self.raw: str | None = None
        self._budget = budget

    def build(self) -> Any:
        """The block as it stands. Pieces are joined and arguments parsed here, once."""
        if not self.pieces:
            return self.value
        text = clean_text("".join(self.pieces))
        self.pieces = [text]
        if self.kind not in TOOL_USES:
            return self.value | {self.kind: text}
        # Nothing but empty deltas means no arguments: what the block began with stands.
        return self.value | {"input": self._input(text)} if text.strip() else self.value

    def _input(self, text: str) -> Any:
        if not self._budget.allows(text):
            self.raw = text
            return {"_raw": text}
        value = parse(text)
        self.raw = text if value is UNREADABLE else None
        if self.raw is None:
            return value
        value = parse_cut(text)
        return {"_raw": text} if value is UNREADABLE else value


def apply_delta(block: Block, delta: dict[str, Any]) -> str | None:
    """Apply a delta to its block; say among which extras to keep it if that cannot be done."""
    kind = delta.get("type")
    rule = _RULES.get(kind) if isinstance(kind, str) else None
    if rule is None:
        return "deltas"
    kinds, apply = rule
    if block.kind not in kinds:
        return "deltas"
    return None if apply(block, delta) else "malformed"


def append_piece(block: Block, piece: Piece) -> bool:
    """What `apply_delta` does with such a delta, if it appends text to the block; False, and nothing, otherwise."""
    kind = piece.type
    if kind == "text_delta":
        text, fits, begins = piece.text, block.kind == "text", True
    elif kind == "input_json_delta":
        text, fits, begins = piece.partial_json, block.kind in TOOL_USES, False
    elif kind == "thinking_delta":
        text, fits, begins = piece.thinking, block.kind == "thinking", True
    else:
        return False
    if not fits or type(text) is not str:
        return False
    if begins and not block.pieces:
        first = block.value.get(block.kind)
        block.pieces.append(first if isinstance(first, str) else "")
    block.pieces.append(text)
    return True


def _append(field: str) -> Callable[[Block, dict[str, Any]], bool]:
    def apply(block: Block, delta: dict[str, Any]) -> bool:
        piece = delta.get(field)
        if not isinstance(piece, str):
            return False
        if not block.pieces and field != "partial_json":
            first = block.value.get(field)
            block.pieces.append(first if isinstance(first, str) else "")
        block.pieces.append(piece)
        return True

    return apply


def _replace(*fields: str) -> Callable[[Block, dict[str, Any]], bool]:
    def apply(block: Block, delta: dict[str, Any]) -> bool:
        for field in fields:
            block.value[field] = delta.get(field)
        return True

    return apply


def _cite(block: Block, delta: dict[str, Any]) -> bool:
    citations = block.value.get("citations") or []
    if not isinstance(citations, list):
        return False
    citations.append(delta.get("citation"))
    block.value["citations"] = citations
    return True


_RULES: Final[dict[str, tuple[frozenset[str], Callable[[Block, dict[str, Any]], bool]]]] = {
    "text_delta": (frozenset({"text"}), _append("text")),
    "thinking_delta": (frozenset({"thinking"}), _append("thinking")),
    "input_json_delta": (TOOL_USES, _append("partial_json")),
    "citations_delta": (frozenset({"text"}), _cite),
    "signature_delta": (frozenset({"thinking"}), _replace("signature")),
    "compaction_delta": (frozenset({"compaction"}), _replace("content", "encrypted_content")),
}
