"""What all processes count, in one place: the supervisor's sums over its children, those that have ended included.

So no sum ever goes backwards though processes come and go. What stands under a snapshot's ``gauges`` says how things
are now, and ends with its process.
"""

from __future__ import annotations

import asyncio
import collections
import itertools
import time
from typing import TYPE_CHECKING, Any

from sidestream.stats import merge
from sidestream.tasks import spawn

if TYPE_CHECKING:
    from sidestream.processes.child import Child, Kind

_LONG_SILENT = 5.0
"""Seconds after which a child that does not answer is not what it was."""
_PATIENCE = 0.3
"""Seconds that children have to answer; after that the last snapshot of one that is busy has to do."""


def _told(child: Child) -> dict[str, Any]:
    """What a child counts. Of one that has long been silent, nobody knows how things are now."""
    if time.monotonic() - child.heard_at <= _LONG_SILENT:
        return child.stats
    return {name: value for name, value in child.stats.items() if name != "gauges"}


class Hub:
    """All children that are alive, and what was counted by any that ever was."""

    def __init__(self) -> None:
        self.restarts: collections.Counter[str] = collections.Counter()
        """Children that had died and were started again, by kind."""
        self.workers = 0
        """Relays that take connections."""
        self._children: set[Child] = set()
        self._dead: dict[str, dict[str, Any]] = {"relay": {}}
        self._gone = asyncio.Event()
        self._rounds = itertools.count(1)
        self._turn = asyncio.Lock()
        self._next: asyncio.Task[dict[str, Any]] | None = None

    def children(self, kind: Kind | None = None) -> list[Child]:
        """Those that are alive."""
        return [child for child in self._children if kind in {None, child.kind}]

    def born(self, child: Child) -> None:
        """A child has been started."""
        self._children.add(child)
        self._dead.setdefault(child.kind, {})

    def died(self, child: Child) -> None:
        """A child has ended; what it had counted stays."""
        self._children.discard(child)
        counted = {name: value for name, value in child.stats.items() if name != "gauges"}
        self._dead[child.kind] = merge(self._dead[child.kind], counted)
        self._gone.set()

    async def none_left(self, kind: Kind | None = None) -> None:
        """Wait until no child of that kind is alive."""
        while self.children(kind):
            self._gone.clear()
            await self._gone.wait()

    async def totals(self) -> dict[str, Any]:
        """The sums, as `sidestream.stats.Totals`, none older than this call unless a child is too busy to answer.

        However many ask at once, the children are asked only one round at a time.
        """
        if self._next is None:
            self._next = spawn(self._round(), name="totals")
        return await asyncio.shield(self._next)

    async def _round(self) -> dict[str, Any]:
        async with self._turn:
            self._next = None  # who comes from now on needs the next round
            number = next(self._rounds)
            waiting = [spawn(child.reported(number), name="report") for child in self._children]
            if waiting:
                _, late = await asyncio.wait(waiting, timeout=_PATIENCE)
                for task in late:
                    task.cancel()
            return self.sums()

    def sums(self) -> dict[str, Any]:
        """What is known without asking."""
        sums: dict[str, Any] = {
            kind: merge(dead, *(_told(child) for child in self._children if child.kind == kind))
            for kind, dead in self._dead.items()
        }
        restarts = {"relay": self.restarts["relay"], "recorder": self.restarts["recorder"]}
        return {**sums, "supervisor": {"restarts": restarts, "gauges": {"workers": self.workers}}}
