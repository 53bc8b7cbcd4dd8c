# ruff: noqa: S608  # statements are put together from this module's and `Runs`' own words; values are bound
"""Full-text search over what was said. Reads only.

A page takes about the same time whatever is looked for: the index is gone through from the newest text to the oldest,
in stretches, and where that has taken long enough the page ends, with fewer hits, or none.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import msgspec

from sidestream.store.faults import StoreCorrupt
from sidestream.store.indexing import is_of_index
from sidestream.store.phrases import Phrases
from sidestream.store.shapes import Hit, HitPage, Unclear
from sidestream.traces.searchable import searchable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sidestream.store.contents import Contents
    from sidestream.store.database import Database
    from sidestream.store.runs import Runs
    from sidestream.store.shapes import RunFilter

_SECONDS: Final = 0.05
"""What a page may take from the first text on that is found, about."""
_LONGEST_PAGE: Final = 1000
_STRETCH: Final = 1 << 14
"""Contents that are looked through at first; then twice as many each time, while that is quick."""
_QUICK: Final = 0.005
_AT_ONCE: Final = 1000
_MOST_TURNS: Final = 200
"""Of the turns that say the same, the first so many are looked at for one in a run that is wanted; and then the turns
of the latest so many runs that are wanted."""
_FOUND: Final = "SELECT rowid FROM words WHERE words MATCH ? AND rowid BETWEEN ? AND ? ORDER BY rowid DESC LIMIT ?"
_SAYING: Final = (
    f"SELECT DISTINCT sequence FROM said WHERE content = ? ORDER BY sequence LIMIT {_MOST_TURNS}",
    f"SELECT sequence FROM turns WHERE system = ? ORDER BY sequence LIMIT {_MOST_TURNS}",
)
_SAYS: Final = (
    "EXISTS (SELECT 1 FROM said WHERE said.sequence = turns.sequence AND content = ?)",
    "system = ?",
)


class Search:
    """The index in one database."""

    def __init__(self, database: Database, contents: Contents, runs: Runs) -> None:
        self._database = database
        self._contents = contents
        self._runs = runs

    def find(self, words: str, wanted: RunFilter, *, limit: int, before: str | None) -> HitPage:
        """Messages with all of these words, in runs as wanted, newest first. `Unclear` if there is no word.

        Each is there once, however many turns say it: with the first that does, in a run that is wanted. There may be
        fewer than `limit`, or none, and a next page all the same.
        """
        if not 1 <= limit <= _LONGEST_PAGE:
            raise Unclear(f"a page has 1 to {_LONGEST_PAGE} hits")
        phrases, first = Phrases.parse(words), self._newest() + 1 if before is None else _number(before)
        condition, values = self._runs.condition(wanted)
        until: float | None = None
        hits, last = list[Hit](), first
        if self._database.rows(f"SELECT 1 FROM runs WHERE {condition} LIMIT 1", *values):
            for content, reached in self._found(phrases.expression, first, whole=phrases.slow):
                until = until or time.monotonic() + _SECONDS
                if last < first and (len(hits) == limit or time.monotonic() > until):
                    return HitPage(hits=hits, next=str(last), indexing=self._waiting())
                if content is not None:
                    hits += self._hit(content, phrases, condition, values)
                last = reached
        return HitPage(hits=hits, next=None, indexing=self._waiting())

    def _found(self, expression: str, before: int, *, whole: bool) -> Iterator[tuple[int | None, int]]:
        """Contents that have it, from before this one on downwards, and how far that is; None after a stretch.

        With `whole` there is one stretch: the beginnings of words take as long for a part as for all.
        """
        until, stretch = before - 1, before if whole else _STRETCH
        while until > 0:
            began = time.monotonic()
            found = self._match(expression, max(until - stretch, 0) + 1, until)
            yield from ((content, content) for content in found)
            if len(found) == _AT_ONCE:
                until = found[-1] - 1
                continue
            until = max(until - stretch, 0)
            yield None, until + 1
            stretch *= 2 if time.monotonic() - began < _QUICK else 1

    def _match(self, expression: str, first: int, last: int) -> list[int]:
        try:
            found = self._database.rows(_FOUND, expression, first, last, _AT_ONCE)
        except StoreCorrupt as error:
            if is_of_index(error):  # its owner makes it anew
                return []
            raise
        return [content for (content,) in found]

    def _hit(self, content: int, phrases: Phrases, condition: str, values: Sequence[Any]) -> list[Hit]:
        """The hit, or none: it has gone meanwhile, or is in no run that is wanted."""
        found = self._database.rows(
            "SELECT content FROM contents WHERE id = ? AND id NOT IN (SELECT content FROM unindexed)", content
        )
        exchange = self._said_in(content, condition, values) if found else None
        if exchange is None:
            return []
        try:
            said = msgspec.json.decode(self._contents.outline(found[0][0]))
            _, turn = self._runs.turn(exchange)
            run = self._runs.summary(turn.run)
        except (LookupError, ValueError):
            return []
        role = str((said[0] if isinstance(said, list) else said)["role"])
        snippet = phrases.snippet(searchable(said))
        return [Hit(run=run, turn=exchange, number=turn.number, role=role, snippet=snippet)]

    def _said_in(self, content: int, condition: str, values: Sequence[Any]) -> str | None:
        """The exchange of the first turn that says it, in a run that is wanted."""
        for saying, says in zip(_SAYING, _SAYS, strict=True):
            turns = [sequence for (sequence,) in self._database.rows(saying, content)]
            if not turns:
                continue
            found = self._database.rows(
                "SELECT id FROM exchanges JOIN turns USING (sequence)"
                " WHERE sequence IN (SELECT value FROM json_each(?))"
                f" AND trace IN (SELECT trace FROM runs WHERE runs.trace = turns.trace AND {condition})"
                " ORDER BY sequence LIMIT 1",
                msgspec.json.encode(turns).decode(),
                *values,
            )
            if not found and len(turns) == _MOST_TURNS:
                found = self._database.rows(
                    f"SELECT id FROM (SELECT trace FROM runs WHERE {condition} ORDER BY started_at DESC"
                    f" LIMIT {_MOST_TURNS}) CROSS JOIN turns USING (trace) JOIN exchanges USING (sequence)"
                    f" WHERE {says} LIMIT 1",
                    *values,
                    content,
                )
            if found:
                return str(found[0][0])
        return None

    def _newest(self) -> int:
        ((newest,),) = self._database.rows("SELECT coalesce(max(id), 0) FROM contents")
        return int(newest)

    def _waiting(self) -> int:
        """How many contents may not have been looked at yet."""
        ((last, damaged),) = self._database.rows("SELECT last, damaged FROM indexing")
        return max(self._newest() - (0 if damaged else int(last)), 0)


def _number(token: str) -> int:
    if not (token.isascii() and token.isdigit() and len(token) < 19):
        raise Unclear("this is not what a page of hits was given to go on from")
    return int(token)
