"""Charts over time, as SVG without script or style of its own: bars that stack, and lines.

The drawing is stretched to the width there is, so there is no text in it: what is at the axes stands around it. Each
chart has all its figures in a table beneath, for those who cannot, or would rather not, read it off the drawing.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from markupsafe import Markup

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

WIDTH: Final = 600.0
HEIGHT: Final = 100.0
_STEPS: Final = (1.0, 2.0, 2.5, 5.0, 10.0)
_GAP: Final = 0.15
"""The part of a bucket's width that is left free beside its bar."""
_LEAST: Final = 1e-12
_DOT: Final = 0.01
"""The length of a line through a single point; its round ends make it a dot."""


@dataclass(frozen=True)
class Series:
    """One value per bucket; None where there is none. `look` are classes of the style sheet."""

    name: str
    look: str
    values: Sequence[float | None]


@dataclass(frozen=True)
class Chart:
    """What a chart shows. All series have as many values as there are `starts`, Unix times of buckets in order."""

    id: str
    """Unique on the page; a word."""
    title: str
    series: Sequence[Series]
    starts: Sequence[float]
    until: float
    """When the last bucket ends."""
    told: Callable[[float], str]
    """A value in words."""
    stacked: bool = False
    """Bars, one on the other, in place of lines."""

    @property
    def top(self) -> float:
        """The value at the upper end of the axis: the least round one that nothing exceeds, 1 if there is nothing."""
        return round_up(max(self._sums() if self.stacked else self._values(), default=0.0))

    @property
    def empty(self) -> bool:
        """Whether there is nothing to draw."""
        return not any(self._values())

    @property
    def summary(self) -> str:
        """What it shows, in a sentence."""
        if self.empty:
            return f"{self.title}: nothing in this span."
        highest = (
            f"{each.name} up to {self.told(max(value for value in each.values if value is not None))}"
            for each in self.series
            if any(value is not None for value in each.values)
        )
        return f"{self.title}: {', '.join(highest)}."

    @property
    def drawing(self) -> Markup:
        """The SVG element."""
        rules = Markup("").join(
            Markup('<line class="rule" x1="0" x2="{:g}" y1="{:g}" y2="{:g}"/>').format(WIDTH, y, y)
            for y in (0, HEIGHT / 2, HEIGHT)
        )
        marks = self._bars() if self.stacked else self._lines()
        return Markup(
            '<svg viewBox="0 0 {:g} {:g}" preserveAspectRatio="none" role="img" aria-labelledby="{}-title {}-desc">'
            '<title id="{}-title">{}</title><desc id="{}-desc">{}</desc>{}{}{}</svg>'
        ).format(
            WIDTH, HEIGHT, self.id, self.id, self.id, self.title, self.id, self.summary, rules, marks, self._hits()
        )

    @property
    def rows(self) -> list[tuple[float, list[str]]]:
        """For the table: of each bucket in which there is anything its beginning, and the values in words."""
        values = zip(*(each.values for each in self.series), strict=True)
        return [
            (start, ["\u2013" if value is None else self.told(value) for value in row])
            for start, row in zip(self.starts, values, strict=True)
            if any(row)
        ]

    def _values(self) -> list[float]:
        return [value for each in self.series for value in each.values if value is not None]

    def _sums(self) -> list[float]:
        return [sum(value or 0 for value in row) for row in zip(*(each.values for each in self.series), strict=True)]

    def _bars(self) -> Markup:
        width = WIDTH / max(1, len(self.starts))
        below = [0.0] * len(self.starts)
        groups = []
        for each in self.series:
            bars = []
            for place, value in enumerate(each.values):
                if not value:
                    continue
                height = value / self.top * HEIGHT
                below[place] += height
                bars.append(
                    Markup('<rect x="{:.2f}" y="{:.2f}" width="{:.2f}" height="{:.2f}"/>').format(
                        (place + _GAP / 2) * width, HEIGHT - below[place], (1 - _GAP) * width, height
                    )
                )
            groups.append(Markup('<g class="{}">{}</g>').format(each.look, Markup("").join(bars)))
        return Markup("").join(groups)

    def _lines(self) -> Markup:
        return Markup("").join(
            Markup('<path class="{} {}" d="{}"/>').format(kind, each.look, path)
            for each in self.series
            for kind, path in zip(("line", "line lone"), self._paths(each), strict=True)
            if path
        )

    def _paths(self, series: Series) -> tuple[str, str]:
        """A line through the middles of buckets, broken where there is no value; and the points that are alone."""
        width = WIDTH / max(1, len(self.starts))
        lines, lone = [], []
        for known, group in itertools.groupby(enumerate(series.values), lambda point: point[1] is not None):
            if not known:
                continue
            points = [
                f"{(at + 0.5) * width:.2f} {HEIGHT - (value or 0) / self.top * HEIGHT:.2f}" for at, value in group
            ]
            if len(points) == 1:
                lone.append(f"M{points[0]} h{_DOT}")
            else:
                lines.append(f"M{' L'.join(points)}")
        return " ".join(lines), " ".join(lone)

    def _hits(self) -> Markup:
        """What says the figures of a bucket to whoever points at it."""
        width = WIDTH / max(1, len(self.starts))
        places = {start: place for place, start in enumerate(self.starts)}
        return Markup("").join(
            Markup('<rect class="here" x="{:.2f}" y="0" width="{:.2f}" height="{:g}"><title>{}</title></rect>').format(
                places[start] * width,
                width,
                HEIGHT,
                ", ".join(f"{each.name} {value}" for each, value in zip(self.series, row, strict=True)),
            )
            for start, row in self.rows
        )


def round_up(value: float) -> float:
    """The least of 1, 2, 2.5, 5 or 10 times a power of ten that is not less; 1 for nothing."""
    if value < _LEAST or not math.isfinite(value):
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next((step * power for step in _STEPS if step * power >= value), 10 * power)
