"""What a sink is to be told about a delivery, given what it was told before.

Most sinks are told what each call added to its conversation. A destination in which conversations grow (`Unit.TRACE`)
is told that as something to put behind the end of a trace that it has: then each message gets a time, later than that
of all that was ever sent there, for such a destination sorts by it. What it was told is never taken back: a turn that
comes to be told when others have been told behind its place begins a branch.

Which traces those are, and how far each was told, the rows of the deliveries say. Nothing is sent or changed here.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

from msgspec.structs import replace

from sidestream.store.rows import State
from sidestream.traces.conversation import BEGINNINGS, PUSHES, Rule
from sidestream.traces.model import Origin, Unit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from sidestream.store.database import Database
    from sidestream.store.rows import Delivery
    from sidestream.store.turns import Step, Turns
    from sidestream.traces.model import Message, Reading, Turn

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST: Final = 8_000 * 365 * 86_400 * 1_000_000
"""Microseconds since then; beyond it there are hardly any dates."""
_ATTEMPTS: Final = "SELECT ? UNION ALL SELECT sequence FROM turns WHERE retry_of = ?"
"""A first attempt at a turn, and all others."""
_TOLD: Final = (
    "SELECT sequence, id, remote, told_until FROM"  # noqa: S608  # constants
    " (SELECT sequence, remote, told_until FROM deliveries WHERE sink = ? AND sequence <> ?"
    f" AND sequence IN ({_ATTEMPTS}) AND state = 'delivered' AND +remote IS NOT NULL AND told_until IS NOT NULL)"
    " JOIN exchanges USING (sequence) ORDER BY told_until DESC"
)
"""Without the plus, SQLite takes the index of remotes, and looks at all that the sink was ever told."""
_THERE: Final = "(state IN ('delivered', 'sending', 'pending') OR ambiguous AND state = 'retry_at')"
"""What may be at the destination, of rows that have a remote: of those that are pending, from before."""

Timed = tuple["Message", float]
"""A message, and when it was said: Unix time."""


class _Told(NamedTuple):
    """The latest turn on the way back that the sink was told."""

    sequence: int
    id: str
    remote: str
    until: int


class _Way(NamedTuple):
    """How a turn comes after what the sink was told."""

    steps: list[Step]
    """What it was not told, in order; the turn is the last."""
    told: _Told | None
    """What comes before them; None where that is the beginning of the trace, or of what is kept of it."""
    again: bool
    """Whether the first step is another attempt at what was told."""


class Dispatch:
    """What is told of the deliveries in one database; `reading` reads an exchange again from its capture."""

    def __init__(self, database: Database, turns: Turns, reading: Callable[[int], Reading]) -> None:
        self._database = database
        self._turns = turns
        self._reading = reading

    def turn(self, delivery: Delivery, unit: Unit) -> Turn:
        """What to tell; `LookupError` if that is not there, or damaged.

        Of an ambiguous delivery, where to look for what was sent (`Turn.remote`).
        """
        before = self._turns.weighed
        turn = self._turn(delivery, unit)
        return replace(turn, weight=turn.weight or self._turns.weighed - before)

    def _turn(self, delivery: Delivery, unit: Unit) -> Turn:
        if unit is Unit.EXCHANGE:
            return self._whole(delivery.sequence)
        if unit is Unit.TURN:
            turn = self._turns.turn(delivery.sequence)
            return replace(turn, messages=self._alone(delivery, turn))
        if delivery.ambiguous:
            turn = self._turns.turn(delivery.sequence)
            return replace(turn, remote=delivery.remote, told_until=delivery.told_until or 0)
        return self._behind(delivery, *self._turns.about(delivery.sequence))

    def _whole(self, sequence: int) -> Turn:
        """The exchange by itself, with all that it sent along; of one that was not captured, what its run says."""
        path = self._turns.path(sequence)
        last = next(path, None)
        if last is None or last.rule not in PUSHES:
            return self._reading(sequence).turn()
        said = [self._turns.said(step.sequence) for step in (last, *path)]
        messages = [*self._turns.system(last), *(message for each in reversed(said) for message in each)]
        turn = self._turns.turn(sequence)
        return replace(turn, messages=messages, trace=turn.id, number=1)

    def _alone(self, delivery: Delivery, turn: Turn) -> list[Message]:
        """The turn's messages; of a retry the answer alone, where the sink has a row of an earlier attempt."""
        step = next(iter(self._turns.path(delivery.sequence)))
        if step.retry_of is None:
            return turn.messages
        earlier = self._database.rows(
            "SELECT 1 FROM deliveries WHERE sink = ? AND (sequence = ? OR sequence < ?)"  # noqa: S608  # constants
            f" AND sequence IN ({_ATTEMPTS}) LIMIT 1",
            delivery.sink,
            step.retry_of,
            step.sequence,
            step.retry_of,
            step.retry_of,
        )
        if earlier:
            return self._turns.said(step.sequence, answer_only=True)
        return [*(self._turns.system(step) if self._is_root(step) else []), *turn.messages]

    def _behind(self, delivery: Delivery, turn: Turn, step: Step) -> Turn:
        """What is to be put behind what the sink has of the turn's trace, or what a trace there is to begin with."""
        way = self._way(delivery, step)
        told = way.told
        if told is None:
            messages, until = _stamped([*self._beginning(way.steps[0]), *self._new(delivery, way)], 0)
            return replace(turn, messages=messages, told_until=until)
        if self._is_tip(delivery, told):
            messages, until = _stamped(self._new(delivery, way), self._until(delivery.sink, told.remote))
            return replace(turn, messages=messages, told_until=until, remote=told.remote)
        messages, until = _stamped(self._new(delivery, way), 0)
        path = [*(turn.origin.path if turn.origin is not None else []), turn.title or turn.trace]
        number = self._turns.number(told.sequence)
        origin = Origin(kind="branch", trace=turn.trace, turn=told.id, number=number, path=path)
        return replace(turn, messages=messages, told_until=until, origin=origin)

    def _way(self, delivery: Delivery, last: Step) -> _Way:
        """Back from the turn to the nearest that the sink was told."""
        steps: list[Step] = []
        for step in self._turns.path(delivery.sequence, last):
            attempts = self._told(delivery, step.retry_of or step.sequence)
            itself = [attempt for attempt in attempts if attempt.sequence == step.sequence]
            if not itself:
                steps.append(step)
            if attempts:
                latest = (itself or attempts)[0]
                until = max(attempt.until for attempt in attempts if attempt.remote == latest.remote)
                return _Way(steps[::-1], latest._replace(until=until), again=not itself)
        return _Way(steps[::-1], None, again=False)

    def _told(self, delivery: Delivery, attempt: int) -> list[_Told]:
        """Attempts at a turn that the sink was told, the latest first."""
        found = self._database.rows(
            _TOLD,
            delivery.sink,
            delivery.sequence,
            attempt,
            attempt,
        )
        return [_Told(*row) for row in found]

    def _is_tip(self, delivery: Delivery, told: _Told) -> bool:
        """Whether nothing was told behind it, as far as that is known."""
        return not self._database.rows(
            "SELECT 1 FROM deliveries WHERE sink = ? AND remote = ? AND told_until > ? AND sequence <> ?"  # noqa: S608  # constants
            f" AND {_THERE} LIMIT 1",
            delivery.sink,
            told.remote,
            told.until,
            delivery.sequence,
        )

    def _until(self, sink: str, remote: str) -> int:
        """The latest time of all that was ever sent to a trace, arrived or not."""
        found = self._database.rows(
            "SELECT max(told_until) FROM deliveries WHERE sink = ? AND remote = ?", sink, remote
        )
        return found[0][0] or 0

    def _beginning(self, step: Step) -> list[Timed]:
        """What comes before the first turn that is known."""
        root = self._is_root(step)
        cut = not root and step.parent is not None and self._rule(step) not in BEGINNINGS
        system = self._turns.system(step) if root or cut else []
        before = [*system, *([_note("what was said before has been removed")] if cut else [])]
        return [(message, step.started_at) for message in before]

    def _new(self, delivery: Delivery, way: _Way) -> list[Timed]:
        """The messages of all steps; in place of what could not be delivered, a word about it."""
        timed: list[Timed] = []
        for step in way.steps:
            again = way.again and step is way.steps[0]
            if step.sequence == delivery.sequence:
                new = list(self._said(step, answer_only=again))
                timed += new or [(_note("nothing was said"), step.ended_at)]
            else:
                timed += self._passed(delivery.sink, step, again=again)
        return timed

    def _passed(self, sink: str, step: Step, *, again: bool) -> list[Timed]:
        """What to tell of a turn that the sink should know of already."""
        found = self._database.rows(
            "SELECT state, reason FROM deliveries WHERE sequence = ? AND sink = ?", step.sequence, sink
        )
        state, reason = found[0] if found else (None, None)
        what = f"could not be delivered: {reason}"
        if state not in {State.DEAD, State.PARKED}:
            try:
                if (said := list(self._said(step, answer_only=again))) or again:
                    return said
                what = "is not kept any more"
            except LookupError:
                what = "cannot be read"
        return [(_note(f"turn {self._turns.number(step.sequence)} {what}"), step.ended_at)]

    def _said(self, step: Step, *, answer_only: bool) -> Iterator[Timed]:
        """A turn's own messages: what was asked when the call began, and the answer when it ended."""
        asked, answer = self._turns.asked_and_answered(step.sequence)
        for message in [] if answer_only else asked:
            yield message, step.started_at
        for message in answer:
            yield message, step.ended_at

    def _is_root(self, step: Step) -> bool:
        """Whether a turn is, or tries again, one that nothing was said before."""
        return self._rule(step) in BEGINNINGS - {Rule.EXTENDS_EARLIER} or step.parent is None

    def _rule(self, step: Step) -> str:
        """By which rule the first attempt at a turn was placed, if that is still known."""
        if step.retry_of is None:
            return step.rule
        found = self._database.rows("SELECT rule FROM turns WHERE sequence = ?", step.retry_of)
        return found[0][0] if found else step.rule


def _note(text: str) -> Message:
    """A word of ours among what agents and models say."""
    return {"role": "system", "content": f"[{text}]"}


def _stamped(timed: Iterable[Timed], last: int) -> tuple[list[Message], int]:
    """The messages with their times, each later than the one before, and the first later than `last`; and the last."""
    messages: list[Message] = []
    for message, seconds in timed:
        last = max(_micro(seconds), last + 1)
        moment = _EPOCH + timedelta(microseconds=min(last, _LATEST))
        messages.append({**message, "timestamp": moment.isoformat(timespec="microseconds")})
    return messages, last


def _micro(seconds: float) -> int:
    return min(max(int(seconds * 1e6), 0), _LATEST) if math.isfinite(seconds) else 0
