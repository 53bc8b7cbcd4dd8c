"""What an operator asks for: deliver again, prune, read again. The same with a running recorder and without one."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sidestream.errors import SidestreamError
from sidestream.recorder.ingestion import understood, wanted
from sidestream.store.rows import Pruned, Replacement

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence

    from sidestream.providers.base import Provider
    from sidestream.sinks.base import Sink
    from sidestream.store.rows import Lane
    from sidestream.store.shelf import Shelf
    from sidestream.traces.record import Record

_AT_ONCE = 50
_BYTES_AT_ONCE = 16 << 20
_PAGES = 2000
_PAGE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Progress:
    """How far `reprocess` has come, in exchanges."""

    done: int
    total: int
    failed: int
    """Those of `done` that could not be understood."""


async def prune(shelf: Shelf, age: float | None, max_bytes: int | None) -> Pruned:
    """Remove what is older than `age` seconds, and the oldest beyond `max_bytes`, in small steps; what has gone."""
    exchanges = size = 0
    while True:
        step = await shelf.call(shelf.store.prune, age=age, max_bytes=max_bytes)
        exchanges += step.exchanges
        size += step.bytes
        if not step.more:
            break
    for _ in range(0, size + 1 if exchanges else 0, _PAGES * _PAGE_BYTES):
        await shelf.call(shelf.store.vacuum, _PAGES)
    return Pruned(exchanges, size, more=False)


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
    """Read what is stored again, with today's converter.

    Nothing is sent again unless `redeliver` says so; then `wake` is told the sinks and lanes that have something.
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
        failed += sum(replacement.trace is None for replacement in replacements)
        yield Progress(done, max(total, done), failed)


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
        trace, error = understood(record, providers)
        again = [sink.name for sink in sinks if trace is not None and wanted(sink, trace)]
        replacements.append(Replacement(sequence, trace, error, again))
    return replacements
