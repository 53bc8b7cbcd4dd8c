"""Failures are told apart by what one can do about them."""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path

import pytest

from sidestream.store.faults import StoreCorrupt, StoreUnavailable, classified

FILE = Path("/data/store.db")


def an_error(code: int, kind: type[sqlite3.Error] = sqlite3.OperationalError) -> sqlite3.Error:
    error = kind("sk-canary")
    error.sqlite_errorcode = code
    error.sqlite_errorname = "SQLITE_SOMETHING"
    return error


@pytest.mark.parametrize(
    "error",
    [
        an_error(sqlite3.SQLITE_FULL),
        an_error(sqlite3.SQLITE_IOERR_WRITE),
        an_error(sqlite3.SQLITE_READONLY_DIRECTORY),
        an_error(sqlite3.SQLITE_BUSY),
        an_error(sqlite3.SQLITE_CANTOPEN),
        OSError(errno.ENOSPC, "No space left on device"),
    ],
    ids=str,
)
def test_trouble_with_the_disk_is_for_now(error: sqlite3.Error | OSError) -> None:
    told = classified(error, FILE)
    assert StoreUnavailable is type(told)
    assert "/data/store.db" in str(told)
    assert "sk-canary" not in str(told)


@pytest.mark.parametrize(
    "error",
    [
        an_error(sqlite3.SQLITE_CORRUPT, sqlite3.DatabaseError),
        an_error(sqlite3.SQLITE_CORRUPT_INDEX, sqlite3.DatabaseError),
        an_error(sqlite3.SQLITE_NOTADB, sqlite3.DatabaseError),
        sqlite3.OperationalError("Could not decode to UTF-8 column 'x' with text 'sk-canary'"),
    ],
    ids=repr,
)
def test_damage_is_for_good(error: sqlite3.Error) -> None:
    told = classified(error, FILE)
    assert StoreCorrupt is type(told)
    assert "sk-canary" not in str(told)


@pytest.mark.parametrize(
    "error",
    [
        an_error(sqlite3.SQLITE_CONSTRAINT, sqlite3.IntegrityError),
        an_error(sqlite3.SQLITE_ERROR),
        sqlite3.ProgrammingError("closed"),
    ],
    ids=repr,
)
def test_a_defect_of_ours_stays_what_it_is(error: sqlite3.Error) -> None:
    assert error is classified(error, None)
