"""What can go wrong with a store, told apart by what its owner can do about it.

Knows SQLite's result codes, and nothing of what the store holds. Messages name the file and the kind of trouble, never
what was being written.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

from sidestream.errors import SidestreamError

if TYPE_CHECKING:
    from pathlib import Path

_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_FOR_NOW = frozenset(
    {
        sqlite3.SQLITE_AUTH,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOLFS,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_READONLY,
    }
)


class StoreUnavailable(SidestreamError):
    """Not now: the disk is full or failing, or the file may not be opened. Nothing was half done; try again later."""


class StoreCorrupt(SidestreamError):
    """The file is damaged, no database, or deleted. Nothing helps but to begin a new one, with this one set aside."""


def classified(error: sqlite3.Error | OSError, path: Path | None) -> Exception:
    """`error` as one of the two above, or as it is where it is neither: a defect of ours."""
    file = path or "the store in memory"
    if isinstance(error, OSError):
        return StoreUnavailable(f"{file}: {error.strerror or type(error).__name__}")
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        # The module's own: text that is no UTF-8 is an OperationalError; the rest is wrong use of it.
        return StoreCorrupt(f"{file} is damaged: invalid text") if type(error) is sqlite3.OperationalError else error
    if code & 0xFF in _DAMAGED:
        return StoreCorrupt(f"{file} is damaged ({error.sqlite_errorname})")
    if code & 0xFF in _FOR_NOW:
        return StoreUnavailable(f"{file} cannot be used now ({error.sqlite_errorname})")
    return error
