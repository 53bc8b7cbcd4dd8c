# ruff: noqa: S608  # statements are put together from this module's own words; values are bound
"""Turns as they stand in the store: what each added, and how it is connected. Reads only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
from msgspec.structs import replace

from sidestream.providers.jsons import weight_of
from sidestream.store.packing import Packer
from sidestream.traces.conversation import BEGINNINGS, CHILDREN, PUSHES, Rule
from sidestream.traces.model import Message, Origin, Turn

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sidestream.store.contents import Contents
    from sidestream.store.database import Database

ANSWER: Final = -1
"""Stands for the answer where others are counted: in the column `said.message`."""
_LONGEST_PATH: Final = 10_000
_DEEPEST: Final = 32
"""Traces above a trace whose titles are told."""
_WITH_SYSTEM: Final = BEGINNINGS - {Rule.EXTENDS_EARLIER}
"""The rules of turns that begin with the system prompt. A branch shares it with what it left."""

_NOT_COMPARED: Final = ", ".join(f"'{rule}'" for rule in sorted({*CHILDREN, Rule.CONTINUES_THREAD}))
"""The rules of turns whose system prompt and tools are another's affair: a child's, or kept by the provider."""
_STEP: Final = "sequence, id, rule, parent, retry_of, turns.started_at, ended_at, system"
_ON_THE_WAY: Final = f"SELECT {_STEP} FROM turns JOIN exchanges USING (sequence) WHERE sequence = ?"
_ABOUT: Final = (
    f"SELECT {_STEP}, dataset, trace, title, facts FROM turns JOIN exchanges USING (sequence) WHERE sequence = ?"
)
_SAID: Final = (
    "SELECT message, said.content, contents.content FROM said LEFT JOIN contents"
    " ON contents.id = said.content WHERE sequence = ?"
)


class Step(NamedTuple):
    """A turn on the way back to the beginning of its trace."""

    sequence: int
    id: str
    """Its exchange's."""
    rule: Rule
    parent: int | None
    retry_of: int | None
    started_at: float
    ended_at: float
    system: int | None
    """The content that is its system prompt."""


class Turns:
    """The turns in one database."""

    def __init__(self, database: Database, contents: Contents) -> None:
        self._database = database
        self._contents = contents
        self._packer = Packer()
        self._facts_weighed = 0

    @property
    def weighed(self) -> int:
        """Bytes of memory, about, of all messages and facts that were ever read here."""
        return self._contents.weighed + self._facts_weighed

    def turn(self, sequence: int) -> Turn:
        """What a turn added; `LookupError` if it is not there."""
        turn, step = self.about(sequence)
        system = self.system(step) if self.begins(step) else []
        return replace(turn, messages=[*system, *self.said(sequence)])

    def about(self, sequence: int) -> tuple[Turn, Step]:
        """The same without its messages, and as a step on the way."""
        found = self._database.rows(_ABOUT, sequence)
        if not found:
            raise LookupError(f"there is no turn {sequence}")
        *columns, dataset, trace, title, packed = found[0]
        step = _step(columns)
        begins = trace == step.id and step.parent is None and step.retry_of is None and step.rule not in PUSHES
        title, origin = (title, None) if begins else self._beginning(trace)
        changed = [] if begins else self.changes(sequence)
        turn = Turn(
            id=step.id,
            dataset=dataset,
            messages=[],
            metadata=self._facts(sequence, packed) | ({"changed": changed} if changed else {}),
            trace=trace,
            number=self.number(sequence),
            rule=str(step.rule),
            title=title,
            origin=origin,
        )
        return turn, step

    def path(self, sequence: int, first: Step | None = None) -> Iterator[Step]:
        """A turn, the one it follows, and so on to the beginning of its trace, as far as they are kept.

        `first` is its own step, where that has been read.
        """
        at: int | None = sequence
        for _ in range(_LONGEST_PATH):
            if first is None:
                found = self._database.rows(_ON_THE_WAY, at)
                if not found:
                    return
                first = _step(found[0])
            step, first = first, None
            yield step
            rule, parent, retry_of = step.rule, step.parent, step.retry_of
            if retry_of is not None:
                found = self._database.rows("SELECT rule FROM turns WHERE sequence = ?", retry_of)
                rule = Rule(found[0][0]) if found else rule
            if rule in BEGINNINGS or parent is None:
                return
            at = parent

    def said(self, sequence: int, *, answer_only: bool = False) -> list[Message]:
        """The messages that a turn added."""
        wanted = f" AND message = {ANSWER}" if answer_only else ""
        return [message for _, message in self._said(sequence, wanted)]

    def asked_and_answered(self, sequence: int) -> tuple[list[Message], list[Message]]:
        """The same, apart."""
        both = list[Message](), list[Message]()
        for place, message in self._said(sequence):
            both[place == ANSWER].append(message)
        return both

    def system(self, step: Step) -> list[Message]:
        """The system prompt of a call, as one message, or none."""
        return list(msgspec.json.decode(self._contents.get(step.system))) if step.system is not None else []

    def _said(self, sequence: int, wanted: str = "") -> Iterator[tuple[int, Message]]:
        for message, number, blob in self._database.rows(f"{_SAID}{wanted} ORDER BY place", sequence):
            yield message, msgspec.json.decode(self._contents.text(number, blob))

    def number(self, sequence: int) -> int:
        """A turn's place among those of its trace, from 1."""
        ((number,),) = self._database.rows(
            "SELECT count(*) FROM turns, (SELECT trace AS of, started_at AS at FROM turns WHERE sequence = ?)"
            " WHERE trace = of AND started_at <= at AND (started_at < at OR sequence <= ?)",
            sequence,
            sequence,
        )
        return int(number)

    def facts(self, sequence: int) -> dict[str, Any]:
        """What else is known of the exchange; `LookupError` if it is not there, or damaged."""
        found = self._database.rows("SELECT facts FROM turns WHERE sequence = ?", sequence)
        return self._facts(sequence, found[0][0] if found else b"")

    def changes(self, sequence: int) -> list[str]:
        """Which of ``system`` and ``tools`` are not those of the turn before; none where that cannot be told."""
        if self._was_pushed(sequence):
            changed = self.facts(sequence).get("changed")
            return [name for name in ("system", "tools") if isinstance(changed, list) and name in changed]
        found = self._database.rows(
            "SELECT new.system IS NOT old.system, new.tools IS NOT old.tools FROM turns AS new"
            " JOIN turns AS old ON old.sequence = coalesce(new.retry_of, new.parent)"
            f" WHERE new.sequence = ? AND new.rule NOT IN ({_NOT_COMPARED}) AND length(old.facts) > 0",
            sequence,
        )
        return [name for name, differs in zip(("system", "tools"), found[0], strict=True) if differs] if found else []

    @staticmethod
    def begins(step: Step) -> bool:
        """Whether a run begins with this turn, and so with its system prompt. A branch shares it with what it left."""
        return step.rule in _WITH_SYSTEM

    def origin(self, trace: str) -> Origin | None:
        """Where a trace left another one, or was called from."""
        return self._beginning(trace)[1]

    def _facts(self, sequence: int, packed: bytes) -> dict[str, Any]:
        try:
            text = self._packer.expand(packed)
            self._facts_weighed += weight_of(text)
            return dict(msgspec.json.decode(text))
        except ValueError as error:
            raise LookupError(f"the facts of turn {sequence} are not there, or damaged") from error

    def _was_pushed(self, sequence: int) -> bool:
        """Whether a turn was not captured here: then whoever pushed it knows what has changed."""
        found = self._database.rows("SELECT rule FROM turns WHERE sequence = ?", sequence)
        return bool(found) and found[0][0] in PUSHES

    def _beginning(self, trace: str) -> tuple[str, Origin | None]:
        """The title of a trace, and where it comes from."""
        found = self._database.rows(
            "SELECT title, rule, parent FROM turns JOIN exchanges USING (sequence) WHERE id = ?", trace
        )
        if not found:
            return "", None
        title, rule, parent = found[0]
        above = self._left(parent) if parent is not None and rule in BEGINNINGS else None
        if above is None:
            return title, None
        path = [above[0]]
        at = above[1]
        while at is not None and len(path) < _DEEPEST and (upper := self._left(at)) is not None:
            path.append(upper[0])
            at = upper[1]
        _, _, identity, of_trace, number = above
        kind = "child" if rule in CHILDREN else "branch"
        return title, Origin(kind=kind, trace=of_trace, turn=identity, number=number, path=path[::-1])

    def _left(self, turn: int) -> tuple[str, int | None, str, str, int] | None:
        """Of a turn: its trace's title, the turn that that one left, its exchange's id, its trace, and its number."""
        found = self._database.rows(
            "SELECT exchanges.id, turns.trace, first.title, first.rule, first.parent FROM turns"
            " JOIN exchanges USING (sequence) LEFT JOIN exchanges AS begun ON begun.id = turns.trace"
            " LEFT JOIN turns AS first ON first.sequence = begun.sequence WHERE turns.sequence = ?",
            turn,
        )
        if not found:
            return None
        identity, trace, title, rule, parent = found[0]
        above = parent if rule in BEGINNINGS else None
        return title or trace, above, identity, trace, self.number(turn)


def _step(columns: Sequence[Any]) -> Step:
    sequence, identity, rule, *rest = columns
    return Step(sequence, identity, Rule(rule), *rest)
