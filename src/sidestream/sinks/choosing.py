"""What a sink does next: which lanes may go on, and with which key; which rows are parked, and which get a new chance.

It knows lanes and keys, but neither rows nor attempts. No I/O, no clock: times are given, in seconds of any clock that
never goes back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from sidestream.sinks.breakers import Breakers
from sidestream.sinks.lanes import Lanes
from sidestream.sinks.policy import KEYLESS, NO_KEY, REFUSED_KEY, REFUSED_OWN_KEY, refusal
from sidestream.sinks.visits import Pick

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sidestream.options import Secret
    from sidestream.sinks.base import Sink
    from sidestream.sinks.policy import Policy
    from sidestream.sinks.visits import Visit
    from sidestream.store.rows import Lane

_MOST_AWAITED = 10_000


class KnownKeys(Protocol):
    """The keys that calls brought along, by fingerprint."""

    def get(self, fingerprint: str, /) -> Secret | None:
        """The key, if it is known."""

    def all(self) -> Mapping[str, Secret]:
        """All that are known."""


class Choosing:
    """The lanes of `sink` that have something open, and what holds them back."""

    def __init__(self, sink: Sink, keys: KnownKeys, policy: Policy) -> None:
        self.lanes = Lanes()
        self.breakers = Breakers()
        self._per_key = sink.per_key
        self._needs_key = sink.needs_trace_key
        self._keys = keys
        self._policy = policy
        self._seen: set[str] = set()
        self._awaited: dict[str, float] = {}
        """Until when a key that is not known is waited for, by fingerprint."""

    def forget(self) -> None:
        """Know of no lane and of nothing that holds one back, as at the start."""
        self.lanes = Lanes()
        self.breakers = Breakers()
        self._awaited.clear()

    def first(self) -> list[tuple[str | None, list[str]]]:
        """What is parked and has another chance at a start, as in `Visit.unparks`."""
        everybody = [REFUSED_OWN_KEY] if self._needs_key else [REFUSED_OWN_KEY, NO_KEY, KEYLESS]
        return [(None, everybody), *((fingerprint, [NO_KEY, REFUSED_KEY]) for fingerprint in self._keys.all())]

    def wake(self, lanes: Iterable[Lane], *, reopened: bool = False) -> None:
        """There are new rows in these lanes; with `reopened`, or old ones opened again."""
        for lane in lanes:
            self.lanes.wake(lane, reopened=reopened)

    def reopen(self, lanes: Iterable[Lane]) -> None:
        """Somebody wishes rows of these lanes to be sent again, also where their key was refused."""
        lanes = list(lanes)
        for key in ("", *(lane.fingerprint for lane in lanes)):
            self.breakers.forgive(key)
        self.wake(lanes, reopened=True)

    def key_seen(self, fingerprint: str) -> None:
        """A key became known, or was seen again."""
        self._seen.add(fingerprint)

    def choose(self, visit: Visit, free: int, now: float) -> None:
        """Fill in what `visit` is to do, where `free` more lanes may be under way."""
        self._second_chances(visit, now)
        self.lanes.fall_due(now)
        ready = self.lanes.ready
        if free > 0:
            ready.extendleft(self.breakers.probes(now))
        for _ in range(len(ready)):
            if len(visit.picks) >= free:
                break
            self._pick(ready.popleft(), visit, now)
        self.lanes.look_at((*visit.passed, *(pick.lane for pick in visit.picks)))

    def next_time(self, free: int) -> float | None:
        """When `choose` has something new to do, if nothing happens before; None if never."""
        rests = [self.breakers.rest(key) for key in ("", *self._seen)]
        probe = self.breakers.next_probe if free > 0 else None  # else it could not go, and would be due all the time
        return min((when for when in (self.lanes.next_due, probe, *rests) if when is not None), default=None)

    def _second_chances(self, visit: Visit, now: float) -> None:
        if self.breakers.rest("") is not None and self.breakers.rested("", now):
            visit.unparks.append((None, [REFUSED_OWN_KEY]))
        for fingerprint in list(self._seen):
            rested = self.breakers.rested(fingerprint, now)
            if rested:
                self._seen.discard(fingerprint)
            if self._awaited.pop(fingerprint, None) is not None:
                self.lanes.hasten(fingerprint)
            visit.unparks += [(fingerprint, [NO_KEY, REFUSED_OWN_KEY, REFUSED_KEY])] if rested else []

    def _pick(self, lane: Lane, visit: Visit, now: float) -> None:
        """Decide what is to be done with a lane, without a look at its rows."""
        credential = self._keys.get(lane.fingerprint) if lane.fingerprint else None
        unknown = credential is None and lane.fingerprint and self._per_key
        if unknown and (until := self._await_key(lane.fingerprint, now)) > now:
            self.lanes.defer(lane, until)
            return
        if credential is None and self._needs_key:
            visit.parks[lane.fingerprint] = NO_KEY if lane.fingerprint else KEYLESS
            visit.passed.append(lane)
            return
        key = lane.fingerprint if credential is not None and self._per_key else ""
        if self.breakers.rest(key) is not None:
            if not self.breakers.rested(key, now):
                visit.parks[lane.fingerprint] = refusal(key)
                visit.passed.append(lane)
                return
            visit.unparks.append((lane.fingerprint, [REFUSED_KEY, REFUSED_OWN_KEY]))
        if self.breakers.lets(key, lane, now):
            visit.picks.append(Pick(lane, key, credential))

    def _await_key(self, fingerprint: str, now: float) -> float:
        """Until when a key is waited for: it may come a moment later than the call that brought it along."""
        if len(self._awaited) > _MOST_AWAITED:
            self._awaited.clear()
        return self._awaited.setdefault(fingerprint, now + self._policy.key_wait)
