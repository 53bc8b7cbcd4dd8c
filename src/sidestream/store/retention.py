"""What is removed from a store, and what never is: an exchange that is still to be delivered.

Ages go by the clock, and a clock can be wrong. Exchanges are numbered as they arrive, so none is older than one before
it: the first that is young ends the search, whatever later ones say. One from the future says nothing, and is passed
over. So a clock that is set back, and forward again, removes nothing that is young, as long as anything young was
stored before; and one that ran ahead for a while leaves exchanges that only `max_bytes` removes.

What is packed with the request of an exchange that goes is packed anew before that (`Captures.release`). What was said
goes with the last turn that said it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final, NamedTuple

from sidestream.store.rows import Pruned

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidestream.store.captures import Captures
    from sidestream.store.database import Database

_PAGE: Final = 500
_LOOKED_AT: Final = 5000
"""Exchanges that a step looks at, of which it may be that none can go."""
_STEP_BYTES = 4 << 20
"""Bytes after which a step ends: what is removed is overwritten, so it all goes through SQLite's log. Packing requests
anew ends a step after as many of theirs."""


class Limits(NamedTuple):
    """What may stay, and what time it is; None where there is no such limit."""

    now: float
    age: float | None
    max_bytes: int | None


def prune(database: Database, captures: Captures, limits: Limits, *, most: int, after: int = 0) -> Pruned:
    """Remove at most `most` exchanges, oldest first: those older than the age, and those beyond the bytes.

    Fewer where they are large; none where a step is needed to make others independent of them, or to come by those that
    must stay. Parked deliveries keep an exchange from being removed for its size, not for its age.
    """
    before, max_bytes = _held(database), limits.max_bytes
    found, reached = _older(database, limits, most, after)
    excess = before - sum(found.values()) - max_bytes if max_bytes is not None else 0
    if excess > 0:
        _add_oldest(database, excess, most, found)
    if not found:
        return Pruned(0, 0, more=reached > 0, reached=reached)
    with database.transaction():
        if not captures.release(found, _STEP_BYTES):
            return Pruned(0, 0, more=True, reached=after)
        database.run_many("DELETE FROM exchanges WHERE sequence = ?", [(sequence,) for sequence in found])
    held = _held(database)
    more = reached > 0 or _enough(found, most) or (max_bytes is not None and held > max_bytes)
    return Pruned(len(found), max(before - held, 0), more, reached)


def discard_finished(database: Database, captures: Captures, keep: int) -> int:
    """Of exchanges with nothing left to deliver, remove what is large; how many these are.

    What is left, by which later turns are placed, goes as well of all but the newest `keep`.
    """
    finished = database.rows(
        "SELECT captures.sequence FROM captures CROSS JOIN exchanges USING (sequence) WHERE waiting = 0 AND parked = 0"
    )
    for start in range(0, len(finished), _PAGE):
        page = finished[start : start + _PAGE]
        with database.transaction():
            captures.release([sequence for (sequence,) in page], sys.maxsize)
            for table in ("captures", "said"):
                database.run_many(f"DELETE FROM {table} WHERE sequence = ?", page)  # noqa: S608  # constants
            database.run_many("UPDATE turns SET system = NULL, tools = NULL, facts = x'' WHERE sequence = ?", page)
            database.run_many("UPDATE exchanges SET stored = 0 WHERE sequence = ?", page)
    with database.transaction():
        database.run(
            "DELETE FROM exchanges WHERE waiting = 0 AND parked = 0 AND sequence <= (SELECT sequence FROM exchanges"
            " WHERE waiting = 0 AND parked = 0 ORDER BY sequence DESC LIMIT 1 OFFSET ?)",
            keep,
        )
    return len(finished)


def _held(database: Database) -> int:
    """Bytes in use, without those that only wait for being taken out of the index."""
    ((waiting,),) = database.rows("SELECT coalesce(sum(length(text)), 0) FROM unindexed")
    return database.live_bytes() - int(waiting)


def _older(database: Database, limits: Limits, most: int, after: int) -> tuple[dict[int, int], int]:
    """Sequence and bytes of what may go for its age, and how far was looked; 0 to the end."""
    found: dict[int, int] = {}
    if limits.age is None:
        return found, 0
    for looked_at, (sequence, at, waiting, stored) in enumerate(_in_order(database, after), 1):
        if limits.now - limits.age < at <= limits.now:
            break
        if at <= limits.now and not waiting:
            found[sequence] = stored
        if _enough(found, most) or looked_at >= _LOOKED_AT:
            return found, sequence
    return found, 0


def _add_oldest(database: Database, excess: int, most: int, found: dict[int, int]) -> None:
    """Add to `found` what must go besides, so that `excess` bytes do."""
    for sequence, stored in database.rows(
        "SELECT sequence, stored FROM exchanges WHERE waiting = 0 AND parked = 0 ORDER BY sequence LIMIT ?", most
    ):
        if excess <= 0 or _enough(found, most):
            return
        if sequence not in found:
            found[sequence] = stored
            excess -= stored


def _enough(found: dict[int, int], most: int) -> bool:
    return len(found) >= most or sum(found.values()) >= _STEP_BYTES


def _in_order(database: Database, last: int) -> Iterator[tuple[int, float, int, int]]:
    """Sequence, time, open deliveries and bytes of each exchange after the last."""
    while page := database.rows(
        "SELECT sequence, max(started_at, stored_at), waiting, stored FROM exchanges"
        " WHERE sequence > ? ORDER BY sequence LIMIT ?",
        last,
        _PAGE,
    ):
        yield from page
        last = page[-1][0]
