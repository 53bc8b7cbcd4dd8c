"""What the engine of a sink does in the store's thread: visits, each of which may be repeated as a whole if it failed.

A visit only touches what it was given and the store; which lanes are visited is `sidestream.sinks.delivery`'s decision.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

from sidestream.errors import SidestreamError
from sidestream.sinks import policy as rules
from sidestream.store.rows import State
from sidestream.traces.model import Unit

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from sidestream.options import Secret
    from sidestream.sinks.policy import Policy
    from sidestream.store.rows import Delivery, Lane
    from sidestream.traces.model import Turn

_MOST_BYTES = 1 << 20
"""About how much the turns of one lane may have together that are claimed at once (`Turn.weight`)."""


class Store(Protocol):
    """What the engine needs of the store."""

    def lanes(self, sink: str, /) -> list[Lane]:
        """Lanes with open rows."""

    def head(self, sink: str, lane: Lane, /) -> Delivery | None:
        """The oldest open row of a lane."""

    def following(self, head: Delivery, most: int, /) -> list[Delivery]:
        """Rows, `most` at most, that can be sent after the head of a lane whatever becomes of it; never tried yet."""

    def turn(self, delivery: Delivery, unit: Unit, /) -> Turn:
        """What is to be said."""

    def save(self, deliveries: Sequence[Delivery], /) -> None:
        """Write these rows, in one transaction."""

    def park(self, sink: str, fingerprint: str, reason: str, /) -> int:
        """Park the rows of a key that wait; how many that were."""

    def unpark(self, sink: str, fingerprint: str | None, reasons: Collection[str] | None, /) -> list[Lane]:
        """Open rows that were parked for one of these reasons, of one key or of all (None); their lanes."""

    def forget_remote(self, sink: str, remote: str, /) -> None:
        """What the destination called so is not there any more."""

    def expire_leases(self, sink: str, /) -> int:
        """What was being sent when the process died is to be looked for; how many rows that were."""


class Pick(NamedTuple):
    """A lane that may go on, and the key it would be delivered with; `key` is that one's fingerprint, "" for ours."""

    lane: Lane
    key: str
    credential: Secret | None


@dataclass(slots=True)
class Visit:
    """What one visit is to do."""

    settled: list[Delivery]
    """Rows whose attempt is over."""
    settling: float
    """Seconds for which what was being sent at the last crash is not looked for yet."""
    parks: dict[str, str] = field(default_factory=dict)
    """Reasons by fingerprint."""
    unparks: list[tuple[str | None, list[str]]] = field(default_factory=list)
    passed: list[Lane] = field(default_factory=list)
    """The lanes of what is parked."""
    picks: list[Pick] = field(default_factory=list)
    most: int = 1
    """How many rows of a lane may be claimed at once."""

    def __bool__(self) -> bool:
        return bool(self.settled or self.parks or self.unparks or self.picks)


Claim = tuple["Delivery", "Turn"]
"""A row that is saved as being sent, and what is to be said."""


class Head(NamedTuple):
    """What was found at the head of a lane: nothing, a row to wait for, one that cannot be read, or one to do."""

    delivery: Delivery | None = None
    wait: float = 0.0
    turn: Turn | None = None
    following: Sequence[Claim] = ()
    """What was claimed with it, to be sent after it if it arrives."""


class Answer(NamedTuple):
    """What came of a visit: heads in the order of its picks, lanes opened again, and (fingerprint, reason, rows)."""

    heads: list[Head]
    opened: list[Lane]
    parked: list[tuple[str, str, int]]


class Visits:
    """The visits to `store` for one sink."""

    def __init__(self, sink: str, unit: Unit, store: Store, clock: Callable[[], float], policy: Policy) -> None:
        self._sink = sink
        self._unit = unit
        self._store = store
        self._clock = clock
        self._policy = policy

    def first(self, unparks: Sequence[tuple[str | None, list[str]]]) -> list[Lane]:
        """Open what may have another chance after a restart; the lanes with open rows."""
        for fingerprint, reasons in unparks:
            self._store.unpark(self._sink, fingerprint, reasons)
        return self._store.lanes(self._sink)

    def save(self, settled: Sequence[Delivery]) -> None:
        """Save what has ended; and forget, for all rows, the traces that these did not find any more."""
        if not settled:
            return
        self._store.save(settled)
        open_ = [each for each in settled if each.reason == rules.GONE and each.state is State.RETRY_AT]
        for remote in {each.remote for each in open_ if each.remote is not None}:
            self._store.forget_remote(self._sink, remote)

    def pay(self, visit: Visit) -> Answer:
        """Save what has ended, and claim what is next."""
        self.save(visit.settled)
        parked = [(key, why, self._store.park(self._sink, key, why)) for key, why in visit.parks.items()]
        opened = [lane for key, whys in visit.unparks for lane in self._store.unpark(self._sink, key, whys)]
        now = self._clock()
        heads = [self._heads(pick.lane, now, visit) for pick in visit.picks]
        changed = [head.delivery for head in heads if head.delivery and head.delivery.state is not State.RETRY_AT]
        changed += [delivery for head in heads for delivery, _ in head.following]
        if changed:
            self._store.save(changed)
        return Answer(heads, opened, parked)

    def _heads(self, lane: Lane, now: float, visit: Visit) -> Head:
        head = self._head(lane, now, visit.settling)
        if visit.most == 1:
            return head
        return head._replace(following=list(self._following(head, now, visit.most)))

    def _head(self, lane: Lane, now: float, settling: float) -> Head:
        delivery = self._store.head(self._sink, lane)
        if delivery is None:
            return Head()
        wait = rules.time_left(delivery, now, self._policy)
        if delivery.ambiguous:
            wait = max(wait, settling)
        if wait > 0:
            return Head(delivery, wait)
        turn = self._turn(delivery)
        if isinstance(turn, Exception):  # one bad row must not hold up all the others
            rules.bury(delivery, f"the turn cannot be read: {type(turn).__name__}")
            return Head(delivery)
        if not delivery.ambiguous:
            self._claim(delivery, turn, now)
        return Head(delivery, 0.0, turn)

    def _following(self, head: Head, now: float, most: int) -> Iterator[Claim]:
        """What is claimed with a head that was never tried, as much of it as may be in memory at once.

        Two turns for one trace of the destination are not among them: what the second is told depends on the first.
        """
        if head.turn is None or head.delivery is None or head.delivery.state is not State.SENDING:
            return
        if head.delivery.attempts > 1:
            return
        remotes, size = {head.turn.remote}, head.turn.weight
        for delivery in self._store.following(head.delivery, most - 1):
            turn = self._turn(delivery)
            if isinstance(turn, Exception):  # it is buried where it is the head
                return
            size += turn.weight
            if size > _MOST_BYTES or (turn.remote is not None and turn.remote in remotes):
                return
            remotes.add(turn.remote)
            self._claim(delivery, turn, now)
            yield delivery, turn

    def _turn(self, delivery: Delivery) -> Turn | Exception:
        """What is to be said, or why it cannot be read."""
        try:
            return self._store.turn(delivery, self._unit)
        except (SidestreamError, OSError, sqlite3.Error):
            raise
        except Exception as error:  # noqa: BLE001 (damage of one row)
            return error

    def _claim(self, delivery: Delivery, turn: Turn, now: float) -> None:
        told_until = turn.told_until if self._unit is Unit.TRACE else None
        rules.claim(delivery, now, remote=turn.remote, told_until=told_until)
