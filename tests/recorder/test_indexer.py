"""The index is kept up with the store, and the file free of what was deleted, while others use the store."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from recording import eventually, journaled, written
from sidestream.recorder import chores, indexer
from sidestream.recorder.indexer import Indexer
from sidestream.store.library import Library
from sidestream.store.rows import Item
from sidestream.store.shapes import RunFilter
from sidestream.store.shelf import Shelf
from stored import a_reading, a_record, a_run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path


@pytest.fixture
async def shelf(tmp_path: Path) -> AsyncIterator[Shelf]:
    shelf = Shelf(tmp_path / "store.db")
    await shelf.call(shelf.store.counts)
    yield shelf
    await shelf.close()


@pytest.fixture
def library(shelf: Shelf, tmp_path: Path) -> Iterator[Library]:
    assert not shelf.refused
    library = Library.open(tmp_path / "store.db")
    yield library
    library.close()


def saying(identity: str, words: str, dataset: str = "demo") -> Item:
    return Item(a_record(identity, dataset=dataset), a_reading(identity, words, dataset=dataset), None, [])


def found(library: Library, words: str) -> list[str]:
    return [hit.turn for hit in library.search(words, RunFilter(everything=True)).hits]


async def test_work_does_all_there_is_to_do(shelf: Shelf, library: Library) -> None:
    await shelf.call(shelf.store.commit, [*a_run("r", 30), saying("x1", "needle")])
    await Indexer(shelf).work()
    assert (["x1"], 0) == (found(library, "needle"), library.search("needle", RunFilter()).indexing)
    assert not await shelf.call(shelf.store.merge_index, 1000)


async def test_after_a_deletion_work_leaves_not_a_byte_of_it(shelf: Shelf, library: Library, tmp_path: Path) -> None:
    await shelf.call(shelf.store.commit, [saying("x1", "zqcanary", "gone"), saying("x2", "thread")])
    await Indexer(shelf).work()
    assert 1 == await chores.delete(shelf, dataset="gone")
    assert await shelf.call(shelf.store.purging)
    await Indexer(shelf).work()
    assert not await shelf.call(shelf.store.purging)
    assert [] == [file.name for file in tmp_path.iterdir() if b"zqcanary" in file.read_bytes()]
    assert ([], ["x2"]) == (found(library, "zqcanary"), found(library, "thread"))


async def test_what_retention_removed_is_purged_when_it_is_time(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await shelf.call(shelf.store.commit, [saying("x1", "zqcanary")])
    keeper = Indexer(shelf)
    await keeper.work()
    await chores.prune(shelf, None, 0)
    await keeper.work()
    assert await shelf.call(shelf.store.stale_texts)
    monkeypatch.setattr(indexer, "_PURGE_EVERY", 0.0)
    await keeper.work()
    assert not await shelf.call(shelf.store.stale_texts)
    assert [] == [file.name for file in tmp_path.iterdir() if b"zqcanary" in file.read_bytes()]


async def test_a_reader_in_the_way_is_waited_for(
    shelf: Shelf, library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexer, "_TRIES", 1)
    monkeypatch.setattr(indexer, "_RETRY", 0.0)
    await shelf.call(shelf.store.commit, [saying("x1", "zqcanary")])
    connection = library._database.connection  # noqa: SLF001
    connection.execute("BEGIN")
    connection.execute("SELECT count(*) FROM contents").fetchall()
    await chores.delete(shelf, run="x1")
    assert not await Indexer(shelf).purge()
    assert await shelf.call(shelf.store.purging)
    connection.execute("ROLLBACK")
    assert await Indexer(shelf).purge()
    assert not await shelf.call(shelf.store.purging)
    assert [] == [file.name for file in tmp_path.iterdir() if b"zqcanary" in file.read_bytes()]


async def test_room_is_given_back(shelf: Shelf) -> None:
    await shelf.call(shelf.store.commit, a_run("r", 300))
    before = await shelf.call(shelf.store.size)
    await chores.delete(shelf, dataset="demo")
    await Indexer(shelf).purge()
    assert await shelf.call(shelf.store.size) < before / 2
    assert not await shelf.call(shelf.store.shrink, 1)


async def test_a_recorder_keeps_the_index(tmp_path: Path) -> None:
    await written(tmp_path, "a")
    plane = journaled(tmp_path)
    await plane.start()
    await eventually(lambda: plane.snapshot()["received"])

    def hits() -> list[str]:
        library = Library.open(tmp_path / "data" / "store.db")
        try:
            return found(library, "hello")
        finally:
            library.close()

    await eventually(lambda: hits() == ["a"])
    assert 1 == await chores.delete(plane.shelf, run="a")
    async with asyncio.timeout(10):
        while await plane.shelf.call(plane.shelf.store.purging):  # noqa: ASYNC110  # a store sets no event
            await asyncio.sleep(0.02)
    await plane.stop(5)
