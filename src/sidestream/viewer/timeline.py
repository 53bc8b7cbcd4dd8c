"""A run as a time line: which turn took how long, what lay between them, and who worked beside.

Pure: a run in, places out; the template draws them. Places are per cent of the width, so that a drawing fits any
screen. Long stretches in which nothing happened are shortened: the marks of time show where. Turns too close together
to be told apart become one bar.
"""

from __future__ import annotations

import bisect
import collections
import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from sidestream.store.shapes import TurnState

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sidestream.store.shapes import Related, Run, RunSummary, TurnSummary

_THINNEST: Final = 0.35
"""Per cent of the width that a bar has at least."""
_CLOSE: Final = 0.1
_MOST_ROWS: Final = 4
MOST_LANES: Final = 24
_LABELLED: Final = 7.0
"""Per cent of the width from which something between two turns is labelled."""
_LONGEST_SHARE: Final = 8
"""A pause is shown as long as one of this many parts of the time in which something happened, at most."""
_SHORTEST_PAUSE: Final = 2.0
_STEPS: Final = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 43200, 86400)
_MOST_TICKS: Final = 7
_APART: Final = 9.0
"""Per cent of the width between two marks of time, at least."""
_BAD: Final = (TurnState.FAILED, TurnState.REFUSED, TurnState.CUT, TurnState.ABANDONED)


class Piece(NamedTuple):
    """A stretch of the width, in per cent."""

    x: float
    width: float


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One turn, or several that are too close together."""

    place: Piece
    waiting: Piece | None
    """Until the first byte; None where that is not known, or there are several."""
    row: int
    state: TurnState
    """The worst of them."""
    first: TurnSummary
    count: int
    seconds: float
    """All of them together."""
    retry: bool


@dataclass(frozen=True, kw_only=True)
class Pause:
    """What lies between two turns: the agent's own time, and that of its tools."""

    place: Piece
    seconds: float
    label: str
    """Tools that were called; "" for none."""
    shown: bool
    """Whether there is room for the label."""
    shortened: bool


@dataclass(frozen=True, kw_only=True)
class Lane:
    """A run beside: one that left this one, or was called from it."""

    place: Piece
    related: Related


@dataclass(frozen=True, kw_only=True)
class Fill:
    """The tokens of a turn's request, in per cent of the largest: read from the cache, and not."""

    place: Piece
    cached: float
    fresh: float
    turn: TurnSummary


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A mark of time since the beginning."""

    x: float
    label: str


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """All of it. Seconds are told apart: `model` while a turn was under way, `between` from one to the next."""

    bars: tuple[Bar, ...]
    rows: int
    pauses: tuple[Pause, ...]
    lanes: tuple[Lane, ...]
    hidden_lanes: int
    fills: tuple[Fill, ...]
    ticks: tuple[Tick, ...]
    model: float
    waiting: float
    """Of `model`, until first bytes."""
    between: float
    whole: float
    slowest: TurnSummary | None
    dearest: TurnSummary | None
    """The turn that cost most, if prices are known."""


def timeline(run: Run, now: float) -> Timeline | None:
    """The time line of a run; None if it has no turn whose time is known. `now` ends what is still running."""
    timed = (turn for turn in run.turns if math.isfinite(turn.started_at) and math.isfinite(turn.duration))
    turns = sorted(timed, key=lambda turn: turn.started_at)
    if not turns:
        return None
    ends = [_end(turn, now) for turn in turns]
    beside = _below(run)
    spans = [*zip((turn.started_at for turn in turns), ends, strict=True)]
    shown = beside[:MOST_LANES]
    scale = _Scale([*spans, *(_span(each.run, now) for each in shown)])
    bars = _bars(turns, ends, scale)
    busy = list(_merged(spans))
    priced = [turn for turn in turns if turn.cost is not None]
    return Timeline(
        bars=tuple(bars),
        rows=max(bar.row for bar in bars) + 1,
        pauses=tuple(_pauses(turns, ends, scale)),
        lanes=tuple(Lane(place=scale.piece(*_span(each.run, now)), related=each) for each in shown),
        hidden_lanes=len(beside) - len(shown),
        fills=tuple(_fills(turns, ends, scale)),
        ticks=tuple(scale.ticks()),
        model=sum(end - start for start, end in busy),
        waiting=sum(turn.time_to_first_byte or 0.0 for turn in turns),
        between=sum(later[0] - earlier[1] for earlier, later in itertools.pairwise(busy)),
        whole=busy[-1][1] - busy[0][0],
        slowest=max(turns, key=lambda turn: turn.duration) if len(turns) > 1 else None,
        dearest=max(priced, key=lambda turn: turn.cost or 0.0) if len(priced) > 1 else None,
    )


class _Scale:
    """From moments to places. Pauses are shortened to a share of the time in which something happened."""

    def __init__(self, spans: Iterable[tuple[float, float]]) -> None:
        busy = list(_merged(spans))
        self.start, self.end = busy[0][0], busy[-1][1]
        happened = sum(end - start for start, end in busy)
        self.longest = max(_SHORTEST_PAUSE, happened / _LONGEST_SHARE)
        self._points = [(busy[0][0], 0.0)]
        at = 0.0
        for number, (start, end) in enumerate(busy):
            if number:
                at += min(self.longest, start - busy[number - 1][1])
                self._points.append((start, at))
            at += end - start
            self._points.append((end, at))
        self._width = at or 1.0

    def x(self, moment: float) -> float:
        """Per cent from the left."""
        (start, low), (end, high) = self._around(moment)
        share = (moment - start) / (end - start) if end > start else 1.0
        at = low + (high - low) * min(1.0, max(0.0, share))
        return round(100 * at / self._width, 3)

    def piece(self, start: float, end: float) -> Piece:
        """At least as wide as can be seen."""
        x = self.x(start)
        width = max(_THINNEST, self.x(end) - x)
        return Piece(min(x, round(100 - width, 3)), round(width, 3))

    def ticks(self) -> list[Tick]:
        """Round numbers of seconds since the beginning, not where time is shortened."""
        whole = self.end - self.start
        step = next((step for step in _STEPS if self._width / step <= _MOST_TICKS), _STEPS[-1])
        if whole / step > 100 * _MOST_TICKS:
            step = whole / _MOST_TICKS
        ticks = [Tick(x=0.0, label="0")]
        for number in range(1, int(whole / step) + 1):
            moment = self.start + number * step
            x = self.x(moment)
            if x - ticks[-1].x >= _APART and x <= 100 - _APART / 2 and not self._is_shortened(moment):
                ticks.append(Tick(x=x, label=_label(number * step)))
        return ticks

    def _is_shortened(self, moment: float) -> bool:
        (start, low), (end, high) = self._around(moment)
        return high - low < (end - start) * 0.99

    def _around(self, moment: float) -> tuple[tuple[float, float], tuple[float, float]]:
        after = bisect.bisect_left(self._points, (moment, -math.inf))
        after = min(max(1, after), len(self._points) - 1)
        return self._points[after - 1], self._points[after]


def _bars(turns: Sequence[TurnSummary], ends: Sequence[float], scale: _Scale) -> list[Bar]:
    bars: list[Bar] = []
    free = [0.0] * _MOST_ROWS
    for turn, end in zip(turns, ends, strict=True):
        place = scale.piece(turn.started_at, end)
        before = bars[-1] if bars else None
        if before is not None and _is_close(before, place):
            bars[-1] = _joined(before, turn, place)
            free[before.row] = max(free[before.row], end)
            continue
        row = next((row for row, until in enumerate(free) if until <= turn.started_at), _MOST_ROWS - 1)
        free[row] = max(free[row], end)
        bars.append(_bar(turn, place, row, scale))
    return bars


def _bar(turn: TurnSummary, place: Piece, row: int, scale: _Scale) -> Bar:
    waited = turn.time_to_first_byte
    waiting = None
    if waited is not None and turn.state is not TurnState.FAILED:
        width = min(place.width, max(0.0, scale.x(turn.started_at + waited) - place.x))
        waiting = Piece(place.x, round(width, 3))
    return Bar(
        place=place,
        waiting=waiting,
        row=row,
        state=turn.state,
        first=turn,
        count=1,
        seconds=turn.duration,
        retry=turn.retry_of is not None,
    )


def _is_close(before: Bar, place: Piece) -> bool:
    end = before.place.x + before.place.width
    return place.width <= _THINNEST and before.place.width <= 2 * _THINNEST and place.x - end < _CLOSE


def _joined(before: Bar, turn: TurnSummary, place: Piece) -> Bar:
    width = max(before.place.width, place.x + place.width - before.place.x)
    return Bar(
        place=Piece(before.place.x, round(width, 3)),
        waiting=None,
        row=before.row,
        state=min(before.state, turn.state, key=_badness),
        first=before.first,
        count=before.count + 1,
        seconds=before.seconds + turn.duration,
        retry=before.retry or turn.retry_of is not None,
    )


def _badness(state: TurnState) -> int:
    order = (*_BAD, TurnState.RUNNING, TurnState.ANSWERED)
    return order.index(state)


def _pauses(turns: Sequence[TurnSummary], ends: Sequence[float], scale: _Scale) -> Iterable[Pause]:
    until, tools = ends[0], turns[0].tools
    for turn, end in itertools.islice(zip(turns, ends, strict=True), 1, None):
        seconds = turn.started_at - until
        if seconds > 0:
            x, width = scale.x(until), scale.x(turn.started_at) - scale.x(until)
            if width >= _CLOSE:
                yield Pause(
                    place=Piece(x, round(width, 3)),
                    seconds=seconds,
                    label=_named(tools),
                    shown=width >= _LABELLED,
                    shortened=seconds > scale.longest * 1.01,
                )
        if end >= until:
            until, tools = end, turn.tools


def _fills(turns: Sequence[TurnSummary], ends: Sequence[float], scale: _Scale) -> Iterable[Fill]:
    sizes = [(turn.tokens.cache_read, turn.tokens.input + turn.tokens.cache_written) for turn in turns]
    largest = max((sum(size) for size in sizes), default=0)
    if not largest:
        return
    for turn, end, (cached, fresh) in zip(turns, ends, sizes, strict=True):
        if cached or fresh:
            yield Fill(
                place=scale.piece(turn.started_at, end),
                cached=round(100 * cached / largest, 2),
                fresh=round(100 * fresh / largest, 2),
                turn=turn,
            )


def _below(run: Run) -> list[Related]:
    """The runs that left this one or were called from it, and those below them, in order of their beginnings."""
    below = {run.summary.id}
    found = []
    for each in sorted(run.related, key=lambda each: each.run.started_at):
        if each.run.parent in below and each.run.id not in below:
            below.add(each.run.id)
            found.append(each)
    return found


def _named(tools: Sequence[str]) -> str:
    counted = collections.Counter(tools)
    named = [name if count == 1 else f"{name} \u00d7{count}" for name, count in itertools.islice(counted.items(), 8)]
    return ", ".join([*named, *(["\u2026"] if len(counted) > len(named) else [])])


def _label(seconds: float) -> str:
    """``0.5 s``, ``20 s``, ``1 min 20 s``, ``2 h 3 min``; what is nought is left out."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    told = [(hours, "h"), (minutes, "min"), (0 if hours else rest, "s")]
    return " ".join(f"{number} {unit}" for number, unit in told if number)


def _end(turn: TurnSummary, now: float) -> float:
    end = turn.started_at + max(0.0, turn.duration)
    return max(end, now) if turn.state is TurnState.RUNNING else end


def _span(run: RunSummary, now: float) -> tuple[float, float]:
    end = now if run.state is TurnState.RUNNING else run.ended_at
    return run.started_at, max(run.started_at, end)


def _merged(spans: Iterable[tuple[float, float]]) -> Iterable[tuple[float, float]]:
    """Spans that overlap or touch as one, in order."""
    current: tuple[float, float] | None = None
    for start, end in sorted(spans):
        if current is not None and start <= current[1]:
            current = current[0], max(current[1], end)
            continue
        if current is not None:
            yield current
        current = start, end
    if current is not None:
        yield current
