"""Which keys of a destination are held back after a failure, and until when.

One breaker per key of one sink, there only while something is wrong. It is open for a while after a failure; then one
lane may try (the probe), and success closes it. A key that was refused rests, and comes back as if after a failure.
No clock, no I/O: times are given, in seconds of any clock that never goes back.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sidestream.store.rows import Lane

_MANY = 1000


@dataclass(slots=True)
class Breaker:
    """What is wrong with one key."""

    failures: int = 0
    until: float = 0.0
    """When the next probe may go."""
    probe: Lane | None = None
    refused: bool = False
    blocked: deque[Lane] = field(default_factory=deque)
    """Lanes that wait for the probe to succeed."""


class Breakers(dict[str, Breaker]):
    """By key."""

    @property
    def open(self) -> int:
        """How many keys are held back after a failure; those refused not counted."""
        return sum(not breaker.refused for breaker in self.values())

    def lets(self, key: str, lane: Lane, now: float) -> bool:
        """Whether `lane` may be tried now; if not, it is kept in `blocked`."""
        breaker = self.get(key)
        if breaker is None or breaker.probe == lane:
            return True
        if breaker.probe is None and breaker.until <= now:
            breaker.probe = lane
            return True
        breaker.blocked.append(lane)
        return False

    def failed(self, key: str, lane: Lane) -> tuple[int, bool]:
        """A send of `lane` failed: how often that was in a row, and whether it opened the breaker.

        Sends that were under way when it opened belong to the same failure.
        """
        breaker = self.get(key)
        if breaker is None:
            breaker = self[key] = Breaker()
        opened = breaker.failures == 0
        if opened or breaker.probe == lane:
            breaker.failures += 1
        return breaker.failures, opened

    def hold(self, key: str, lane: Lane, until: float) -> None:
        """No probe before `until`; that of `lane` is over."""
        if breaker := self.get(key):
            breaker.until = max(breaker.until, until)
            if breaker.probe == lane:
                breaker.probe = None

    def over(self, lane: Lane, key: str) -> None:
        """`lane` had nothing to try after all: another one may."""
        if (breaker := self.get(key)) and breaker.probe == lane:
            breaker.probe = None

    def refused(self, key: str, now: float, rest: float) -> deque[Lane]:
        """The key was refused, and rests; returns the lanes that waited."""
        if len(self) >= _MANY:  # callers can make up keys; those that have rested need not be remembered
            for other in [k for k, b in self.items() if k and b.refused and b.until <= now]:
                del self[other]
        breaker = self.get(key) or Breaker()
        self[key] = Breaker(failures=breaker.failures, until=now + rest, refused=True)
        return breaker.blocked

    def rest(self, key: str) -> float | None:
        """Until when a refused key rests; None if it was not refused."""
        breaker = self.get(key)
        return breaker.until if breaker and breaker.refused else None

    def rested(self, key: str, now: float) -> bool:
        """Give a refused key another chance, if its rest is over (or it was not refused at all)."""
        breaker = self.get(key)
        if breaker and breaker.refused:
            if breaker.until > now:
                return False
            breaker.refused = False
            breaker.failures = max(breaker.failures, 1)
        return True

    def forgive(self, key: str) -> None:
        """Forget that a key was refused."""
        if self.rest(key) is not None:
            del self[key]

    def close(self, key: str) -> tuple[bool, deque[Lane]]:
        """The key works: whether that is news, and the lanes that waited. One that was refused meanwhile rests."""
        breaker = self.pop(key, None) if self.rest(key) is None else None
        return breaker is not None, breaker.blocked if breaker else deque()

    @property
    def next_probe(self) -> float | None:
        """When a waiting lane may be tried; None if none waits."""
        return min((b.until for b in self.values() if b.blocked and b.probe is None), default=None)

    def probes(self, now: float) -> list[Lane]:
        """One waiting lane of each key that may be tried again; it becomes the probe when `lets` is asked."""
        return [b.blocked.popleft() for b in self.values() if b.blocked and b.probe is None and b.until <= now]
