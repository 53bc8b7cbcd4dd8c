"""Tells the feed what comes in: which turns begin, how they come on, and how they end. Idle while nobody listens.

Ingestion says what it sees and goes on; all that takes time is done here, between others.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from sidestream.recorder.underway import running_of
from sidestream.tasks import where, within

if TYPE_CHECKING:
    from sidestream.recorder.underway import Place, UnderWay
    from sidestream.store.desk import Desk
    from sidestream.store.library import Library
    from sidestream.store.shapes import RunSummary, TurnSummary
    from sidestream.traces.gathering import Glimpse
    from sidestream.viewer.feed import Feed

log = structlog.get_logger()

_PAUSE: Final = 0.25
"""Seconds between two words on the progress of one turn, at least."""
_UNPLACED: Final = 1.0
"""Seconds after which a turn is told of, though nobody can say yet where it belongs: its request takes that long."""
_LOOKED_UP: Final = 16
"""Ends that are looked up in one visit to the library: somebody may wait for a page meanwhile."""
_MOST_AT_ONCE: Final = 256
"""Ends that may wait to be told; where there are more, all are told to look for themselves."""


@dataclass(slots=True)
class _Told:
    """What has been told of a turn."""

    dataset: str
    first_seen: float
    at: float = 0.0
    run: str | None = None
    response_bytes: int = 0


class Announcer:
    """Between ingestion, whose `Watcher` it is, and the feed. `run` is for the background."""

    def __init__(self, feed: Feed, under_way: UnderWay, desk: Desk) -> None:
        self._feed = feed
        self._under_way = under_way
        self._desk = desk
        self._open: dict[str, Glimpse] = {}
        self._ended: dict[str, None] = {}
        self._told: dict[str, _Told] = {}
        self._due = False
        """Whether something is to be told later, though nothing more should come in."""
        self._woken = asyncio.Event()

    @property
    def watching(self) -> bool:
        """Whether anybody wants to hear of turns under way."""
        return self._feed.wants("began") or self._feed.wants("progress") or bool(self._told)

    def stored(self, exchanges: list[str]) -> None:
        """These have ended, and are in the store."""
        wanted = self._feed.wants("ended")
        for exchange in exchanges:
            self._open.pop(exchange, None)
            if wanted:
                self._ended[exchange] = None
            else:
                self._told.pop(exchange, None)
        if self._ended:
            self._woken.set()

    def seen(self, glimpses: list[Glimpse]) -> None:
        """This is all that is under way."""
        self._open = {glimpse.begin.id: glimpse for glimpse in glimpses}
        self._woken.set()

    async def run(self) -> None:
        """Tell, for as long as there is something to tell."""
        failing = False
        while True:
            await within(_PAUSE if self._due else None, self._woken.wait())
            self._woken.clear()
            try:
                await self._tell()
            except Exception as error:  # noqa: BLE001  # the top of a background worker
                if not failing:
                    log.warning("announcing_failed", error=type(error).__name__, where=where(error))
                failing = self._due = True
            else:
                if failing:
                    self._feed.reset()  # for what could not be told
                failing = False

    async def _tell(self) -> None:
        self._due = False
        self._under_way.forget_others(self._open.keys())
        await self._tell_ends()
        if self._feed.wants("began") or self._feed.wants("progress"):
            for glimpse in list(self._open.values()):
                if self._ended:  # they come first, and the others after them
                    return
                await self._tell_of(glimpse)
        await self._tell_that_ended([*(self._told.keys() - self._open.keys() - self._ended.keys())])

    async def _tell_ends(self) -> None:
        ended, self._ended = self._ended, {}
        if len(ended) > _MOST_AT_ONCE:
            for exchange in ended:
                self._told.pop(exchange, None)
            self._feed.reset()
            return
        await self._tell_that_ended(list(ended))

    async def _tell_that_ended(self, exchanges: list[str]) -> None:
        for start in range(0, len(exchanges), _LOOKED_UP):
            some = exchanges[start : start + _LOOKED_UP]
            for exchange, found in zip(some, await self._desk.look(_summaries, some), strict=True):
                self._tell_end(exchange, found)

    def _tell_end(self, exchange: str, found: tuple[RunSummary, TurnSummary] | None) -> None:
        told = self._told.pop(exchange, None)
        runs = {told.run} if told is not None and told.run is not None else set()
        if found is None:  # abandoned, not to be understood, or removed again
            self._feed.publish("gone", {"id": exchange}, dataset=told.dataset if told else None, runs=runs)
            return
        run, turn = found
        runs |= {run.id, exchange} | ({run.parent} if run.parent is not None else set())
        self._feed.publish("ended", {"run": run, "turn": turn}, dataset=run.dataset, runs=runs)

    async def _tell_of(self, glimpse: Glimpse) -> None:
        now = time.monotonic()
        exchange = glimpse.begin.id
        told = self._told.setdefault(exchange, _Told(glimpse.begin.dataset, now))
        place = await self._under_way.place(glimpse)
        if exchange not in self._open:
            return
        if place.prediction is None and not glimpse.answering and now - told.first_seen < _UNPLACED:
            self._due = True  # where it belongs is not known yet, but soon
            return
        self._tell_beginning(glimpse, place, told)
        self._tell_progress(glimpse, told, now)
        self._due = self._due or now - told.first_seen < 2 * _UNPLACED

    def _tell_beginning(self, glimpse: Glimpse, place: Place, told: _Told) -> None:
        running = running_of(glimpse, place)
        if told.run == running.run:
            return
        runs = {running.id, running.run} | ({told.run} if told.run is not None else set())
        told.run = running.run
        told.response_bytes = running.response_bytes
        self._feed.publish("began", running, dataset=running.dataset, runs=runs)

    def _tell_progress(self, glimpse: Glimpse, told: _Told, now: float) -> None:
        if glimpse.response_bytes == told.response_bytes or told.run is None:
            return
        if now - told.at < _PAUSE:
            self._due = True
            return
        told.at, told.response_bytes = now, glimpse.response_bytes
        progress = {"id": glimpse.begin.id, "run": told.run, "response_bytes": glimpse.response_bytes}
        self._feed.publish("progress", progress, dataset=told.dataset, runs={told.run, glimpse.begin.id})


def _summaries(library: Library, exchanges: list[str]) -> list[tuple[RunSummary, TurnSummary] | None]:
    """The turns of these exchanges, and their runs, in lines; None for what is not there."""
    found: list[tuple[RunSummary, TurnSummary] | None] = []
    for exchange in exchanges:
        try:
            turn = library.turn_summary(exchange)
            found.append((library.summary(turn.run), turn))
        except LookupError:
            found.append(None)
    return found
