"""The trace: what sinks deliver, and the shape an Explorer shows.

A message is a JSON object of the shapes an Invariant Explorer displays: ``{"role", "content"}`` with ``tool_calls`` on
assistant messages, ``tool_call_id`` and ``tool_name`` on tool messages, and free ``metadata``.
"""

from __future__ import annotations

from typing import Any

import msgspec

Message = dict[str, Any]


class Trace(msgspec.Struct, frozen=True, kw_only=True):
    """One exchange, understood: system, history and answer as messages, and facts about it as metadata."""

    id: str
    """The exchange's id."""
    dataset: str
    messages: list[Message]
    metadata: dict[str, Any]
