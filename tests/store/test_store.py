"""The store as a whole: what it acknowledged survives, and what it cannot read is set aside."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from sidestream.errors import SidestreamError
from sidestream.store.faults import StoreCorrupt, StoreUnavailable
from sidestream.store.rows import Item, Position
from sidestream.store.store import Store
from sidestream.traces.model import Unit
from stored import Clock, a_reading, a_record, a_run, an_item, stored

if TYPE_CHECKING:
    from pathlib import Path

WRITER = """
import pathlib, sys
from sidestream.store.rows import Position
from sidestream.store.store import Store
from sidestream.traces.model import Unit
from stored import an_item

store = Store.open(pathlib.Path(sys.argv[1]))
first = store.count()
for batch in range(10_000):
    base = first + batch * 5
    store.commit([an_item(f"x{base + n}", ["a", "b"]) for n in range(5)], positions={"r": Position(1, base + 5)})
    print(base + 5, flush=True)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


def names(path: Path) -> list[str]:
    return sorted(file.name for file in path.parent.iterdir())


def with_damaged_pages(path: Path) -> None:
    """A store whose first pages are fine, so that it opens, and whose rows are not."""
    store = Store.open(path)
    stored(
        store,
        *(
            Item(a_record(f"x{n}", request_chunks=(os.urandom(50_000),)), a_reading(f"x{n}"), None, ["a"])
            for n in range(20)
        ),
    )
    store.close()
    size = path.stat().st_size // 2
    with path.open("r+b") as file:
        file.seek(size)
        file.write(b"\xa5" * size)


def test_what_was_committed_is_there_after_reopening(path: Path) -> None:
    store = Store.open(path)
    stored(store, an_item("x1"), an_item("x2"))
    store.commit([], positions={"r": Position(1, 2)})
    store.close()
    store.close()
    again = Store.open(path)
    assert ["x1", "x2"] == [record.id for _, record in again.exchanges()]
    assert {"explorer": {"pending": 2}} == again.counts()
    assert {"r": Position(1, 2)} == again.positions()
    again.close()


@pytest.mark.parametrize("attempt", range(4))
def test_a_kill_loses_nothing_that_was_acknowledged_and_leaves_nothing_half_done(path: Path, attempt: int) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    for _ in range(2):
        process = subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, env=environment)
        assert process.stdout is not None
        acknowledged = 0
        for line in process.stdout:
            acknowledged = int(line)
            if acknowledged >= 40 + 35 * attempt:
                process.send_signal(signal.SIGKILL)
                break
        acknowledged = max([acknowledged, *map(int, process.stdout.read().split(b"\n")[:-1])])
        process.stdout.close()
        assert -signal.SIGKILL == process.wait(10)

        store = Store.open(path)
        seen = {record.id for _, record in store.exchanges()}
        noted = store.positions()["r"].offset
        assert noted >= acknowledged
        assert {f"x{n}" for n in range(noted)} == seen
        assert {"a": {"pending": len(seen)}, "b": {"pending": len(seen)}} == store.counts()
        assert len(seen) * 2 == len(store.deliveries(limit=1_000_000))
        for delivery in store.deliveries(sink="a", limit=1_000_000):
            assert delivery.exchange == store.turn(delivery, Unit.TURN).id
        store.close()


@pytest.mark.parametrize("content", [b"no database at all" * 500, b"SQLite format 3\0" + b"\xa5" * 9000])
def test_a_damaged_file_is_set_aside_and_a_new_store_begun(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    path.with_name("store.db-wal").write_bytes(b"its log")
    with capture_logs() as logs:
        store = Store.open(path, now=Clock())
    assert ["store_set_aside"] == [log["event"] for log in logs]
    stored(store, an_item())
    store.close()
    assert "store.db" in names(path)
    assert content == path.with_name("store.db.corrupt-20260921T141320").read_bytes()


def test_damage_that_is_found_later_is_told_and_the_owner_can_start_over(path: Path) -> None:
    with_damaged_pages(path)
    store = Store.open(path, full_sync=True, now=Clock())
    with pytest.raises(StoreCorrupt):
        list(store.exchanges())
    with pytest.raises(StoreCorrupt):
        store.commit([an_item("new")])
    again = store.start_over()
    stored(again, an_item("new"))
    assert ["new"] == [record.id for _, record in again.exchanges()]
    again.close()
    assert ["store.db", "store.db.corrupt-20260921T141320"] == [name for name in names(path) if "-shm" not in name]


def test_a_store_in_memory_can_start_over() -> None:
    store = Store.open(None)
    stored(store, an_item())
    again = store.start_over()
    assert 0 == again.count()
    again.close()


def test_a_reader_sees_what_its_owner_commits_and_changes_nothing(path: Path) -> None:
    store = Store.open(path)
    stored(store, an_item())
    reader = Store.open_reader(path)
    stored(store, an_item("x2"))
    assert store.deliveries() == reader.deliveries()
    assert a_record("x2") == reader.record(2)
    assert a_reading("x2").turn().messages == reader.turn(store.deliveries()[0], Unit.TURN).messages
    assert store.counts() == reader.counts()
    with pytest.raises(StoreUnavailable):
        reader.commit([an_item("x3")])
    with pytest.raises(StoreUnavailable):
        reader.save(reader.deliveries())
    assert 2 == store.count()
    reader.close()
    store.close()


def test_a_reader_without_a_store_is_told_so(path: Path) -> None:
    with pytest.raises(SidestreamError, match="no store yet"):
        Store.open_reader(path)


def test_a_full_disk_fails_the_whole_commit_and_the_next_one_works(path: Path) -> None:
    store = Store.open(path)
    stored(store, an_item("x1"))
    room = "PRAGMA max_page_count = {}"
    database = store._database  # noqa: SLF001  # there is no other way to a full disk that works everywhere
    ((pages,),) = database.rows("PRAGMA page_count")
    database.rows(room.format(pages + 5))
    large = Item(a_record("x3", request_chunks=(os.urandom(200_000),)), a_reading("x3"), None, ["explorer"])
    with pytest.raises(StoreUnavailable):
        store.commit([an_item("x2"), large], positions={"r": Position(1, 2)})
    assert (1, {}, {"explorer": {"pending": 1}}) == (store.count(), store.positions(), store.counts())
    database.rows(room.format(pages + 500))
    assert 2 == len(store.commit([an_item("x2"), large], positions={"r": Position(1, 2)}))
    assert (3, {"r": Position(1, 2)}) == (store.count(), store.positions())
    store.close()


def test_the_size_is_that_of_the_files(path: Path) -> None:
    store = Store.open(path)
    stored(store, an_item())
    assert path.stat().st_size + path.with_name("store.db-wal").stat().st_size == store.size()
    assert store.held_bytes() > 0
    store.close()


def test_the_store_may_be_used_from_another_thread_than_it_was_opened_in(path: Path) -> None:
    store = Store.open(path)
    failures: list[BaseException] = []

    def use() -> None:
        try:
            stored(store, an_item())
        except BaseException as error:  # noqa: BLE001  # for the test to see
            failures.append(error)

    thread = threading.Thread(target=use)
    thread.start()
    thread.join(10)
    assert [] == failures
    assert 1 == store.count()
    store.close()


def test_a_store_that_was_deleted_says_so_and_takes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "data" / "store.db"
    path.parent.mkdir()
    store = Store.open(path)
    store.commit([an_item("x1")])
    assert not store.gone()
    shutil.rmtree(path.parent)
    assert store.gone()
    with pytest.raises(StoreCorrupt):
        store.commit([an_item("x2")])
    with pytest.raises(StoreUnavailable), capture_logs():
        store.start_over()


def test_after_a_deletion_a_new_store_is_begun_and_nothing_set_aside(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store.db")
    store.commit([an_item("x1")])
    (tmp_path / "store.db").unlink()
    with capture_logs() as logs:
        new = store.start_over()
    new.commit([an_item("x2")])
    assert ([("store_deleted", "error")], 1) == ([(line["event"], line["log_level"]) for line in logs], new.count())
    new.close()
    assert ["store.db"] == sorted(path.name for path in tmp_path.iterdir())


def test_a_store_that_was_put_in_the_place_of_another_is_gone_on_with(tmp_path: Path) -> None:
    other = Store.open(tmp_path / "other.db")
    other.commit([an_item("other")])
    other.close()
    store = Store.open(tmp_path / "store.db")
    store.commit([an_item("x1")])
    (tmp_path / "other.db").rename(tmp_path / "store.db")
    assert store.gone()
    with capture_logs():
        new = store.start_over()
    assert ["other"] == [record.id for _, record in new.exchanges()]
    new.close()


def test_a_store_in_memory_is_never_gone() -> None:
    assert not Store.open(None).gone()


def test_a_run_is_one_trace_though_the_store_was_closed_in_the_middle(path: Path) -> None:
    items = a_run("r", 40, ["explorer"])
    for part in (items[:20], items[20:]):
        store = Store.open(path)
        store.commit(part)
        store.close()
    reader = Store.open_reader(path)
    turns = [reader.turn(delivery, Unit.TURN) for delivery in reader.deliveries()[::-1]]
    assert [("r-0", number) for number in range(1, 41)] == [(turn.trace, turn.number) for turn in turns]
    assert [item.record for item in items] == [record for _, record in reader.exchanges()]
    reader.close()


def test_what_a_sink_is_told_goes_by_its_unit(path: Path) -> None:
    store = Store.open(path)
    items = a_run("r", 3, ["explorer"])
    *_, last = stored(store, *items)
    reading = items[2].reading
    assert reading is not None
    assert reading == store.reading(3)
    assert reading.turn() == store.turn(last, Unit.EXCHANGE)
    assert reading.turn().messages[-2:] == store.turn(last, Unit.TURN).messages
    assert 6 + 1 == len(store.turn(last, Unit.TRACE).messages)
    store.close()


def test_a_trace_that_is_gone_at_its_destination_is_forgotten(path: Path) -> None:
    store = Store.open(path)
    (delivery,) = stored(store, an_item())
    delivery.remote, delivery.told_until = "r", 5
    store.save([delivery])
    store.forget_remote("explorer", "r")
    (after,) = store.deliveries()
    assert (None, None) == (after.remote, after.told_until)
    store.close()
