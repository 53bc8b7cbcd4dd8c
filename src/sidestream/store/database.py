"""One SQLite file: how it is opened, kept private, brought up to date, and set aside when it is damaged.

Knows nothing of exchanges or deliveries. There is one writer per file, and one thread at a time uses a `Database`;
readers open it read-only and never checkpoint, because SQLite before 3.51.3 can damage a file that two connections
write to or checkpoint at once.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from importlib import resources
from typing import TYPE_CHECKING, Any, NoReturn

import structlog

from sidestream.errors import SidestreamError
from sidestream.store.faults import StoreCorrupt, StoreUnavailable, classified
from sidestream.store.folders import sync_folder

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

APPLICATION_ID = 0x53545245
"""What the file's header says it is: ``STRE``."""
_SQL = resources.files("sidestream.store")
STEPS: Sequence[str] = (
    _SQL.joinpath("schema.sql").read_text("utf-8"),
    # How often a delivery has begun anew: an attempt that was under way then says nothing of the new one.
    "ALTER TABLE deliveries ADD COLUMN version INTEGER NOT NULL DEFAULT 0;",
    _SQL.joinpath("conversations.sql").read_text("utf-8"),
    _SQL.joinpath("viewing.sql").read_text("utf-8"),
    _SQL.joinpath("searching.sql").read_text("utf-8"),
    _SQL.joinpath("pushing.sql").read_text("utf-8"),
    _SQL.joinpath("writing.sql").read_text("utf-8"),
)
"""SQL that brings a file from each version to the next; the first makes it. Steps are only ever appended."""
_BUSY_SECONDS = 5.0
_WAL_BYTES = 64 << 20
"""What a write-ahead log that grew larger is cut back to."""
_CACHE_KIB = 8 << 10
"""Pages in memory: a transaction that changes more of them writes some before its end. Twice as many save no time."""
_LOG_PAGES = 4000
"""What is written to the log before it is copied into the file: what changes often is copied once for all of that."""
_ROW_HEAD = 1024
"""Bytes of a row that are no blob; generous."""
_COMPANIONS = ("-wal", "-shm", "")

log = structlog.get_logger()


class Database:
    """A connection whose failures are `StoreUnavailable` or `StoreCorrupt`, and whose writes are all or nothing."""

    def __init__(self, connection: sqlite3.Connection, path: Path | None) -> None:
        self.connection = connection
        self.path = path
        self.epoch = 0
        """Another number in each transaction, and after an `attempt` that failed: what somebody remembers of what is in
        here, so as not to read it again, holds for one."""
        self._file = _identity(path)
        self._log = _log_identities(path)
        self._failed = False
        """Whether the last transaction could not be written."""

    @classmethod
    def open(cls, path: Path | None, *, full_sync: bool = False, steps: Sequence[str] = STEPS) -> Database:
        """Open or make the file, 0600, at the version that `steps` lead to; None keeps everything in memory.

        With `full_sync` a commit survives a power cut. Raises `StoreCorrupt`, `StoreUnavailable`, or `SidestreamError`
        for a file that is not ours to write to: it stays as it was.
        """
        with _told(path):
            if path is not None:
                _make_private(path)
                _refuse_foreign(path, steps)
            name = ":memory:" if path is None else f"{path.absolute().as_uri()}?mode=rw"
            connection = _connect(name)
            try:
                _configure(connection, path, full_sync=full_sync)
                _migrate(connection, path, steps)
            except BaseException:
                connection.close()
                raise
            if path is not None and full_sync:
                sync_folder(path.parent)
            return cls(connection, path)

    @classmethod
    def open_reader(cls, path: Path, *, steps: Sequence[str] = STEPS) -> Database:
        """Open the file read-only; `SidestreamError` if there is none, or not of this version."""
        with _told(path):
            if not path.exists():
                raise SidestreamError(f"{path}: there is no store yet; nothing has been recorded there")
            connection = _connect(f"{path.absolute().as_uri()}?mode=ro")
            try:
                _refuse_older(connection, path, len(steps))
            except BaseException:
                connection.close()
                raise
            return cls(connection, path)

    def gone(self) -> bool:
        """Whether the file has been deleted, or another one has its name: SQLite would go on with what nobody can find.

        One ``stat``. `StoreUnavailable` if that cannot be told.
        """
        with _told(self.path):
            return self.path is not None and _identity(self.path) != self._file

    def rows(self, sql: str, *values: Any) -> list[Any]:
        """All rows of a query."""
        try:
            return self.connection.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            _raise(error, self.path)

    def run(self, sql: str, *values: Any) -> int:
        """Run a statement inside a `transaction`; how many rows it changed."""
        return self.connection.execute(sql, values).rowcount

    def insert(self, sql: str, *values: Any) -> int:
        """Insert one row inside a `transaction`; its number, 0 where the statement says to pass it over."""
        cursor = self.connection.execute(sql, values)
        return cursor.lastrowid or 0 if cursor.rowcount else 0

    def run_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> int:
        """Run a statement for each row, inside a `transaction`; how many rows all of them changed."""
        return self.connection.executemany(sql, rows).rowcount

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All of the block's writes, or none; `StoreCorrupt` if the file is `gone`."""
        if self.gone():
            raise StoreCorrupt(f"{self.path} has been deleted or replaced")
        with _told(self.path):
            if self._failed:
                self._recover()
            self.connection.execute("BEGIN IMMEDIATE")
            self.epoch += 1
            try:
                yield
                self.connection.execute("COMMIT")
            except BaseException:
                self._failed = True
                with contextlib.suppress(sqlite3.Error):  # SQLite has often rolled back by itself
                    self.connection.rollback()
                raise

    @contextlib.contextmanager
    def attempt(self) -> Iterator[None]:
        """Inside a transaction: all of the block's writes, or none; the transaction can go on after a failure."""
        self.connection.execute("SAVEPOINT attempt")
        try:
            yield
        except BaseException:
            self.epoch += 1
            if self.connection.in_transaction:  # SQLite ends it by itself where the disk fails
                self.connection.execute("ROLLBACK TO attempt")
                self.connection.execute("RELEASE attempt")
            raise
        self.connection.execute("RELEASE attempt")

    def row_bytes(self) -> int:
        """What all blobs of one row may have together."""
        return self.connection.getlimit(sqlite3.SQLITE_LIMIT_LENGTH) - _ROW_HEAD

    def live_bytes(self) -> int:
        """Bytes of all pages in use; free ones, that the next rows go into, not counted."""
        ((pages,),), ((free,),), ((size,),) = (
            self.rows(f"PRAGMA {name}") for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)

    def file_bytes(self) -> int:
        """Bytes on the disk, the write-ahead log included; in memory, those of all pages in use."""
        if self.path is None:
            return self.live_bytes()
        total = 0
        for companion in _COMPANIONS[::2]:
            with contextlib.suppress(FileNotFoundError):
                total += self.path.with_name(self.path.name + companion).stat().st_size
        return total

    def shrink(self, pages: int) -> bool:
        """Give up to `pages` free pages back; whether there are others."""
        with _told(self.path):
            before = self._free_pages()
            # Only a script is stepped to its end: `execute` would free a single page.
            self.connection.executescript(f"PRAGMA incremental_vacuum({pages:d})" if pages else "")
            return 0 < self._free_pages() < before

    def vacuum(self, pages: int) -> bool:
        """Give up to `pages` free pages back, and empty the write-ahead log; False if a reader is in the way of that.

        Until the log is empty it may hold what was deleted.
        """
        self.shrink(pages)
        with _told(self.path):
            self.connection.execute("PRAGMA busy_timeout = 100")
            try:
                ((busy, _, _),) = self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            finally:
                self.connection.execute(f"PRAGMA busy_timeout = {_BUSY_SECONDS * 1000:.0f}")
            return not busy

    def close(self) -> None:
        """Close the connection; safe to call twice."""
        with _told(self.path):
            self.connection.close()

    def abandon(self) -> None:
        """Close it, and take away the log of a file that is `gone`: SQLite would copy it into another of that name."""
        gone, path = self.gone(), self.path
        with contextlib.suppress(SidestreamError):
            self.close()
        if path is not None and gone:
            with _told(path):
                for log_file, identity in self._log.items():
                    if _identity(log_file) == identity:
                        log_file.unlink(missing_ok=True)

    def _free_pages(self) -> int:
        ((pages,),) = self.connection.execute("PRAGMA freelist_count").fetchall()
        return int(pages)

    def _recover(self) -> None:
        """Make what room there is: a log that fills the disk can be written from its beginning again, once copied."""
        if self.connection.in_transaction:  # the rollback failed as well
            self.connection.rollback()
        with contextlib.suppress(sqlite3.OperationalError):
            self.connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        self._failed = False


def set_aside(path: Path, now: float) -> Path:
    """Rename a damaged file, with its log, to a name that says since when (UTC); returns that. `StoreUnavailable`."""
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now))
    kept = path.with_name(f"{path.name}.corrupt-{stamp}")
    number = 1
    while kept.exists():
        number += 1
        kept = path.with_name(f"{path.name}.corrupt-{stamp}-{number}")
    with _told(path):
        for companion in _COMPANIONS:  # the file last: killed half-way, the next start does the rest
            with contextlib.suppress(FileNotFoundError):
                path.with_name(path.name + companion).rename(kept.with_name(kept.name + companion))
    log.error("store_set_aside", store=str(path), kept=kept.name)
    return kept


@contextlib.contextmanager
def _told(path: Path | None) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        _raise(error, path)


def _raise(error: sqlite3.Error | OSError, path: Path | None) -> NoReturn:
    told = classified(error, path)
    if told is error:
        raise error
    raise told from error


def _connect(name: str) -> sqlite3.Connection:
    return sqlite3.connect(
        name, uri=True, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False, cached_statements=256
    )


def _make_private(path: Path) -> None:
    """SQLite gives the log the mode of the file, so the file is there, and private, before SQLite sees it."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    for companion in _COMPANIONS:
        file = path.with_name(path.name + companion)
        with contextlib.suppress(FileNotFoundError):
            if file.stat().st_mode & 0o077:
                file.chmod(0o600)


def _refuse_foreign(path: Path, steps: Sequence[str]) -> None:
    """Look before writing, read-only: closing a writable connection would already change the file."""
    if not path.stat().st_size:
        return
    connection = _connect(f"{path.absolute().as_uri()}?mode=ro")
    try:
        _version(connection, path, len(steps))
    finally:
        connection.close()


def _refuse_older(connection: sqlite3.Connection, path: Path, known: int) -> None:
    version = _version(connection, path, known)
    if not version:
        raise SidestreamError(f"{path} has nothing in it yet")
    if version < known:
        raise SidestreamError(f"{path} is of an older version; run `sidestream serve` once to upgrade it")


def _version(connection: sqlite3.Connection, path: Path, known: int) -> int:
    """The file's version, 0 for one with nothing in it yet; `SidestreamError` for one that is not ours, or newer."""
    ((version,),) = connection.execute("PRAGMA user_version").fetchall()
    ((application,),) = connection.execute("PRAGMA application_id").fetchall()
    ((tables,),) = connection.execute("SELECT count(*) FROM sqlite_master").fetchall()
    if application != APPLICATION_ID and (application or version or tables):
        raise SidestreamError(f"{path} is a database of something else; move it away, or use another directory")
    if version > known:
        raise SidestreamError(
            f"{path} was written by a newer sidestream (its version is {version}, this one knows {known}); "
            "upgrade sidestream, or move the file away to begin a new one"
        )
    return int(version)


def _configure(connection: sqlite3.Connection, path: Path | None, *, full_sync: bool) -> None:
    for pragma in (
        "trusted_schema = OFF",
        "cell_size_check = ON",
        "temp_store = MEMORY",  # temporary files would hold what was said
        "auto_vacuum = INCREMENTAL",  # counts only while the file is empty, and before WAL
        "secure_delete = ON",
        "foreign_keys = ON",
        f"cache_size = -{_CACHE_KIB}",
        f"wal_autocheckpoint = {_LOG_PAGES}",
        f"journal_size_limit = {_WAL_BYTES}",
        f"synchronous = {'FULL' if full_sync else 'NORMAL'}",
        f"fullfsync = {'ON' if full_sync else 'OFF'}",  # macOS: fsync alone does not reach the disk
    ):
        connection.execute(f"PRAGMA {pragma}")
    ((mode,),) = connection.execute("PRAGMA journal_mode = WAL").fetchall()
    if path is not None and mode != "wal":
        raise StoreUnavailable(f"{path}: its file system has no shared memory, which SQLite's log needs")


def _migrate(connection: sqlite3.Connection, path: Path | None, steps: Sequence[str]) -> None:
    ((version,),) = connection.execute("PRAGMA user_version").fetchall()
    if version == len(steps):
        return
    about = f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {len(steps)};"
    try:
        connection.executescript("\n".join(("BEGIN IMMEDIATE;", *steps[version:], about, "COMMIT;")))
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            connection.rollback()
        raise
    if version:
        log.info("store_upgraded", store=str(path), version=len(steps), before=version)


def _log_identities(path: Path | None) -> dict[Path, tuple[int, int] | None]:
    files = [path.with_name(path.name + companion) for companion in _COMPANIONS if companion] if path else []
    return {file: _identity(file) for file in files}


def _identity(path: Path | None) -> tuple[int, int] | None:
    """Which file has this name now."""
    if path is None:
        return None
    try:
        about = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return about.st_dev, about.st_ino
