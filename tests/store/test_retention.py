"""What goes and what stays when room is made."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
from msgspec import structs

from sidestream.providers import PROVIDERS
from sidestream.store import retention
from sidestream.store.rows import Item, Pruned, State
from sidestream.store.store import Store
from sidestream.traces.model import Unit
from sidestream.traces.understanding import understand
from stored import Clock, a_reading, a_record, a_run, an_item, moved, stored

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DAY = 86400.0
NOW = 1_790_000_000.0


@pytest.fixture
def clock() -> Clock:
    return Clock(NOW)


@pytest.fixture
def store(clock: Clock) -> Iterator[Store]:
    store = Store.open(None, now=clock)
    yield store
    store.close()


def put(store: Store, clock: Clock, *names: str, at: float, sinks: tuple[str, ...] = ()) -> None:
    """Store exchanges as if it were `at`."""
    now, clock.now = clock.now, at
    stored(store, *(an_item(name, sinks, started_at=at) for name in names))
    clock.now = now


def reopened(store: Store) -> Store:
    """The same, with nothing remembered but what is in the database."""
    return Store(store._database)  # noqa: SLF001


def left(store: Store) -> list[str]:
    return [record.id for _, record in store.exchanges()]


def test_the_old_go_and_the_young_stay(store: Store, clock: Clock) -> None:
    put(store, clock, "a", "b", at=NOW - 3 * DAY)
    put(store, clock, "c", at=NOW - DAY)
    pruned = store.prune(age=2 * DAY, max_bytes=None)
    assert (2, False) == (pruned.exchanges, pruned.more)
    assert ["c"] == left(store)
    assert Pruned(0, 0, more=False) == store.prune(age=2 * DAY, max_bytes=None)


def test_without_limits_everything_stays(store: Store, clock: Clock) -> None:
    put(store, clock, "a", at=0.0)
    assert Pruned(0, 0, more=False) == store.prune(age=None, max_bytes=None)
    assert ["a"] == left(store)


def test_one_step_removes_no_more_than_it_may(store: Store, clock: Clock) -> None:
    put(store, clock, *"abcde", at=NOW - 3 * DAY)
    assert [(2, True), (2, True), (1, False)] == [
        (pruned.exchanges, pruned.more) for pruned in (store.prune(age=DAY, max_bytes=None, most=2) for _ in range(3))
    ]
    assert [] == left(store)


def test_large_ones_are_removed_in_smaller_steps(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "_STEP_BYTES", 100_000)
    items = [
        Item(a_record(f"x{n}", request_chunks=(os.urandom(60_000),)), a_reading(f"x{n}"), None, []) for n in range(3)
    ]
    stored(store, *items)
    assert [(2, True), (1, False)] == [
        (pruned.exchanges, pruned.more) for pruned in (store.prune(age=0, max_bytes=None) for _ in range(2))
    ]


@pytest.mark.parametrize("state", [State.PENDING, State.SENDING, State.RETRY_AT])
def test_what_is_still_to_be_delivered_stays_however_old_and_large(store: Store, clock: Clock, state: State) -> None:
    put(store, clock, "a", at=NOW - 9 * DAY, sinks=("explorer", "jsonl"))
    put(store, clock, "b", at=NOW - 9 * DAY)
    first, second = store.deliveries()
    moved(store, first, State.DELIVERED)
    moved(store, second, state)
    assert 1 == store.prune(age=DAY, max_bytes=0).exchanges
    assert ["a"] == left(store)
    assert not store.prune(age=DAY, max_bytes=0).more
    moved(store, second, State.DELIVERED)
    assert 1 == store.prune(age=DAY, max_bytes=0).exchanges


def test_what_is_parked_goes_for_its_age_and_not_for_its_size(store: Store, clock: Clock) -> None:
    put(store, clock, "a", at=NOW - 3 * DAY, sinks=("explorer",))
    moved(store, store.deliveries()[0], State.PARKED)
    assert 0 == store.prune(age=4 * DAY, max_bytes=0).exchanges
    assert 1 == store.prune(age=2 * DAY, max_bytes=None).exchanges
    assert {} == store.counts()


def test_the_oldest_go_until_the_rest_fits(store: Store) -> None:
    empty = store.held_bytes()
    items = [
        Item(a_record(f"x{n}", request_chunks=(os.urandom(50_000),)), a_reading(f"x{n}"), None, []) for n in range(10)
    ]
    stored(store, *items)
    limit = empty + (store.held_bytes() - empty) // 2
    removed = 0
    while (pruned := store.prune(age=None, max_bytes=limit, most=2)).exchanges:
        removed += pruned.exchanges
        assert pruned.bytes > 0
    assert store.held_bytes() <= limit
    assert [f"x{n}" for n in range(removed, 10)] == left(store)
    assert 4 <= removed <= 6


def test_a_limit_that_cannot_be_met_ends(store: Store) -> None:
    stored(store, an_item("x1", []))
    assert 1 == store.prune(age=None, max_bytes=0).exchanges
    assert Pruned(0, 0, more=False) == store.prune(age=None, max_bytes=0)


def test_a_clock_set_back_removes_nothing_now_or_when_it_is_right_again(store: Store, clock: Clock) -> None:
    put(store, clock, "a", at=NOW - 60)
    put(store, clock, "b", at=5.0)  # 1970
    clock.now = 10.0
    assert 0 == store.prune(age=DAY, max_bytes=None).exchanges
    clock.now = NOW
    assert 0 == store.prune(age=DAY, max_bytes=None).exchanges
    assert ["a", "b"] == left(store)
    clock.now = NOW + 2 * DAY
    assert 2 == store.prune(age=DAY, max_bytes=None).exchanges


def test_a_clock_that_ran_ahead_does_not_keep_the_others_for_ever(store: Store, clock: Clock) -> None:
    put(store, clock, "a", at=NOW + 999 * DAY)
    put(store, clock, "b", at=NOW - 3 * DAY)
    assert 1 == store.prune(age=DAY, max_bytes=None).exchanges
    assert ["a"] == left(store)


def test_an_exchange_stored_late_is_as_young_as_its_storing(store: Store) -> None:
    """After a week in the journal it is not removed before anybody could look at it."""
    stored(store, an_item("a", [], started_at=NOW - 7 * DAY))
    assert 0 == store.prune(age=DAY, max_bytes=None).exchanges


def test_many_that_must_stay_do_not_hide_what_may_go(store: Store, clock: Clock) -> None:
    now, clock.now = clock.now, NOW - 9 * DAY
    store.commit([an_item(f"x{n}", started_at=clock.now) for n in range(1200)])
    store.commit([an_item("last", [], started_at=clock.now)])
    clock.now = now
    assert 1 == store.prune(age=DAY, max_bytes=None).exchanges


@pytest.mark.parametrize(
    ("state", "discarded"),
    [
        (State.PENDING, 0),
        (State.SENDING, 0),
        (State.RETRY_AT, 0),
        (State.PARKED, 0),
        (State.DELIVERED, 1),
        (State.DEAD, 1),
    ],
)
def test_what_has_nothing_left_to_deliver_is_discarded(store: Store, state: State, discarded: int) -> None:
    first, second = stored(store, an_item("a", ["explorer", "jsonl"]))
    moved(store, first, State.DELIVERED)
    moved(store, second, state)
    stored(store, an_item("b", []))
    assert 1 + discarded == store.discard_finished(10)
    assert ["a"] * (1 - discarded) == left(store)


def test_what_is_large_is_discarded_at_once_and_the_rest_beyond_the_newest(store: Store) -> None:
    empty = store.held_bytes()
    words = os.urandom(50_000).hex()
    facts: dict[str, Any] = {"system": [{"content": f"{words}1"}], "tools": [f"{words}2"], "metadata": {"x": words}}
    for number in range(6):
        record = a_record(f"x{number}", request_chunks=(os.urandom(300_000),))
        stored(store, Item(record, a_reading(record.id, words, **facts), None, []))
    assert store.held_bytes() > empty + 6 * 300_000
    assert 6 == store.discard_finished(4)
    assert 4 == store.count()
    assert store.held_bytes() <= empty + 4096 * 10
    assert 0 == store.discard_finished(4)
    assert 4 == store.count()


def test_what_is_discarded_cannot_be_told_any_more(store: Store) -> None:
    (delivery,) = stored(store, an_item())
    moved(store, delivery, State.DELIVERED)
    store.discard_finished(10)
    with pytest.raises(LookupError):
        store.turn(delivery, Unit.TURN)
    with pytest.raises(LookupError):
        store.reading(delivery.sequence)
    assert [] == list(store.exchanges())


def test_turns_are_placed_by_what_is_kept_of_those_that_were_discarded(store: Store) -> None:
    items = a_run("r", 8, ["explorer"])
    for item in items:
        (delivery,) = stored(store, item)[-1:]
        turn = store.turn(delivery, Unit.TURN)
        assert ("r-0", int(item.record.id.removeprefix("r-")) + 1) == (turn.trace, turn.number)
        moved(store, delivery, State.DELIVERED)
        assert 1 == store.discard_finished(10)


def test_what_waits_is_whole_though_what_came_before_it_was_discarded(store: Store) -> None:
    items = a_run("r", 5, ["explorer"])
    deliveries = stored(store, *items)
    before = store.turn(deliveries[3], Unit.TURN)
    for number in (0, 1, 2, 4):
        moved(store, deliveries[number], State.DELIVERED)
    assert 4 == store.discard_finished(10)
    assert items[3].record == reopened(store).record(4)
    assert before == store.turn(deliveries[3], Unit.TURN)


def test_the_rest_of_a_run_is_read_exactly_whatever_was_removed_of_it(store: Store, clock: Clock) -> None:
    now, clock.now = clock.now, NOW - 9 * DAY
    items = a_run("r", 40, began=clock.now)
    stored(store, *items)
    clock.now = now
    while (pruned := store.prune(age=DAY, max_bytes=None, most=9)).more:
        assert 9 == pruned.exchanges
        whole = list(reopened(store).exchanges())
        assert [item.record for item in items[-len(whole) :]] == [record for _, record in whole]
    assert [] == left(store)


def test_one_that_must_stay_is_read_exactly_though_those_it_was_packed_with_are_removed(store: Store) -> None:
    items = a_run("r", 6, ["explorer"])
    deliveries = stored(store, *items)
    for number in (0, 1, 2, 4):
        moved(store, deliveries[number], State.DELIVERED)
    assert 4 == store.prune(age=None, max_bytes=0).exchanges
    assert [items[3].record, items[5].record] == [record for _, record in reopened(store).exchanges()]


def test_packing_anew_what_stays_goes_in_steps_too(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many attempts at one task were packed with the first of them."""
    first, *_ = a_run("r", 1)
    began = first.record.started_at
    changes = [
        {"id": f"x{n}", "request_headers": {"x-stainless-retry-count": str(n)}, "started_at": began + 10 * n}
        for n in range(1, 7)
    ]
    records = [structs.replace(first.record, **change) for change in changes]
    again = [Item(record, understand(record, PROVIDERS["anthropic"]), None, ["explorer"]) for record in records]
    stored(store, first, *again)
    monkeypatch.setattr(retention, "_STEP_BYTES", 1)
    steps = [store.prune(age=None, max_bytes=0) for _ in range(6)]
    assert [(0, True)] * 5 == [(step.exchanges, step.more) for step in steps[:5]]
    assert 1 == steps[5].exchanges
    assert records == [record for _, record in reopened(store).exchanges()]


def contents(store: Store) -> int:
    ((number,),) = store._database.rows("SELECT count(*) FROM contents")  # noqa: SLF001
    return int(number)


def test_what_was_said_goes_with_the_last_turn_that_said_it(store: Store) -> None:
    """The system prompt and the tools are the same in both runs."""
    one, two = a_run("one", 3, ["explorer"]), a_run("two", 3, ["explorer"])
    deliveries = stored(store, *one, *two)
    told = [store.turn(delivery, Unit.TURN) for delivery in deliveries[3:]]
    for delivery in deliveries[:3]:
        moved(store, delivery, State.DELIVERED)
    before = contents(store)
    assert 3 == store.prune(age=None, max_bytes=0).exchanges
    assert 0 < contents(store) < before
    assert told == [store.turn(delivery, Unit.TURN) for delivery in deliveries[3:]]
    for delivery in deliveries[3:]:
        moved(store, delivery, State.DELIVERED)
    assert 3 == store.prune(age=None, max_bytes=0).exchanges
    assert 0 == contents(store)


def test_not_a_byte_is_left_of_what_was_removed(tmp_path: Path) -> None:
    clock = Clock(NOW - 9 * DAY)
    store = Store.open(tmp_path / "store.db", now=clock)
    canary = "canary-5d1f0c"
    body, image = f"{canary}".encode(), canary * 400

    def found() -> list[str]:
        return [file.name for file in sorted(tmp_path.iterdir()) if body in file.read_bytes()]

    for number in range(30):
        about = {"dataset": f"{canary}{number}", "path": f"/{canary}", "fingerprint": canary, "error": canary}
        bodies: dict[str, Any] = {"request_chunks": (body,), "response_chunks": (body * 2,)}
        record = a_record(f"{canary}{number}", started_at=clock.now, **bodies, **about)
        words = f"{canary},{image} {number % 3}"
        facts: dict[str, Any] = {
            "system": [{"role": "system", "content": words}],
            "tools": [words],
            "metadata": {"x": canary},
        }
        stored(store, Item(record, a_reading(record.id, words, **facts), canary, ["explorer"]))
    for delivery in store.deliveries():
        moved(store, delivery, State.DEAD, reason=canary, remote=canary)
    assert "store.db-wal" in found()
    assert store.vacuum(0)
    assert ["store.db"] == found()
    clock.now = NOW
    while store.prune(age=DAY, max_bytes=None, most=7).more:
        pass
    assert [] == left(store)
    assert store.vacuum(10_000)
    assert [] == found()
    store.close()
