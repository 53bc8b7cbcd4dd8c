"""What goes into the store and comes out of it, as plain values; no SQL, no I/O."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidestream.traces.model import Reading
    from sidestream.traces.record import Record


class State(enum.StrEnum):
    """Where the delivery of one turn to one sink stands."""

    PENDING = "pending"
    """Not tried yet."""
    SENDING = "sending"
    """Being tried. After a crash nobody knows how that ended, so it becomes `RETRY_AT`, ambiguous."""
    RETRY_AT = "retry_at"
    """Tried, and to be tried again at `Delivery.due_at`."""
    DELIVERED = "delivered"
    PARKED = "parked"
    """Waits for somebody: a key that is not known or not valid, a sink that is not configured, an unclear end."""
    DEAD = "dead"
    """Given up for good; `Delivery.reason` says why."""


OPEN = frozenset({State.PENDING, State.SENDING, State.RETRY_AT})
"""States that hold back the later turns of their lane."""


class Lane(NamedTuple):
    """What is delivered in order: the turns of one key and one dataset. `fingerprint` is "" where there is no key."""

    fingerprint: str
    dataset: str


class Position(NamedTuple):
    """A place in the journal of one relay: a segment's number, and bytes from its beginning."""

    segment: int
    offset: int


@dataclass(frozen=True, slots=True)
class Carried:
    """An exchange that outlives its segment: what was gathered of it up to `position`, packed."""

    relay: str
    number: int
    position: Position
    state: bytes


@dataclass(frozen=True, slots=True)
class Item:
    """One exchange to be stored. `reading` is None where it could not be understood; `error` then has the reason."""

    record: Record
    reading: Reading | None
    error: str | None
    sinks: Sequence[str]
    """The names of the sinks it is to be delivered to."""


@dataclass(slots=True)
class Delivery:
    """One row: a turn on its way to a sink. Times are Unix time in seconds."""

    id: int
    sequence: int
    """The exchange's place in the store; later ones are greater."""
    exchange: str
    sink: str
    lane: Lane
    state: State
    attempts: int = 0
    """How often it has been sent."""
    server_errors: int = 0
    """How many of these were answered with 500."""
    ambiguous: bool = False
    """Whether the last attempt may have arrived: then the sink looks before it sends again."""
    tried_at: float | None = None
    """When it was tried first."""
    due_at: float = 0.0
    reason: str | None = None
    """Why it is where it is, in words of ours."""
    remote: str | None = None
    """What the destination calls it, where it said so."""
    version: int = 0
    """How often it has begun anew."""
    told_until: int | None = None
    """The time given to the last message that was sent, in microseconds since 1970; for `Unit.TRACE` alone."""


@dataclass(frozen=True, slots=True)
class Replacement:
    """An exchange understood anew. Without a reading only the `error` is noted; what was understood before stays."""

    sequence: int
    reading: Reading | None
    error: str | None
    sinks: Sequence[str] = ()
    """The names of the sinks it is to be delivered to, again or for the first time."""


@dataclass(frozen=True, slots=True)
class Redelivered:
    """Deliveries that begin anew: how many, and the sinks and lanes they are in."""

    count: int
    lanes: list[tuple[str, Lane]]


class Pruned(NamedTuple):
    """What one step of retention removed: exchanges, bytes, and whether there may be more to remove."""

    exchanges: int
    bytes: int
    more: bool
    reached: int = 0
    """Where the next step goes on; 0 from the beginning."""


class Deleted(NamedTuple):
    """What one step of a deletion removed, and whether there may be more of it."""

    exchanges: int
    turns: int
    deliveries: int
    """Those of the exchanges that were still to be made, or waited for somebody."""
    more: bool
