"""What is removed from a store, and what never is: an exchange that is still to be delivered.

Ages go by the clock, and a clock can be wrong. Exchanges are numbered as they arrive, so none is older than one before
it: the first that is young ends the search, whatever later ones say. One from the future says nothing, and is passed
over. So a clock that is set back, and forward again, removes nothing that is young, as long as anything young was
stored before; and one that ran ahead for a while leaves exchanges that only `max_bytes` removes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidestream.store.rows import Pruned

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidestream.store.database import Database

_PAGE = 500
_STEP_BYTES = 64 << 20
"""Bytes after which a step ends: what is removed is overwritten, so it all goes through SQLite's log."""


def prune(database: Database, *, now: float, age: float | None, max_bytes: int | None, most: int) -> Pruned:
    """Remove at most `most` exchanges, oldest first: those older than `age` seconds, and those beyond `max_bytes`.

    Fewer where they are large. Parked deliveries keep an exchange from being removed for its size, not for its age.
    """
    before = database.live_bytes()
    found = _older(database, now, age, most) if age is not None else {}
    excess = before - sum(found.values()) - max_bytes if max_bytes is not None else 0
    if excess > 0:
        _add_oldest(database, excess, most, found)
    if not found:
        return Pruned(0, 0, more=False)
    with database.transaction():
        database.run_many("DELETE FROM exchanges WHERE sequence = ?", [(sequence,) for sequence in found])
    after = database.live_bytes()
    more = _enough(found, most) or (max_bytes is not None and after > max_bytes)
    return Pruned(len(found), max(before - after, 0), more)


def discard_finished(database: Database) -> int:
    """Remove every exchange that has nothing left to deliver; how many."""
    with database.transaction():
        return database.run("DELETE FROM exchanges WHERE waiting = 0 AND parked = 0")


def _older(database: Database, now: float, age: float, most: int) -> dict[int, int]:
    """Sequence and bytes of what may go for its age."""
    found: dict[int, int] = {}
    for sequence, at, waiting, stored in _in_order(database):
        if now - age < at <= now or _enough(found, most):
            break
        if at <= now and not waiting:
            found[sequence] = stored
    return found


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


def _in_order(database: Database) -> Iterator[tuple[int, float, int, int]]:
    """Sequence, time, open deliveries and bytes of each exchange."""
    last = 0
    while page := database.rows(
        "SELECT sequence, max(started_at, stored_at), waiting, stored FROM exchanges"
        " WHERE sequence > ? ORDER BY sequence LIMIT ?",
        last,
        _PAGE,
    ):
        yield from page
        last = page[-1][0]
