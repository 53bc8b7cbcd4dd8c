from __future__ import annotations

from xml.etree import ElementTree as ET  # what is read is our own

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostile import HOSTILE
from sidestream.figures import count
from sidestream.viewer.charts import HEIGHT, WIDTH, Chart, Series, round_up


def a_chart(*values: list[float | None], stacked: bool = True, title: str = "Turns") -> Chart:
    series = [Series(f"s{place}", f"f-{place}", each) for place, each in enumerate(values)]
    starts = [60.0 * place for place in range(len(values[0]))]
    return Chart("turns", title, series, starts, 60.0 * len(starts), lambda value: count(int(value)), stacked)


def drawn(chart: Chart) -> ET.Element:
    return ET.fromstring(chart.drawing)  # noqa: S314  # as above


def bars(chart: Chart) -> list[list[dict[str, str]]]:
    return [[rect.attrib for rect in group] for group in drawn(chart).findall("g")]


def test_bars_stand_on_each_other() -> None:
    ((lower,), (upper,)) = bars(a_chart([1], [3]))

    assert (HEIGHT * 0.8, HEIGHT * 0.2) == (float(lower["y"]), float(lower["height"]))
    assert (HEIGHT * 0.2, HEIGHT * 0.6) == (float(upper["y"]), float(upper["height"]))


def test_a_bar_stands_in_its_bucket() -> None:
    (((bar,)),) = bars(a_chart([0, 5, None, 0]))

    left, width = float(bar["x"]), float(bar["width"])
    assert WIDTH / 4 < left
    assert left + width < WIDTH / 2


def test_the_axis_ends_with_a_round_number_above_all_sums() -> None:
    assert a_chart([3, 10], [4, 11]).top == 25
    assert a_chart([3, 10], [4, 11], stacked=False).top == 20


@pytest.mark.parametrize(("value", "top"), [(0, 1), (1, 1), (1.1, 2), (24, 25), (26, 50), (999, 1000), (0.03, 0.05)])
def test_a_number_is_rounded_up(value: float, top: float) -> None:
    assert pytest.approx(top) == round_up(value)


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_whatever_is_rounded_up_can_be_divided_by(value: float) -> None:
    assert round_up(value) > 0


def test_a_line_is_broken_where_nothing_is_known_and_a_point_alone_is_a_dot() -> None:
    line, lone = drawn(a_chart([10, 5, None, 10, None], stacked=False)).findall("path")

    assert ("M60.00 0.00 L180.00 50.00", "M420.00 0.00 h0.01") == (line.attrib["d"], lone.attrib["d"])


def test_a_chart_says_what_it_is_and_shows() -> None:
    chart = drawn(a_chart([1, 7], [2, None], stacked=False))

    labels = [chart.find(f"*[@id='{name}']") for name in chart.attrib["aria-labelledby"].split()]
    assert ["Turns", "Turns: s0 up to 7, s1 up to 2."] == [label.text for label in labels if label is not None]
    assert chart.attrib["role"] == "img"


def test_each_bucket_says_its_figures_to_whoever_points_at_it() -> None:
    chart = drawn(a_chart([0, 7], [None, 2]))

    assert ["s0 7, s1 2"] == [title.text for title in chart.findall("rect/title")]


def test_the_table_has_all_buckets_with_anything_in_them() -> None:
    assert [(60.0, ["7", "\u2013"])] == a_chart([0, 7, 0], [None, None, 0]).rows


@pytest.mark.parametrize("values", [[], [0, 0], [None, None]])
def test_an_empty_span_is_a_chart_too(values: list[float | None]) -> None:
    chart = a_chart(values)

    assert chart.empty
    assert chart.summary == "Turns: nothing in this span."
    assert [[]] == bars(chart)


@pytest.mark.parametrize("text", [each for each in HOSTILE if each.isprintable()])
def test_a_name_is_never_markup(text: str) -> None:
    chart = Chart("x", text, [Series(text, "f-1", [1.0])], [0.0], 60.0, lambda _: text, stacked=True)

    assert text == drawn(chart).findtext("title")
