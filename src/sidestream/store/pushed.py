# ruff: noqa: S608  # statements are put together from this module's own words; values are bound
"""Turns that were not captured here: those that are pushed, and those that are imported.

They are rows as others are, without a capture: an exchange of a provider that nobody knows, and a turn by a rule of its
own. What is imported keeps its names. So a file can be imported again, and what is there already is passed over. Where
a name is that of something in another dataset, the new one is made from the old, for the same reason.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

import msgspec

from sidestream.ids import new_id
from sidestream.providers.jsons import text_of
from sidestream.traces.conversation import PUSHES
from sidestream.traces.pushing import PROVIDER, name_of, reading_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidestream.store.contents import Contents
    from sidestream.store.conversations import Conversations
    from sidestream.store.database import Database
    from sidestream.traces.pushing import PushedTurn

_ROW_BYTES: Final = 2048
"""About what a turn takes beside what it says."""
_RULES: Final = ", ".join(f"'{rule}'" for rule in sorted(PUSHES))


class Imported(msgspec.Struct, frozen=True, kw_only=True):
    """What became of turns that were imported, in numbers."""

    new: int = 0
    renamed: int = 0
    """Those of the new ones whose name something else has."""
    there: int = 0
    """Passed over: they were there."""


class Pushed:
    """The turns in one database that were not captured."""

    def __init__(self, database: Database, contents: Contents, conversations: Conversations) -> None:
        self._database = database
        self._contents = contents
        self._conversations = conversations

    def push(self, turn: PushedTurn, now: float) -> str:
        """Inside a transaction: store a new turn; its run. `LookupError` for a run that is not there, or was captured.

        It is the last of its run, whatever is said of when it began.
        """
        identity = new_id()
        trace = turn.trace
        if trace is None:
            self._add(turn, identity, identity, None, now)
            return identity
        last = self._last(trace)
        if last is None:
            raise LookupError("there is no such run, or it is not one that was pushed")
        before, began, dataset = last
        turn = msgspec.structs.replace(turn, dataset=dataset, started_at=max(turn.started_at or now, began))
        self._add(turn, identity, trace, before, now)
        return trace

    def take_in(self, turns: Sequence[PushedTurn], now: float) -> Imported:
        """Inside a transaction: store turns that have names, in order, unless they are there."""
        new = renamed = 0
        for turn in turns:
            name = turn.id or new_id()
            identity = self._name(name, turn.dataset)
            if identity is None:
                continue
            trace = identity if turn.trace in {None, name} else self._trace(str(turn.trace), turn.dataset)
            last = self._last(trace, turn.started_at) if trace != identity else None
            self._add(turn, identity, trace, last[0] if last is not None else None, now)
            new += 1
            renamed += identity != name
        return Imported(new=new, renamed=renamed, there=len(turns) - new)

    def describe(self, dataset: str, metadata: dict[str, Any], *, replace: bool) -> dict[str, Any]:
        """Inside a transaction: add to what is said of a dataset, or `replace` it; what is said of it now."""
        said = metadata if replace else merged(described(self._database, dataset), metadata)
        self._database.run("INSERT OR REPLACE INTO dataset_metadata VALUES (?, ?)", dataset, text_of(said))
        return said

    def _add(self, turn: PushedTurn, identity: str, trace: str, parent: int | None, now: float) -> None:
        reading = reading_of(turn, identity, now if turn.started_at is None else turn.started_at)
        facts = reading.metadata
        before = self._contents.size()
        sequence = self._database.insert(
            "INSERT INTO exchanges (id, dataset, provider, fingerprint, started_at, stored_at, status, outcome, model,"
            " size, stored) VALUES (?, ?, ?, '', ?, ?, ?, 'completed', ?, ?, 0)",
            identity,
            turn.dataset,
            PROVIDER,
            reading.call.started_at,
            now,
            facts.get("status"),
            facts.get("model"),
            len(text_of([*turn.system, *turn.messages])),
        )
        self._conversations.add_pushed(sequence, reading, parent, trace, name_of(facts))
        if parent is not None:
            self._keep_manner(sequence, parent, has_system=bool(turn.system))
        stored = max(self._contents.size() - before, 0) + _ROW_BYTES
        self._database.run("UPDATE exchanges SET stored = ? WHERE sequence = ?", stored, sequence)

    def _keep_manner(self, sequence: int, parent: int, *, has_system: bool) -> None:
        """Nobody repeats system prompt and tools with each turn: they are those of the turn before."""
        kept = ("tools",) if has_system else ("system", "tools")
        values = ", ".join(f"{name} = (SELECT {name} FROM turns WHERE sequence = ?)" for name in kept)
        self._database.run(f"UPDATE turns SET {values} WHERE sequence = ?", *[parent] * len(kept), sequence)

    def _last(self, trace: str, until: float | None = None) -> tuple[int, float, str] | None:
        """Sequence, beginning and dataset of a pushed run's last turn, or of the last that had begun by then."""
        found = self._database.rows(
            "SELECT sequence, turns.started_at, dataset FROM turns JOIN exchanges USING (sequence)"
            f" WHERE trace = ? AND rule IN ({_RULES}) AND turns.started_at <= ?"
            " ORDER BY turns.started_at DESC, sequence DESC LIMIT 1",
            trace,
            1e300 if until is None else until,
        )
        return (int(found[0][0]), float(found[0][1]), str(found[0][2])) if found else None

    def _name(self, name: str, dataset: str) -> str | None:
        """What to call a turn; None if it is there."""
        for each in (name, _derived(name, dataset)):
            found = self._database.rows("SELECT dataset FROM exchanges WHERE id = ?", each)
            if not found:
                return each
            if found[0][0] == dataset:
                return None
        return None

    def _trace(self, trace: str, dataset: str) -> str:
        """The run that a turn is put behind, or begins: this one, unless another dataset has it, or it was captured."""
        found = self._database.rows(
            "SELECT dataset, rule FROM turns JOIN exchanges USING (sequence) WHERE trace = ?"
            " ORDER BY turns.started_at LIMIT 1",
            trace,
        )
        if not found or (found[0][0] == dataset and found[0][1] in PUSHES):
            return trace
        return _derived(trace, dataset)


def described(database: Database, dataset: str) -> dict[str, Any]:
    """What is said of a dataset."""
    found = database.rows("SELECT metadata FROM dataset_metadata WHERE dataset = ?", dataset)
    return dict(msgspec.json.decode(found[0][0])) if found else {}


def merged(before: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Nested metadata, where what is new counts. What is nested below both is merged as well."""
    both = {key: merged(before[key], new[key]) for key in before.keys() & new.keys() if _nested(before[key], new[key])}
    return before | new | both


def _nested(before: Any, new: Any) -> bool:
    return isinstance(before, dict) and isinstance(new, dict)


def _derived(name: str, dataset: str) -> str:
    return hashlib.blake2b(f"{name}\0{dataset}".encode(), digest_size=16).hexdigest()
