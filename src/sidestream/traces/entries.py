"""A captured exchange in pieces, as they came: what the relay hands over, and what the recorder reads.

Entries go through the journal, or through memory. Each is a kind, the number of its exchange (unique within one relay's
life), a time, and bytes. `Recording` writes those of one exchange; `sidestream.traces.gathering` reads them.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


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

    def open(self) -> int | None:
        """A number for a new exchange; None if there is no room for it, which is counted and logged there."""

    def put(self, kind: Kind, number: int, time: float, data: bytes) -> bool:
        """Take an entry. False: there is no room, the exchange is given up (counted and logged there)."""

    def committed(self, number: int) -> Awaitable[None]:
        """Wait until all that was put so far for this exchange survives a power cut; `OSError` if it cannot be."""


class Recording:
    """One exchange on its way into an intake. `begin` is asked for when there is something to tell, at the latest."""

    def __init__(self, intake: Intake, begin: Callable[[], Begin]) -> None:
        self._intake = intake
        self._begin = begin
        self._number: int | None = None
        self._begun = False

    @property
    def lost(self) -> bool:
        """Whether the intake had no room for it."""
        return self._begun and self._number is None

    def request(self, data: bytes) -> None:
        """These bytes went upstream."""
        self._put(Kind.REQUEST, 0.0, data)

    def head(self, head: Head) -> None:
        """The upstream has answered."""
        self._put(Kind.HEAD, head.time_to_first_byte, msgspec.msgpack.encode(head))

    def response(self, data: bytes, time: float) -> None:
        """These bytes went downstream."""
        self._put(Kind.RESPONSE, time, data)

    def end(self, end: End) -> None:
        """It is over."""
        self._put(Kind.END, end.duration, msgspec.msgpack.encode(end))

    def abandon(self) -> None:
        """It is not to become a trace."""
        if self._number is not None:
            self._put(Kind.ABANDON, 0.0, b"")

    async def commit(self, end: End) -> None:
        """Wait until what was recorded so far survives a power cut; `OSError` if it cannot, or was not taken at all."""
        self._put(Kind.COMMIT, end.duration, msgspec.msgpack.encode(end))
        if self._number is None:
            raise OSError("the exchange was not taken")
        await self._intake.committed(self._number)

    def _put(self, kind: Kind, time: float, data: bytes) -> None:
        if not self._begun:
            self._begun = True
            self._number = self._intake.open()
            if self._number is not None:
                self._put(Kind.BEGIN, 0.0, msgspec.msgpack.encode(self._begin()))
        if self._number is not None and not self._intake.put(kind, self._number, time, data):
            self._number = None
