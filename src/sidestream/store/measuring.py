"""The narrow rows that lists, totals and charts are made of: each is written with its turn, and goes with it.

What is known of whole runs follows from them, by the triggers in ``viewing.sql``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from sidestream.providers.jsons import clean_text
from sidestream.store.shapes import RunKind
from sidestream.traces.conversation import BEGINNINGS, CHILDREN, Rule
from sidestream.traces.measures import CALL, measure, tool_calls, tool_results

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sidestream.store.database import Database
    from sidestream.traces.conversation import Placement
    from sidestream.traces.measures import ToolResult
    from sidestream.traces.model import Message

_COLUMNS: Final = (
    "sequence",
    "trace",
    "dataset",
    "started_at",
    "ended_at",
    "state",
    "status",
    "model",
    "stop_reason",
    "first_byte",
    "rate",
    "input",
    "output",
    "cache_read",
    "cache_written",
    "cost",
    "tool_calls",
    "tool_errors",
    "tools",
    "calls",
)
_ADD: Final = f"INSERT INTO measures ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"  # noqa: S608  # constants
_TAKE: Final = f"SELECT {', '.join(_COLUMNS)} FROM measures WHERE sequence = ?"  # noqa: S608  # constants
_BEGIN_ALONE: Final = "UPDATE runs SET title = ?, kind = ? WHERE trace = ? AND above IS NULL AND parent IS NULL"
"""Of a trace that has nothing above it: no index has these columns."""
_TRACE: Final = _COLUMNS.index("trace")


class Measurable(NamedTuple):
    """What a turn is measured by. Times are Unix time in seconds."""

    trace: str
    dataset: str
    started_at: float
    ended_at: float
    facts: Mapping[str, Any]
    """As `sidestream.traces.understanding.understand` tells them."""
    asked: Sequence[Message]
    """What is new in the request."""
    answer: Sequence[Message] | None
    """None where there was none."""
    parent: int | None
    """The turn whose tool calls the request may bring the results of."""


class Measuring:
    """The measures of turns in one database. Everything is done inside a transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, sequence: int, turn: Measurable) -> None:
        """Measure a turn that was just stored."""
        answer = turn.answer or ()
        measured, called = measure(turn.facts, answered=turn.answer is not None), tool_calls(answer)
        results = tool_results((*turn.asked, *answer))
        self._database.run(
            _ADD,
            sequence,
            turn.trace,
            clean_text(turn.dataset),
            turn.started_at,
            turn.ended_at,
            str(measured.state),
            measured.status,
            measured.model,
            measured.stop_reason,
            measured.first_byte,
            measured.rate,
            measured.tokens.input,
            measured.tokens.output,
            measured.tokens.cache_read,
            measured.tokens.cache_written,
            measured.cost,
            len(called),
            sum(result.failed for result in results),
            msgspec.json.encode([call.name for call in called]).decode(),
            b"".join(call.call for call in called),
        )
        if results:
            self._add_results(sequence, turn, results)

    def begin(self, trace: str, title: str, placement: Placement) -> None:
        """Write down how a trace begins, after its first turn was added."""
        above, kind = placement.parent if placement.rule in BEGINNINGS else None, str(_kind_of(placement.rule))
        if above is None and self._database.run(_BEGIN_ALONE, title, kind, trace):
            return
        self._database.run(
            "UPDATE runs SET title = ?, kind = ?, above = ?, parent = (SELECT trace FROM measures WHERE sequence = ?)"
            " WHERE trace = ?",
            title,
            kind,
            above,
            above,
            trace,
        )

    def move(self, sequences: Iterable[int], trace: str) -> None:
        """Have these turns count to another trace."""
        for sequence in sequences:
            for row in self._database.rows(_TAKE, sequence):
                self._database.run("DELETE FROM measures WHERE sequence = ?", sequence)
                self._database.run(_ADD, *row[:_TRACE], trace, *row[_TRACE + 1 :])

    def _add_results(self, sequence: int, turn: Measurable, results: Sequence[ToolResult]) -> None:
        """What tools have answered, under the names that they were called by, where these are known."""
        called, over = self._called(turn.parent)
        seconds = max(turn.started_at - over, 0.0)
        self._database.run_many(
            "INSERT INTO tool_results VALUES (?, ?, ?, ?, ?)",
            [
                (
                    sequence,
                    place,
                    called.get(result.call, result.name),
                    result.failed,
                    seconds if result.call in called else None,
                )
                for place, result in enumerate(results)
            ],
        )

    def _called(self, parent: int | None) -> tuple[dict[bytes, str], float]:
        """The tools that a turn calls, by what stands for the calls' ids; and when it ended."""
        found = self._database.rows("SELECT tools, calls, ended_at FROM measures WHERE sequence = ?", parent)
        if not found:
            return {}, 0.0
        tools, calls, over = found[0]
        names = msgspec.json.decode(tools, type=list[str])
        return {calls[CALL * place : CALL * (place + 1)]: name for place, name in enumerate(names)}, over


def _kind_of(rule: Rule) -> RunKind:
    if rule in CHILDREN:
        return RunKind.CHILD
    return RunKind.BRANCH if rule is Rule.EXTENDS_EARLIER else RunKind.RUN
