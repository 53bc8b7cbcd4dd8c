"""How much is done at a time follows from how long it took."""

from __future__ import annotations

import pytest

from sidestream.recorder.pace import Pace


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What a step takes."""
    seconds, now = [0.0], [0.0]

    def read() -> float:
        now[0] += seconds[0]
        return now[0]

    monkeypatch.setattr("sidestream.recorder.pace.perf_counter", read)
    return seconds


def test_slow_steps_become_smaller_down_to_one(clock: list[float]) -> None:
    steps = Pace(100, 1000)
    clock[0] = 0.02
    steps.measured(str)
    assert 51 == steps.amount
    clock[0] = 10.0
    steps.measured(str)
    assert 1 == steps.amount


def test_quick_steps_become_larger_up_to_the_most(clock: list[float]) -> None:
    steps = Pace(100, 200)
    clock[0] = 0.0001
    amounts = []
    for _ in range(3):
        steps.measured(str)
        amounts.append(steps.amount)
    assert [151, 200, 200] == amounts


def test_a_step_is_called_as_it_is_and_counts_where_it_fails(clock: list[float]) -> None:
    steps = Pace(100, 200)
    assert "12" == steps.measured("{}{}".format, 1, 2)
    clock[0] = 1.0
    with pytest.raises(ZeroDivisionError):
        steps.measured(divmod, 1, 0)
    assert 1 < steps.amount < 10


def test_that_there_was_nothing_to_do_says_nothing(clock: list[float]) -> None:
    steps = Pace(100, 200)
    clock[0] = 0.0001
    assert not steps.measured(bool)
    assert 100 == steps.amount
    clock[0] = 0.1
    assert not steps.measured(bool)
    assert 11 == steps.amount
