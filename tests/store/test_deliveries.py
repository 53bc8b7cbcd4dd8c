"""The delivery rows: in order within a lane, counted as they move, and never lost between two states."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from growing import Agent
from sidestream.store.database import Database
from sidestream.store.deliveries import NOT_CONFIGURED
from sidestream.store.rows import OPEN, Item, Lane, Redelivered, Replacement, State
from sidestream.store.store import Store
from stored import Clock, a_reading, an_item, moved, stored

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sidestream.store.rows import Delivery

DEMO = Lane("", "demo")


@pytest.fixture
def database() -> Iterator[Database]:
    database = Database.open(None)
    yield database
    database.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(database: Database, clock: Clock) -> Store:
    return Store(database, now=clock)


def states(store: Store) -> list[str]:
    return [str(delivery.state) for delivery in store.deliveries()[::-1]]


def test_a_lane_is_a_key_and_a_dataset(store: Store) -> None:
    stored(
        store,
        an_item("x1", fingerprint="k1"),
        an_item("x2", fingerprint="k2"),
        an_item("x3", fingerprint="k1", dataset="other"),
        an_item("x4", fingerprint="k1", sinks=["jsonl"]),
        an_item("x5", fingerprint="k1"),
    )
    assert {Lane("k1", "demo"), Lane("k2", "demo"), Lane("k1", "other")} == set(store.lanes("explorer"))
    assert [Lane("k1", "demo")] == store.lanes("jsonl")
    assert [] == store.lanes("nobody")


@pytest.mark.parametrize("state", [State.PENDING, State.SENDING, State.RETRY_AT])
def test_an_open_delivery_heads_its_lane(store: Store, state: State) -> None:
    first, _ = stored(store, an_item("x1"), an_item("x2"))
    moved(store, first, state)
    assert first == store.head("explorer", DEMO)


@pytest.mark.parametrize("state", [State.DELIVERED, State.PARKED, State.DEAD])
def test_a_settled_delivery_lets_the_next_one_by(store: Store, state: State) -> None:
    first, second = stored(store, an_item("x1"), an_item("x2"))
    moved(store, first, state)
    assert second == store.head("explorer", DEMO)
    moved(store, second, state)
    assert store.head("explorer", DEMO) is None
    assert [] == store.lanes("explorer")


def test_everything_that_changes_on_the_way_is_saved(store: Store) -> None:
    (delivery,) = stored(store, an_item())
    moved(
        store,
        delivery,
        State.RETRY_AT,
        attempts=3,
        server_errors=2,
        ambiguous=True,
        tried_at=1.5,
        due_at=2.5,
        reason="why",
        remote="there",
        told_until=1_790_000_000_000_000,
    )
    assert [delivery] == store.deliveries()


def test_words_of_a_destination_cannot_fail_a_save(store: Store) -> None:
    (delivery,) = stored(store, an_item())
    moved(store, delivery, State.DELIVERED, remote="\ud83d\x00", reason="\udc80")
    assert [("�\x00", "�")] == [(each.remote, each.reason) for each in store.deliveries()]


def test_saving_what_is_gone_is_passed_over(store: Store) -> None:
    first, second = stored(store, an_item("x1"), an_item("x2"))
    moved(store, first, State.DELIVERED)
    store.discard_finished(keep=0)
    second.attempts = 5
    store.save([first, second])
    assert [second] == store.deliveries()


def test_the_end_of_a_send_is_not_noted_for_another_exchange_that_got_its_row(store: Store) -> None:
    """As after a damaged store was set aside: the new one counts from 1 again."""
    (row,) = stored(store, an_item("new"))
    store.save([replace(row, exchange="old", state=State.DELIVERED)])
    assert ["pending"] == states(store)


def anew(store: Store, delivery: Delivery) -> None:
    store.replace([Replacement(delivery.sequence, a_reading(words="New"), None, ["explorer"])])


def test_a_new_version_made_amid_a_send_is_unclear_until_that_has_ended(store: Store) -> None:
    (delivery,) = stored(store, an_item())
    moved(store, delivery, State.SENDING, attempts=1, tried_at=1.0)
    anew(store, delivery)
    assert [("retry_at", True, 0)] == [(str(row.state), row.ambiguous, row.attempts) for row in store.deliveries()]


@pytest.mark.parametrize("end", [State.DELIVERED, State.RETRY_AT, State.DEAD])
def test_a_new_version_made_amid_a_send_is_sent_after_a_clear_end(store: Store, end: State) -> None:
    (delivery,) = stored(store, an_item())
    moved(store, delivery, State.SENDING, attempts=1, tried_at=1.0)
    anew(store, delivery)
    moved(store, delivery, end, remote="old", due_at=9e9)
    (row,) = store.deliveries()
    assert (State.PENDING, False, 0, 0.0) == (row.state, row.ambiguous, row.attempts, row.due_at)
    moved(store, row, State.DELIVERED, remote="new")
    assert [row] == store.deliveries()


def test_a_new_version_made_amid_a_send_is_looked_for_after_an_unclear_end(store: Store) -> None:
    (delivery,) = stored(store, an_item())
    moved(store, delivery, State.SENDING, attempts=1, tried_at=1.0)
    anew(store, delivery)
    moved(store, delivery, State.RETRY_AT, ambiguous=True, due_at=9e9)
    (row,) = store.deliveries()
    assert (State.RETRY_AT, True, 0, 9e9) == (row.state, row.ambiguous, row.attempts, row.due_at)


def test_a_new_version_made_amid_a_look_is_not_taken_for_what_was_found(store: Store) -> None:
    (delivery,) = stored(store, an_item())
    moved(store, delivery, State.RETRY_AT, ambiguous=True)
    anew(store, delivery)
    moved(store, delivery, State.DELIVERED, ambiguous=False)
    assert ["pending"] == states(store)


def test_parking_a_key_spares_other_keys_and_what_is_being_sent(store: Store) -> None:
    first, second, _, _ = stored(
        store,
        an_item("x1", fingerprint="k1"),
        an_item("x2", fingerprint="k1", dataset="other"),
        an_item("x3", fingerprint="k1"),
        an_item("x4", fingerprint="k2"),
    )
    moved(store, first, State.SENDING)
    moved(store, second, State.RETRY_AT, ambiguous=True)
    assert 2 == store.park("explorer", "k1", "refused")
    assert ["sending", "parked", "parked", "pending"] == states(store)
    assert [None, "refused", "refused", None] == [each.reason for each in store.deliveries()[::-1]]
    assert [False, True, False, False] == [each.ambiguous for each in store.deliveries()[::-1]]


def test_unparking_goes_on_where_each_delivery_stood(store: Store, clock: Clock) -> None:
    first, second, third = stored(
        store,
        an_item("x1", fingerprint="k1"),
        an_item("x2", fingerprint="k1", dataset="other"),
        an_item("x3", fingerprint="k2"),
    )
    moved(store, first, State.PARKED, reason="refused", attempts=1, tried_at=5.0, due_at=9e9)
    moved(store, second, State.PARKED, reason="refused")
    moved(store, third, State.PARKED, reason="refused", ambiguous=True, due_at=7.0)
    assert {Lane("k1", "demo"), Lane("k1", "other")} == set(store.unpark("explorer", "k1"))
    assert ["retry_at", "pending", "parked"] == states(store)
    assert [Lane("k2", "demo")] == store.unpark("explorer", None)
    rows = store.deliveries()[::-1]
    assert ["retry_at", "pending", "retry_at"] == states(store)
    assert [(0.0, None), (0.0, None), (7.0, None)] == [(each.due_at, each.reason) for each in rows]
    assert [clock.now, None, None] == [each.tried_at for each in rows]
    assert [False, False, True] == [each.ambiguous for each in rows]


def test_unparking_can_be_restricted_to_reasons(store: Store) -> None:
    first, second = stored(store, an_item("x1"), an_item("x2"))
    moved(store, first, State.PARKED, reason="a")
    moved(store, second, State.PARKED, reason="b")
    assert [] == store.unpark("explorer", None, [])
    assert [] == store.unpark("explorer", "", ["c"])
    assert [DEMO] == store.unpark("explorer", "", ["c", "b"])
    assert ["parked", "pending"] == states(store)


def test_after_a_crash_what_was_being_sent_is_ambiguous_and_due(store: Store) -> None:
    first, _, third = stored(store, an_item("x1"), an_item("x2"), an_item("x3", sinks=["jsonl"]))
    moved(store, first, State.SENDING, attempts=1, due_at=9e9)
    moved(store, third, State.SENDING)
    assert 1 == store.expire_leases("explorer")
    head = store.head("explorer", DEMO)
    assert head is not None
    assert (State.RETRY_AT, True, 0.0, 1) == (head.state, head.ambiguous, head.due_at, head.attempts)
    assert ["retry_at", "pending", "sending"] == states(store)


def test_a_sink_that_is_not_configured_is_parked_until_it_is(store: Store) -> None:
    first, second, _, fourth = stored(
        store,
        an_item("x1"),
        an_item("x2"),
        an_item("x3", sinks=["jsonl"]),
        an_item("x4"),
    )
    moved(store, first, State.SENDING)
    moved(store, second, State.DELIVERED)
    moved(store, fourth, State.PARKED, reason="refused")
    store.forget_sinks(["jsonl"])
    assert ["parked", "delivered", "pending", "parked"] == states(store)
    assert [NOT_CONFIGURED, None, None, "refused"] == [each.reason for each in store.deliveries()[::-1]]
    store.forget_sinks(["explorer", "jsonl"])
    assert ["retry_at", "delivered", "pending", "parked"] == states(store)
    head = store.head("explorer", DEMO)
    assert head is not None
    assert head.ambiguous


def test_deliveries_are_listed_newest_first_and_in_pages(store: Store) -> None:
    stored(store, *(an_item(f"x{n}", dataset=f"d{n % 2}", sinks=["explorer", "jsonl"]) for n in range(4)))
    moved(store, store.deliveries(sink="jsonl", limit=1)[0], State.DEAD)
    assert ["x3", "x2"] == [each.exchange for each in store.deliveries(sink="explorer", limit=2)]
    last = store.deliveries(sink="explorer", limit=2)[-1].id
    assert ["x1", "x0"] == [each.exchange for each in store.deliveries(sink="explorer", before=last)]
    assert ["x2", "x0"] == [each.exchange for each in store.deliveries(sink="jsonl", dataset="d0")]
    assert ["x3"] == [each.exchange for each in store.deliveries(states=[State.DEAD, State.PARKED])]
    assert [] == store.deliveries(states=[])


def test_redelivery_begins_anew_and_remembers_what_is_unclear(store: Store) -> None:
    first, second, third, _ = stored(store, *(an_item(f"x{n}", fingerprint=f"k{n}") for n in range(4)))
    moved(
        store, first, State.DEAD, attempts=12, server_errors=12, ambiguous=True, reason="500", tried_at=1.0, due_at=9e9
    )
    moved(store, second, State.PARKED, attempts=1, ambiguous=True, reason="unclear")
    moved(store, third, State.DELIVERED, remote="r", ambiguous=True)
    anew = store.redeliver(states=[State.DEAD, State.PARKED, State.PENDING])
    assert (2, {("explorer", first.lane), ("explorer", second.lane)}) == (anew.count, set(anew.lanes))
    assert ["retry_at", "pending", "delivered", "pending"] == states(store)
    head = store.head("explorer", first.lane)
    assert head is not None
    assert (0, 0, True, None, None, 9e9) == (
        head.attempts,
        head.server_errors,
        head.ambiguous,
        head.reason,
        head.tried_at,
        head.due_at,
    )


def test_what_was_delivered_is_redelivered_only_when_asked_for(store: Store) -> None:
    (delivery,) = stored(store, an_item())
    moved(store, delivery, State.DELIVERED, remote="r", told_until=5)
    assert Redelivered(0, []) == store.redeliver(states=[State.DEAD, State.PARKED])
    assert Redelivered(1, [("explorer", DEMO)]) == store.redeliver(states=[State.DELIVERED])
    head = store.head("explorer", DEMO)
    assert head is not None
    assert (State.PENDING, False, "r", 5) == (head.state, head.ambiguous, head.remote, head.told_until)


def test_what_never_arrived_is_not_remembered_to_have_been_sent_anywhere(store: Store) -> None:
    (delivery,) = stored(store, an_item())
    moved(store, delivery, State.DEAD, remote="r", told_until=5)
    store.redeliver(states=[State.DEAD])
    assert [(None, None)] == [(row.remote, row.told_until) for row in store.deliveries()]


def test_what_is_unclear_is_still_looked_for_where_it_was_sent_when_it_begins_anew(store: Store) -> None:
    (delivery,) = stored(store, an_item())
    moved(store, delivery, State.SENDING, attempts=1, remote="r", told_until=5)
    anew(store, delivery)
    assert [("r", 5, True)] == [(row.remote, row.told_until, row.ambiguous) for row in store.deliveries()]


def test_a_trace_that_is_gone_is_forgotten_by_all_of_its_turns_and_no_others(store: Store) -> None:
    rows = stored(store, *(an_item(f"x{n}", sinks=["explorer", "jsonl"][: 1 + n % 2]) for n in range(4)))
    for row in rows:
        moved(store, row, State.DELIVERED, remote="r" if row.exchange < "x3" else "s", told_until=5)
    store.forget_remote("explorer", "r")
    assert [None, None, "r", None, "s", "s"] == [row.remote for row in store.deliveries()[::-1]]
    assert [None, None, 5, None, 5, 5] == [row.told_until for row in store.deliveries()[::-1]]


def a_run(store: Store, *order: int) -> None:
    """Store the calls of one run in this order."""
    calls = Agent().calls(len(order))
    for each in order:
        store.commit([Item(calls[each - 1].record(), calls[each - 1].reading(), None, ["explorer"])])


def test_before_a_turn_goes_what_it_follows(store: Store) -> None:
    a_run(store, 3, 1, 2)
    for expected in ("a1", "a2", "a3"):
        head = store.head("explorer", DEMO)
        assert head is not None
        assert expected == head.exchange
        moved(store, head, State.DELIVERED)


def test_before_a_retry_goes_the_first_attempt(store: Store) -> None:
    agent = Agent()
    first, retry = agent.call(name="x", complete=False), agent.call(name="y")
    store.commit([Item(call.record(), call.reading(), None, ["explorer"]) for call in (retry, first)])
    head = store.head("explorer", DEMO)
    assert head is not None
    assert "x" == head.exchange


def test_a_turn_does_not_wait_for_one_that_is_settled_or_another_sinks(store: Store) -> None:
    a_run(store, 2, 1)
    moved(store, store.deliveries(limit=1)[0], State.DEAD)
    head = store.head("explorer", DEMO)
    assert head is not None
    assert "a2" == head.exchange


@pytest.mark.parametrize("between", [["jsonl"], ["explorer"]])
def test_before_a_turn_goes_what_it_follows_by_way_of_turns_that_are_not_to_be_told(
    store: Store, between: list[str]
) -> None:
    calls = Agent().calls(5)
    for call, sinks in [(calls[4], ["explorer"]), *((call, between) for call in calls[1:4]), (calls[0], ["explorer"])]:
        store.commit([Item(call.record(), call.reading(), None, sinks)])
    for row in store.deliveries():
        if row.exchange not in {"a1", "a5"}:
            moved(store, row, State.DEAD)
    head = store.head("explorer", DEMO)
    assert head is not None
    assert "a1" == head.exchange


def test_a_turn_does_not_wait_for_what_comes_before_one_that_was_told(store: Store) -> None:
    a_run(store, 2, 3, 1)
    moved(store, store.deliveries()[-1], State.DELIVERED, remote="r", told_until=5)
    head = store.head("explorer", DEMO)
    assert head is not None
    assert "a3" == head.exchange


def test_looking_for_what_a_turn_follows_ends_where_turns_follow_one_another(store: Store, database: Database) -> None:
    a_run(store, 1, 2, 3)
    moved(store, store.deliveries()[1], State.DEAD)
    with database.transaction():
        database.run("UPDATE turns SET parent = sequence % 3 + 1, retry_of = sequence")
    assert store.head("explorer", DEMO) is not None


def test_redelivery_can_be_restricted(store: Store) -> None:
    for delivery in stored(store, *(an_item(f"x{n}", dataset=f"d{n}", sinks=["a", "b"]) for n in range(3))):
        moved(store, delivery, State.DEAD)
    assert [("a", Lane("", "d0"))] == store.redeliver(states=[State.DEAD], sink="a", dataset="d0").lanes
    anew = store.redeliver(states=[State.DEAD], exchange="x1")
    assert {("a", Lane("", "d1")), ("b", Lane("", "d1"))} == set(anew.lanes)
    assert 0 == store.redeliver(states=[State.DEAD], exchange="nothing").count
    assert {"a": {"pending": 2, "dead": 1}, "b": {"pending": 1, "dead": 2}} == store.counts()


def anything(store: Store, chance: random.Random, step: int) -> None:
    """One of the things that happen to a store."""
    sink, key = chance.choice("ab"), chance.choice(["k1", "k2"])
    happenings: list[Callable[[], object]] = [
        lambda: stored(store, an_item(f"x{step}", fingerprint=key, sinks=["a", "b"][: chance.randrange(3)])),
        lambda: stored(store, an_item(f"x{step}", fingerprint=key, sinks=["a", "b"])),
        lambda: store.save([replace(each, state=chance.choice(list(State))) for each in store.deliveries(limit=20)]),
        lambda: store.park(sink, key, "why"),
        lambda: store.unpark(sink, key),
        lambda: store.expire_leases(sink),
        lambda: store.prune(age=chance.choice([None, 50]), max_bytes=chance.choice([None, 90_000]), most=3),
        lambda: store.redeliver(states=[State.DEAD], sink=sink),
        lambda: store.forget_sinks(chance.choice([["a"], ["b"], ["a", "b"]])),
    ]
    chance.choice(happenings)()


def counted(database: Database) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for name, state, number in database.rows("SELECT sink, state, count(*) FROM deliveries GROUP BY sink, state"):
        counts.setdefault(name, {})[state] = number
    return counts


def test_the_counts_are_those_of_the_rows_whatever_happens(store: Store, database: Database, clock: Clock) -> None:
    chance = random.Random(7)
    for step in range(300):
        clock.now += 1
        anything(store, chance, step)
        assert counted(database) == store.counts()
    rows = store.deliveries(limit=10_000)
    for sequence, waiting, parked in database.rows("SELECT sequence, waiting, parked FROM exchanges"):
        mine = [each.state for each in rows if each.sequence == sequence]
        assert (waiting, parked) == (sum(state in OPEN for state in mine), mine.count(State.PARKED))
    assert len(rows) > 20


def following(store: Store, most: int = 9) -> list[str]:
    head = store.head("explorer", DEMO)
    assert head is not None
    return [delivery.exchange for delivery in store.following(head, most)]


def test_turns_of_other_traces_can_be_sent_after_the_head_in_their_order(store: Store) -> None:
    stored(store, *(an_item(f"x{number}") for number in range(1, 5)), an_item("y1", dataset="other"))
    assert ["x2", "x3", "x4"] == following(store)
    assert ["x2", "x3"] == following(store, 2)


@pytest.mark.parametrize("state", sorted(set(State) - {State.PENDING}))
def test_after_the_head_goes_nothing_that_was_tried_before_and_nothing_behind_that(store: Store, state: State) -> None:
    x1, _, x3, _ = stored(store, *(an_item(f"x{number}") for number in range(1, 5)))
    moved(store, x3, state)
    assert (["x2"] if state in OPEN else ["x2", "x4"]) == following(store)
    assert x1 == store.head("explorer", DEMO)


def test_after_the_head_goes_nothing_that_may_be_at_the_destination_from_before(store: Store) -> None:
    _, x2, _ = stored(store, *(an_item(f"x{number}") for number in range(1, 4)))
    store.save([replace(x2, state=State.DELIVERED, remote="r")])
    anew(store, x2)
    assert [] == following(store)


def test_after_the_head_goes_no_turn_of_its_trace_and_none_that_leaves_one_that_is_to_be_told(store: Store) -> None:
    agent, other = Agent(), Agent("b")
    calls = [agent.call(), other.call(), agent.fork("f", 1).call(), Agent("c").call()]
    store.commit([Item(call.record(), call.reading(), None, ["explorer"]) for call in calls])
    assert ["b1"] == following(store)


def test_turns_that_follow_what_was_told_can_be_sent_after_the_head(store: Store) -> None:
    agents = [Agent(letter) for letter in "abc"]
    for _ in range(2):
        calls = [agent.call() for agent in agents]
        store.commit([Item(call.record(), call.reading(), None, ["explorer"]) for call in calls])
    assert ["b1", "c1"] == following(store)
    store.save([replace(row, state=State.DELIVERED) for row in store.deliveries() if row.exchange.endswith("1")])
    assert ["b2", "c2"] == following(store)


def test_no_retry_goes_after_the_head(store: Store) -> None:
    agent = Agent("b")
    calls = [Agent().call(), agent.call(name="failed", answer=False), agent.call(name="again")]
    wanted = [["explorer"], [], ["explorer"]]
    store.commit([Item(call.record(), call.reading(), None, sinks) for call, sinks in zip(calls, wanted, strict=True)])
    assert [] == following(store)


def test_nothing_goes_after_a_head_that_an_earlier_one_follows(store: Store) -> None:
    a_run(store, 2, 1)
    stored(store, an_item("x1"))
    assert "a1" == store.head("explorer", DEMO).exchange  # type: ignore[union-attr]
    assert [] == following(store)
