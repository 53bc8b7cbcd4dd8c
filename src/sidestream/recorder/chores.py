"""What is done to a whole store: prune, delete, read again. The same with a running recorder and without one."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from sidestream.errors import SidestreamError
from sidestream.recorder.indexer import Indexer
from sidestream.recorder.ingestion import accepting, understood
from sidestream.recorder.pace import Pace
from sidestream.store.rows import Pruned, Replacement

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence

    from sidestream.providers.base import Provider
    from sidestream.sinks.base import Sink
    from sidestream.store.rows import Lane
    from sidestream.store.shelf import Shelf
    from sidestream.traces.record import Record

log = structlog.get_logger()

_AT_ONCE = 50
_BYTES_AT_ONCE = 16 << 20
_UNREAD_AT_ONCE = 10
_MOST_AT_ONCE = 200


@dataclass(frozen=True, slots=True)
class Progress:
    """How far `reprocess` has come, in exchanges."""

    done: int
    total: int
    failed: int
    """Those of `done` that could not be understood."""


async def prune(shelf: Shelf, age: float | None, max_bytes: int | None) -> Pruned:
    """Remove what is older than `age` seconds, and the oldest beyond `max_bytes`, in small steps; what has gone."""
    indexer, pace = Indexer(shelf), Pace(10, _MOST_AT_ONCE)
    exchanges = size = reached = 0
    while True:
        step = await shelf.call(
            pace.measured, shelf.store.prune, age=age, max_bytes=max_bytes, most=pace.amount, after=reached
        )
        exchanges += step.exchanges
        size += step.bytes
        reached = step.reached
        if not step.more:
            break
        await indexer.unindex()
    if exchanges:
        await indexer.vacuum()
    return Pruned(exchanges, size, more=False)


async def delete(shelf: Shelf, *, run: str | None = None, dataset: str | None = None, quietly: bool = False) -> int:
    """Remove a run, its branches and children, or a dataset, in small steps; how many turns. 0 where there is no such.

    What is still to be delivered of it goes, too, and is counted in the log, unless `quietly`. Bytes of it may be found
    in the file until `Indexer.work` has been called after that, by the running recorder, or `Indexer.purge`.
    """
    pace = Pace(10, _MOST_AT_ONCE)
    exchanges = turns = deliveries = 0
    while True:
        step = await shelf.call(pace.measured, shelf.store.delete, run=run, dataset=dataset, most=pace.amount)
        exchanges += step.exchanges
        turns += step.turns
        deliveries += step.deliveries
        if not step.more:
            break
    if exchanges and not quietly:
        about = {"dataset": dataset} if run is None else {"run": run}
        log.info("traces_deleted", **about, exchanges=exchanges, turns=turns, undelivered=deliveries)
    return turns


async def deliver(shelf: Shelf, run: str, sink: Sink, wake: Callable[[str, Lane], None]) -> int:
    """Have a run, its branches and children delivered to a sink, in small steps: what was not yet, or was given up.

    How many turns; `wake` is told the lanes that they are in. `LookupError` if there is no such run.
    """
    pace, count = Pace(10, _MOST_AT_ONCE), 0
    turns = await shelf.call(shelf.store.undelivered, run, sink.name)
    while turns:
        step, turns = turns[: pace.amount], turns[pace.amount :]
        delivered = await shelf.call(pace.measured, shelf.store.deliver, step, sink.name, sink.accepts)
        count += delivered.count
        for name, lane in delivered.lanes:
            wake(name, lane)
    return count


async def reprocess(
    shelf: Shelf,
    providers: Mapping[str, Provider],
    sinks: Sequence[Sink],
    *,
    dataset: str | None,
    since: float | None,
    redeliver: bool,
    wake: Callable[[str, Lane], None] = lambda _name, _lane: None,
) -> AsyncIterator[Progress]:
    """Read what is stored again, with today's converter, today's rules and today's prices.

    Each turn's place in its conversation is found anew, among those before it; so it goes in order. Nothing is sent
    again unless `redeliver` says so; then `wake` is told the sinks and lanes that have something.
    """
    store = shelf.store
    total = await shelf.call(store.count, dataset=dataset, since=since)
    done = failed = 0
    yield Progress(done, total, failed)
    rows = await shelf.call(store.exchanges, dataset=dataset, since=since)
    while page := await _next_page(shelf, rows):
        replacements = await asyncio.to_thread(_read_again, page, providers, sinks if redeliver else ())
        for name, lane in await shelf.call(store.replace, replacements):
            wake(name, lane)
        done += len(page)
        failed += sum(replacement.reading is None for replacement in replacements)
        yield Progress(done, max(total, done), failed)


async def catch_up(shelf: Shelf, providers: Mapping[str, Provider]) -> AsyncGenerator[int, None]:
    """Read what an earlier version stored, and this one has not read yet; how many at a time. Nothing is sent by it.

    It can be left between two of them, and the rest is read the next time.
    """
    last = 0
    while page := await shelf.patiently(shelf.store.unread, _UNREAD_AT_ONCE):
        if page[0][0] <= last:  # none comes twice, or this would never end
            return
        last = page[-1][0]
        replacements = await asyncio.to_thread(_read_again, page, providers, ())
        await shelf.patiently(shelf.store.replace, replacements)
        yield len(page)


async def _next_page(shelf: Shelf, rows: Iterator[tuple[int, Record]]) -> list[tuple[int, Record]]:
    try:
        return await shelf.call(_page, rows)
    except sqlite3.ProgrammingError as error:  # it is closed
        raise SidestreamError("the store was damaged, and replaced by a new one meanwhile") from error


def _page(rows: Iterator[tuple[int, Record]]) -> list[tuple[int, Record]]:
    """The next of them: so many, or so many bytes."""
    page: list[tuple[int, Record]] = []
    size = 0
    for sequence, record in itertools.islice(rows, _AT_ONCE):
        page.append((sequence, record))
        size += record.size
        if size > _BYTES_AT_ONCE:
            break
    return page


def _read_again(
    page: Sequence[tuple[int, Record]], providers: Mapping[str, Provider], sinks: Sequence[Sink]
) -> list[Replacement]:
    replacements = []
    for sequence, record in page:
        reading, error = understood(record, providers)
        again = accepting(sinks, reading.turn()) if reading is not None and sinks else []
        replacements.append(Replacement(sequence, reading, error, again))
    return replacements
