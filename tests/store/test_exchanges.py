"""Exchanges go in whole, come out as they were, and none can keep the others from being stored."""

from __future__ import annotations

import os
import sqlite3
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from sidestream.store.database import Database
from sidestream.store.rows import Item, Lane, Replacement, State
from sidestream.store.store import Store
from stored import Clock, a_record, a_trace, an_item, moved, stored

if TYPE_CHECKING:
    from collections.abc import Iterator

ODD = "a\x00b\ud83d\udc80é'\"; DROP TABLE exchanges"


@pytest.fixture
def database() -> Iterator[Database]:
    database = Database.open(None)
    yield database
    database.close()


@pytest.fixture
def store(database: Database) -> Store:
    return Store(database, now=Clock())


def test_a_record_comes_back_exactly_through_the_database(store: Store) -> None:
    record = a_record(
        dataset=ODD,
        path=ODD,
        fingerprint=ODD,
        outcome=ODD,
        error=ODD,
        request_headers={ODD: ODD},
        status=10**30,
        started_at=float("inf"),
        duration=-0.1,
        time_to_first_byte=1e-9,
        response_chunks=tuple(bytes([n % 256]) * n for n in range(300)),
        response_times=tuple(n / 7 for n in range(300)),
    )
    (delivery,) = stored(store, Item(record, a_trace(), None, ["explorer"]))
    assert record == store.record(delivery.sequence)


def test_a_lane_of_odd_text_is_found_by_itself(store: Store) -> None:
    (delivery,) = stored(store, an_item(dataset=ODD, fingerprint=ODD))
    assert [delivery.lane] == store.lanes("explorer")
    assert delivery == store.head("explorer", delivery.lane)
    assert 1 == store.count(dataset=ODD)


def test_a_trace_comes_back_exactly(store: Store) -> None:
    (delivery,) = stored(store, an_item())
    assert a_trace() == store.trace(delivery.sequence)


def test_an_exchange_that_was_not_understood_is_kept_and_not_delivered(store: Store, database: Database) -> None:
    item = Item(a_record(), None, "the reason\ud83d", ["explorer"])
    assert [item] == store.commit([item])
    assert [("the reason�",)] == database.rows("SELECT error FROM exchanges")
    assert a_record() == store.record(1)
    assert [] == store.deliveries()
    with pytest.raises(LookupError, match="no trace"):
        store.trace(1)


@pytest.mark.parametrize("metadata", [{"x": 10**5000, "y": "\ud83d"}, {"x": object()}], ids=["huge", "object"])
def test_a_trace_that_no_json_can_hold_costs_only_the_trace(store: Store, metadata: dict[str, Any]) -> None:
    store.commit([Item(a_record(), a_trace(metadata=metadata), None, ["explorer"])])
    assert a_record() == store.record(1)
    assert [] == store.deliveries()


def test_an_exchange_that_cannot_be_stored_is_logged_and_spares_the_others(store: Store) -> None:
    items = [an_item("x1"), an_item("x2", request_headers={"a": object()}), an_item("x3")]
    with capture_logs() as logs:
        new = store.commit(items)
    assert ["x1", "x3"] == [item.record.id for item in new]
    assert 1 == store.refused
    assert [("exchange_not_stored", "error", "x2")] == [
        (log["event"], log["log_level"], log["exchange"]) for log in logs
    ]


def test_bodies_that_no_row_can_hold_are_cut(store: Store, database: Database) -> None:
    database.connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 20_000)
    record = a_record(request_chunks=tuple(os.urandom(100) for _ in range(300)))
    stored(store, Item(record, a_trace(), None, []))
    back = store.record(1)
    assert back.request_truncated
    assert 0 < len(back.request_chunks) < 300
    assert record.response_chunks == back.response_chunks


def test_a_trace_that_no_row_can_hold_costs_only_the_trace(store: Store, database: Database) -> None:
    database.connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 4000)
    text = "".join(map(chr, range(0x4E00, 0x5E00)))
    store.commit([Item(a_record(), a_trace(text=text), None, ["explorer"])])
    assert [("a trace that is too large to be stored",)] == database.rows("SELECT error FROM exchanges")
    assert a_record() == store.record(1)


def test_an_id_is_stored_once_within_a_batch_and_after_it(store: Store) -> None:
    first, second, other = an_item("x1"), an_item("x1", sinks=["jsonl"]), an_item("x2")
    assert [first, other] == store.commit([first, second, other])
    assert [] == store.commit([second])
    assert {"explorer": {"pending": 2}} == store.counts()


def test_a_number_is_never_given_twice(store: Store) -> None:
    stored(store, an_item("x1", sinks=[]), an_item("x2", sinks=[]))
    assert 2 == store.discard_finished()
    (delivery,) = stored(store, an_item("x3"))
    assert 3 == delivery.sequence


def test_what_was_never_stored_is_a_lookup_error(store: Store) -> None:
    with pytest.raises(LookupError):
        store.record(1)
    with pytest.raises(LookupError):
        store.trace(1)


def test_a_damaged_exchange_is_a_lookup_error_and_is_passed_over(store: Store, database: Database) -> None:
    stored(store, an_item("x1"), an_item("x2"), an_item("x3"))
    with database.transaction():
        database.run("UPDATE captures SET response = x'00' WHERE sequence = 2")
        database.run("UPDATE traces SET content = x'017f' WHERE sequence = 2")
    with pytest.raises(LookupError, match="exchange 2 is damaged"):
        store.record(2)
    with pytest.raises(LookupError, match="exchange 2 is damaged"):
        store.trace(2)
    with capture_logs() as logs:
        assert ["x1", "x3"] == [record.id for _, record in store.exchanges()]
    assert [("exchange_unreadable", "error", 2)] == [(log["event"], log["log_level"], log["sequence"]) for log in logs]


def test_exchanges_come_in_order_and_by_dataset_and_time(store: Store) -> None:
    for number in range(6):
        stored(store, an_item(f"x{number}", dataset=f"d{number % 2}", started_at=float(number)))
    assert [f"x{n}" for n in range(6)] == [record.id for _, record in store.exchanges()]
    assert ["x3", "x5"] == [record.id for _, record in store.exchanges(dataset="d1", since=3.0)]
    assert 2 == store.count(dataset="d1", since=3.0)
    assert 6 == store.count()


def test_exchanges_can_be_replaced_and_removed_while_they_are_read(store: Store) -> None:
    stored(store, *(an_item(f"x{n}", sinks=[]) for n in range(5)))
    seen = []
    for sequence, record in store.exchanges():
        seen.append(record.id)
        store.replace([Replacement(sequence, a_trace(record.id, "anew"), None)])
        if record.id == "x1":
            store.prune(age=None, max_bytes=0, most=4)
    assert ["x0", "x1", "x4"] == seen


def test_a_replaced_trace_is_delivered_again_where_it_was_asked_for(store: Store) -> None:
    first, second = stored(store, an_item(sinks=["explorer", "jsonl"]))
    moved(store, first, State.DELIVERED, attempts=3, remote="r", tried_at=5.0)
    moved(store, second, State.DELIVERED)
    lanes = store.replace([Replacement(1, a_trace(text="anew"), None, ["explorer", "explorer", "late"])])
    assert {("explorer", first.lane), ("late", first.lane)} == set(lanes)
    assert a_trace(text="anew") == store.trace(1)
    rows = {delivery.sink: delivery for delivery in store.deliveries()}
    assert {"explorer": "pending", "jsonl": "delivered", "late": "pending"} == {
        sink: delivery.state for sink, delivery in rows.items()
    }
    assert (0, None, None) == (rows["explorer"].attempts, rows["explorer"].remote, rows["explorer"].tried_at)


def test_an_exchange_understood_at_last_is_delivered(store: Store, database: Database) -> None:
    store.commit([Item(a_record(), None, "not yet", ["explorer"])])
    assert [("explorer", Lane("", "demo"))] == store.replace([Replacement(1, a_trace(), None, ["explorer"])])
    assert [(None, "m")] == database.rows("SELECT error, model FROM exchanges")
    assert {"explorer": {"pending": 1}} == store.counts()


def test_understanding_anew_that_fails_keeps_what_was_understood(store: Store, database: Database) -> None:
    stored(store, an_item())
    assert [] == store.replace([Replacement(1, None, "worse", ["explorer"]), Replacement(99, a_trace(), None, ["x"])])
    assert a_trace() == store.trace(1)
    assert [("worse",)] == database.rows("SELECT error FROM exchanges")


def test_the_bytes_of_an_exchange_follow_its_trace(store: Store, database: Database) -> None:
    stored(store, an_item())
    ((before,),) = database.rows("SELECT stored FROM exchanges")
    store.replace([Replacement(1, a_trace(text="".join(map(chr, range(0x4E00, 0x5E00)))), None)])
    ((larger,),) = database.rows("SELECT stored FROM exchanges")
    store.replace([Replacement(1, a_trace(), None)])
    assert larger > before + 4000
    assert [(before,)] == database.rows("SELECT stored FROM exchanges")
