"""The journal's positions and the exchanges carried beyond their segments."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from sidestream.store.database import Database
from sidestream.store.rows import Carried, Position
from sidestream.store.store import Store
from stored import an_item

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def database() -> Iterator[Database]:
    database = Database.open(None)
    yield database
    database.close()


@pytest.fixture
def store(database: Database) -> Store:
    return Store(database)


def test_positions_go_forward_and_are_forgotten(store: Store) -> None:
    store.commit([], positions={"a": Position(1, 2), "b": Position(3, 4)})
    store.commit([], positions={"a": Position(1, 1 << 40)})
    assert {"a": Position(1, 1 << 40), "b": Position(3, 4)} == store.positions()
    store.commit([], positions={"b": None, "c": None})
    assert {"a": Position(1, 1 << 40)} == store.positions()


def test_what_is_carried_comes_back_until_it_is_released(store: Store) -> None:
    first = Carried("a", 1, Position(1, 2), b"state" * 1000)
    second = Carried("a", 2, Position(1, 2), b"")
    store.commit([], carried=[first, second])
    assert [first, second] == store.carried()
    further = Carried("a", 1, Position(5, 6), b"\x01more")
    store.commit([], carried=[further], released=[("a", 2), ("b", 2)])
    assert [further] == store.carried()


def test_a_forgotten_relay_carries_nothing(store: Store) -> None:
    other = Carried("b", 1, Position(1, 2), b"s")
    store.commit([], positions={"a": Position(1, 2)}, carried=[Carried("a", 1, Position(1, 2), b"s"), other])
    store.commit([], positions={"a": None})
    assert [other] == store.carried()


def test_a_position_is_not_noted_when_its_exchanges_could_not_be(store: Store, database: Database) -> None:
    store.commit([an_item("x1")], positions={"a": Position(1, 2)})
    with database.transaction():
        database.run("DROP TABLE carried")
    with pytest.raises(sqlite3.Error):
        store.commit([an_item("x2")], positions={"a": Position(3, 4)}, carried=[Carried("a", 1, Position(1, 2), b"")])
    assert {"a": Position(1, 2)} == store.positions()
    assert 1 == store.count()


def test_what_is_too_large_to_be_carried_is_logged_and_fails_nothing(store: Store, database: Database) -> None:
    database.connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 3000)
    small = Carried("a", 2, Position(1, 2), b"s")
    with capture_logs() as logs:
        store.commit([], carried=[Carried("a", 1, Position(1, 2), bytes(range(256)) * 100 + b"x" * 99), small])
        store.commit([], carried=[Carried("a", 3, Position(1, 2), b"".join(n.to_bytes(2, "big") for n in range(5000)))])
    assert {2} < {carried.number for carried in store.carried()}
    assert [("exchange_not_stored", "error", 3)] == [(log["event"], log["log_level"], log["number"]) for log in logs]


def test_a_damaged_state_is_logged_and_passed_over(store: Store, database: Database) -> None:
    fine = Carried("a", 2, Position(1, 2), b"s")
    store.commit([], carried=[Carried("a", 1, Position(1, 2), b"s"), fine])
    with database.transaction():
        database.run("UPDATE carried SET state = x'01ff' WHERE number = 1")
    with capture_logs() as logs:
        assert [fine] == store.carried()
    assert ["carried_exchange_unreadable"] == [log["event"] for log in logs]


def test_nothing_to_commit_writes_nothing(store: Store, database: Database) -> None:
    before = database.connection.total_changes
    assert [] == store.commit([])
    assert before == database.connection.total_changes
