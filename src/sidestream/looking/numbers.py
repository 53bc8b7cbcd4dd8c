"""How much was recorded in a span of time, how long it took and what it cost."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from sidestream.figures import count, duration, money
from sidestream.looking.output import Page, clock, print_json, tokens_in

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidestream.looking.output import Cell
    from sidestream.store.library import Library
    from sidestream.store.shapes import Overview, Percentiles

_BLOCKS: Final = "▁▂▃▄▅▆▇█"
_BARS: Final = 60


def show(library: Library, dataset: str | None, since: float, *, as_json: bool) -> None:
    """What began since then; of all datasets for None."""
    overview = library.overview(dataset, since, time.time(), buckets=_BARS)
    if as_json:
        print_json(overview)
        return
    page = Page()
    page.line((f"{clock(overview.since)} to {clock(overview.until)}", "bold"), f"  {dataset}" if dataset else "")
    page.line()
    _total(page, overview)
    if page.styled:
        _chart(page, overview)
    _models(page, overview)
    _tools(page, overview)


def _total(page: Page, overview: Overview) -> None:
    total = overview.total
    tokens = total.tokens
    cached = f", {count(tokens.cache_read)} of them from the cache" if tokens.cache_read else ""
    errors = (f", {count(total.errors)} of them went wrong", "red") if total.errors else ""
    page.line(("turns         ", "dim"), count(total.turns), errors)
    page.line(("tokens        ", "dim"), f"{count(tokens_in(tokens))} in{cached}; {count(tokens.output)} out")
    page.line(("cost          ", "dim"), money(total.cost or None))
    page.line(("first byte    ", "dim"), _percentiles(total.first_bytes))
    page.line(("whole answer  ", "dim"), _percentiles(total.durations))


def _percentiles(values: Percentiles | None) -> str:
    if values is None:
        return duration(None)
    return f"{duration(values.p50)} median, {duration(values.p95)} p95, {duration(values.p99)} p99"


def _chart(page: Page, overview: Overview) -> None:
    """A bar per bucket."""
    turns = [bucket.turns for bucket in overview.buckets]
    most = max(turns, default=0)
    if not most:
        return
    bars = "".join(_BLOCKS[(number * len(_BLOCKS) - 1) // most] if number else " " for number in turns)
    page.line()
    page.line((bars, "cyan"))
    page.line((f"turns; each bar {duration(overview.seconds)}, at most {count(most)}", "dim"))


def _models(page: Page, overview: Overview) -> None:
    if not overview.models:
        return
    page.line()
    models = sorted(overview.models.items(), key=lambda item: -item[1])
    page.table(_rows(("MODEL", "TURNS"), [(model or "-", count(turns)) for model, turns in models]), right={1})


def _tools(page: Page, overview: Overview) -> None:
    if not overview.tools:
        return
    page.line()
    tools = [
        (tool.name, count(tool.calls), count(tool.errors), duration(tool.p50), duration(tool.p95))
        for tool in overview.tools
    ]
    page.table(_rows(("TOOL", "CALLS", "ERRORS", "MEDIAN", "P95"), tools), right={1, 2, 3, 4})


def _rows(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[list[Cell]]:
    return [[(name, "bold") for name in head], *([(text, "") for text in row] for row in rows)]
