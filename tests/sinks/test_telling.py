from typing import Any

import pytest
from structlog.testing import capture_logs

from sidestream.sinks.telling import Telling
from sidestream.sinks.visits import Answer, Visit
from sidestream.store.rows import Delivery, Lane, State


def a_row(state: State) -> Delivery:
    return Delivery(1, 1, "x1", "s", Lane("", "demo"), state, attempts=2, reason="why")


@pytest.mark.parametrize(
    ("state", "counter", "event", "level"),
    [
        (State.DELIVERED, "delivered", "sink_delivered", "debug"),
        (State.RETRY_AT, "retried", "sink_delivery_retried", "warning"),
        (State.PARKED, "parked", "sink_trace_parked", "warning"),
        (State.DEAD, "dead", "sink_trace_dead", "error"),
    ],
)
def test_what_became_of_a_row_is_counted_and_logged(state: State, counter: str, event: str, level: str) -> None:
    telling = Telling("s")
    with capture_logs() as logs:
        telling.row(a_row(state), error="why")
    [log] = logs
    assert (1, event, level) == (getattr(telling.counters, counter), log["event"], log["log_level"])
    assert ("s", "x1", 2) == (log["sink"], log["exchange"], log["attempt"])


def parked(telling: Telling, *rows: tuple[str, str, int], unparks: Any = ()) -> list[int]:
    """How many rows each line tells of."""
    with capture_logs() as logs:
        telling.parked(Visit([], 0.0, unparks=list(unparks)), Answer([], [], list(rows)))
    return [log["traces"] for log in logs if log["event"] == "sink_traces_parked"]


def test_rows_parked_at_once_are_one_line_until_they_had_another_chance() -> None:
    telling = Telling("s")
    assert [3] == parked(telling, ("a", "no key", 3))
    assert [] == parked(telling, ("a", "no key", 2))
    assert [4] == parked(telling, ("b", "no key", 4))
    assert [1] == parked(telling, ("a", "no key", 1), unparks=[("a", ["no key"])])
    assert 10 == telling.counters.parked


def test_where_nothing_was_parked_nothing_is_told() -> None:
    assert [] == parked(Telling("s"), ("a", "no key", 0))


def test_what_was_told_does_not_grow_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidestream.sinks.telling._MOST_TOLD", 2)
    telling = Telling("s")
    for key in ("a", "b", "c"):
        assert [1] == parked(telling, (key, "no key", 1))
    assert [1] == parked(telling, ("a", "no key", 1))
