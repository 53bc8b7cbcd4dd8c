"""What the viewer stands on, in a recorder: the plane, the store's own thread for changes, and the desk for reading."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from sidestream.errors import SidestreamError
from sidestream.recorder import chores
from sidestream.store.api_keys import ApiKeys
from sidestream.store.faults import StoreUnavailable
from sidestream.tasks import spawn

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from pathlib import Path

    from sidestream.recorder.plane import Plane
    from sidestream.recorder.underway import UnderWay
    from sidestream.store.desk import Desk
    from sidestream.store.library import Library
    from sidestream.store.rows import Redelivered, State
    from sidestream.store.shapes import Running, RunSummary, TurnMessages, TurnSummary

P = ParamSpec("P")
T = TypeVar("T")


class Stage:
    """A `sidestream.viewer.backstage.Backstage`; `directory` is where the keys of those who push lie."""

    def __init__(self, plane: Plane, desk: Desk, directory: Path) -> None:
        self.feed = plane.feed
        self.api_keys = ApiKeys(directory)
        self._plane = plane
        self._desk = desk

    async def look(self, what: Callable[Concatenate[Library, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """See `Backstage`; the same for all that follow."""
        return await self._desk.look(what, *args, **kwargs)

    async def running(self) -> list[Running]:
        """The turns under way."""
        return await self._under_way().running()

    async def running_turn(self, exchange: str) -> TurnMessages:
        """One of them, as far as it has come."""
        return await self._under_way().turn(exchange)

    def sinks(self) -> list[str]:
        """The names of the configured sinks."""
        return [sink.name for sink in self._plane.sinks]

    async def redeliver(
        self, *, states: Collection[State], sink: str | None, dataset: str | None, exchange: str | None
    ) -> int:
        """Have deliveries begin anew."""
        store = self._plane.shelf.store
        return self._woken(
            await self._plane.shelf.call(store.redeliver, states=states, sink=sink, dataset=dataset, exchange=exchange)
        )

    async def deliver(self, run: str, sink: str) -> int:
        """Have a run delivered to a sink."""
        found = [each for each in self._plane.sinks if each.name == sink]
        if not found:
            raise LookupError(sink)
        return await chores.deliver(self._plane.shelf, run, found[0], self._plane.wake)

    async def delete(self, *, run: str | None = None, dataset: str | None = None) -> int:
        """Remove a run or a dataset, also if nobody waits for it any more, and tell those who look at it."""
        return await asyncio.shield(spawn(self._delete(run, dataset), name="deletion"))

    async def _delete(self, run: str | None, dataset: str | None) -> int:
        turns = await chores.delete(self._plane.shelf, run=run, dataset=dataset)
        if run is not None:
            self.feed.publish("removed", {"run": run}, runs=[run])
        else:
            self.feed.publish("removed", {"dataset": dataset}, dataset=dataset)
        return turns

    async def push(
        self, dataset: str, messages: Sequence[dict[str, Any]], metadata: dict[str, Any], *, trace: str | None = None
    ) -> str:
        """Store messages that were not captured here."""
        store = self._plane.shelf.store
        run: str = await self._plane.shelf.call(store.push, dataset, messages, metadata, trace=trace)
        if self.feed.wants("ended"):
            spawn(self._tell_pushed(run), name="word of a push")  # it is stored, whatever becomes of this
        return run

    async def _tell_pushed(self, run: str) -> None:
        with contextlib.suppress(LookupError, SidestreamError):  # it has been removed, or the store is closed
            summary, turn = await self._desk.look(_latest, run)
            self.feed.publish("ended", {"run": summary, "turn": turn}, dataset=summary.dataset, runs=[run])

    async def describe(self, dataset: str, metadata: dict[str, Any], *, replace: bool) -> dict[str, Any]:
        """Add to what is said of a dataset."""
        return await self._plane.shelf.call(self._plane.shelf.store.describe, dataset, metadata, replace=replace)

    def _under_way(self) -> UnderWay:
        if self._plane.under_way is None:
            raise StoreUnavailable("nothing under way can be seen here")
        return self._plane.under_way

    def _woken(self, redelivered: Redelivered) -> int:
        for name, lane in redelivered.lanes:
            self._plane.wake(name, lane)
        return redelivered.count


def _latest(library: Library, run: str) -> tuple[RunSummary, TurnSummary]:
    summary = library.summary(run)
    return summary, library.messages(run, first=summary.turns, count=1)[-1].turn
