import math
from typing import Any

import pytest

from sidestream.errors import Ambiguous, Retryable, Undeliverable
from sidestream.sinks import policy as rules
from sidestream.sinks.base import Found
from sidestream.sinks.policy import GONE, UNCLEAR, Policy
from sidestream.store.rows import Delivery, Lane, State

POLICY = Policy()
HOUR = 3600.0


def a_row(state: State = State.SENDING, **facts: Any) -> Delivery:
    return Delivery(1, 1, "x1", "s", Lane("", "demo"), state, **facts)


@pytest.mark.parametrize(("failures", "ceiling"), [(0, 1), (1, 1), (2, 2), (9, 256), (10, 300), (10**6, 300)])
def test_waits_double_up_to_five_minutes_and_are_spread_over_all_of_that(failures: int, ceiling: float) -> None:
    waits = [POLICY.wait(failures) for _ in range(500)]
    assert all(0.05 <= wait <= ceiling for wait in waits)
    assert min(waits) < ceiling / 4 < ceiling * 3 / 4 < max(waits)


@pytest.mark.parametrize(
    ("after", "least"), [(90.0, 90), (1e9, HOUR), (math.inf, HOUR), (math.nan, 0.05), (-5.0, 0.05), (None, 0.05)]
)
def test_what_the_destination_asks_for_is_honoured_up_to_an_hour(after: float | None, least: float) -> None:
    assert least <= POLICY.wait(1, after) <= max(least, 1)


@pytest.mark.parametrize(
    ("state", "due_at", "left"),
    [
        (State.PENDING, 150.0, 0),
        (State.SENDING, 150.0, 0),
        (State.RETRY_AT, 150.0, 50),
        (State.RETRY_AT, 99.0, 0),
        (State.RETRY_AT, 100.0 + HOUR, HOUR),
        (State.RETRY_AT, 100.0 + 2 * HOUR, 0),
    ],
)
def test_a_row_is_due_at_its_time_or_when_that_is_further_off_than_any_wait(
    state: State, due_at: float, left: float
) -> None:
    assert rules.time_left(a_row(state=state, due_at=due_at), 100.0, POLICY) == left


@pytest.mark.parametrize(("before", "after"), [(None, 100.0), (50.0, 50.0), (500.0, 100.0)])
def test_the_first_attempt_is_remembered_but_not_one_in_the_future(before: float | None, after: float) -> None:
    row = a_row(state=State.PENDING, tried_at=before)
    rules.claim(row, 100.0)
    assert (row.state, row.attempts, row.tried_at) == (State.SENDING, 1, after)


def test_a_claim_says_where_it_is_to_be_sent_and_forgets_where_it_was() -> None:
    row = a_row(state=State.RETRY_AT, remote="old", told_until=1)
    rules.claim(row, 100.0, remote="new", told_until=2)
    assert ("new", 2) == (row.remote, row.told_until)
    rules.claim(row, 100.0)
    assert (None, None) == (row.remote, row.told_until)


def test_a_claim_forgets_why_the_row_waited_for_that_was_said_of_another_attempt() -> None:
    row = a_row(state=State.RETRY_AT, attempts=1, reason=GONE, remote="old")
    rules.claim(row, 100.0, remote="new")
    assert row.reason is None
    rules.release(row)
    assert (State.RETRY_AT, None) == (row.state, row.reason)


def test_a_failure_for_now_is_tried_again_after_the_wait() -> None:
    row = a_row(tried_at=100.0)
    rules.failed(row, Retryable("later"), 7.0, 200.0, POLICY)
    assert (row.state, row.due_at, row.ambiguous, row.reason) == (State.RETRY_AT, 207.0, False, "later")


@pytest.mark.parametrize(("hours", "state"), [(71.9, State.RETRY_AT), (72, State.DEAD)])
def test_failures_for_now_end_after_three_days(hours: float, state: State) -> None:
    row = a_row(tried_at=0.0)
    rules.failed(row, Retryable("later"), 7.0, hours * HOUR, POLICY)
    assert row.state is state


@pytest.mark.parametrize(("wait", "due_at"), [(1.0, 210.0), (60.0, 260.0)])
def test_an_unclear_failure_is_not_looked_for_before_the_destination_has_settled(wait: float, due_at: float) -> None:
    row = a_row(tried_at=100.0)
    rules.failed(row, Ambiguous("lost"), wait, 200.0, POLICY)
    assert (row.state, row.due_at, row.ambiguous, row.server_errors) == (State.RETRY_AT, due_at, True, 0)


def test_a_failure_that_is_still_unclear_after_three_days_is_parked_and_stays_unclear() -> None:
    row = a_row(tried_at=0.0)
    rules.failed(row, Ambiguous("lost"), 1.0, 72 * HOUR, POLICY)
    assert (row.state, row.reason, row.ambiguous) == (State.PARKED, UNCLEAR, True)


def test_what_is_refused_for_good_is_dead_and_says_why() -> None:
    row = a_row()
    rules.failed(row, Undeliverable("too large"), 0.0, 200.0, POLICY)
    assert (row.state, row.reason) == (State.DEAD, "too large")


@pytest.mark.parametrize(("errors", "state"), [(11, State.RETRY_AT), (12, State.DEAD)])
def test_the_twelfth_server_error_is_the_last_if_nothing_arrived(errors: int, state: State) -> None:
    row = a_row(state=State.RETRY_AT, ambiguous=True, server_errors=errors, tried_at=0.0)
    rules.looked(row, None, 100 * HOUR, POLICY)
    assert (row.state, row.ambiguous) == (state, state is State.DEAD)


def test_what_was_looked_for_after_its_reason_was_forgotten_is_dead_for_a_reason_all_the_same() -> None:
    """As when an operator gave it another chance."""
    row = a_row(state=State.RETRY_AT, ambiguous=True, server_errors=12)
    rules.looked(row, None, 200.0, POLICY)
    assert f"given up after 12 server errors: {UNCLEAR}" == row.reason


def test_the_twelfth_server_error_may_have_arrived() -> None:
    row = a_row(state=State.RETRY_AT, ambiguous=True, server_errors=12)
    rules.looked(row, Found("r"), 200.0, POLICY)
    assert (row.state, row.remote, row.ambiguous) == (State.DELIVERED, "r", False)


@pytest.mark.parametrize(
    ("error", "now", "state"),
    [
        (Retryable("later"), 71 * HOUR, State.RETRY_AT),
        (Retryable("later"), 72 * HOUR, State.PARKED),
        (Ambiguous("?"), 1.0, State.PARKED),
        (Undeliverable("?"), 1.0, State.PARKED),
    ],
)
def test_a_row_that_cannot_be_looked_for_stays_unclear(error: Any, now: float, state: State) -> None:
    row = a_row(state=State.RETRY_AT, ambiguous=True, tried_at=0.0)
    rules.look_failed(row, error, 7.0, now, POLICY)
    assert (row.state, row.ambiguous) == (state, True)


@pytest.mark.parametrize(("looked_for", "attempts"), [(False, 0), (True, 1)])
def test_what_was_to_be_put_behind_a_trace_that_is_gone_goes_elsewhere_at_once_and_loses_no_attempt(
    looked_for: bool, attempts: int
) -> None:
    row = a_row(attempts=1, remote="r", ambiguous=looked_for, tried_at=100.0)
    rules.gone(row, 7.0, 200.0, POLICY, looked_for=looked_for)
    assert (State.RETRY_AT, 200.0, False, GONE) == (row.state, row.due_at, row.ambiguous, row.reason)
    assert (attempts, "r") == (row.attempts, row.remote)


@pytest.mark.parametrize(("hours", "state"), [(71.9, State.RETRY_AT), (72, State.DEAD)])
def test_what_was_to_be_put_behind_no_trace_and_is_gone_waits_and_is_given_up_at_last(
    hours: float, state: State
) -> None:
    row = a_row(attempts=3, tried_at=0.0)
    rules.gone(row, 7.0, hours * HOUR, POLICY, looked_for=False)
    assert (state, 3) == (row.state, row.attempts)
    assert (state is State.RETRY_AT) == (row.due_at == hours * HOUR + 7.0)


@pytest.mark.parametrize(
    ("errors", "findable", "state"),
    [(0, False, State.RETRY_AT), (0, True, State.RETRY_AT), (11, False, State.DEAD), (11, True, State.PARKED)],
)
def test_a_defect_counts_like_a_server_error(errors: int, findable: bool, state: State) -> None:
    row = a_row(server_errors=errors)
    rules.broke(row, 1.0, 200.0, POLICY, findable=findable)
    assert (row.state, row.server_errors, row.ambiguous) == (state, errors + 1, findable)


def test_a_claim_that_was_not_used_leaves_no_trace_but_that_the_reason_is_forgotten() -> None:
    fresh, tried = a_row(state=State.PENDING), a_row(state=State.RETRY_AT, attempts=2, tried_at=50.0, reason="later")
    for row in (fresh, tried):
        rules.claim(row, 100.0)
        rules.release(row)
    assert fresh == a_row(state=State.PENDING)
    assert tried == a_row(state=State.RETRY_AT, attempts=2, tried_at=50.0)


def test_what_a_plugin_says_is_cut_and_made_fit_for_any_store() -> None:
    row = a_row()
    rules.failed(row, Undeliverable("\ud83d" * 5000), 0.0, 200.0, POLICY)
    assert row.reason == "?" * 1000
