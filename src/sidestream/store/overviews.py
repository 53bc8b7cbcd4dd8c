# ruff: noqa: S608  # statements are put together from this module's own words; values are bound
"""What happened in a span of time: numbers for charts. Reads only.

Percentiles are exact: each is the value of some turn (by nearest rank), not an estimate. A span is cut into parts, and
what was made of a part is kept in memory until a turn comes or goes there: most of what is looked at again is over.
"""

from __future__ import annotations

import itertools
import math
from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import msgspec

from sidestream.providers.jsons import clean_text
from sidestream.store.shapes import Bucket, Overview, Percentiles, Tokens, ToolSummary, Unclear
from sidestream.traces.measures import NANO

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sidestream.store.database import Database

_MOST_BUCKETS: Final = 500
_MOST_TOOLS: Final = 50
_MOST_KEPT: Final = 1 << 20
"""Numbers of eight bytes that the parts which are kept have in them, about."""
_EACH: Final = 100
"""Numbers for which a part counts, beside its own."""
_MICRO: Final = 1_000_000
_DURATION: Final = f"CAST(round((ended_at - started_at) * {_MICRO}) AS INTEGER)"
_FIRST_BYTE: Final = f"CAST(round(first_byte * {_MICRO}) AS INTEGER)"
_SECONDS: Final = f"CAST(round(seconds * {_MICRO}) AS INTEGER)"
# That SQLite makes JSON of many numbers, and it is read again, takes a quarter of the time that as many rows do.
_TURNS: Final = (
    "SELECT count(*), total(state <> 'answered'), total(input), total(output), total(cache_read), total(cache_written),"
    " total(cost),"
    f" json_group_array({_DURATION}) FILTER (WHERE state IN ('answered', 'refused') AND {_DURATION} IS NOT NULL),"
    f" json_group_array({_FIRST_BYTE}) FILTER (WHERE state <> 'failed' AND first_byte IS NOT NULL) FROM measures"
)
_MODELS: Final = ("SELECT model, count(*) FROM measures", "GROUP BY model ORDER BY min(started_at)")
_CALLS: Final = ("SELECT tools, count(*) FROM measures", "AND tool_calls > 0 GROUP BY tools")
_ANSWERS: Final = f"json_group_array({_SECONDS}) FILTER (WHERE seconds IS NOT NULL)"
_RESULTS: Final = (
    f"SELECT name, sum(failed), {_ANSWERS} FROM measures CROSS JOIN tool_results USING (sequence)",
    "GROUP BY name",
)
_CHANGES: Final = (
    "SELECT coalesce(sum(number), 0) FROM changes"
    " WHERE half_hour BETWEEN CAST(? / 1800 AS INTEGER) AND CAST(? / 1800 AS INTEGER)"
)

_names = msgspec.json.Decoder(list[str]).decode
_numbers = msgspec.json.Decoder(list[int]).decode


class Overviews:
    """The same of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._kept: dict[tuple[str | None, float, float], tuple[int, _Part]] = {}
        self._room = _MOST_KEPT

    def overview(self, dataset: str | None, since: float, until: float, buckets: int) -> Overview:
        """What began from `since` until `until`, in so many buckets; of all datasets for None.

        `Unclear` unless `until` is after `since`, and there are 1 to 500 buckets.
        """
        if not (since < until and math.isfinite(until - since)):
            raise Unclear("a span of time ends after it begins")
        if not 1 <= buckets <= _MOST_BUCKETS:
            raise Unclear(f"a span of time is cut into 1 to {_MOST_BUCKETS} parts")
        seconds = (until - since) / buckets
        edges = [*(since + seconds * number for number in range(buckets)), until]
        dataset = None if dataset is None else clean_text(dataset)
        parts = [self._part(dataset, begin, end) for begin, end in itertools.pairwise(edges)]
        models = Counter[str]()
        for part in parts:
            models.update(part.models)
        tools = _tools(parts)
        return Overview(
            since=since,
            until=until,
            seconds=seconds,
            buckets=[_bucket(begin, [part]) for begin, part in zip(edges, parts, strict=False)],
            total=_bucket(since, parts),
            tools=tools[:_MOST_TOOLS],
            tools_left=len(tools[_MOST_TOOLS:]),
            models=dict(models.most_common()),
        )

    def _part(self, dataset: str | None, begin: float, end: float) -> _Part:
        """What began in this time. Changes are counted before it is read, so that none of them is missed later."""
        key = (dataset, begin, end)
        ((changes,),) = self._database.rows(_CHANGES, begin, end)
        before, part = self._kept.pop(key, (None, None))
        if part is None or before != changes:
            self._room += part.weight if part is not None else 0
            part = self._read(dataset, begin, end)
            self._room -= part.weight
        self._kept[key] = changes, part
        while self._room < 0 and self._kept:
            _, dropped = self._kept.pop(next(iter(self._kept)))
            self._room += dropped.weight
        return part

    def _read(self, dataset: str | None, begin: float, end: float) -> _Part:
        ((turns, *sums, durations, first_bytes),) = self._rows(_TURNS, "", dataset, begin, end)
        if not turns:
            return _Part()
        calls = Counter[str]()
        for names, times in self._rows(*_CALLS, dataset, begin, end):
            for name in _names(names):
                calls[name] += times
        results = self._rows(*_RESULTS, dataset, begin, end)
        return _Part(
            turns=turns,
            sums=[int(each) for each in sums],
            durations=_ordered(durations),
            first_bytes=_ordered(first_bytes),
            models={model: number for model, number in self._rows(*_MODELS, dataset, begin, end) if model is not None},
            calls=dict(calls),
            failures={name: failed for name, failed, _ in results},
            seconds={name: _ordered(seconds) for name, _, seconds in results},
        )

    def _rows(self, wanted: str, then: str, dataset: str | None, begin: float, end: float) -> list[Any]:
        if dataset is None:
            return self._database.rows(f"{wanted} WHERE started_at >= ? AND started_at < ? {then}", begin, end)
        return self._database.rows(
            f"{wanted} WHERE dataset = ? AND started_at >= ? AND started_at < ? {then}", dataset, begin, end
        )


@dataclass(frozen=True, slots=True)
class _Part:
    """What began in some time. What took how long is in millionths of a second, the shortest first."""

    turns: int = 0
    sums: list[int] = field(default_factory=lambda: [0] * 6)
    """Errors, four kinds of tokens, and the cost."""
    durations: array[int] = field(default_factory=lambda: array("q"))
    first_bytes: array[int] = field(default_factory=lambda: array("q"))
    models: dict[str, int] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    """By tool; the same for those that follow."""
    seconds: dict[str, array[int]] = field(default_factory=dict)

    @property
    def weight(self) -> int:
        """How much it counts for, where it is kept."""
        names = len(self.models) + len(self.calls) + len(self.failures)
        return len(self.durations) + len(self.first_bytes) + sum(map(len, self.seconds.values())) + _EACH * (1 + names)


def _bucket(start: float, parts: list[_Part]) -> Bucket:
    errors, given, output, cache_read, cache_written, cost = (
        sum(each) for each in zip(*(part.sums for part in parts), strict=True)
    )
    return Bucket(
        start=start,
        turns=sum(part.turns for part in parts),
        errors=errors,
        tokens=Tokens(input=given, output=output, cache_read=cache_read, cache_written=cache_written),
        cost=cost / NANO,
        durations=_percentiles(part.durations for part in parts),
        first_bytes=_percentiles(part.first_bytes for part in parts),
    )


def _tools(parts: list[_Part]) -> list[ToolSummary]:
    """The slowest first; of those that nothing is known of, the one that is called most."""
    calls, failures = Counter[str](), Counter[str]()
    for part in parts:
        calls.update(part.calls)
        failures.update(part.failures)
    found = []
    for name in (calls.keys() | failures.keys()) - {""}:
        seconds = _percentiles(part.seconds[name] for part in parts if name in part.seconds)
        p50, p95 = (seconds.p50, seconds.p95) if seconds is not None else (None, None)
        found.append(ToolSummary(name=name, calls=calls[name], errors=failures[name], p50=p50, p95=p95))
    return sorted(found, key=lambda each: (math.inf if each.p95 is None else -each.p95, -each.calls, each.name))


def _ordered(numbers: str) -> array[int]:
    """JSON of whole numbers, the least first."""
    return array("q", sorted(_numbers(numbers)))


def _percentiles(ordered: Iterable[array[int]]) -> Percentiles | None:
    """Of all of these millionths of a second; in seconds."""
    values = sorted(itertools.chain.from_iterable(ordered))  # quick, where there are stretches that are sorted already
    if not values:
        return None
    p50, p95, p99 = (values[math.ceil(len(values) * percent / 100) - 1] / _MICRO for percent in (50, 95, 99))
    return Percentiles(p50=p50, p95=p95, p99=p99)
