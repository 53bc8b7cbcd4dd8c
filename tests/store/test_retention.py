"""What goes and what stays when room is made."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from sidestream.store import retention
from sidestream.store.rows import Item, Pruned, State
from sidestream.store.store import Store
from stored import Clock, a_record, a_trace, an_item, moved, stored

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
    items = [Item(a_record(f"x{n}", request_chunks=(os.urandom(60_000),)), a_trace(), None, []) for n in range(3)]
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
    items = [Item(a_record(f"x{n}", request_chunks=(os.urandom(50_000),)), a_trace(), None, []) for n in range(10)]
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
    assert 1 + discarded == store.discard_finished()


def test_memory_is_free_again_when_all_is_discarded(store: Store) -> None:
    empty = store.held_bytes()
    stored(store, Item(a_record(request_chunks=(os.urandom(300_000),)), a_trace(), None, []))
    assert store.held_bytes() > empty + 290_000
    store.discard_finished()
    assert store.held_bytes() <= empty + 4096 * 4


def test_not_a_byte_is_left_of_what_was_removed(tmp_path: Path) -> None:
    clock = Clock(NOW - 9 * DAY)
    store = Store.open(tmp_path / "store.db", now=clock)
    canary = "canary-5d1f0c"
    body = f"{canary}".encode()

    def found() -> list[str]:
        return [file.name for file in sorted(tmp_path.iterdir()) if body in file.read_bytes()]

    for number in range(30):
        about = {"dataset": f"{canary}{number}", "path": f"/{canary}", "fingerprint": canary, "error": canary}
        bodies: dict[str, Any] = {"request_chunks": (body,), "response_chunks": (body * 2,)}
        record = a_record(f"{canary}{number}", started_at=clock.now, **bodies, **about)
        stored(store, Item(record, a_trace(text=canary), canary, ["explorer"]))
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
