"""What a provider module tells the rest of sidestream about one LLM API.

A provider is sans-IO: bytes in, facts out. The data plane asks it for names (which headers hold the key, what an error
looks like); the trace plane gives it the two bodies of an exchange and gets messages back. Nothing a client or a
provider sent may make it raise.
"""

from __future__ import annotations

from typing import Any, Protocol

import msgspec


class Understood(msgspec.Struct, kw_only=True):
    """One exchange, read: trace messages and the provider's own facts, verbatim.

    `message_complete` says that the answer is whole, whatever became of the transport. `error` is the provider's error
    object where it sent one (an HTTP error body, or an error event in mid-stream). `extras` keeps what no rule knew:
    unknown events, blocks and deltas.
    """

    messages: list[dict[str, Any]]
    message_complete: bool = False
    id: str | None = None
    model: str | None = None
    stop_reason: str | None = None
    usage: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    extras: dict[str, Any] = msgspec.field(default_factory=dict)


class Provider(Protocol):
    """One LLM API."""

    @property
    def name(self) -> str:
        """Its name in routes and in YAML: ``anthropic``."""

    @property
    def missing_credential(self) -> str:
        """What a client is told that sent no provider key where one is needed."""

    def error_body(self, status: int, message: str) -> bytes:
        """An error of the gateway's own in the provider's shape, as JSON."""

    def traces(self, method: str, path: str) -> bool:
        """Whether an exchange with this path (no query) can be read into a trace."""

    def needs_credential(self, method: str, path: str) -> bool:
        """Whether the gateway itself refuses such a call without a provider key."""

    def understand(self, *, request: bytes, response: bytes, content_type: str, status: int | None) -> Understood:
        """Read an exchange; both bodies decoded, possibly cut anywhere. Never raises."""
