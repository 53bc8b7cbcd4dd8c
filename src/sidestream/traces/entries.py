"""A captured exchange in pieces, as they came: what the relay hands over, and what the recorder reads.

Entries go through the journal, or through memory. Each is a kind, the number of its exchange (unique within one relay's
life), a time, and bytes. `sidestream.traces.recording` writes those of one exchange; `sidestream.traces.gathering`
reads them.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Awaitable


class Kind(enum.IntEnum):
    """What an entry says of its exchange."""

    BEGIN = 1
    """It has begun: a packed `Begin`."""
    REQUEST = 2
    """These bytes of the request's body went upstream."""
    HEAD = 3
    """The upstream has answered: a packed `Head`."""
    RESPONSE = 4
    """These bytes of the response's body went downstream, at this time."""
    COMMIT = 5
    """All of the response but its end went downstream, and the end is held until this is safe: a packed `End`, which
    counts if no `END` follows."""
    END = 6
    """It is over: a packed `End`."""
    ABANDON = 7
    """It is not to become a trace: rejected, or given up for want of room. No bytes."""


class Entry(NamedTuple):
    """One piece. `time` is seconds since the exchange began; 0 where that says nothing."""

    kind: int
    number: int
    time: float
    data: bytes


class Begin(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of an exchange at its beginning; fields as in `sidestream.traces.record.Record`."""

    id: str
    dataset: str
    provider: str
    fingerprint: str
    method: str
    path: str
    request_headers: dict[str, str]
    started_at: float


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """The upstream's answer, as far as its head; fields as in `Record`."""

    status: int
    response_headers: dict[str, str]
    time_to_first_byte: float


class End(msgspec.Struct, frozen=True, kw_only=True):
    """How it ended; fields as in `Record`."""

    request_truncated: bool
    request_complete: bool
    response_truncated: bool
    outcome: str
    error: str | None
    duration: float
    end_verifiable: bool
    exact: bool


class Intake(Protocol):
    """Where entries go. Nothing here blocks or raises; everything is for the event loop's thread."""

    @property
    def ready(self) -> bool:
        """Whether a new exchange would be taken, as far as one can know."""

    @property
    def waiting(self) -> int:
        """Bytes of memory that wait to be written, or to be understood."""

    def open(self) -> int | None:
        """A number for a new exchange; None if there is no room for it, which is counted and logged there."""

    def put(self, kind: Kind, number: int, time: float, data: bytes) -> bool:
        """Take an entry. False: there is no room, the exchange is given up (counted and logged there)."""

    def committed(self, number: int) -> Awaitable[None]:
        """Wait until all that was put so far for this exchange survives a power cut; `OSError` if it cannot be."""
