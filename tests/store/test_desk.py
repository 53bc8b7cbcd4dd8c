"""A library in a thread of its own: opened late, opened again, and closed."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from sidestream.errors import SidestreamError
from sidestream.store.desk import Desk
from sidestream.store.library import Library
from sidestream.store.shapes import RunFilter
from sidestream.store.store import Store
from stored import a_run

if TYPE_CHECKING:
    from pathlib import Path


def fill(path: Path, *names: str) -> None:
    store = Store.open(path)
    for name in names:
        store.commit(a_run(name, 1))
    store.close()


async def seen(desk: Desk) -> list[str]:
    return [run.id for run in (await desk.look(Library.runs, RunFilter(), limit=10)).runs]


async def test_there_may_be_no_store_yet(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "store.db")
    with pytest.raises(SidestreamError):
        await seen(desk)
    fill(tmp_path / "store.db", "a")
    assert ["a-0"] == await seen(desk)
    await desk.close()


async def test_a_store_that_was_replaced_is_opened_anew(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    fill(path, "a")
    desk = Desk(path)
    assert ["a-0"] == await seen(desk)
    for file in tmp_path.glob("store.db*"):
        file.unlink()
    fill(path, "b")
    assert ["b-0"] == await seen(desk)
    await desk.close()


async def test_all_is_looked_up_in_one_thread_that_is_not_the_callers(tmp_path: Path) -> None:
    fill(tmp_path / "store.db")
    desk = Desk(tmp_path / "store.db")
    threads = [await desk.look(lambda _library: threading.get_ident()) for _ in range(3)]
    assert (1, False) == (len(set(threads)), threading.get_ident() in threads)
    await desk.close()


async def test_what_a_look_raises_is_raised_and_the_next_one_works(tmp_path: Path) -> None:
    fill(tmp_path / "store.db", "a")
    desk = Desk(tmp_path / "store.db")
    with pytest.raises(LookupError):
        await desk.look(Library.run, "nobody")
    assert ["a-0"] == await seen(desk)
    await desk.close()


async def test_closing_leaves_no_thread(tmp_path: Path) -> None:
    fill(tmp_path / "store.db", "a")
    desk = Desk(tmp_path / "store.db")
    thread = await desk.look(lambda _library: threading.current_thread())
    await desk.close()
    thread.join(5)
    assert not thread.is_alive()
