import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest

from delivering import a_record, a_trace
from sidestream.sinks.policy import NO_KEY, Policy
from sidestream.sinks.visits import Pick, Turn, Visits
from sidestream.store.rows import Delivery, Item, Lane, State
from sidestream.store.store import Store

LANE = Lane("", "demo")


@pytest.fixture
def store() -> Iterator[Store]:
    store = Store.open(None)
    store.commit([Item(a_record(name, "demo", ""), a_trace(name), None, ["s"]) for name in ("x1", "x2")])
    yield store
    store.close()


def a_visit(store: Any) -> Visits:
    return Visits("s", store, lambda: 1000.0, Policy())


def a_turn(*settled: Delivery, settling: float = 0.0, **facts: Any) -> Turn:
    facts.setdefault("picks", [Pick(LANE, "", None)])
    return Turn(list(settled), settling, **facts)


def test_a_visit_saves_what_has_ended_and_claims_what_is_next(store: Store) -> None:
    visits = a_visit(store)
    [first] = visits.turn(a_turn()).heads
    assert first.delivery
    first.delivery.state = State.DELIVERED
    [second] = visits.turn(a_turn(first.delivery)).heads

    assert (first.trace, second.trace) == (a_trace("x1"), a_trace("x2"))
    assert [(row.exchange, row.state, row.attempts) for row in store.deliveries()] == [
        ("x2", State.SENDING, 1),
        ("x1", State.DELIVERED, 1),
    ]


def test_a_visit_that_failed_in_the_middle_is_repeated_without_harm(store: Store) -> None:
    class Failing:
        """Fails at the n-th save."""

        def __init__(self, at: int) -> None:
            self.left = at

        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

        def save(self, deliveries: list[Delivery]) -> None:
            self.left -= 1
            if self.left == 0:
                raise sqlite3.OperationalError("disk I/O error")
            store.save(deliveries)

    [first] = a_visit(store).turn(a_turn()).heads
    assert first.delivery
    first.delivery.state = State.DELIVERED
    visits, turn = a_visit(Failing(2)), a_turn(first.delivery)
    with pytest.raises(sqlite3.OperationalError):
        visits.turn(turn)
    assert [row.state for row in store.deliveries()] == [State.PENDING, State.DELIVERED]
    [second] = visits.turn(turn).heads

    assert second.delivery
    assert (second.delivery.exchange, second.delivery.attempts) == ("x2", 1)


def test_a_claim_that_was_saved_but_not_answered_is_claimed_again(store: Store) -> None:
    visits = a_visit(store)
    visits.turn(a_turn())
    [head] = visits.turn(a_turn()).heads

    assert head.delivery
    assert (head.delivery.exchange, head.delivery.state, head.trace) == ("x1", State.SENDING, a_trace("x1"))


def test_a_row_to_be_looked_for_is_not_claimed_and_waits_while_the_destination_settles(store: Store) -> None:
    visits = a_visit(store)
    visits.turn(a_turn())
    store.expire_leases("s")

    [waiting] = visits.turn(a_turn(settling=5.0)).heads
    [due] = visits.turn(a_turn()).heads
    assert (waiting.wait, waiting.trace) == (5.0, None)
    assert due.delivery
    assert (due.delivery.state, due.delivery.attempts, due.trace) == (State.RETRY_AT, 1, a_trace("x1"))


def test_parking_and_opening_tell_how_many_and_where(store: Store) -> None:
    visits = a_visit(store)
    assert visits.turn(a_turn(picks=[], parks={"": NO_KEY})).parked == [("", NO_KEY, 2)]
    assert visits.turn(a_turn(picks=[], unparks=[("", [NO_KEY])])).opened == [LANE]
    assert visits.first([]) == [LANE]
