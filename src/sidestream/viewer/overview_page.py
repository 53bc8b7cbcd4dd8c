"""The overview: what happened in the last hour, day, week or month, in figures and charts."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from aiohttp import web

from sidestream.figures import count, duration, money
from sidestream.store.library import Library
from sidestream.store.shapes import Unclear
from sidestream.viewer.backstage import BACKSTAGE
from sidestream.viewer.charts import Chart, Series
from sidestream.viewer.queries import text_from
from sidestream.viewer.rendering import page

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidestream.store.shapes import Bucket, Overview, Percentiles

routes = web.RouteTableDef()


class Span(NamedTuple):
    """A span that can be chosen: its name, how long a bucket is in seconds, how many there are, how times are told."""

    name: str
    seconds: float
    buckets: int
    style: str


SPANS: Final = {
    "1h": Span("Last hour", 60, 60, "minutes"),
    "24h": Span("Last 24 hours", 1800, 48, "minutes"),
    "7d": Span("Last 7 days", 7200, 84, "day"),
    "30d": Span("Last 30 days", 43200, 60, "day"),
}
_USUAL: Final = "24h"


@routes.get("/overview")
async def overview(request: web.Request) -> web.Response:
    """Of one dataset or all, in one of `SPANS`."""
    backstage = request.app[BACKSTAGE]
    dataset = text_from(request, "dataset")
    chosen = text_from(request, "span") or _USUAL
    if chosen not in SPANS:
        raise Unclear(f"span: expected one of {', '.join(SPANS)}")
    span = SPANS[chosen]
    until = math.ceil(time.time() / span.seconds) * span.seconds
    since = until - span.seconds * span.buckets
    shown = await backstage.look(Library.overview, dataset, since, until, buckets=span.buckets)
    return page(
        request,
        "overview.html",
        dataset=dataset,
        datasets=[each.name for each in await backstage.look(Library.datasets)],
        chosen=chosen,
        spans=SPANS,
        span=span,
        overview=shown,
        models=sorted(shown.models.items(), key=lambda model: (-model[1], model[0])),
        charts=charts_of(shown),
    )


def charts_of(overview: Overview) -> list[Chart]:
    """All charts of an overview, in the order in which a page has them."""
    buckets = overview.buckets

    def chart(name: str, title: str, told: Callable[[float], str], *series: Series, stacked: bool = False) -> Chart:
        starts = [bucket.start for bucket in buckets]
        return Chart(name, title, series, starts, overview.until, told, stacked)

    def bars(name: str, look: str, value: Callable[[Bucket], float]) -> Series:
        return Series(name, look, [value(bucket) for bucket in buckets])

    return [
        chart(
            "turns",
            "Turns",
            _whole,
            bars("went wrong", "f-bad", lambda bucket: bucket.errors),
            bars("went well", "f-1", lambda bucket: bucket.turns - bucket.errors),
            stacked=True,
        ),
        chart(
            "tokens",
            "Tokens",
            _whole,
            bars("output", "f-2", lambda bucket: bucket.tokens.output),
            bars("input", "f-1", lambda bucket: bucket.tokens.input),
            bars("written to cache", "f-3", lambda bucket: bucket.tokens.cache_written),
            bars("read from cache", "f-4", lambda bucket: bucket.tokens.cache_read),
            stacked=True,
        ),
        chart("answers", "Time of a whole answer", duration, *_percentiles([each.durations for each in buckets])),
        chart("first", "Time to the first byte", duration, *_percentiles([each.first_bytes for each in buckets])),
        chart("cost", "Cost", money, bars("cost", "f-1", lambda bucket: bucket.cost), stacked=True),
    ]


def _percentiles(values: list[Percentiles | None]) -> list[Series]:
    return [
        Series("p50", "s-1", [None if value is None else value.p50 for value in values]),
        Series("p95", "s-2 dashed", [None if value is None else value.p95 for value in values]),
        Series("p99", "s-3 dotted", [None if value is None else value.p99 for value in values]),
    ]


def _whole(value: float) -> str:
    return count(int(value)) if value == int(value) else f"{value:g}"
