"""The index of words, kept up with what is stored: texts go in, are taken out again, and are merged, bit by bit.

Nothing here is part of a commit. A text is found some moments after it was stored; and where the index is damaged, or
its rules have changed, it is made anew from the contents, and no exchange is held up.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
import structlog

from sidestream.store.faults import StoreCorrupt
from sidestream.traces.searchable import RULES, searchable

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidestream.store.contents import Contents
    from sidestream.store.database import Database

_PAGE: Final = 500
"""Contents that are looked at in one step, at most."""
_EACH: Final = 500
"""Bytes of text for which one content counts, beside its own."""
_RECORDS: Final = 10
"""The numbers of the index's rows up to this one are those that it is opened by."""

log = structlog.get_logger()


class _State(NamedTuple):
    """The row of the table `indexing`."""

    last: int
    rules: int
    stale: int
    damaged: int
    purging: int


class Indexing:
    """The index in one database, for its writer."""

    def __init__(self, database: Database, contents: Contents) -> None:
        self._database = database
        self._contents = contents

    def step(self, most: int) -> bool:
        """Take out about `most` bytes of texts that have gone, or put in as many that have come; whether there is more.

        An index that is damaged is emptied instead, some rows at a time.
        """
        state = self._state()
        if state.damaged:
            self._empty(most)
            return True
        if state.rules != RULES:
            self._begin_anew(logged=bool(state.last))
            return True
        return self._guarded(lambda: self._take_out(most) or self._put_in(state.last, most), damaged=True)

    def take_out(self, most: int) -> bool:
        """The first half of a `step`, of an index that is in order; whether there may be more of that."""
        if self._state().damaged or not self._database.rows("SELECT 1 FROM unindexed LIMIT 1"):
            return False
        return self._guarded(lambda: self._take_out(most), damaged=False)

    def merge(self, pages: int) -> bool:
        """Have about so many pages of the index merged, if there is any need for it; whether there was."""
        return self._merge(pages)

    def purge(self, pages: int) -> bool:
        """Have so many pages merged into one index that has nothing of what was taken out; whether there may be more.

        Nothing is put in meanwhile, or it would begin anew.
        """
        if self._merge(-pages):
            return True
        with self._database.transaction():
            self._database.run("UPDATE indexing SET stale = 0")
        return False

    def stale(self) -> int:
        """Texts of which the index may have words, though they were taken out."""
        return self._state().stale

    def purging(self) -> int:
        """How many steps of deletions there were of which there may still be something in the file."""
        return self._state().purging

    def purged(self, steps: int) -> None:
        """Nothing is left of so many steps; with others meanwhile, or a damaged index, it is to be done again."""
        with self._database.transaction():
            self._database.run("UPDATE indexing SET purging = 0 WHERE purging = ? AND NOT damaged", steps)

    def _state(self) -> _State:
        (row,) = self._database.rows("SELECT last, rules, stale, damaged, purging FROM indexing")
        return _State(*row)

    def _merge(self, pages: int) -> bool:
        if self._state().damaged:
            return False
        return self._guarded(lambda: self._merged(pages), damaged=True)

    def _merged(self, pages: int) -> bool:
        before = self._database.connection.total_changes
        self._database.run("INSERT INTO words (words, rank) VALUES ('merge', ?)", pages)
        return self._database.connection.total_changes - before > 1  # one is this statement's own

    def _take_out(self, most: int) -> bool:
        size = taken = 0
        found = self._database.rows("SELECT id, content FROM unindexed ORDER BY id LIMIT ?", _PAGE)
        for number, content in found:
            ((blob,),) = self._database.rows("SELECT text FROM unindexed WHERE id = ?", number)
            text = self._text(blob)
            self._database.run("INSERT INTO words (words, rowid, text) VALUES ('delete', ?, ?)", content, text)
            self._database.run("DELETE FROM unindexed WHERE id = ?", number)
            taken += 1
            size += len(text) + _EACH
            if size >= most:
                break
        if taken:
            self._database.run("UPDATE indexing SET stale = stale + ?", taken)
        return bool(taken)

    def _put_in(self, last: int, most: int) -> bool:
        size = 0
        found = self._database.rows("SELECT id FROM contents WHERE id > ? ORDER BY id LIMIT ?", last, _PAGE)
        for (content,) in found:
            size += self._put(content)
            last = content
            if size >= most:
                break
        if found:
            self._database.run("UPDATE indexing SET last = ?", last)
        return bool(found)

    def _put(self, content: int) -> int:
        """Put one content in, or note that it has no words; about how many bytes had to be looked at."""
        # What is a part of others is opaque, and may be large.
        found = self._database.rows(
            "SELECT content FROM contents WHERE id = ? AND NOT EXISTS (SELECT 1 FROM parts WHERE part = id)", content
        )
        text = self._text(found[0][0]) if found else ""
        if text:
            self._database.run("INSERT INTO words (rowid, text) VALUES (?, ?)", content, text)
        else:
            self._database.run("INSERT OR IGNORE INTO wordless VALUES (?)", content)
        return _EACH + len(text) + (len(found[0][0]) if found else 0)

    def _text(self, blob: bytes) -> str:
        """The words of a stored content; of the same one always the same."""
        try:
            return searchable(msgspec.json.decode(self._contents.outline(blob)))
        except (LookupError, ValueError, RecursionError):
            return ""

    def _guarded(self, work: Callable[[], bool], *, damaged: bool) -> bool:
        """Do this in a transaction. Where only the index is found to be damaged, it is made anew from then on."""
        try:
            with self._database.transaction():
                return work()
        except StoreCorrupt as error:
            if not is_of_index(error):
                raise
        self._begin_anew(logged=True)
        return damaged

    def _begin_anew(self, *, logged: bool) -> None:
        with self._database.transaction():
            self._database.run("UPDATE indexing SET last = 0, rules = ?, damaged = 1", RULES)
        if logged:
            log.warning("search_index_begun_anew")

    def _empty(self, most: int) -> None:
        """Remove rows of the index as such; with the last, it is an index again."""
        with self._database.transaction():
            rows = max(most >> 12, 1)
            gone = self._database.run(
                "DELETE FROM words_data WHERE id IN (SELECT id FROM words_data WHERE id > ? LIMIT ?)", _RECORDS, rows
            )
            gone += self._database.run("DELETE FROM unindexed WHERE id IN (SELECT id FROM unindexed LIMIT ?)", rows)
            gone += self._database.run(
                "DELETE FROM wordless WHERE content IN (SELECT content FROM wordless LIMIT ?)", rows
            )
            if not gone:
                self._database.run("INSERT INTO words (words) VALUES ('delete-all')")
                self._database.run("UPDATE indexing SET last = 0, stale = 0, damaged = 0")


def is_of_index(error: StoreCorrupt) -> bool:
    """Whether it is the index that is damaged: what it keeps in its tables, not the file."""
    return getattr(error.__cause__, "sqlite_errorcode", None) == sqlite3.SQLITE_CORRUPT_VTAB
