"""Where a call that is under way seems to belong: placed by the rules that it will be stored by. Reads only.

It is settled when the call is stored: until then another may have gone on from the same turn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from sidestream.store.known import KnownTurns
from sidestream.traces.conversation import BEGINNINGS, CHILDREN, Placement, Rule, place, within_thread

if TYPE_CHECKING:
    from sidestream.store.database import Database
    from sidestream.store.turns import Turns
    from sidestream.traces.model import Reading

_NOT_STORED: Final = (1 << 63) - 1
"""Behind all that is stored."""
_NOT_COMPARED: Final = CHILDREN | {Rule.CONTINUES_THREAD}


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """Where a call seems to belong."""

    run: str
    number: int
    """Its place in the run, from 1."""
    rule: Rule
    parent: str | None
    """The exchange that it follows, left, or was called from."""
    retry_of: str | None
    known: int
    """How many of its messages the turns before have."""
    begins: bool
    """Whether a run with a system prompt of its own begins with it."""
    changed: list[str]
    """Which of ``system`` and ``tools`` are not those of the turn before."""


def predict(database: Database, turns: Turns, reading: Reading) -> Prediction:
    """Place a call among the turns that are stored."""
    stored = database.rows("SELECT sequence FROM exchanges WHERE id = ?", reading.id)  # it may have ended just now
    sequence = stored[0][0] if stored else _NOT_STORED
    known = KnownTurns(database, reading.call, sequence)
    call = within_thread(reading.call, reading.asked, reading.answer, known)
    placement = place(call, known)
    before = placement.parent if placement.retry_of is None else placement.retry_of
    run = _trace(database, placement, before) or reading.id
    return Prediction(
        run=run,
        number=_number(database, run, reading.call.started_at, sequence),
        rule=placement.rule,
        parent=_exchange(database, placement.parent),
        retry_of=_exchange(database, placement.retry_of),
        known=placement.known,
        begins=placement.rule in BEGINNINGS - {Rule.EXTENDS_EARLIER},
        changed=_changed(turns, reading, placement, before),
    )


def _trace(database: Database, placement: Placement, before: int | None) -> str | None:
    """The trace that it is added to; None for a new one."""
    if placement.rule in BEGINNINGS:
        return None
    found = database.rows("SELECT trace FROM turns WHERE sequence = ? OR retry_of = ? LIMIT 1", before, before)
    return str(found[0][0]) if found else None


def _number(database: Database, run: str, started_at: float, sequence: int) -> int:
    before = "SELECT count(*) FROM turns WHERE trace = ? AND started_at <= ? AND sequence <> ?"
    ((count,),) = database.rows(before, run, started_at, sequence)
    return int(count) + 1


def _exchange(database: Database, sequence: int | None) -> str | None:
    found = database.rows("SELECT id FROM exchanges WHERE sequence = ?", sequence)
    return str(found[0][0]) if found else None


def _changed(turns: Turns, reading: Reading, placement: Placement, before: int | None) -> list[str]:
    if before is None or placement.rule in _NOT_COMPARED:
        return []
    try:
        facts = turns.facts(before)
    except LookupError:
        return []
    return [name for name in ("system", "tools") if _digest(facts, name) != _digest(reading.metadata, name)]


def _digest(facts: dict[str, object], name: str) -> object:
    described = facts.get(name)
    return described.get("digest") if isinstance(described, dict) else None
