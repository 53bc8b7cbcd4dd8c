"""Snapshots: how they are taken, and how they add up."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidestream.stats import BOUNDS, BUCKETS, Histogram, merge, status_name

if TYPE_CHECKING:
    from collections.abc import Mapping

NAMES = st.sampled_from(["a", "b", "gauges"])
# Quarters add up exactly, in any order; other floats do so nearly.
NUMBERS = st.integers(0, 2**60) | st.integers(0, 10_000).map(lambda quarters: quarters / 4)
SNAPSHOTS: st.SearchStrategy[dict[str, Any]] = st.dictionaries(
    NAMES, st.recursive(NUMBERS, lambda below: st.dictionaries(NAMES, below, max_size=3)), max_size=3
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text() | st.integers(), below, max_size=3),
)


def test_snapshots_add_up_leaf_by_leaf() -> None:
    one = {"captured": 2, "dropped": {"full": 1}, "gauges": {"live": 3}}
    other = {"captured": 5, "dropped": {"full": 10, "slow": 7}, "inexact": 0.5}
    assert {"captured": 7, "dropped": {"full": 11, "slow": 7}, "gauges": {"live": 3}, "inexact": 0.5} == merge(
        one, other
    )


def test_nothing_adds_up_to_nothing() -> None:
    assert {} == merge()


@given(SNAPSHOTS, SNAPSHOTS, SNAPSHOTS)
def test_it_does_not_matter_what_is_added_first(
    a: Mapping[str, object], b: Mapping[str, object], c: Mapping[str, object]
) -> None:
    assert merge(a, b, c) == merge(merge(a, b), c) == merge(a, merge(b, c)) == merge(c, b, a)


@given(SNAPSHOTS)
def test_a_sum_shares_nothing_with_what_was_added(snapshot: dict[str, Any]) -> None:
    before = json.dumps(snapshot)
    merge(merge(snapshot), snapshot)
    total = merge(snapshot)
    merge(total, {"a": {"a": 1}})
    total.clear()
    assert before == json.dumps(snapshot)


def test_a_later_change_of_a_snapshot_does_not_reach_the_sum() -> None:
    snapshot = {"dropped": {"full": 1}}
    total = merge(snapshot)
    snapshot["dropped"]["full"] = 100
    assert {"dropped": {"full": 1}} == total


@pytest.mark.parametrize("value", [None, True, "7", b"7", [7], -1, math.nan, math.inf, -math.inf, 1e300, 10**400])
def test_what_cannot_be_counted_is_left_out(value: object) -> None:
    assert {"captured": 1} == merge({"captured": value, "inexact": value}, {"captured": 1})


def test_a_mapping_stays_where_a_number_has_the_same_name() -> None:
    assert {"a": {"b": 1}} == merge({"a": 5}, {"a": {"b": 1}}, {"a": 7})


def test_a_status_from_json_and_one_from_memory_are_the_same() -> None:
    assert {"200": 3} == merge({"200": 1}, {200: 2})  # type: ignore[dict-item]  # as a careless caller would


def test_bottomless_nesting_is_cut() -> None:
    bottomless: dict[str, Any] = {}
    bottomless["a"] = bottomless
    assert "a" in merge(bottomless)


@given(st.dictionaries(st.text(), ANYTHING))
def test_whatever_is_added_the_sum_can_be_sent_as_json(snapshot: dict[str, Any]) -> None:
    total = merge(snapshot, snapshot)
    assert total == json.loads(json.dumps(total, allow_nan=False))


def test_a_histogram_counts_each_value_in_the_bucket_it_fits() -> None:
    """A bucket's bound belongs to it."""
    histogram = Histogram()
    for seconds in (0.0, 0.05, 0.051, 1.0, 119.0, 120.0, 121.0, 86_400.0):
        histogram.add(seconds)
    counts = histogram.snapshot()["buckets"]
    assert {"0.05": 2, "0.1": 1, "1.0": 1, "120.0": 2, "+Inf": 2} == {name: n for name, n in counts.items() if n}
    assert list(BUCKETS) == list(counts)


def test_a_histogram_sums_the_seconds() -> None:
    histogram = Histogram()
    histogram.add(0.25)
    histogram.add(3.5)
    assert histogram.snapshot()["sum"] == 3.75


@pytest.mark.parametrize("seconds", [-0.001, math.nan, math.inf, -math.inf])
def test_a_histogram_passes_over_what_no_clock_measures(seconds: float) -> None:
    histogram = Histogram()
    histogram.add(seconds)
    assert Histogram().snapshot() == histogram.snapshot()


@given(st.lists(st.integers(0, 1000).map(lambda quarters: quarters / 4)), st.integers(0, 20))
def test_histograms_of_two_processes_merge_into_that_of_one(values: list[float], split: int) -> None:
    one, other, whole = Histogram(), Histogram(), Histogram()
    for seconds in values:
        whole.add(seconds)
    for seconds in values[:split]:
        one.add(seconds)
    for seconds in values[split:]:
        other.add(seconds)
    assert whole.snapshot() == merge(one.snapshot(), other.snapshot())


def test_the_bounds_ascend_from_a_twentieth_of_a_second_to_two_minutes() -> None:
    assert sorted(set(BOUNDS)) == list(BOUNDS)
    assert (0.05, 120.0) == (BOUNDS[0], BOUNDS[-1])


@pytest.mark.parametrize(
    ("status", "name"),
    [
        (200, "200"),
        (429, "429"),
        (503, "503"),
        (529, "529"),
        (299, "2xx"),
        (499, "4xx"),
        (599, "5xx"),
        (600, "other"),
        (0, "other"),
        (-200, "other"),
        (10**30, "other"),
        (None, "none"),
    ],
)
def test_a_status_is_named(status: int | None, name: str) -> None:
    assert name == status_name(status)


def test_the_names_of_statuses_are_few() -> None:
    assert len({status_name(status) for status in range(-1000, 10_000)}) < 80
