"""The events of one Messages stream, put together into the message that they tell.

The message equals the one that the official SDK's beta client accumulates, wherever that client accumulates one, null
fields apart. Where it would raise, the assembler keeps what there is and goes on. What the SDK ignores (unknown events
and deltas, deltas that do not fit their block, frames without an event name) does not touch the message either; it goes
to the extras.

Work is linear in the stream. The pieces of a block are joined, and a tool's arguments parsed, once, when the message is
asked for; the SDK parses them again at every delta.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

import msgspec

from sidestream.providers.anthropic.blocks import Block, Piece, append_piece, apply_delta
from sidestream.providers.anthropic.errors import read_error
from sidestream.providers.extras import Extras
from sidestream.providers.jsons import UNREADABLE, Budget, parse

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidestream.providers.sse import Event


class _Append(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """By far the most events there are: the next piece of a text. The fields are checked when they are used."""

    type: Any
    index: Any
    delta: Piece


_decode_append = msgspec.json.Decoder(_Append).decode
_STOP_FIELDS: Final = ("stop_reason", "stop_sequence", "stop_details")
_CUMULATIVE: Final = (
    "input_tokens",
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
    "server_tool_use",
    "output_tokens_details",
    "iterations",
    "fallback_credit",
)
"""Counts that a `message_delta` overwrites unless it has them null. The other usage fields are final at the start."""


_TEXT_DELTAS: Final = ("text_delta", "thinking_delta", "input_json_delta", "signature_delta")
_USUAL_EVENT: Final = 1024
"""Characters; a longer event is counted against the values that one answer may hold before it is parsed."""


class Assembled(msgspec.Struct, frozen=True, kw_only=True):
    """What a stream told.

    `message` is None when it never began. `raw_inputs` has, by the block's place in the content, the text of tool
    arguments that are not whole JSON; the message shows of them what the SDK shows: what could be read, or ``{"_raw":
    text}`` where it would have raised. `complete` says that nothing is missing from the message: ``message_stop`` came,
    or a stop reason did in a ``message_delta`` after every block had been closed (SDKs do without ``message_stop``),
    and no error before it.
    """

    message: dict[str, Any] | None
    complete: bool
    error: dict[str, Any] | None
    raw_inputs: dict[int, str]
    extras: dict[str, Any]


class Assembler:
    """One stream: `feed` it every event, `finish` it, then ask for the `result`. Whatever it holds, nothing raises."""

    def __init__(self) -> None:
        self._message: dict[str, Any] | None = None
        self._blocks: list[Block] = []
        self._error: dict[str, Any] | None = None
        self._broken_off = False
        self._stopped = False
        self._reasoned = False
        self._extras = Extras()
        self._budget = Budget()

    def feed(self, event: Event) -> None:
        """Take one event."""
        if event.name == "ping" or (not event.data and event.name != "error"):
            return
        large = len(event.data) > _USUAL_EVENT
        if large and not self._has_room(event.data):
            return
        data = parse(event.data)
        kind = data.get("type") if isinstance(data, dict) else None
        if not large and not _only_text(data) and not self._has_room(event.data):
            return
        leftover = self._apply(event, kind, data)
        if leftover:
            self._extras.keep(leftover, event.data if data is UNREADABLE else data, len(event.data))

    def append(self, data: bytes) -> bool:
        """Take the data of an event named ``content_block_delta``. False: it is not as usual, and has to be fed."""
        if len(data) > _USUAL_EVENT or self._broken_off or b"\n" in data:
            return False
        try:
            told = _decode_append(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return False
        index = told.index
        if told.type != "content_block_delta" or type(index) is not int or not 0 <= index < len(self._blocks):
            return False
        return append_piece(self._blocks[index], told.delta)

    def finish(self, event: Event | None) -> None:
        """End the stream; `event` is the one it left unterminated, if it did.

        No client acts on such an event, so it does not touch the message. It is believed where it only tells how the
        stream ended.
        """
        if event is None:
            return
        data = parse(event.data)
        kind = data.get("type") if isinstance(data, dict) else None
        if kind in ("error", "message_stop"):
            self.feed(event)
        else:
            self._extras.keep("unterminated", event.data if data is UNREADABLE else data, len(event.data))

    def result(self) -> Assembled:
        """What has been told so far. May be asked for again after more events."""
        message, raw_inputs = None, {}
        if self._message is not None:
            message = dict(self._message)
            if self._blocks:
                message["content"] = [block.build() for block in self._blocks]
            raw_inputs = {place: block.raw for place, block in enumerate(self._blocks) if block.raw is not None}
        whole = self._reasoned and self._error is None and not any(block.open for block in self._blocks)
        return Assembled(
            message=message,
            complete=self._stopped or whole,
            error=self._error,
            raw_inputs=raw_inputs,
            extras=self._extras.facts(),
        )

    def _has_room(self, data: str) -> bool:
        """Whether the values of this event may still be kept; short deltas of text are not even counted."""
        allowed = self._budget.allows(data)
        if not allowed:
            self._extras.keep("too_complex", None, len(data))
        return allowed

    def _apply(self, event: Event, kind: object, data: Any) -> str | None:
        """Apply an event; say among which extras to keep it if it is, or has, something that no rule takes in."""
        if self._broken_off:
            return "after_error"
        if event.name == "error" or kind == "error":
            # Only by its name does a client know an error; it reads on after one that is merely of that type.
            self._broken_off = event.name == "error"
            self._error = read_error(data, event.data)
            return "errors" if isinstance(data, dict) and data.keys() > {"type", "error"} else None
        if event.name is None:
            return "unnamed"
        if not isinstance(data, dict):
            return "malformed"
        rule = self._RULES.get(kind) if isinstance(kind, str) else None
        return rule(self, data) if rule else "events"

    def _start(self, data: dict[str, Any]) -> str | None:
        message = data.get("message")
        if self._message is not None or not isinstance(message, dict):
            return "malformed"
        self._message = message
        content = message.get("content")
        if isinstance(content, list):
            self._blocks = [Block(block, is_open=False, budget=self._budget) for block in content]
        return None

    def _start_block(self, data: dict[str, Any]) -> str | None:
        """Append a block: its place is the next one, whatever its `index` says, as in the SDK."""
        value = data.get("content_block")
        if not isinstance(value, dict) or self._message is None:
            return "malformed"
        self._blocks.append(Block(value, is_open=True, budget=self._budget))
        to = value.get("to")
        if value.get("type") == "fallback" and isinstance(to, dict):
            # Another model took over; the non-streaming message is labelled with it, too.
            self._message["model"] = to.get("model")
        return None

    def _block(self, data: dict[str, Any]) -> Block | None:
        index = data.get("index")
        return self._blocks[index] if type(index) is int and 0 <= index < len(self._blocks) else None

    def _stop_block(self, data: dict[str, Any]) -> str | None:
        block = self._block(data)
        if block is None:
            return "malformed"
        block.open = False
        return None

    def _delta(self, data: dict[str, Any]) -> str | None:
        block, delta = self._block(data), data.get("delta")
        if block is None or not isinstance(delta, dict):
            return "malformed"
        return apply_delta(block, delta)

    def _stop(self, _: dict[str, Any]) -> str | None:
        self._stopped = self._message is not None
        return None if self._stopped else "malformed"

    def _message_delta(self, data: dict[str, Any]) -> str | None:
        message, delta, usage = self._message, data.get("delta"), data.get("usage")
        if message is None or not isinstance(delta, dict):
            return "malformed"
        for key in _STOP_FIELDS:
            message[key] = delta.get(key)
        self._reasoned = message["stop_reason"] is not None
        kept = {"container": delta.get("container")}
        kept |= {key: data.get(key) for key in ("context_management", "input_transformations")}
        message |= {key: value for key, value in kept.items() if value is not None}
        if not isinstance(usage, dict):
            return "malformed"
        known = message.get("usage")
        counts = dict(known) if isinstance(known, dict) else {}
        counts["output_tokens"] = usage.get("output_tokens")
        counts |= {key: usage[key] for key in _CUMULATIVE if usage.get(key) is not None}
        message["usage"] = counts
        taken_in = (
            delta.keys() <= {*_STOP_FIELDS, "container"}
            and data.keys() <= {"type", "delta", "usage", "context_management", "input_transformations"}
            and _holds(counts, usage)
        )
        return None if taken_in else "events"

    _RULES: ClassVar[dict[str, Callable[[Assembler, dict[str, Any]], str | None]]] = {
        "message_start": _start,
        "content_block_start": _start_block,
        "content_block_delta": _delta,
        "content_block_stop": _stop_block,
        "message_delta": _message_delta,
        "message_stop": _stop,
        "ping": lambda *_: None,
    }


def _holds(counts: dict[str, Any], usage: dict[str, Any]) -> bool:
    """Whether everything that `usage` says can be seen in `counts`."""
    try:
        return all(value is None or counts.get(key) == value for key, value in usage.items())
    except RecursionError:  # nested nearly as deep as a parser takes
        return False


def _only_text(data: Any) -> bool:
    """Whether an event is a delta that appends text, and adds no value of its own."""
    delta = data.get("delta") if isinstance(data, dict) and data.get("type") == "content_block_delta" else None
    return isinstance(delta, dict) and delta.get("type") in _TEXT_DELTAS
