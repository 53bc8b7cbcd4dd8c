"""The store's thread: one call after the other, whatever becomes of the file meanwhile."""

from __future__ import annotations

import os
import shutil
import threading
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from sidestream.errors import SidestreamError
from sidestream.store.shelf import Shelf
from sidestream.store.store import Store
from stored import an_item

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def shelf(tmp_path: Path) -> AsyncIterator[Shelf]:
    shelf = Shelf(tmp_path / "store.db")
    yield shelf
    await shelf.close()


def damage(file: Path) -> None:
    """Overwrite all of the file but its first page, and take its log away."""
    file.with_name(file.name + "-wal").unlink(missing_ok=True)
    with file.open("r+b") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(4096)
        stream.write(b"\xff" * (size - 4096))


async def filled(file: Path) -> None:
    shelf = Shelf(file)
    await shelf.call(shelf.store.commit, [an_item(f"x{number}") for number in range(20)])
    await shelf.close()


async def test_calls_run_in_one_thread_that_is_not_the_loops(shelf: Shelf) -> None:
    threads = {await shelf.call(threading.get_ident) for _ in range(5)}
    assert 1 == len(threads)
    assert threading.get_ident() not in threads


async def test_a_store_is_opened_when_it_is_needed(shelf: Shelf, tmp_path: Path) -> None:
    assert not (tmp_path / "store.db").exists()
    await shelf.call(shelf.store.commit, [an_item("x1")])
    assert 1 == await shelf.call(shelf.store.count)


async def test_without_a_path_the_store_is_in_memory() -> None:
    shelf = Shelf(None)
    await shelf.call(shelf.store.commit, [an_item("x1")])
    assert (1, 0) == (await shelf.call(shelf.store.count), shelf.set_aside)
    await shelf.close()


async def test_a_store_found_damaged_at_a_call_is_set_aside_and_the_call_made_with_a_new_one(tmp_path: Path) -> None:
    await filled(tmp_path / "store.db")
    shelf = Shelf(tmp_path / "store.db")
    await shelf.call(shelf.store.positions)
    damage(tmp_path / "store.db")
    with capture_logs() as logs:
        new = await shelf.call(shelf.store.commit, [an_item("new")])
    assert (["new"], 1, 1) == ([item.record.id for item in new], await shelf.call(shelf.store.count), shelf.set_aside)
    assert ["store_set_aside"] == [entry["event"] for entry in logs]
    await shelf.close()


async def test_a_store_found_damaged_when_it_is_opened_is_counted_as_well(tmp_path: Path) -> None:
    (tmp_path / "store.db").write_bytes(b"no database at all" * 1000)
    shelf = Shelf(tmp_path / "store.db")
    assert (0, 1) == (await shelf.call(shelf.store.count), shelf.set_aside)
    assert 1 == len(list(tmp_path.glob("store.db.corrupt-*")))
    await shelf.close()


async def test_a_damaged_store_that_cannot_be_set_aside_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled(tmp_path / "store.db")
    shelf = Shelf(tmp_path / "store.db")
    await shelf.call(shelf.store.positions)
    damage(tmp_path / "store.db")
    with monkeypatch.context() as failing:

        def rename(_self: Path, _target: Path) -> Path:
            raise OSError(5, "Input/output error")

        failing.setattr("pathlib.PosixPath.rename", rename)
        with pytest.raises(SidestreamError, match="Input/output error"):
            await shelf.call(shelf.store.commit, [an_item("new")])
        with pytest.raises(SidestreamError):
            await shelf.call(shelf.store.commit, [an_item("new")])
    assert 0 == shelf.set_aside
    assert 1 == len(await shelf.call(shelf.store.commit, [an_item("new")]))
    assert 1 == shelf.set_aside
    await shelf.close()


async def test_a_store_that_cannot_be_opened_now_is_waited_for_with_one_line_in_the_log(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidestream.store.shelf._RETRY", 0.01)
    (tmp_path / "store.db").mkdir()
    tries = 0

    def look() -> int:
        nonlocal tries
        tries += 1
        if tries == 5:
            (tmp_path / "store.db").rmdir()
        return shelf.store.count()

    with capture_logs() as logs:
        assert 0 == await shelf.patiently(look)
    assert 5 == tries
    assert ["store_unavailable"] == [entry["event"] for entry in logs]


async def test_a_store_of_a_newer_version_is_left_alone(shelf: Shelf, tmp_path: Path) -> None:
    await filled(tmp_path / "store.db")
    store = Store.open(tmp_path / "store.db")
    store._database.connection.execute("PRAGMA user_version = 99")  # noqa: SLF001  # what only a newer one does
    store.close()
    before = (tmp_path / "store.db").read_bytes()
    with pytest.raises(SidestreamError, match="newer"):
        await shelf.call(shelf.store.count)
    assert (before, 0) == ((tmp_path / "store.db").read_bytes(), shelf.set_aside)


async def test_a_closed_shelf_says_so_and_may_be_closed_again(shelf: Shelf) -> None:
    await shelf.call(shelf.store.count)
    await shelf.close()
    await shelf.close()
    with pytest.raises(SidestreamError, match="closed"):
        await shelf.call(shelf.store.count)


async def test_what_was_refused_stays_counted_when_the_store_is_replaced(tmp_path: Path) -> None:
    await filled(tmp_path / "store.db")
    shelf = Shelf(tmp_path / "store.db")
    store = await shelf.call(shelf._opened)  # noqa: SLF001  # to lower SQLite's limit, as no gigabyte is at hand
    store._database.connection.setlimit(0, 1 << 16)  # noqa: SLF001  # SQLITE_LIMIT_LENGTH
    assert [] == await shelf.call(
        shelf.store.commit, [an_item("huge", request_headers={"x": os.urandom(1 << 18).hex()})]
    )
    assert 1 == shelf.refused
    damage(tmp_path / "store.db")
    await shelf.call(shelf.store.commit, [an_item("new")])
    assert (1, 1) == (shelf.refused, shelf.set_aside)
    await shelf.close()


async def test_a_store_that_is_deleted_meanwhile_is_made_anew_with_the_next_commit(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "data" / "store.db")
    (tmp_path / "data").mkdir()
    await shelf.call(shelf.store.commit, [an_item("x1")])
    shutil.rmtree(tmp_path / "data")
    with capture_logs(), pytest.raises(SidestreamError):
        await shelf.call(shelf.store.commit, [an_item("x2")])
    assert 0 == shelf.replaced
    (tmp_path / "data").mkdir()
    assert 1 == len(await shelf.call(shelf.store.commit, [an_item("x2")]))
    assert (1, 0, 1) == (shelf.replaced, shelf.set_aside, await shelf.call(shelf.store.count))
    await shelf.close()
