# ruff: noqa: S608  # statements are put together from this module's own words; values are bound
"""Turns in their conversations: each is placed when it is stored, and again when one comes that belongs before it.

Where a turn belongs is `sidestream.traces.conversation`'s decision, which depends on when calls began. So a turn that
comes late can change where others belong that are stored already; those are found by what they are indexed by, and
placed again, in the order in which they began. What a sink has been told is not changed by that.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import structlog

from sidestream.providers.jsons import clean_text, text_of
from sidestream.store.known import KnownTurns
from sidestream.store.measuring import Measurable, Measuring
from sidestream.store.occurring import (
    ASKING,
    CUT,
    INCOMPLETE,
    LEAVING,
    PASSED,
    Occurring,
    left_outline,
    passing,
    seeking,
)
from sidestream.store.packing import Packer
from sidestream.store.turns import ANSWER
from sidestream.traces.conversation import (
    BEGINNINGS,
    CHILDREN,
    PATIENCE,
    Call,
    Placement,
    Rule,
    place,
    within_thread,
)
from sidestream.traces.model import title_of
from sidestream.traces.states import digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sidestream.store.contents import Contents
    from sidestream.store.database import Database
    from sidestream.traces.model import Reading

_MOST_REARRANGED: Final = 1000
"""Turns that are placed again because of one that came late."""
_MOST_PASSED: Final = 256
"""States of one request that are kept for turns that come late: the latest."""
_LATER: Final = "started_at >= ? AND (started_at > ? OR turns.sequence > ?)"


def _of_later(wanted: str) -> str:
    return f"SELECT started_at, sequence FROM {wanted} AND {_LATER} ORDER BY started_at LIMIT {_MOST_REARRANGED}"


_SAME_AGAIN: Final = _of_later(
    "turns WHERE scope = ? AND asking = ?"
    " AND (rule NOT IN ('repeated', 'extends_tip', 'extends_earlier') OR retries OR NOT ? AND started_at > ?)"
)
"""The same request again: what may be a retry of this one, or was the first of its kind."""
_PASSING: Final = _of_later("passed AS turns WHERE scope = ? AND state = ?")
_SEEKING: Final = _of_later("clues AS turns WHERE scope = ? AND kind = ? AND digest = ?")
_OF_SLOT: Final = _of_later(
    "turns WHERE parent IN (WITH slot (first) AS (SELECT coalesce((SELECT retry_of FROM turns WHERE sequence = ?), ?))"
    " SELECT first FROM slot UNION ALL SELECT sequence FROM turns WHERE retry_of = (SELECT first FROM slot))"
)
"""What follows the same turn, or another attempt at it."""
_OF_SESSION: Final = _of_later(
    "turns WHERE session IS NOT NULL AND scope = ? AND session = ? AND agent = ?"
    " AND rule IN ('first', 'child_of_session', 'history_truncated', 'history_summarized')"
)

log = structlog.get_logger()


class _Row(NamedTuple):
    """What may change about a turn that is placed again."""

    trace: str
    rule: Rule
    parent: int | None
    retry_of: int | None
    known: int
    leaving: bytes | None

    @property
    def placement(self) -> Placement:
        return Placement(self.rule, self.parent, self.retry_of, self.known)


class Added(NamedTuple):
    """What came of a turn that was added."""

    like: int | None
    """The exchange whose request is most like this one's, if there is one."""
    size: int
    """Bytes of what nobody had said before, packed."""


class Conversations:
    """The turns in one database. `read` reads a stored exchange again; None if that is not possible any more."""

    def __init__(self, database: Database, contents: Contents, read: Callable[[int], Reading | None]) -> None:
        self._database = database
        self._contents = contents
        self._read = read
        self._packer = Packer()
        self._measuring = Measuring(database)
        self._occurring = Occurring(database)

    def expect(self, calls: Iterable[Call]) -> None:
        """Inside a transaction: these are about to be added, and can be looked up at once."""
        self._occurring.look(calls)

    def add(self, sequence: int, reading: Reading) -> Added:
        """Inside a transaction: place a turn, and keep what is new in it."""
        call, placement = self._placed(sequence, reading)
        concerned, before = self._concerned(sequence, call, placement), self._contents.added
        self._write(sequence, reading, call, placement)
        size = self._contents.added - before
        self._rearrange(concerned)
        if placement.rule in CHILDREN:
            return Added(None, size)
        return Added(placement.parent if placement.retry_of is None else placement.retry_of, size)

    def add_pushed(self, sequence: int, reading: Reading, parent: int | None, trace: str, title: str) -> None:
        """Inside a transaction: keep a turn that was not captured here, behind `parent` or at the beginning of `trace`.

        `title` is what the trace is called, "" for how it begins. No call is ever placed by such a turn.
        """
        rule = Rule.PUSHED if trace == reading.id else Rule.APPENDED
        self._write(sequence, reading, reading.call, Placement(rule, parent), trace=trace, title=title)

    def replace(self, sequence: int, reading: Reading) -> Added:
        """Inside a transaction: put what was understood anew in the place of the old."""
        before = self._row(sequence)
        if before is None:
            return self.add(sequence, reading)
        self._rearrange(self._write_again(sequence, reading, before, *self._placed(sequence, reading)))
        return Added(None, 0)

    def _placed(self, sequence: int, reading: Reading) -> tuple[Call, Placement]:
        known = KnownTurns(self._database, reading.call, sequence, self._occurring)
        call = within_thread(reading.call, reading.asked, reading.answer, known)
        return call, place(call, known)

    def _row(self, sequence: int) -> _Row | None:
        found = self._database.rows(
            "SELECT trace, rule, parent, retry_of, known, leaving FROM turns WHERE sequence = ?", sequence
        )
        if not found:
            return None
        trace, rule, parent, retry_of, known, leaving = found[0]
        return _Row(trace, Rule(rule), parent, retry_of, known, leaving)

    def _write(
        self, sequence: int, reading: Reading, call: Call, placement: Placement, *, trace: str = "", title: str = ""
    ) -> str:
        """Store a turn where it belongs; its trace."""
        session = call.session
        trace = trace or self._trace(reading, placement)
        new = reading.asked[placement.known :]
        title = title or title_of(message for said in new for message in said.shown)
        self._database.run(
            f"INSERT INTO turns VALUES ({', '.join('?' * 24)})",
            sequence,
            call.scope,
            trace,
            str(placement.rule),
            placement.parent,
            placement.retry_of,
            placement.known,
            call.started_at,
            call.ended_at,
            call.states[-1] if call.states else None,
            call.leaving,
            left_outline(call),
            call.answered,
            call.complete,
            call.manner,
            clean_text(session.id) if session is not None else None,
            clean_text(session.agent) if session is not None else None,
            call.cut,
            call.retries,
            b"".join(call.digests[placement.known :]),
            title,
            self._contents.put(text_of(reading.system).encode()) if reading.system else None,
            self._contents.put(text_of(reading.tools).encode()) if reading.tools else None,
            self._packer.squeeze(text_of(reading.metadata).encode()),
        )
        shown = [(place, message) for place, said in enumerate(new, placement.known) for message in said.shown]
        shown += [(ANSWER, message) for message in (reading.answer.shown if reading.answer is not None else ())]
        self._database.run_many(
            "INSERT INTO said VALUES (?, ?, ?, ?)",
            [
                (sequence, place, of, self._contents.put(text_of(message).encode()))
                for place, (of, message) in enumerate(shown)
            ],
        )
        self._note(sequence, call, placement)
        self._measure(sequence, trace, reading, call, placement)
        if trace == clean_text(reading.id):
            self._measuring.begin(trace, title, placement)
        return trace

    def _measure(self, sequence: int, trace: str, reading: Reading, call: Call, placement: Placement) -> None:
        """Measure a turn. What tools have answered counts with the first of several attempts that send it along."""
        new = reading.asked[placement.known :] if placement.retry_of is None else []
        self._measuring.add(
            sequence,
            Measurable(
                trace=trace,
                dataset=reading.dataset,
                started_at=call.started_at,
                ended_at=call.ended_at,
                facts=reading.metadata,
                asked=[message for said in new for message in said.shown],
                answer=reading.answer.shown if reading.answer is not None else None,
                parent=placement.parent,
            ),
        )

    def _note(self, sequence: int, call: Call, placement: Placement) -> None:
        """Keep what the turn is to be found by when one comes that belongs before it."""
        begin = max(placement.known - 1, 0)
        outlines = call.outlines[begin : len(call.states)]
        passed = dict.fromkeys((*call.states[begin:][-_MOST_PASSED:], *outlines[-_MOST_PASSED:]))
        self._database.run_many(
            "INSERT INTO passed VALUES (?, ?, ?, ?)",
            [(call.scope, state, call.started_at, sequence) for state in passed],
        )
        clues = [("argument", text) for text in call.arguments]
        clues += [("answer", call.answer)] if call.answer is not None else []
        clues += [("previous", call.previous)] if call.previous is not None else []
        clues += [("compaction", call.compaction)] if call.compaction else []
        clues += [("compacted", call.compacted)] if call.compacted else []
        if placement.rule in BEGINNINGS:
            clues += [("opening", text) for text in call.openings]
            if call.session is not None and call.session.parent is not None:
                clues.append(("parent", digest(*call.session.parent)))
        self._database.run_many(
            "INSERT INTO clues VALUES (?, ?, ?, ?, ?)",
            [(call.scope, kind, clue, call.started_at, sequence) for kind, clue in dict.fromkeys(clues)],
        )
        self._noted(call, [*[(PASSED, state) for state in passed], *clues])

    def _noted(self, call: Call, others: Iterable[tuple[str, bytes]]) -> None:
        """From now on there is a turn with all of this."""
        note = self._occurring.note
        note(call.scope, LEAVING, call.leaving)
        if call.states:
            note(call.scope, ASKING, call.states[-1])
            note(call.scope, INCOMPLETE, None if call.complete else call.states[-1])
        if call.cut is not None:
            note(call.scope, CUT, b"")
        for kind, each in others:
            note(call.scope, kind, each)

    def _trace(self, reading: Reading, placement: Placement) -> str:
        if placement.rule in BEGINNINGS:
            return clean_text(reading.id)
        found = self._database.rows(
            "SELECT trace FROM turns WHERE sequence = ? OR retry_of = ? LIMIT 1",
            placement.parent if placement.retry_of is None else placement.retry_of,
            placement.retry_of,
        )
        return str(found[0][0]) if found else clean_text(reading.id)

    def _concerned(self, sequence: int, call: Call, placement: Placement) -> set[tuple[float, int]]:
        """Turns that began later, and may belong elsewhere because this one is there; times and sequences."""
        scope, may, later = call.scope, self._occurring.may, (call.started_at, call.started_at, sequence)
        questions: list[tuple[str, tuple[Any, ...]]] = []
        if call.states and may(scope, ASKING, call.states[-1]):
            questions.append((_SAME_AGAIN, (scope, call.states[-1], call.complete, call.ended_at - PATIENCE)))
        questions += [(_PASSING, (scope, state)) for state in passing(call) if may(scope, PASSED, state)]
        if placement.parent is not None:
            questions.append((_OF_SLOT, (placement.parent, placement.parent)))
        questions += [(_SEEKING, (scope, *clue)) for clue in seeking(call) if may(scope, *clue)]
        if (session := call.session) is not None:
            questions.append((_OF_SESSION, (scope, clean_text(session.id), clean_text(session.agent))))
        return {tuple(row) for wanted, values in questions for row in self._database.rows(wanted, *values, *later)}

    def _rearrange(self, concerned: set[tuple[float, int]]) -> None:
        """Place turns again, in the order in which they began, and whatever that concerns in turn."""
        todo, seen = sorted(concerned), set(concerned)
        done = gone = 0
        while todo and done < _MOST_REARRANGED:
            done += 1
            _, sequence = heapq.heappop(todo)
            before, reading = self._row(sequence), self._read(sequence)
            if before is None or reading is None:
                gone += reading is None
                continue
            call, placement = self._placed(sequence, reading)
            if placement == before.placement and call.leaving == before.leaving:
                continue
            for each in self._write_again(sequence, reading, before, call, placement) - seen:
                seen.add(each)
                heapq.heappush(todo, each)
        if todo or gone:
            log.warning("turns_not_rearranged", turns=len(todo) + gone)

    def _write_again(
        self, sequence: int, reading: Reading, before: _Row, call: Call, placement: Placement
    ) -> set[tuple[float, int]]:
        """Store a turn anew, where it belongs now; those that are concerned by what has changed."""
        self._database.run("DELETE FROM turns WHERE sequence = ?", sequence)
        self._contents.forget()
        trace = self._write(sequence, reading, call, placement)
        if trace != before.trace:
            self._follow(sequence, before.trace, trace)
        if placement == before.placement and call.leaving == before.leaving:
            return set()
        concerned = self._concerned(sequence, call, placement) | self._concerned(sequence, call, before.placement)
        if call.leaving == before.leaving and placement.retry_of == before.retry_of:
            return concerned
        followers = self._database.rows("SELECT started_at, sequence FROM turns WHERE parent = ?", sequence)
        return concerned.union(map(tuple, followers))

    def _follow(self, sequence: int, before: str, after: str) -> None:
        """Have the turns that follow this one go with it to another trace."""
        going = self._database.rows(
            "WITH RECURSIVE below (sequence) AS ("
            " SELECT ? UNION SELECT turns.sequence FROM below JOIN turns ON turns.parent = below.sequence"
            " WHERE turns.trace = ?"
            " UNION SELECT turns.sequence FROM below JOIN turns ON turns.retry_of = below.sequence"
            " WHERE turns.trace = ?) SELECT sequence FROM below CROSS JOIN turns USING (sequence) WHERE trace = ?",
            sequence,
            before,
            before,
            before,
        )
        self._database.run_many("UPDATE turns SET trace = ? WHERE sequence = ?", [(after, each) for (each,) in going])
        self._measuring.move([each for (each,) in going], after)
