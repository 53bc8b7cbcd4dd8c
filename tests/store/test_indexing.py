"""The index of words, as it follows what is stored."""

from __future__ import annotations

import base64
import os
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from sidestream.store import indexing
from sidestream.store.library import Library
from sidestream.store.rows import Item
from sidestream.store.shapes import RunFilter
from sidestream.store.store import Store
from sidestream.traces.searchable import RULES
from stored import a_reading, a_record, a_run, stored

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sidestream.store.database import Database

ALL = RunFilter(everything=True)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(tmp_path / "store.db")
    yield store
    store.close()


@pytest.fixture
def library(store: Store, tmp_path: Path) -> Iterator[Library]:
    assert store.counts() == {}
    library = Library.open(tmp_path / "store.db")
    yield library
    library.close()


def saying(identity: str, words: str) -> Item:
    return Item(a_record(identity), a_reading(identity, words), None, [])


def indexed(store: Store, most: int = 1 << 20) -> int:
    """Bring the index up with the store; steps."""
    steps = 1
    while store.index(most):
        steps += 1
    return steps


def found(library: Library, words: str) -> list[str]:
    """The turns that say it."""
    return [hit.turn for hit in library.search(words, ALL).hits]


def index_rows(store: Store) -> int:
    ((number,),) = database(store).rows("SELECT count(*) FROM words_data")
    return int(number)


def database(store: Store) -> Database:
    return store._database  # noqa: SLF001


def test_what_is_stored_is_found_when_it_was_indexed(store: Store, library: Library) -> None:
    stored(store, saying("x1", "needle"))
    assert ([], True) == (found(library, "needle"), library.search("needle", ALL).indexing > 0)
    indexed(store)
    assert (["x1"], 0) == (found(library, "needle"), library.search("needle", ALL).indexing)
    assert not store.index(1000)


def test_it_goes_in_steps_of_so_many_bytes(store: Store, library: Library) -> None:
    stored(store, *(saying(f"x{n}", f"needle{n}") for n in range(20)))
    assert indexed(store, 1) > 20
    assert [["x0"], ["x19"]] == [found(library, "needle0"), found(library, "needle19")]


def test_what_is_gone_is_not_found_and_leaves_the_index(store: Store, library: Library) -> None:
    stored(store, saying("x1", "needle"), saying("x2", "needle and thread"))
    indexed(store)
    assert 1 == store.delete(run="x1").turns
    assert ["x2"] == found(library, "needle")
    indexed(store)
    assert ["x2"] == found(library, "needle")
    assert store.stale_texts() > 0
    while store.purge_index(100):
        pass
    assert (0, ["x2"]) == (store.stale_texts(), found(library, "thread"))


def test_a_number_that_is_given_again_is_that_of_the_new_text(store: Store, library: Library) -> None:
    """SQLite gives the last number again after its row has gone."""
    stored(store, saying("x1", "needle"))
    indexed(store)
    store.delete(run="x1")
    stored(store, saying("x2", "thread"))
    assert [] == found(library, "needle")
    indexed(store)
    assert ([], ["x2"]) == (found(library, "needle"), found(library, "thread"))


def test_what_is_gone_before_it_was_indexed_is_no_trouble(store: Store, library: Library) -> None:
    stored(store, saying("x1", "needle"))
    store.delete(run="x1")
    indexed(store)
    assert (0, []) == (store.stale_texts(), found(library, "needle"))


def test_many_small_steps_are_merged_bit_by_bit(store: Store, library: Library) -> None:
    for run in range(4):
        stored(store, *a_run(f"r{run}", 12))
        while store.index(1):
            pass
    rows = index_rows(store)
    steps = 0
    while store.merge_index(1):
        steps += 1
    assert steps > 1
    assert index_rows(store) < rows / 2
    assert 8 == len(found(library, "11"))


def test_a_damaged_index_is_made_anew_and_nothing_else_is_lost(store: Store, library: Library) -> None:
    stored(store, *(saying(f"x{n}", f"needle{n} {'word ' * 500}{n}") for n in range(30)))
    indexed(store)
    with database(store).transaction():
        database(store).run("UPDATE words_data SET block = x'00' WHERE id > 10")
    assert [] == found(library, "needle1")
    stored(store, saying("y", "thread"))
    with capture_logs() as logs:
        store.delete(run="x1")
        indexed(store)
        while store.purge_index(10) or store.index(1000):
            pass
        indexed(store)
    assert ["search_index_begun_anew"] == [entry["event"] for entry in logs]
    assert (["x2"], ["y"], []) == (found(library, "needle2"), found(library, "thread"), found(library, "needle1"))
    assert 30 == store.count()


def test_rules_that_have_changed_make_the_index_anew(
    store: Store, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored(store, saying("x1", "needle"))
    indexed(store)
    monkeypatch.setattr(indexing, "RULES", RULES + 1)
    monkeypatch.setattr(indexing, "searchable", lambda _: "thread")
    with capture_logs():
        indexed(store)
    assert 0 == library.search("needle", ALL).indexing
    ((number,),) = database(store).rows("SELECT count(*) FROM words WHERE words MATCH 'thread'")
    assert number > 0


def test_a_large_part_is_no_text_and_has_no_place_in_the_queue(store: Store, library: Library) -> None:
    image = base64.b64encode(os.urandom(6000)).decode()
    stored(store, saying("x1", f"needle,{image}"))
    indexed(store)
    assert (["x1"], []) == (found(library, "needle"), found(library, image[:900]))
    store.delete(run="x1")
    assert [(2, 0)] == database(store).rows("SELECT count(*), sum(length(text) > 3000) FROM unindexed")
    indexed(store)
    assert [(0, 0)] == database(store).rows("SELECT (SELECT count(*) FROM unindexed), (SELECT count(*) FROM wordless)")


def test_what_a_damaged_index_still_has_is_not_said_to_be_gone(store: Store) -> None:
    stored(store, *(saying(f"x{n}", f"needle{n} {'word ' * 500}{n}") for n in range(30)))
    indexed(store)
    store.delete(run="x1")
    indexed(store)
    with database(store).transaction():
        database(store).run("UPDATE words_data SET block = x'00' WHERE id > 10")
    with capture_logs():
        while store.purge_index(10):
            pass
    store.purged(store.purging())
    assert store.purging()
    indexed(store)
    store.purged(store.purging())
    assert not store.purging()
