"""What a provider module tells the rest of sidestream about one LLM API.

A provider is sans-IO: bytes in, facts out. The data plane asks it for names (which headers hold the key, what an error
looks like); the trace plane gives it the two bodies of an exchange and gets messages back. Nothing a client or a
provider sent may make it raise.
"""

from __future__ import annotations

from typing import Any, Protocol

import msgspec


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """One message of a request, or an answer: as a trace shows it, and what it is known by when a client sends it back.

    `text` and `units` leave out all that clients and SDKs are known to change on the way: two messages that mean the
    same have the same, in whatever form they were sent. Messages of one role that follow one another are one, so the
    `text` of both is what the joined message has, and so are the `units`.
    """

    role: str
    shown: list[dict[str, Any]]
    """Trace messages; at least one."""
    text: str = ""
    """What an assistant said, without any white space; "" for the other roles, whose text is among the units."""
    units: tuple[bytes, ...] = ()
    """A digest of each block that counts, in order; of an assistant's, those that are not text."""
    outline: tuple[bytes, ...] | None = None
    """The `units` without what clients clear from old messages: the results of tools. None where it is the same."""
    compaction: bytes = b""
    """If it holds what the provider has made of the history before it: a digest of that."""


class Understood(msgspec.Struct, kw_only=True):
    """One exchange, read: what was said, and the provider's own facts, verbatim.

    Messages and tools may be shared with other exchanges in which they are the same, so nobody changes them.

    `message_complete` says that the answer is whole, whatever became of the transport. `error` is the provider's error
    object where it sent one (an HTTP error body, or an error event in mid-stream). `extras` keeps what no rule knew:
    unknown events, blocks and deltas.
    """

    system: list[dict[str, Any]] = msgspec.field(default_factory=list)
    """The system prompt as trace messages: one, or none."""
    asked: list[Said] = msgspec.field(default_factory=list)
    answer: Said | None = None
    previous: str | None = None
    """The id of the answer that the request goes on from, where the provider keeps the history."""
    tools: list[Any] = msgspec.field(default_factory=list)
    """Their definitions, as the client sent them."""
    parameters: dict[str, Any] = msgspec.field(default_factory=dict)
    """The request's other fields, without any that may hold a credential."""
    openings: list[str] = msgspec.field(default_factory=list)
    """The texts of the first message, if it is a user's: each block's, and, where there are several, all joined."""
    arguments: list[str] = msgspec.field(default_factory=list)
    """Texts that the answer's tool calls pass on: what a sub-agent may be asked."""
    message_complete: bool = False
    id: str | None = None
    model: str | None = None
    stop_reason: str | None = None
    usage: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    extras: dict[str, Any] = msgspec.field(default_factory=dict)
    clean: bool = False
    """Whether messages and tools are certain to be as `sidestream.providers.jsons.clean` would leave them."""
    digests: list[bytes] = msgspec.field(default_factory=list)
    """Of each message of the request by itself (`sidestream.providers.digests.digest_of`), where that is known."""

    @property
    def messages(self) -> list[dict[str, Any]]:
        """All of it as trace messages: system, history and answer."""
        said = [*self.asked, *([self.answer] if self.answer is not None else [])]
        return [*self.system, *(message for each in said for message in each.shown)]


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
