"""Exchanges go in whole, come out as they were, and none can keep the others from being stored."""

from __future__ import annotations

import os
import sqlite3
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import pytest
from msgspec import structs
from structlog.testing import capture_logs

from sidestream.store import exchanges
from sidestream.store.database import Database
from sidestream.store.faults import StoreCorrupt, StoreUnavailable
from sidestream.store.rows import Item, Lane, Replacement, State
from sidestream.store.store import Store
from sidestream.traces.model import Unit
from stored import Clock, a_reading, a_record, a_run, an_item, moved, stored

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sidestream.store.conversations import Added
    from sidestream.traces.conversation import Call
    from sidestream.traces.model import Reading, Turn

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
    (delivery,) = stored(store, Item(record, a_reading(), None, ["explorer"]))
    assert record == store.record(delivery.sequence)


def test_a_lane_of_odd_text_is_found_by_itself(store: Store) -> None:
    (delivery,) = stored(store, an_item(dataset=ODD, fingerprint=ODD))
    assert [delivery.lane] == store.lanes("explorer")
    assert delivery == store.head("explorer", delivery.lane)
    assert 1 == store.count(dataset=ODD)


def told(store: Store, sequence: int) -> Turn:
    """What a sink is told that delivers turns."""
    (delivery,) = [each for each in store.deliveries(limit=1_000_000) if each.sequence == sequence]
    return store.turn(delivery, Unit.TURN)


def said(turn: Turn) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in turn.messages]


def test_a_call_of_its_own_is_told_whole(store: Store) -> None:
    stored(store, an_item())
    assert a_reading().turn().messages == told(store, 1).messages
    assert a_reading().metadata == told(store, 1).metadata


def test_of_a_run_each_turn_is_told_by_itself_and_all_are_one_trace(store: Store) -> None:
    items = a_run("r", 6, ["explorer"])
    stored(store, *items)
    turns = [told(store, sequence) for sequence in range(1, 7)]
    readings = [item.reading for item in items if item.reading is not None]
    assert said(readings[-1].turn()) == [words for turn in turns for words in said(turn)]
    assert [("r-0", number) for number in range(1, 7)] == [(turn.trace, turn.number) for turn in turns]


def test_what_was_captured_of_a_run_comes_back_exactly(store: Store) -> None:
    items = a_run("r", 70)
    stored(store, *items)
    assert [item.record for item in items] == [record for _, record in store.exchanges()]
    assert items[40].reading == store.reading(41)


def test_what_a_run_takes_grows_with_what_is_new_and_not_with_its_history(store: Store) -> None:
    """Sixty calls, each with all that was said before."""
    items = a_run("r", 60, words=150)
    sizes = [store.held_bytes()]
    for half in (items[:30], items[30:]):
        stored(store, *half)
        sizes.append(store.held_bytes())
    empty, first, second = sizes
    assert second - empty < sum(item.record.size for item in items) / 8
    assert second - first < 1.5 * (first - empty)


def test_a_request_that_is_compressed_is_packed_by_itself(store: Store, database: Database) -> None:
    items = a_run("r", 3)
    headers = items[1].record.request_headers | {"content-encoding": "x-unknown"}
    items[1] = replace(items[1], record=structs.replace(items[1].record, request_headers=headers))
    stored(store, *items)
    assert [(None,), (None,), (2,)] == database.rows("SELECT base FROM captures")


def test_what_an_exchange_takes_is_its_capture_and_what_was_new_with_it(store: Store, database: Database) -> None:
    words = os.urandom(2000).hex()
    stored(store, *(Item(a_record(f"x{n}"), a_reading(f"x{n}", words), None, []) for n in range(2)))
    ((first,), (second,)) = database.rows(
        "SELECT stored - length(facts) - length(chunks) - length(request) - length(response) - ?"
        " FROM exchanges JOIN captures USING (sequence) ORDER BY sequence",
        exchanges._ROW_BYTES,  # noqa: SLF001
    )
    assert [(first + second,)] == database.rows("SELECT sum(length(content)) FROM contents")
    assert first > 2000
    assert second < 500


class Broken:
    """Has a defect: cannot place anything that was read in this dataset, and leaves something half done."""

    def __init__(self, store: Store, database: Database, failure: BaseException) -> None:
        self._whole = store._exchanges._conversations  # noqa: SLF001  # a defect has to be put there
        self._database = database
        self._failure = failure

    def expect(self, calls: Iterable[Call]) -> None:
        self._whole.expect(calls)

    def add(self, sequence: int, reading: Reading) -> Added:
        added = self._whole.add(sequence, reading)
        if reading.id == "bad":
            self._fail()
        return added

    def replace(self, sequence: int, reading: Reading) -> None:
        self._whole.replace(sequence, reading)
        self._fail()

    def _fail(self) -> None:
        if isinstance(self._failure, sqlite3.Error):
            self._database.run("INSERT INTO said VALUES (1, 0, 0, 999)")  # it is there already
        raise self._failure


@pytest.fixture(
    params=[RecursionError(), TypeError("secret"), sqlite3.IntegrityError()], ids=lambda each: type(each).__name__
)
def broken(store: Store, database: Database, request: pytest.FixtureRequest) -> Broken:
    broken = Broken(store, database, request.param)
    store._exchanges._conversations = cast("Any", broken)  # noqa: SLF001
    return broken


@pytest.mark.usefixtures("broken")
def test_a_defect_in_placing_an_exchange_costs_only_its_turn(store: Store, database: Database) -> None:
    items = [an_item("x1"), an_item("bad"), an_item("x2")]
    with capture_logs() as logs:
        assert items == store.commit(items)
    assert [("exchange_not_understood", "error", "bad")] == [
        (log["event"], log["log_level"], log["exchange"]) for log in logs
    ]
    assert "secret" not in str(logs)
    assert a_record("bad") == store.record(2)
    assert [(1,), (3,)] == database.rows("SELECT sequence FROM turns")
    assert [1, 3] == sorted(delivery.sequence for delivery in store.deliveries())
    ((error,),) = database.rows("SELECT error FROM exchanges WHERE error IS NOT NULL")
    assert "could not be placed" in error


@pytest.mark.usefixtures("broken")
def test_a_defect_in_placing_an_exchange_anew_leaves_it_where_it_is(store: Store, database: Database) -> None:
    stored(store, an_item("x1"))
    before = told(store, 1)
    with capture_logs() as logs:
        assert [] == store.replace([Replacement(1, a_reading("x1", "anew"), None, ["explorer", "late"])])
    assert ["exchange_not_understood"] == [log["event"] for log in logs]
    assert before == told(store, 1)
    ((error, unread),) = database.rows("SELECT error, unread FROM exchanges")
    assert "could not be placed" in error
    assert not unread


@pytest.mark.parametrize("failure", [StoreUnavailable("full"), StoreCorrupt("damaged"), OSError(5, "I/O")])
def test_trouble_of_the_database_itself_fails_the_commit(store: Store, database: Database, failure: Exception) -> None:
    store._exchanges._conversations = cast("Any", Broken(store, database, failure))  # noqa: SLF001
    with pytest.raises((StoreUnavailable, StoreCorrupt)):
        store.commit([an_item("x1"), an_item("bad")])
    assert 0 == store.count()


def test_an_exchange_that_was_not_understood_is_kept_and_not_delivered(store: Store, database: Database) -> None:
    item = Item(a_record(), None, "the reason\ud83d", ["explorer"])
    assert [item] == store.commit([item])
    assert [("the reason�",)] == database.rows("SELECT error FROM exchanges")
    assert a_record() == store.record(1)
    assert [] == store.deliveries()
    assert [] == database.rows("SELECT sequence FROM turns")


@pytest.mark.parametrize("metadata", [{"x": 10**5000, "y": "\ud83d"}, {"x": object()}], ids=["huge", "object"])
def test_a_turn_that_no_json_can_hold_costs_only_the_turn(store: Store, metadata: dict[str, Any]) -> None:
    with capture_logs():
        store.commit([Item(a_record(), a_reading(metadata=metadata), None, ["explorer"])])
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
    stored(store, Item(record, a_reading(), None, []))
    back = store.record(1)
    assert back.request_truncated
    assert 0 < len(back.request_chunks) < 300
    assert record.response_chunks == back.response_chunks


def test_a_turn_that_no_row_can_hold_costs_only_the_turn(store: Store, database: Database) -> None:
    database.connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 6000)
    text = "".join(map(chr, range(0x4E00, 0x6E00)))
    with capture_logs():
        store.commit([Item(a_record(), a_reading(words=text), None, ["explorer"])])
    assert [(0,)] == database.rows("SELECT count(*) FROM turns")
    assert a_record() == store.record(1)


def test_an_id_is_stored_once_within_a_batch_and_after_it(store: Store) -> None:
    first, second, other = an_item("x1"), an_item("x1", sinks=["jsonl"]), an_item("x2")
    assert [first, other] == store.commit([first, second, other])
    assert [] == store.commit([second])
    assert {"explorer": {"pending": 2}} == store.counts()


def test_a_number_is_never_given_twice(store: Store) -> None:
    stored(store, an_item("x1", sinks=[]), an_item("x2", sinks=[]))
    assert 2 == store.discard_finished(0)
    (delivery,) = stored(store, an_item("x3"))
    assert 3 == delivery.sequence


def test_what_was_never_stored_is_a_lookup_error(store: Store) -> None:
    with pytest.raises(LookupError):
        store.record(1)
    with pytest.raises(LookupError):
        store.reading(1)


def test_a_damaged_exchange_is_a_lookup_error_and_is_passed_over(store: Store, database: Database) -> None:
    stored(store, an_item("x1"), an_item("x2"), an_item("x3"))
    with database.transaction():
        database.run("UPDATE captures SET response = x'00' WHERE sequence = 2")
        database.run("UPDATE turns SET facts = x'017f' WHERE sequence = 2")
    with pytest.raises(LookupError, match="exchange 2 is damaged"):
        store.record(2)
    with pytest.raises(LookupError, match="exchange 2 is damaged"):
        store.reading(2)
    with pytest.raises(LookupError, match="damaged"):
        told(store, 2)
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
        store.replace([Replacement(sequence, a_reading(record.id, "anew"), None)])
        if record.id == "x1":
            store.prune(age=None, max_bytes=0, most=4)
    assert ["x0", "x1", "x4"] == seen


def test_a_replaced_turn_is_delivered_again_where_it_was_asked_for(store: Store) -> None:
    first, second = stored(store, an_item(sinks=["explorer", "jsonl"]))
    moved(store, first, State.DELIVERED, attempts=3, remote="r", tried_at=5.0)
    moved(store, second, State.DELIVERED)
    lanes = store.replace([Replacement(1, a_reading(words="anew"), None, ["explorer", "explorer", "late"])])
    assert {("explorer", first.lane), ("late", first.lane)} == set(lanes)
    assert "anew" == store.turn(first, Unit.TURN).messages[0]["content"]
    rows = {delivery.sink: delivery for delivery in store.deliveries()}
    assert {"explorer": "pending", "jsonl": "delivered", "late": "pending"} == {
        sink: delivery.state for sink, delivery in rows.items()
    }
    assert (0, None) == (rows["explorer"].attempts, rows["explorer"].tried_at)


def test_an_exchange_understood_at_last_is_delivered(store: Store, database: Database) -> None:
    store.commit([Item(a_record(), None, "not yet", ["explorer"])])
    assert [("explorer", Lane("", "demo"))] == store.replace([Replacement(1, a_reading(), None, ["explorer"])])
    assert [(None, "m")] == database.rows("SELECT error, model FROM exchanges")
    assert {"explorer": {"pending": 1}} == store.counts()


def test_understanding_anew_that_fails_keeps_what_was_understood(store: Store, database: Database) -> None:
    stored(store, an_item())
    assert [] == store.replace([Replacement(1, None, "worse", ["explorer"]), Replacement(99, a_reading(), None, ["x"])])
    assert a_reading().turn().messages == told(store, 1).messages
    assert [("worse",)] == database.rows("SELECT error FROM exchanges")


def test_the_bytes_of_an_exchange_follow_its_turn(store: Store, database: Database) -> None:
    stored(store, an_item())
    ((before,),) = database.rows("SELECT stored FROM exchanges")
    store.replace([Replacement(1, a_reading(words="".join(map(chr, range(0x4E00, 0x5E00)))), None)])
    ((larger,),) = database.rows("SELECT stored FROM exchanges")
    store.replace([Replacement(1, a_reading(), None)] * 3)
    assert larger > before + 4000
    assert [(before,)] == database.rows("SELECT stored FROM exchanges")


def unread(store: Store, database: Database, *items: Item) -> None:
    """Exchanges that an earlier version stored, and this one has not read."""
    store.commit([replace(item, reading=None) for item in items])
    with database.transaction():
        database.run("UPDATE exchanges SET unread = 1")


def test_what_an_earlier_version_stored_is_unread_until_it_is_replaced(store: Store, database: Database) -> None:
    items = a_run("r", 5)
    unread(store, database, *items)
    assert [(1, items[0].record), (2, items[1].record)] == store.unread(2)
    store.replace([Replacement(1, items[0].reading, None), Replacement(2, None, "the reason")])
    assert [3, 4, 5] == [sequence for sequence, _ in store.unread(10)]


def test_few_large_exchanges_are_unread_at_a_time(
    store: Store, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchanges, "_UNREAD_BYTES", 15_000)
    unread(store, database, *(an_item(f"x{n}", request_chunks=(os.urandom(10_000),)) for n in range(3)))
    assert [1, 2] == [sequence for sequence, _ in store.unread(100)]


def test_what_is_damaged_is_unread_no_more(store: Store, database: Database) -> None:
    unread(store, database, *(an_item(f"x{n}") for n in range(3)))
    with database.transaction():
        database.run("UPDATE captures SET facts = x'017f' WHERE sequence IN (1, 2)")
    with capture_logs() as logs:
        assert [3] == [sequence for sequence, _ in store.unread(1)]
    assert ["exchange_unreadable"] * 2 == [log["event"] for log in logs]
    assert [(1, 0), (2, 0), (3, 1)] == database.rows("SELECT sequence, unread FROM exchanges")


def test_the_unfinished_are_those_that_are_to_be_delivered_or_parked(store: Store, database: Database) -> None:
    stored(store, an_item("x0", []))
    assert (0, 0) == store.unfinished()
    deliveries = stored(store, *(an_item(f"x{n}", ["explorer", "jsonl"]) for n in range(1, 4)))
    moved(store, deliveries[0], State.PARKED)
    moved(store, deliveries[1], State.DELIVERED)
    moved(store, deliveries[2], State.DEAD)
    moved(store, deliveries[3], State.DELIVERED)
    ((size,),) = database.rows("SELECT sum(stored) FROM exchanges WHERE id IN ('x1', 'x3')")
    assert (size, 2) == store.unfinished()


def test_the_unfinished_are_counted_from_an_index(database: Database) -> None:
    wanted = "SELECT coalesce(sum(stored), 0), count(*) FROM exchanges WHERE waiting > 0 OR parked > 0"
    ((*_, plan),) = database.rows(f"EXPLAIN QUERY PLAN {wanted}")
    assert "unfinished" in plan


def test_an_exchange_of_a_provider_that_is_not_known_is_not_read(store: Store) -> None:
    stored(store, an_item(provider="nobody"))
    with pytest.raises(LookupError, match="provider"):
        store.reading(1)
