"""A run's time line has its turns where they were, shows what lay between, and stays readable however long it is."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shown import BEGAN, a_relative, a_run, a_turn
from sidestream.store.shapes import Run, RunKind, Tokens, TurnState
from sidestream.viewer.timeline import Timeline, timeline

NOW = BEGAN + 10_000


def drawn(run: Run) -> Timeline:
    found = timeline(run, NOW)
    assert found is not None
    return found


def turns_at(*spans: tuple[float, float], **facts: Any) -> Run:
    turns = [
        a_turn(number, started_at=BEGAN + start, duration=end - start, **facts)
        for number, (start, end) in enumerate(spans, start=1)
    ]
    return a_run(*turns)


def test_a_run_without_turns_has_no_time_line() -> None:
    assert timeline(a_run(), NOW) is None


def test_turns_are_where_they_were() -> None:
    line = drawn(turns_at((0, 6), (8, 20)))
    assert [(0, 30), (40, 60)] == [bar.place for bar in line.bars]
    assert [(30, 10)] == [pause.place for pause in line.pauses]


def test_waiting_for_the_first_byte_is_told_apart_from_answering() -> None:
    (bar,) = drawn(turns_at((0, 10), time_to_first_byte=2.0)).bars
    assert (0, 20) == bar.waiting


def test_seconds_are_added_up() -> None:
    line = drawn(turns_at((0, 6), (8, 20), time_to_first_byte=1.0))
    assert (18.0, 2.0, 2.0, 20.0) == (line.model, line.waiting, line.between, line.whole)


def test_turns_at_the_same_time_are_counted_once_and_drawn_below_each_other() -> None:
    line = drawn(turns_at((0, 10), (5, 10)))
    assert (10.0, 2, [0, 1]) == (line.model, line.rows, [bar.row for bar in line.bars])


def test_a_pause_is_labelled_with_the_tools_that_were_called() -> None:
    turns = [a_turn(1, tools=["bash", "read", "bash"]), a_turn(2, started_at=BEGAN + 12)]
    (pause,) = drawn(a_run(*turns)).pauses
    assert ("bash \u00d72, read", 10.0, True) == (pause.label, pause.seconds, pause.shown)


def test_a_long_pause_is_drawn_shorter_and_says_so() -> None:
    line = drawn(turns_at((0, 10), (3600, 3610)))
    assert (True, 3590.0) == (line.pauses[0].shortened, line.pauses[0].seconds)
    assert line.bars[0].place.width > 40


def test_no_mark_of_time_stands_where_time_is_shortened() -> None:
    line = drawn(turns_at((0, 10), (3600, 3610)))
    before, behind = line.bars
    assert all(tick.x <= before.place.x + before.place.width or tick.x >= behind.place.x for tick in line.ticks)


@pytest.mark.parametrize(
    ("seconds", "labels"),
    [
        (1.0, ["0", "0.2 s", "0.4 s", "0.6 s", "0.8 s"]),
        (60.0, ["0", "10 s", "20 s", "30 s", "40 s", "50 s"]),
        (300.0, ["0", "1 min", "2 min", "3 min", "4 min"]),
        (9000.0, ["0", "30 min", "1 h", "1 h 30 min", "2 h"]),
    ],
)
def test_marks_of_time_are_round(seconds: float, labels: list[str]) -> None:
    assert labels == [tick.label for tick in drawn(turns_at((0, seconds))).ticks]


def test_turns_too_close_together_become_one_bar_with_the_worst_state() -> None:
    turns = [a_turn(number, started_at=BEGAN + number * 0.001, duration=0.001) for number in range(1, 40)]
    turns[20] = a_turn(21, started_at=BEGAN + 21 * 0.001, duration=0.001, state=TurnState.CUT)
    bars = drawn(a_run(*turns, a_turn(41, duration=100.0))).bars
    assert ([39, 1], TurnState.CUT, 1) == ([bar.count for bar in bars], bars[0].state, bars[0].first.number)


def test_hundreds_of_turns_fit() -> None:
    line = drawn(turns_at(*((number, number + 0.5) for number in range(3000))))
    assert 3000 == sum(bar.count for bar in line.bars)
    assert len(line.bars) <= 300


def test_branches_and_children_have_lanes_below_and_what_is_above_has_none() -> None:
    family = [
        a_relative("r0", None),
        a_relative("r1", "r0"),
        a_relative("child", "r1", "x1"),
        a_relative("branch", "child", kind=RunKind.BRANCH),
        a_relative("other", "r0"),
    ]
    line = drawn(a_run(a_turn(1, duration=60.0), related=family))
    assert ["child", "branch"] == [lane.related.run.id for lane in line.lanes]


def test_lanes_that_are_left_out_are_counted() -> None:
    family = [a_relative("r1", None), *(a_relative(f"c{number}", "r1") for number in range(30))]
    line = drawn(a_run(a_turn(), related=family))
    assert (24, 6) == (len(line.lanes), line.hidden_lanes)


def test_tokens_are_told_as_a_share_of_the_largest() -> None:
    turns = [
        a_turn(1, tokens=Tokens(input=10, cache_written=40)),
        a_turn(2, tokens=Tokens(input=20, cache_read=80)),
        a_turn(3),
    ]
    assert [(0, 50), (80, 20)] == [(fill.cached, fill.fresh) for fill in drawn(a_run(*turns)).fills]


def test_a_turn_under_way_lasts_until_now() -> None:
    turn = a_turn(1, state=TurnState.RUNNING, duration=0.0)
    found = timeline(a_run(turn), BEGAN + 7)
    assert found is not None
    assert 7.0 == found.whole


def test_the_slowest_and_the_dearest_turn_are_named() -> None:
    line = drawn(a_run(a_turn(1, cost=0.1), a_turn(2, duration=5.0, cost=0.01), a_turn(3)))
    assert line.slowest is not None
    assert line.dearest is not None
    assert (2, 1) == (line.slowest.number, line.dearest.number)


SECONDS = st.one_of(st.floats(0, 1e6), st.sampled_from([0.0, math.nan, math.inf, -5.0, 1e18]))


@given(st.lists(st.tuples(SECONDS, SECONDS, st.sampled_from(TurnState)), min_size=1, max_size=12))
def test_everything_is_within_the_width_whatever_the_times(spans: list[tuple[float, float, TurnState]]) -> None:
    turns = [
        a_turn(number, started_at=BEGAN + start, duration=seconds, state=state)
        for number, (start, seconds, state) in enumerate(spans, start=1)
    ]
    line = timeline(a_run(*turns), NOW)
    places = [bar.place for bar in line.bars] + [pause.place for pause in line.pauses] if line is not None else []
    assert all(-0.01 <= place.x and place.x + place.width <= 100.01 for place in places)
