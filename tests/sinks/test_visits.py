import sqlite3
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from delivering import a_reading, a_record, a_turn
from growing import SINK, Agent, Growing
from sidestream.providers.jsons import weight_of
from sidestream.sinks import policy as rules
from sidestream.sinks.policy import NO_KEY, Policy
from sidestream.sinks.visits import Pick, Visit, Visits
from sidestream.store.database import Database
from sidestream.store.rows import Delivery, Item, Lane, State
from sidestream.store.store import Store
from sidestream.traces.model import Turn, Unit

LANE = Lane("", "demo")


@pytest.fixture
def store() -> Iterator[Store]:
    store = Store.open(None)
    store.commit([Item(a_record(name, "demo", ""), a_reading(a_turn(name), ""), None, ["s"]) for name in ("x1", "x2")])
    yield store
    store.close()


def visiting(store: Any) -> Visits:
    return Visits("s", Unit.TURN, store, lambda: 1000.0, Policy())


def a_visit(*settled: Delivery, settling: float = 0.0, **facts: Any) -> Visit:
    facts.setdefault("picks", [Pick(LANE, "", None)])
    return Visit(list(settled), settling, **facts)


def stored(name: str) -> Turn:
    """Such a turn as the store tells it."""
    turn = a_turn(name)
    return replace(turn, weight=sum(weight_of(msgspec.json.encode(each)) for each in (*turn.messages, turn.metadata)))


def test_a_visit_saves_what_has_ended_and_claims_what_is_next(store: Store) -> None:
    visits = visiting(store)
    [first] = visits.pay(a_visit()).heads
    assert first.delivery
    first.delivery.state = State.DELIVERED
    [second] = visits.pay(a_visit(first.delivery)).heads

    assert (first.turn, second.turn) == (stored("x1"), stored("x2"))
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

    [first] = visiting(store).pay(a_visit()).heads
    assert first.delivery
    first.delivery.state = State.DELIVERED
    visits, visit = visiting(Failing(2)), a_visit(first.delivery)
    with pytest.raises(sqlite3.OperationalError):
        visits.pay(visit)
    assert [row.state for row in store.deliveries()] == [State.PENDING, State.DELIVERED]
    [second] = visits.pay(visit).heads

    assert second.delivery
    assert (second.delivery.exchange, second.delivery.attempts) == ("x2", 1)


def test_a_claim_that_was_saved_but_not_answered_is_claimed_again(store: Store) -> None:
    visits = visiting(store)
    visits.pay(a_visit())
    [head] = visits.pay(a_visit()).heads

    assert head.delivery
    assert (head.delivery.exchange, head.delivery.state, head.turn) == ("x1", State.SENDING, stored("x1"))


def test_a_row_to_be_looked_for_is_not_claimed_and_waits_while_the_destination_settles(store: Store) -> None:
    visits = visiting(store)
    visits.pay(a_visit())
    store.expire_leases("s")

    [waiting] = visits.pay(a_visit(settling=5.0)).heads
    [due] = visits.pay(a_visit()).heads
    assert (waiting.wait, waiting.turn) == (5.0, None)
    assert due.delivery
    assert (due.delivery.state, due.delivery.attempts, due.turn) == (State.RETRY_AT, 1, stored("x1"))


def test_a_trace_that_was_not_there_any_more_is_forgotten_before_anything_is_claimed() -> None:
    with Growing() as told:
        told.add(*Agent().calls(3))
        told.tell()
        told.tell()
        delivery, turn = told.claim()
        assert "t1" == turn.remote
        rules.gone(delivery, 1.0, 1000.0, Policy(), looked_for=False)
        visits = Visits(SINK, Unit.TRACE, told.store, lambda: 1000.0, Policy())
        [head] = visits.pay(a_visit(delivery)).heads

    assert head.delivery
    assert head.turn
    assert (None, "a3") == (head.turn.remote, head.turn.id)
    assert ["a1", "A1", "a2", "A2", "a3", "A3"] == [message["content"] for message in head.turn.messages[1:]]
    assert (None, head.turn.told_until, 1) == (head.delivery.remote, head.delivery.told_until, head.delivery.attempts)


@pytest.mark.parametrize("crash", [False, True])
def test_a_trace_that_is_there_is_not_forgotten_because_another_was_not(crash: bool) -> None:
    """A turn was looked for in a trace that is gone, and is claimed for another one, but its sending is not seen."""
    with Growing() as told:
        told.add(*Agent().calls(2))
        told.tell()
        delivery, _ = told.claim()
        delivery.remote = "gone"
        rules.gone(delivery, 1.0, 1000.0, Policy(), looked_for=True)
        told.store.save([delivery])
        delivery, turn = told.claim()
        assert "t1" == turn.remote
        if crash:
            told.store.expire_leases(SINK)
            [delivery] = told.store.deliveries(limit=1)
            rules.looked(delivery, None, 1000.0, Policy())
        else:
            rules.release(delivery)
        Visits(SINK, Unit.TRACE, told.store, lambda: 1000.0, Policy()).save([delivery])

        assert ["t1", "t1"] == [row.remote for row in told.store.deliveries()]


def test_a_claim_remembers_where_it_is_sent_and_until_when_it_tells(store: Store) -> None:
    with Growing() as told:
        told.add(*Agent().calls(2))
        told.tell()
        [head] = Visits(SINK, Unit.TRACE, told.store, lambda: 1000.0, Policy()).pay(a_visit()).heads
        [row] = told.store.deliveries(limit=1)
    assert head.turn
    assert ("t1", head.turn.told_until) == (row.remote, row.told_until)

    visiting(store).pay(a_visit())
    assert (None, None) == (store.deliveries()[-1].remote, store.deliveries()[-1].told_until)


def test_parking_and_opening_tell_how_many_and_where(store: Store) -> None:
    visits = visiting(store)
    assert visits.pay(a_visit(picks=[], parks={"": NO_KEY})).parked == [("", NO_KEY, 2)]
    assert visits.pay(a_visit(picks=[], unparks=[("", [NO_KEY])])).opened == [LANE]
    assert visits.first([]) == [LANE]


def claimed(told: Growing, most: int = 9) -> list[str]:
    visit = Visit([], 0.0, picks=[Pick(LANE, "", None)], most=most)
    [head] = Visits(SINK, Unit.TRACE, told.store, lambda: 1000.0, Policy()).pay(visit).heads
    assert head.delivery
    return [head.delivery.exchange, *(delivery.exchange for delivery, _ in head.following)]


def test_with_the_head_of_a_lane_others_are_claimed_as_many_as_may_be_at_once() -> None:
    with Growing() as told:
        told.add(*(Agent(letter).call() for letter in "abcd"))
        assert ["a1", "b1", "c1"] == claimed(told, 3)
        states = [(row.state, row.attempts, row.told_until is None) for row in told.store.deliveries()[::-1]]
        assert [(State.SENDING, 1, False)] * 3 + [(State.PENDING, 0, True)] == states


def test_two_turns_for_one_trace_of_the_destination_are_not_claimed_at_once(store: Store) -> None:
    class Merging:
        """Has all turns put behind the same trace."""

        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

        def turn(self, delivery: Delivery, unit: Unit) -> Turn:
            return replace(store.turn(delivery, unit), remote="r")

    [head] = visiting(Merging()).pay(a_visit(most=9)).heads
    assert ([], State.PENDING) == (head.following, store.deliveries()[0].state)


def test_a_branch_is_claimed_with_what_goes_on_from_the_same_turn() -> None:
    with Growing() as told:
        agent = Agent()
        told.add(agent.call())
        told.tell()
        told.add(agent.fork("f", 1).call(), agent.call(), Agent("b").call())
        assert ["f1", "a2", "b1"] == claimed(told)


def test_with_one_that_was_tried_before_no_other_is_claimed() -> None:
    with Growing() as told:
        told.add(Agent("a").call(), Agent("b").call())
        told.settle(State.RETRY_AT)
        assert ["a1"] == claimed(told)


def test_no_more_is_claimed_than_may_be_in_memory() -> None:
    with Growing() as told:
        told.add(*(Agent(letter).call(body={"system": letter * 400_000}) for letter in "abcd"))
        assert ["a1", "b1"] == claimed(told)


def test_one_that_cannot_be_read_is_left_until_it_is_the_head() -> None:
    database = Database.open(None)
    store = Store(database)
    store.commit([Item(a_record(name, "demo", ""), a_reading(a_turn(name), ""), None, ["s"]) for name in ("x1", "x2")])
    with database.transaction():
        database.run("UPDATE turns SET facts = x'07' WHERE sequence = 2")

    [head] = visiting(store).pay(a_visit(most=9)).heads
    assert ([], State.PENDING) == (head.following, store.deliveries()[0].state)
    store.close()
