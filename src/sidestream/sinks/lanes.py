"""Which lanes of a sink have something to do, and when: every lane is in one place only.

No clock, no I/O: times are given, in seconds of any clock that never goes back.
"""

from __future__ import annotations

import heapq
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sidestream.store.rows import Lane


class Lanes:
    """The lanes that are known to have open rows. Those that nobody knows of cost nothing."""

    def __init__(self) -> None:
        self.ready: deque[Lane] = deque()
        """To be looked at, in this order."""
        self._waiting: dict[Lane, float] = {}
        self._due: list[tuple[float, Lane]] = []
        self._known: set[Lane] = set()
        """Every lane that is somewhere: in one of these, in a breaker, looked at, or being sent."""
        self._looked_at: frozenset[Lane] = frozenset()
        self._woken: set[Lane] = set()

    @property
    def next_due(self) -> float | None:
        """When the next lane that waits is due."""
        return self._due[0][0] if self._due else None

    def wake(self, lane: Lane, *, reopened: bool = False) -> None:
        """There are new rows in `lane`; with `reopened` maybe older ones than that it waits for."""
        if lane in self._looked_at:
            self._woken.add(lane)
        elif lane not in self._known:
            self._known.add(lane)
            self.ready.append(lane)
        elif reopened and self._waiting.pop(lane, None) is not None:
            self.ready.append(lane)

    def look_at(self, lanes: Iterable[Lane]) -> None:
        """These are being looked at: what wakes them from now on came too late to be seen for sure."""
        self._looked_at = frozenset(lanes)

    def looked(self) -> None:
        """That is over; each of these lanes has been put somewhere."""
        self._looked_at = frozenset()
        self._woken.clear()

    def empty(self, lane: Lane) -> None:
        """Nothing was found in a lane that was looked at."""
        if lane in self._woken:
            self.ready.append(lane)
        else:
            self._known.discard(lane)

    def wait(self, lane: Lane, until: float) -> None:
        """A lane that was looked at has nothing to do before `until`."""
        if lane in self._woken:
            self.ready.append(lane)
        else:
            self.defer(lane, until)

    def defer(self, lane: Lane, until: float) -> None:
        """A lane is not to be looked at before `until`, whatever is new in it."""
        self._waiting[lane] = until
        heapq.heappush(self._due, (until, lane))

    def hasten(self, fingerprint: str) -> None:
        """Have all lanes of a key looked at that wait."""
        for lane in [lane for lane in self._waiting if lane.fingerprint == fingerprint]:
            del self._waiting[lane]
            self.ready.append(lane)

    def fall_due(self, now: float) -> None:
        """Those that have waited long enough are ready."""
        while self._due and self._due[0][0] <= now:
            due, lane = heapq.heappop(self._due)
            if self._waiting.get(lane) == due:
                del self._waiting[lane]
                self.ready.append(lane)
