"""The file: private, brought up to date, never touched when it is not ours, and set aside when it is damaged."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from conversing import Call, assistant, text, tool_result, tool_use, user
from growing import Agent
from sidestream.errors import SidestreamError
from sidestream.store.database import APPLICATION_ID, STEPS, Database, set_aside
from sidestream.store.faults import StoreCorrupt, StoreUnavailable
from sidestream.store.packing import Packer
from sidestream.store.rows import Item, Replacement
from sidestream.store.runs import Runs
from sidestream.store.shapes import RunFilter, Tokens
from sidestream.store.store import Store
from stored import a_record

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidestream.store.shapes import RunSummary

OLD = ["CREATE TABLE t (x);"]
NEW = [*OLD, "ALTER TABLE t ADD COLUMN y DEFAULT 7; CREATE TABLE u (z);"]
AT = 1_790_000_000.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


def files(path: Path) -> dict[str, bytes]:
    """The files that hold data; -shm is SQLite's index of the log, made by every reader."""
    return {
        file.name: content
        for file in path.parent.iterdir()
        if not file.name.endswith("-shm") and (content := file.read_bytes())
    }


def pragma(database: Database, name: str) -> int | str:
    ((value,),) = database.rows(f"PRAGMA {name}")
    assert isinstance(value, int | str)
    return value


def insert(database: Database, *values: object, then: type[BaseException] | None = None) -> None:
    with database.transaction():
        for value in values:
            database.run("INSERT INTO t VALUES (?)", value)
        if then:
            raise then


def inserted_until_full(database: Database) -> int:
    for number in range(1000):
        try:
            insert(database, os.urandom(20_000))
        except StoreUnavailable:
            return number
    return -1


def update(database: Database) -> None:
    with database.transaction():
        database.run("UPDATE t SET x = ?", os.urandom(20_000))


def update_for_ever(database: Database) -> NoReturn:
    while True:
        update(database)


def dies(path: Path, sql: str) -> None:
    """A process that writes, and dies before it can close the file."""
    code = (
        "import os, pathlib, sys; from sidestream.store.database import Database;"
        "Database.open(pathlib.Path(sys.argv[1]), steps=[]).connection.executescript(sys.argv[2]); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code, path, sql], check=True)


def test_a_new_file_is_ours_and_of_the_newest_version(path: Path) -> None:
    database = Database.open(path)
    assert APPLICATION_ID == pragma(database, "application_id")
    assert len(STEPS) == pragma(database, "user_version")
    database.close()


@pytest.mark.parametrize(
    ("name", "value"),
    [("journal_mode", "wal"), ("auto_vacuum", 2), ("secure_delete", 1), ("foreign_keys", 1), ("trusted_schema", 0)],
)
def test_a_file_is_set_up_so_each_time_it_is_opened(path: Path, name: str, value: int | str) -> None:
    for _ in range(2):
        database = Database.open(path)
        assert value == pragma(database, name)
        database.close()


@pytest.mark.parametrize(("full", "synchronous"), [(True, 2), (False, 1)])
def test_a_commit_is_synced_only_when_asked_for(path: Path, full: bool, synchronous: int) -> None:
    database = Database.open(path, full_sync=full)
    assert synchronous == pragma(database, "synchronous")
    database.close()


def test_all_files_are_private_whatever_the_umask(path: Path) -> None:
    before = os.umask(0)
    try:
        database = Database.open(path, steps=OLD)
        insert(database, 1)
        assert {"store.db": 0o600, "store.db-wal": 0o600, "store.db-shm": 0o600} == {
            file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()
        }
        database.close()
    finally:
        os.umask(before)


def test_a_file_that_others_could_read_becomes_private(path: Path) -> None:
    Database.open(path).close()
    path.chmod(0o644)
    Database.open(path).close()
    assert 0o600 == path.stat().st_mode & 0o777


def test_a_file_is_brought_up_to_date_with_all_that_is_in_it(path: Path) -> None:
    old = Database.open(path, steps=OLD)
    with old.transaction():
        old.run("INSERT INTO t VALUES (1)")
    old.close()
    with capture_logs() as logs:
        new = Database.open(path, steps=NEW)
    assert [(1, 7)] == new.rows("SELECT x, y FROM t")
    assert 2 == pragma(new, "user_version")
    assert [("store_upgraded", 1, 2)] == [(entry["event"], entry["before"], entry["version"]) for entry in logs]
    new.close()


def test_a_step_that_fails_leaves_the_file_at_its_version(path: Path) -> None:
    Database.open(path, steps=OLD).close()
    with pytest.raises(sqlite3.Error):
        Database.open(path, steps=[*OLD, "CREATE TABLE u (z); CREATE TABLE t (again);"])
    old = Database.open(path, steps=OLD)
    assert [("t",)] == old.rows("SELECT name FROM sqlite_master")
    old.close()


def test_a_file_whose_maker_died_at_once_is_finished(path: Path) -> None:
    dies(path, "SELECT 1")
    database = Database.open(path, steps=OLD)
    assert 2 == pragma(database, "auto_vacuum")
    assert [] == database.rows("SELECT * FROM t")
    database.close()


def test_a_newer_file_is_refused_and_stays_as_it_was(path: Path) -> None:
    Database.open(path, steps=NEW).close()
    before = files(path)
    with pytest.raises(SidestreamError, match="upgrade sidestream, or move the file away"):
        Database.open(path, steps=OLD)
    assert before == files(path)


def test_a_newer_file_whose_process_died_is_refused_and_stays_as_it_was(path: Path) -> None:
    """Its version is only in the log yet."""
    dies(path, f"PRAGMA application_id = {APPLICATION_ID}; CREATE TABLE t (x); PRAGMA user_version = 9;")
    before = files(path)
    assert {"store.db", "store.db-wal"} == set(before)
    with pytest.raises(SidestreamError, match="newer"):
        Database.open(path, steps=OLD)
    assert before == files(path)


def test_a_database_of_something_else_is_refused_and_stays_as_it_was(path: Path) -> None:
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE bookmarks (url)")
    other.close()
    before = files(path)
    with pytest.raises(SidestreamError, match="something else"):
        Database.open(path)
    assert before == files(path)


@pytest.mark.parametrize("content", [b"no database at all" * 500, b"SQLite format 3\0" + b"\xa5" * 9000])
def test_what_is_no_database_is_corrupt(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(StoreCorrupt):
        Database.open(path)


def test_an_empty_file_becomes_a_store(path: Path) -> None:
    path.touch()
    database = Database.open(path, steps=OLD)
    assert [] == database.rows("SELECT * FROM t")
    database.close()


def test_a_damaged_file_is_set_aside_with_its_log(path: Path) -> None:
    for name in ("store.db", "store.db-wal", "store.db-shm"):
        path.with_name(name).write_text(name)
    with capture_logs() as logs:
        kept = set_aside(path, AT)
    assert "store.db.corrupt-20260921T141320" == kept.name
    assert {f"{kept.name}{end}": f"store.db{end}" for end in ("", "-wal", "-shm")} == {
        file.name: file.read_text() for file in path.parent.iterdir()
    }
    assert [("store_set_aside", "error", kept.name)] == [(log["event"], log["log_level"], log["kept"]) for log in logs]


def test_what_was_set_aside_before_is_never_overwritten(path: Path) -> None:
    kept = []
    for content in ("first", "second", "third"):
        path.write_text(content)
        kept.append(set_aside(path, AT))
    assert ["first", "second", "third"] == [file.read_text() for file in kept]


def test_a_directory_that_may_not_be_written_to_is_said_so() -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o555)
        user = os.geteuid()
        if not user:
            os.seteuid(65534)  # whom permissions apply to
        try:
            with pytest.raises(StoreUnavailable, match=r"store\.db"):
                Database.open(directory / "store.db")
        finally:
            os.seteuid(user)
        assert [] == list(directory.iterdir())
        directory.chmod(0o755)


def test_a_directory_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match=r"nowhere/store\.db: No such file"):
        Database.open(tmp_path / "nowhere" / "store.db")


def test_a_reader_is_told_when_there_is_no_store(path: Path) -> None:
    with pytest.raises(SidestreamError, match="there is no store yet"):
        Database.open_reader(path)
    assert not path.exists()


def test_a_reader_is_told_when_the_store_is_of_another_version(path: Path) -> None:
    Database.open(path, steps=NEW).close()
    with pytest.raises(SidestreamError, match="newer"):
        Database.open_reader(path, steps=OLD)
    with pytest.raises(SidestreamError, match="older"):
        Database.open_reader(path, steps=[*NEW, ""])


def test_a_reader_is_told_when_the_file_has_just_been_made(path: Path) -> None:
    path.touch()
    with pytest.raises(SidestreamError, match="nothing in it yet"):
        Database.open_reader(path)


def test_a_reader_cannot_write_and_sees_what_is_written(path: Path) -> None:
    writer = Database.open(path, steps=OLD)
    reader = Database.open_reader(path, steps=OLD)
    with writer.transaction():
        writer.run("INSERT INTO t VALUES (1)")
    assert [(1,)] == reader.rows("SELECT x FROM t")
    with pytest.raises(StoreUnavailable, match="READONLY"), reader.transaction():
        reader.run("INSERT INTO t VALUES (2)")
    reader.close()
    writer.close()


def test_a_reader_never_sets_a_damaged_file_aside(path: Path) -> None:
    path.write_bytes(b"no database at all" * 500)
    with pytest.raises(StoreCorrupt):
        Database.open_reader(path)
    assert [path] == list(path.parent.glob("*.db*"))


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_a_transaction_that_fails_writes_nothing(path: Path, failure: type[BaseException]) -> None:
    database = Database.open(path, steps=OLD)
    with pytest.raises(failure):
        insert(database, 1, then=failure)
    assert [] == database.rows("SELECT * FROM t")
    insert(database, 2)
    assert [(2,)] == database.rows("SELECT * FROM t")
    database.close()


def test_a_full_database_takes_writes_again_when_there_is_room(path: Path) -> None:
    database = Database.open(path, steps=OLD)
    room = int(pragma(database, "page_count")) + 3
    database.rows(f"PRAGMA max_page_count = {room}")
    with pytest.raises(StoreUnavailable, match="FULL"):
        insert(database, 1, bytes(100_000))
    assert [] == database.rows("SELECT * FROM t")
    database.rows(f"PRAGMA max_page_count = {room + 100}")
    insert(database, bytes(100_000))
    assert [(100_000,)] == database.rows("SELECT length(x) FROM t")
    database.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A megabyte."""
    if sys.platform != "linux" or os.geteuid():
        pytest.skip("mounting needs root, on Linux")
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=False).returncode:
        pytest.skip("this machine lets nobody mount")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def test_a_full_disk_takes_writes_again_when_there_is_room(small_disk: Path) -> None:
    database = Database.open(small_disk / "store.db", steps=OLD)
    fill = small_disk / "fill"
    fill.write_bytes(b"x" * 700_000)
    acknowledged = inserted_until_full(database)
    assert 0 < acknowledged < 50
    assert [(acknowledged,)] == database.rows("SELECT count(*) FROM t")
    fill.unlink()
    insert(database, os.urandom(20_000))
    database.close()
    again = Database.open(small_disk / "store.db", steps=OLD)
    assert [(acknowledged + 1,)] == again.rows("SELECT count(*) FROM t")
    assert "ok" == pragma(again, "integrity_check")
    again.close()


def test_a_disk_filled_by_the_log_alone_takes_writes_again(small_disk: Path) -> None:
    database = Database.open(small_disk / "store.db", steps=OLD)
    insert(database, bytes(20_000))
    database.vacuum(0)
    with pytest.raises(StoreUnavailable):
        update_for_ever(database)
    for _ in range(5):
        update(database)
    database.close()


def test_vacuum_gives_as_many_pages_back_as_it_is_told(path: Path) -> None:
    database = Database.open(path, steps=OLD)
    insert(database, bytes(400_000))
    assert database.vacuum(0)
    before = database.file_bytes()
    with database.transaction():
        database.run("DELETE FROM t")
    assert database.vacuum(50)
    assert before - 50 * 4096 == database.file_bytes()
    database.close()


def test_vacuum_says_when_a_reader_keeps_the_log(path: Path) -> None:
    database = Database.open(path, steps=OLD)
    reader = Database.open_reader(path, steps=OLD)
    reader.connection.execute("BEGIN")
    reader.rows("SELECT * FROM t")
    insert(database, 1)
    assert not database.vacuum(10)
    reader.connection.execute("COMMIT")
    assert database.vacuum(10)
    reader.close()
    database.close()


def test_free_pages_are_not_live() -> None:
    database = Database.open(None, steps=OLD)
    empty = database.live_bytes()
    insert(database, bytes(400_000))
    full = database.live_bytes()
    with database.transaction():
        database.run("DELETE FROM t")
    assert full > 400_000
    assert empty == database.live_bytes()
    database.close()


def test_writes_that_are_tried_inside_a_transaction_are_taken_back_alone() -> None:
    database = Database.open(None, steps=OLD)
    with database.transaction():
        database.run("INSERT INTO t VALUES (1)")
        with pytest.raises(ZeroDivisionError), database.attempt():
            raise ZeroDivisionError(database.run("INSERT INTO t VALUES (2)"))
        with database.attempt():
            database.run("INSERT INTO t VALUES (3)")
    assert [(1,), (3,)] == database.rows("SELECT x FROM t")
    database.close()


def test_a_full_disk_in_writes_that_are_tried_fails_the_transaction() -> None:
    database = Database.open(None, steps=OLD)
    database.rows(f"PRAGMA max_page_count = {int(pragma(database, 'page_count')) + 3}")
    with pytest.raises(StoreUnavailable, match="FULL"), database.transaction(), database.attempt():
        database.run("INSERT INTO t VALUES (?)", bytes(100_000))
    insert(database, 1)
    assert [(1,)] == database.rows("SELECT x FROM t")
    database.close()


def recorded_by_version(version: int, path: Path) -> None:
    """By 1 or 2: two exchanges with their traces and deliveries, and one that could not be understood."""
    database = Database.open(path, steps=STEPS[:version])
    packed = Packer().pack(a_record("x1"), 1 << 30)
    with database.transaction():
        for number, error in ((1, None), (2, None), (3, "the reason")):
            database.run(
                "INSERT INTO exchanges (id, dataset, provider, fingerprint, started_at, stored_at, outcome, size,"
                " stored, error) VALUES (?, 'demo', 'anthropic', 'f', 1.0, 2.0, 'completed', 20, 2000, ?)",
                f"x{number}",
                error,
            )
            request = packed.request if number == 1 else b"x" * 600
            database.run(
                "INSERT INTO captures VALUES (?, ?, ?, ?, ?)",
                number,
                packed.facts,
                packed.chunks,
                Packer().squeeze(request),
                packed.response,
            )
            if error is None:
                database.run("INSERT INTO traces VALUES (?, ?)", number, b"\0{}")
                database.run(
                    "INSERT INTO deliveries (sequence, sink, fingerprint, dataset, state, attempts, remote)"
                    " VALUES (?, 'explorer', 'f', 'demo', ?, 2, 'r')",
                    number,
                    "retry_at" if number == 1 else "delivered",
                )
    database.close()


@pytest.mark.parametrize("version", [1, 2])
def test_a_file_of_an_early_version_keeps_its_exchanges_to_be_read_and_its_deliveries(path: Path, version: int) -> None:
    recorded_by_version(version, path)
    with capture_logs() as logs:
        database = Database.open(path)
    assert [("store_upgraded", version, len(STEPS))] == [
        (entry["event"], entry["before"], entry["version"]) for entry in logs
    ]
    assert [(1, 1, None), (2, 1, None), (3, 0, "the reason")] == database.rows(
        "SELECT sequence, unread, error FROM exchanges ORDER BY sequence"
    )
    assert [(1, "retry_at", 2, "r", None), (2, "delivered", 2, "r", None)] == database.rows(
        "SELECT sequence, state, attempts, remote, told_until FROM deliveries ORDER BY sequence"
    )
    assert [("delivered", 1), ("retry_at", 1)] == database.rows(
        "SELECT state, number FROM delivery_counts WHERE number ORDER BY state"
    )
    assert [(1, 1), (2, 0), (3, 0)] == database.rows("SELECT sequence, waiting FROM exchanges ORDER BY sequence")
    assert [] == database.rows("SELECT * FROM pragma_foreign_key_check")
    assert "ok" == pragma(database, "integrity_check")
    assert "traces" not in {name for (name,) in database.rows("SELECT name FROM sqlite_master")}
    database.close()


@pytest.mark.parametrize("version", range(1, len(STEPS)))
def test_a_file_that_was_brought_up_to_date_is_as_a_new_one(path: Path, tmp_path: Path, version: int) -> None:
    Database.open(path, steps=STEPS[:version]).close()
    schemas = []
    for each in (path, tmp_path / "new.db"):
        database = Database.open(each)
        schemas.append(set(database.rows("SELECT name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'")))
        database.close()
    assert schemas[0] == schemas[1]


@pytest.mark.parametrize("version", [1, 2])
def test_what_an_early_version_captured_is_there_after_an_upgrade(path: Path, version: int) -> None:
    recorded_by_version(version, path)
    store = Store.open(path)
    with capture_logs():
        assert [(1, a_record("x1"))] == store.unread(10)  # the second is damaged
    assert a_record("x1") == store.record(1)
    store.close()


def recorded_by_version_3(path: Path, *calls: Call) -> None:
    """What is stored of calls today, as far as that version had it."""
    today = path.with_name("today.db")
    store = Store.open(today)
    store.commit([Item(call.record(), call.reading(), None, ()) for call in calls])
    store.close()
    database = Database.open(path, steps=STEPS[:3])
    database.run("ATTACH ? AS today", str(today))
    with database.transaction():
        for table in ("exchanges", "captures", "contents", "parts", "turns", "passed", "clues", "said"):
            names = ", ".join(name for (name,) in database.rows("SELECT name FROM pragma_table_info(?, 'main')", table))
            database.run(f"INSERT INTO main.{table} ({names}) SELECT {names} FROM today.{table}")  # noqa: S608  # the schema's words
    database.run("DETACH today")
    database.close()


def runs_in(store: Store) -> list[RunSummary]:
    return Runs(store._database).page(RunFilter(everything=True), limit=100, before=None).runs  # noqa: SLF001


def calls_of_many_kinds() -> list[Call]:
    """A run with a failure, a branch of it, and a child."""
    agent = Agent("a", 1_000_000.0)
    calls = [agent.call(), agent.call(name="failed", answer=False), agent.call(), agent.call(complete=False)]
    branch = agent.fork("b", 1).call()
    task = "Find out everything for me."
    asked, called = user("Delegate it"), [tool_use("t1", "agent", prompt=task)]
    parent = Call("parent", [asked], called, 2_000_000.0)
    child = Call("child", [user(task)], [text("It is so.")], 2_000_002.0)
    result = user(tool_result("t1", "found"))
    again = Call("again", [asked, assistant(called), result], [text("Done.")], 2_000_009.0)
    return [*calls, branch, parent, child, again]


def test_the_runs_of_a_file_of_version_3_are_listed_at_once_and_known_wholly_when_they_were_read_again(
    path: Path,
) -> None:
    calls = calls_of_many_kinds()
    recorded_by_version_3(path, *calls)
    with capture_logs():
        store, today = Store.open(path), Store.open(path.with_name("today.db"))
    expected = runs_in(today)
    unknown: dict[str, Any] = {"tool_calls": 0, "tokens": Tokens()}
    assert [replace(run, **unknown) for run in expected] == runs_in(store)
    readings = {call.id: call.reading() for call in calls}
    unread = store.unread(100)
    assert [call.id for call in calls] == [record.id for _, record in unread]
    store.replace([Replacement(sequence, readings[record.id], None) for sequence, record in unread])
    assert expected == runs_in(store)
    assert [] == store.unread(100)
    store.close()
    today.close()


def test_what_was_not_captured_is_not_to_be_read_again_after_an_upgrade(path: Path) -> None:
    recorded_by_version_3(path, *calls_of_many_kinds()[:2])
    old = Database.open(path, steps=STEPS[:3])
    with old.transaction():
        old.run("DELETE FROM captures WHERE sequence = 1")
    old.close()
    with capture_logs():
        database = Database.open(path)
    assert [(1, 0), (2, 1)] == database.rows("SELECT sequence, unread FROM exchanges")
    assert [(1, "a1"), (2, "a1")] == database.rows("SELECT sequence, trace FROM measures")
    database.close()


def test_free_pages_are_given_back_step_by_step(tmp_path: Path) -> None:
    with closing(Database.open(tmp_path / "store.db")) as database:
        with database.transaction():
            database.run("INSERT INTO positions VALUES (zeroblob(200000), 1, 1)")
        with database.transaction():
            database.run("DELETE FROM positions")
        before = database.file_bytes()
        assert database.shrink(10)
        while database.shrink(10):
            pass
        assert database.vacuum(0)
        assert database.file_bytes() < before - 200_000
