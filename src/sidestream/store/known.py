# ruff: noqa: S608  # statements are put together from this module's own words; values are bound
"""The turns in the store, as `sidestream.traces.conversation.place` asks for them. Reads only.

Every question is answered from an index, and looks at a bounded number of turns, for a whole evaluation may begin with
the same message.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sidestream.store.occurring import ASKING, CUT, INCOMPLETE, LEAVING, Occurring
from sidestream.traces.conversation import CHILDREN, ROOTS, Call, Earlier
from sidestream.traces.states import DIGEST

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from sidestream.store.database import Database

_MOST: Final = 64
_MOST_TIPS: Final = 8
_MOST_OF_SESSION: Final = 200
_MOST_STATES: Final = 4096
_AT_ONCE: Final = (8, 120, 500)
"""How many states are looked for at a time: the longest of them is nearly always known."""
_LONGEST_PATH: Final = 10_000
_COLUMNS: Final = (
    f"turns.sequence, parent, retry_of, known, known + length(digests) / {DIGEST}, rule, turns.started_at, ended_at,"
    " asking, leaving, outline, answered, complete, manner, session, agent, cut, retries,"
    f" substr(digests, -{DIGEST})"
)
_BEFORE: Final = "turns.started_at <= ? AND (turns.started_at < ? OR turns.sequence < ?)"
_TAKES: Final = "answered AND rule NOT IN ('child_of_call', 'child_of_session', 'history_summarized')"
"""What takes the place after its parent; word for word as in the index, or SQLite does not use it."""
_MOST_ALIKE: Final = 4096
_WAS_ASKED: Final = f"SELECT 1 FROM turns WHERE scope = ? AND asking = ? AND manner = ? AND {_BEFORE} LIMIT 1"
_OF_CLUE: Final = (
    "SELECT sequence FROM clues WHERE scope = ? AND kind = ? AND digest = ? AND started_at <= ?"
    f" ORDER BY started_at DESC LIMIT {_MOST}"
)
_BY_ITSELF: Final = ", ".join(f"'{rule}'" for rule in sorted(ROOTS | CHILDREN))


def _turns_with(wanted: str) -> str:
    return f"SELECT {_COLUMNS} FROM turns WHERE {wanted} AND {_BEFORE} ORDER BY turns.started_at DESC LIMIT {_MOST}"


_ASKING: Final = _turns_with("scope = ? AND asking = ?")
_ASKING_INCOMPLETE: Final = _turns_with("scope = ? AND asking = ? AND NOT complete")
_WITH: Final = {column: _turns_with(f"scope = ? AND {column} = ?") for column in ("leaving", "outline")}


class KnownTurns:
    """The turns of the call's scope that began before it; `sequence` is the call's own.

    What is `occurring` was looked up before; without it, every question is asked.
    """

    def __init__(self, database: Database, call: Call, sequence: int, occurring: Occurring | None = None) -> None:
        self._database = database
        self._occurring = Occurring(database) if occurring is None else occurring
        self._scope = call.scope
        self._before = (call.started_at, call.started_at, sequence)

    def leaving(self, states: Sequence[bytes], /) -> Iterator[Earlier]:
        """Turns that left one of these states, in the order of `states`; of those with the same, the latest first."""
        return self._with("leaving", states)

    def outlined(self, outlines: Sequence[bytes], /) -> Iterator[Earlier]:
        """Turns whose answer left one of these outlines, likewise."""
        return self._with("outline", outlines)

    def asking(self, state: bytes, /, *, incomplete: bool) -> list[Earlier]:
        """Turns whose whole request had this state, the latest first; or only those that were not answered whole."""
        if not self._occurring.may(self._scope, INCOMPLETE if incomplete else ASKING, state):
            return []
        return self._turns(_ASKING_INCOMPLETE if incomplete else _ASKING, self._scope, state)

    def was_asked(self, state: bytes, manner: bytes, /) -> bool:
        """Whether there is a turn whose whole request had this state, in this manner."""
        if not self._occurring.may(self._scope, ASKING, state):
            return False
        return bool(self._database.rows(_WAS_ASKED, self._scope, state, manner, *self._before))

    def is_done(self, attempt: int, /) -> bool:
        """Whether this one, or a retry of it, was answered whole."""
        found = self._database.rows(
            "SELECT 1 FROM turns WHERE sequence IN (SELECT ? UNION ALL SELECT sequence FROM turns WHERE retry_of = ?)"
            f" AND complete AND {_BEFORE} LIMIT 1",
            attempt,
            attempt,
            *self._before,
        )
        return bool(found)

    def cut(self, states: Sequence[bytes], /) -> list[Earlier]:
        """Turns whose request had one of these states, and whose answer was cut off, the latest first."""
        if not self._occurring.may(self._scope, CUT, b""):
            return []
        states = states[:_MOST]
        found = self._database.rows(
            f"SELECT {_COLUMNS} FROM turns INDEXED BY turns_cut WHERE cut IS NOT NULL AND scope = ?"
            f" AND asking IN ({_marks(states)}) AND {_BEFORE} ORDER BY turns.started_at DESC LIMIT {_MOST}",
            self._scope,
            *states,
            *self._before,
        )
        return [Earlier(*columns) for columns in found]

    def free(self, state: bytes, /) -> Earlier | None:
        """The latest turn that left this state, and that nothing goes on from; of the latest 4,096."""
        found = self._database.rows(
            f"SELECT {_COLUMNS} FROM (SELECT * FROM turns WHERE scope = ? AND leaving = ? AND {_BEFORE}"
            f" ORDER BY turns.started_at DESC LIMIT {_MOST_ALIKE}) AS turns"
            " WHERE retry_of IS NULL AND NOT EXISTS (SELECT 1 FROM turns AS next WHERE next.parent = turns.sequence"
            f" AND {_TAKES.replace('answered', 'next.answered').replace('rule', 'next.rule')}"
            f" AND {_BEFORE.replace('turns', 'next')}) ORDER BY turns.started_at DESC LIMIT 1",
            self._scope,
            state,
            *self._before,
            *self._before,
        )
        return Earlier(*found[0]) if found else None

    def is_taken(self, turn: int, /, but: int | None = None) -> bool:
        """Whether a turn that was answered goes on from this one, or from another attempt at the same.

        What it has called does not count, nor what has only a summary of it, nor attempts at the turn `but`.
        """
        found = self._database.rows(
            "WITH slot (first) AS (SELECT coalesce((SELECT retry_of FROM turns WHERE sequence = ?), ?))"
            " SELECT 1 FROM turns WHERE parent IN (SELECT first FROM slot"
            " UNION ALL SELECT sequence FROM turns WHERE retry_of = (SELECT first FROM slot))"
            f" AND {_TAKES} AND {_BEFORE} AND coalesce(retry_of, sequence) IS NOT ? LIMIT 1",
            turn,
            turn,
            *self._before,
            but,
        )
        return bool(found)

    def tips(self, session: str, agent: str, /) -> list[Earlier]:
        """Of each trace of a session's agent the latest turn that was answered, the latest first."""
        found = self._database.rows(
            f"SELECT trace, {_COLUMNS} FROM turns WHERE session IS NOT NULL AND scope = ? AND session = ? AND agent = ?"
            f" AND answered AND {_BEFORE} ORDER BY turns.started_at DESC LIMIT {_MOST_OF_SESSION}",
            self._scope,
            session,
            agent,
            *self._before,
        )
        tips: dict[str, Earlier] = {}
        for trace, *columns in found:
            tips.setdefault(trace, Earlier(*columns))
        return list(tips.values())[:_MOST_TIPS]

    def naming(self, kind: str, name: bytes, /) -> list[Earlier]:
        """Turns whose ``answer``, or whose ``compaction``, is this one, the latest first."""
        return self._by_clues(kind, [name])

    def passing_on(self, texts: Sequence[bytes], /) -> list[Earlier]:
        """Turns with a tool call that passes on one of these texts, the latest first."""
        return self._by_clues("argument", texts)

    def history(self, turn: int, /) -> list[bytes]:
        """The digests of all messages up to a turn's answer, as far as they are kept."""
        found = self._database.rows(
            "WITH RECURSIVE up (parent, rule, digests, depth) AS ("
            " SELECT parent, rule, digests, 0 FROM turns WHERE sequence = ?"
            " UNION ALL SELECT turns.parent, turns.rule, turns.digests, depth + 1 FROM up"
            f" JOIN turns ON turns.sequence = up.parent WHERE up.rule NOT IN ({_BY_ITSELF}) AND depth < {_LONGEST_PATH}"
            ") SELECT digests FROM up ORDER BY depth DESC",
            turn,
        )
        return [packed[at : at + DIGEST] for (packed,) in found for at in range(0, len(packed), DIGEST)]

    def _with(self, column: str, values: Sequence[bytes]) -> Iterator[Earlier]:
        """Turns with one of these values, in their order."""
        begin, values = 0, values[:_MOST_STATES]
        for size in (*_AT_ONCE, *[_AT_ONCE[-1]] * (len(values) // _AT_ONCE[-1])):
            some = values[begin : begin + size]
            begin += size
            for value in self._found(column, some):
                yield from self._turns(_WITH[column], self._scope, value)

    def _found(self, column: str, values: Sequence[bytes]) -> list[bytes]:
        """Which of these values turns may have, in their order: few others."""
        if column == LEAVING:
            values = [value for value in values if self._occurring.may(self._scope, LEAVING, value)]
        if len(values) <= 1:
            return list(values)
        found = self._database.rows(
            f"SELECT column1 FROM (VALUES {', '.join(['(?)'] * len(values))})"
            f" WHERE EXISTS (SELECT 1 FROM turns WHERE scope = ? AND {column} = column1)",
            *values,
            self._scope,
        )
        known = {value for (value,) in found}
        return [value for value in values if value in known]

    def _by_clues(self, kind: str, clues: Sequence[bytes]) -> list[Earlier]:
        found = {
            sequence
            for clue in clues
            if self._occurring.may(self._scope, kind, clue)
            for (sequence,) in self._database.rows(
                _OF_CLUE,
                self._scope,
                kind,
                clue,
                self._before[0],
            )
        }
        return self._turns(_turns_with(f"turns.sequence IN ({_marks(found)})"), *found) if found else []

    def _turns(self, wanted: str, *values: Any) -> list[Earlier]:
        return [Earlier(*columns) for columns in self._database.rows(wanted, *values, *self._before)]


def _marks(values: Collection[object]) -> str:
    return ", ".join("?" * len(values))
