"""What somebody wants removed: a run with all that belongs to it, or a dataset; also what is still to be delivered.

It goes in steps, so that no commit waits long, and can be broken off between two of them. Rows go at once, and their
bytes are overwritten as they go (``secure_delete``). But what was said may be in the index of words and in SQLite's log
until these have been worked off; until then the store says that it is purging.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sidestream.providers.jsons import clean_text
from sidestream.store.rows import Deleted

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from sidestream.store.captures import Captures
    from sidestream.store.database import Database

_STEP_BYTES: Final = 4 << 20
"""Bytes of exchanges, or of requests that are packed anew, after which a step ends."""
_DEEPEST: Final = 1000
_FAMILY: Final = (
    "WITH RECURSIVE family (trace, depth) AS (SELECT ?, 0"  # noqa: S608  # constants
    " UNION SELECT runs.trace, depth + 1 FROM family JOIN runs ON runs.parent = family.trace"
    f" WHERE depth < {_DEEPEST}) SELECT trace FROM family GROUP BY trace ORDER BY max(depth) DESC"
)
"""A run and all below it, the lowest first: what is above one leads to it as long as there is something to be found."""


def delete(database: Database, captures: Captures, *, run: str | None, dataset: str | None, most: int) -> Deleted:
    """Remove at most `most` exchanges, of each trace the newest first: few are packed with one that is newer.

    Fewer where they are large; none where a step is needed to make others independent of them.
    """
    found, size = list[int](), 0
    wanted = _of_run(database, run, most) if run is not None else _of_dataset(database, dataset or "", most)
    for sequence, stored in wanted:
        if len(found) >= most or size >= _STEP_BYTES:
            break
        found.append(sequence)
        size += stored
    with database.transaction():
        if not found:
            database.run("DELETE FROM dataset_metadata WHERE dataset = ?", clean_text(dataset or ""))
            return Deleted(0, 0, 0, more=False)
        database.run("UPDATE indexing SET purging = purging + 1")
        if not captures.release(found, _STEP_BYTES):
            return Deleted(0, 0, 0, more=True)
        turns, deliveries = _counted(database, found)
        database.run_many("DELETE FROM exchanges WHERE sequence = ?", [(sequence,) for sequence in found])
    return Deleted(len(found), turns, deliveries, more=True)


def _of_run(database: Database, run: str, most: int) -> Iterator[tuple[int, int]]:
    for (trace,) in database.rows(_FAMILY, clean_text(run)):
        yield from database.rows(
            "SELECT sequence, stored FROM turns JOIN exchanges USING (sequence) WHERE trace = ?"
            " ORDER BY turns.started_at DESC LIMIT ?",
            trace,
            most,
        )


def _of_dataset(database: Database, dataset: str, most: int) -> Iterator[tuple[int, int]]:
    yield from database.rows(
        "SELECT sequence, stored FROM exchanges WHERE dataset = ? ORDER BY sequence DESC LIMIT ?",
        clean_text(dataset),
        most,
    )


def _counted(database: Database, found: Collection[int]) -> tuple[int, int]:
    """How many of these have turns, and how many deliveries are open or parked."""
    turns = deliveries = 0
    for sequence in found:
        ((has_turn, left),) = database.rows(
            "SELECT EXISTS (SELECT 1 FROM turns WHERE turns.sequence = exchanges.sequence), waiting + parked"
            " FROM exchanges WHERE sequence = ?",
            sequence,
        )
        turns += has_turn
        deliveries += left
    return turns, deliveries
