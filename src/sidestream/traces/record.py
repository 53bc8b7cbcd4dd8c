"""One captured exchange as plain bytes and facts: what the data plane hands to the trace plane.

It holds what was on the wire after `auth_split`, and nothing that was understood from it. Headers are an allow-list, so
no credential can be among them; the query string is left out for the same reason.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A captured exchange.

    `request_chunks` and `response_chunks` are the bodies' bytes as they were on the wire (still compressed, if they
    were), up to the captures' limits. All times are seconds.
    """

    id: str
    dataset: str
    provider: str
    fingerprint: str = ""
    """Stands for the Explorer key the call brought along; "" for none."""
    method: str
    path: str
    """The provider's own path, as the client sent it: ``/v1/messages``."""
    request_headers: dict[str, str]
    """Lower-case names; of an allow-list only."""
    request_chunks: tuple[bytes, ...]
    request_truncated: bool = False
    """The capture's limit was reached; the relay sent on the rest all the same."""
    request_complete: bool = True
    """False when the upstream answered, or the exchange ended, before the whole request had been sent."""
    status: int | None = None
    """The upstream's status; None when it never answered."""
    response_headers: dict[str, str] = msgspec.field(default_factory=dict)
    response_chunks: tuple[bytes, ...] = ()
    response_times: tuple[float, ...] = ()
    """When each of these chunks went downstream, counted from `started_at`."""
    response_truncated: bool = False
    outcome: str
    """How the transport ended: one of `sidestream.wire.exchange.Outcome`, or ``interrupted``: the relay died."""
    error: str | None = None
    """What went wrong with the transport, in words of ours; never raw input."""
    started_at: float
    """When the request's head arrived, Unix time."""
    time_to_first_byte: float | None = None
    """From then to the response's head; None when there was none."""
    duration: float
    """From then to the end of the exchange."""
    end_verifiable: bool = True
    """False when only the connection's end marked the body's end, so that a cut looks like an end."""
    exact: bool = True
    """False when a header could not be carried and was left out."""

    @property
    def size(self) -> int:
        """Bytes of both bodies."""
        return sum(map(len, self.request_chunks)) + sum(map(len, self.response_chunks))


_KEPT = frozenset(
    {
        "anthropic-beta",
        "anthropic-version",
        "content-encoding",
        "content-type",
        "request-id",
        "retry-after",
        "user-agent",
        "x-claude-code-agent-id",
        "x-claude-code-parent-agent-id",
        "x-claude-code-session-id",
        "x-codex-turn-metadata",
        "x-parent-session-id",
        "x-session-id",
        "x-should-retry",
        "x-stainless-retry-count",
    }
)


def kept_headers(headers: Mapping[str, str], secrets: Iterable[str] = ()) -> dict[str, str]:
    """The fields a record may hold, names in lower case, repeated ones joined: an allow-list without credentials.

    A field with one of `secrets` in it is left out, whatever its name: some servers repeat what they were sent.
    """
    kept: dict[str, str] = {}
    for name, value in headers.items():
        if (lower := name.lower()) in _KEPT and not any(secret in value for secret in secrets):
            kept[lower] = f"{kept[lower]}, {value}" if lower in kept else value
    return kept
