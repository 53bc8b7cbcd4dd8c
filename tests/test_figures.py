from __future__ import annotations

import math

import pytest

from sidestream import figures


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.841, "0.84 s"),
        (12.34, "12.3 s"),
        (245, "4 min 5 s"),
        (7380, "2 h 3 min"),
        (None, "\u2013"),
        (math.nan, "\u2013"),
        (math.inf, "\u2013"),
    ],
)
def test_a_duration_is_told_in_the_units_that_matter(seconds: float | None, text: str) -> None:
    assert text == figures.duration(seconds)


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (950, "950"), (9_999, "9,999"), (12_400, "12.4k"), (3_100_000, "3.1M"), (None, "\u2013")],
)
def test_a_large_count_is_rounded(number: int | None, text: str) -> None:
    assert text == figures.count(number)


@pytest.mark.parametrize(
    ("dollars", "text"),
    [(0.0, "$0"), (0.0042, "$0.0042"), (0.25, "$0.250"), (1.2, "$1.20"), (1234.5, "$1,234.50"), (None, "\u2013")],
)
def test_money_is_told_the_more_exactly_the_less_it_is(dollars: float | None, text: str) -> None:
    assert text == figures.money(dollars)


@pytest.mark.parametrize(("number", "text"), [(812, "812 B"), (4_100, "4.1 KB"), (2_000_000, "2.0 MB")])
def test_a_size_is_told_in_bytes_kilobytes_or_megabytes(number: int, text: str) -> None:
    assert text == figures.size(number)
