# ruff: noqa: S608  # statements are put together from this module's own words; values are bound
"""Runs and their turns in lines, as lists and pages show them. Reads only.

Everything comes from narrow rows (``viewing.sql``): nothing here unpacks what was said, or counts what can be many.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from typing import TYPE_CHECKING, Any, Final

import msgspec

from sidestream.providers.jsons import clean_text
from sidestream.store.shapes import (
    DatasetSummary,
    Related,
    Run,
    RunFilter,
    RunKind,
    RunPage,
    RunSummary,
    Tokens,
    TurnState,
    TurnSummary,
    Unclear,
)
from sidestream.traces.measures import NANO

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidestream.store.database import Database

_LONGEST_PAGE: Final = 1000
_MOST_RELATED: Final = 1000
"""Members of a family that are shown."""
_MOST_CANDIDATES: Final = 5
"""Runs that are named where it is not clear which is meant."""
_BEGINNING: Final = re.compile(r"[0-9a-f]{4,32}")
_AFTER_HEX: Final = "g"
"""What comes after all that ids are made of."""
_SUMMARY: Final = (
    "SELECT trace, dataset, title, kind, parent, model, state, started_at, ended_at, turns, tool_calls, tool_errors,"
    " errors, input, output, cache_read, cache_written, iif(priced, cost, NULL),"
    " (SELECT count(*) FROM runs AS below WHERE below.parent = runs.trace) FROM runs"
)
_NEWEST_FIRST: Final = "ORDER BY started_at DESC, trace DESC"
_TURN: Final = (
    "SELECT measures.sequence, exchanges.id, measures.trace, turns.rule, before.id, first.id, measures.state,"
    " measures.status, measures.model, measures.stop_reason, measures.started_at, measures.ended_at,"
    " measures.first_byte, measures.rate, measures.input, measures.output, measures.cache_read,"
    " measures.cache_written, measures.cost, measures.tools, measures.tool_errors"
    " FROM measures JOIN turns USING (sequence) JOIN exchanges USING (sequence)"
    " LEFT JOIN exchanges AS before ON before.sequence = turns.parent"
    " LEFT JOIN exchanges AS first ON first.sequence = turns.retry_of"
)
_IN_ORDER: Final = "ORDER BY measures.started_at, measures.sequence"
_ROOT: Final = (
    "WITH RECURSIVE line (trace, parent) AS (SELECT trace, parent FROM runs WHERE trace = ?"
    " UNION SELECT runs.trace, runs.parent FROM line JOIN runs ON runs.trace = line.parent)"
    " SELECT trace FROM line WHERE parent IS NULL"
)
_FAMILY: Final = (
    "WITH RECURSIVE family (trace) AS (SELECT ?"
    " UNION SELECT runs.trace FROM family JOIN runs ON runs.parent = family.trace) SELECT trace FROM family"
)

_names = msgspec.json.Decoder(list[str]).decode


class Runs:
    """The runs in one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def datasets(self) -> list[DatasetSummary]:
        """All datasets, the one with the latest turn first."""
        found = self._database.rows(
            "SELECT dataset, runs, turns,"
            " (SELECT max(started_at) FROM measures WHERE measures.dataset = dataset_counts.dataset)"
            " FROM dataset_counts ORDER BY 4 DESC, dataset"
        )
        return [DatasetSummary(name=name, runs=runs, turns=turns, last_at=last) for name, runs, turns, last in found]

    def page(self, wanted: RunFilter, *, limit: int, before: str | None) -> RunPage:
        """Runs as wanted, newest first; `before` is the `next` of the page before. `Unclear` if it is not."""
        if not 1 <= limit <= _LONGEST_PAGE:
            raise Unclear(f"a page has 1 to {_LONGEST_PAGE} runs")
        condition, values = self.condition(wanted)
        if before is not None:
            condition += " AND (started_at, trace) < (?, ?)"
            values += _place(before)
        found = self._database.rows(
            f"{_SUMMARY} WHERE trace IN (SELECT trace FROM runs INDEXED BY runs_listed WHERE {condition}"
            f" {_NEWEST_FIRST} LIMIT ?) {_NEWEST_FIRST}",
            *values,
            limit + 1,
        )
        runs = [_summary(row) for row in found[:limit]]
        return RunPage(runs=runs, next=_token(runs[-1]) if len(found) > limit else None)

    def summary(self, run: str) -> RunSummary:
        """One run; `LookupError` if it is not there."""
        found = self._database.rows(f"{_SUMMARY} WHERE trace = ?", clean_text(run))
        if not found:
            raise LookupError("there is no such run")
        return _summary(found[0])

    def run(self, run: str) -> Run:
        """A run with its turns and its family; `LookupError` if it is not there."""
        summary = self.summary(run)
        family = self._family(summary.id)
        members = [summary.id, *(each for each in family[:_MOST_RELATED] if each != summary.id)]
        return Run(
            summary=summary,
            turns=[turn for _, turn in self._turns(summary.id, 0, -1)],
            related=self._related(members, family[0]),
            related_left=len({*family, summary.id}) - len(members),
        )

    def turns(self, run: str, *, first: int, count: int) -> list[tuple[int, TurnSummary]]:
        """Sequence and line of `count` turns of a run, from number `first` on."""
        return list(self._turns(clean_text(run), max(first, 1) - 1, max(count, 0)))

    def turn(self, exchange: str) -> tuple[int, TurnSummary]:
        """The same of one turn; `LookupError` if it is not there."""
        found = self._database.rows(f"{_TURN} WHERE exchanges.id = ?", clean_text(exchange))
        if not found:
            raise LookupError("there is no such turn")
        return found[0][0], _turn(found[0], self._number(found[0][0]))

    @staticmethod
    def condition(wanted: RunFilter) -> tuple[str, list[Any]]:
        """What a filter says of a row of `runs`, in SQL, with the values for it."""
        conditions, values = ["1" if wanted.everything else "parent IS NULL"], list[Any]()
        for condition, value in (
            ("dataset = ?", wanted.dataset),
            ("model = ?", wanted.model),
            ("state = ?", wanted.state),
            ("started_at >= ?", wanted.since),
            ("started_at < ?", wanted.until),
            ("EXISTS (SELECT 1 FROM run_tools WHERE name = ? AND run_tools.trace = runs.trace)", wanted.tool),
        ):
            if value is not None:
                conditions.append(condition)
                values.append(clean_text(value) if isinstance(value, str) else value)
        if wanted.errors is not None:
            conditions.append(f"errors + tool_errors {'>' if wanted.errors else '='} 0")
        return " AND ".join(conditions), values

    def find(self, name: str) -> str:
        """The run of this id, or with this turn, or with either as the beginning of it.

        `LookupError` if there is none, or more than one, which are named then. A beginning has at least four
        hexadecimal digits; the hyphens of a UUID do not matter.
        """
        exact = clean_text(name)
        found = self._named("= ?", exact)
        if not found:
            beginning = exact.strip().replace("-", "").lower()
            if not _BEGINNING.fullmatch(beginning):
                raise LookupError("there is no such run; give its id, or at least four hexadecimal digits of it")
            found = self._named("BETWEEN ? AND ?", beginning, beginning + _AFTER_HEX)
        if not found:
            raise LookupError("there is no run or turn whose id is, or begins with, this")
        if len(found) > 1:
            some = ", ".join(found[:_MOST_CANDIDATES]) + (", …" if len(found) > _MOST_CANDIDATES else "")
            raise LookupError(f"it is not clear which run is meant: {some}")
        return found[0]

    def _named(self, condition: str, *values: str) -> list[str]:
        """Runs whose id is as the condition says, or a turn's is; one more at most than are named."""
        found = self._database.rows(
            f"SELECT trace FROM runs WHERE trace {condition} UNION"
            " SELECT measures.trace FROM exchanges JOIN measures USING (sequence)"
            f" WHERE exchanges.id {condition} LIMIT {_MOST_CANDIDATES + 1}",
            *values,
            *values,
        )
        return [trace for (trace,) in found]

    def _turns(self, run: str, skipped: int, count: int) -> Iterator[tuple[int, TurnSummary]]:
        found = self._database.rows(
            f"{_TURN} WHERE measures.trace = ? {_IN_ORDER} LIMIT ? OFFSET ?", run, count, skipped
        )
        for number, row in enumerate(found, skipped + 1):
            yield row[0], _turn(row, number)

    def _number(self, sequence: int) -> int:
        """A turn's place among those of its run, from 1."""
        ((number,),) = self._database.rows(
            "SELECT count(*) FROM measures JOIN measures AS each ON each.trace = measures.trace"
            " AND (each.started_at, each.sequence) <= (measures.started_at, measures.sequence)"
            " WHERE measures.sequence = ?",
            sequence,
        )
        return int(number)

    def _family(self, run: str) -> list[str]:
        """The run that all of a family began with, and those below it, the nearest first."""
        root = next((trace for (trace,) in self._database.rows(_ROOT, run)), run)
        return [trace for (trace,) in self._database.rows(_FAMILY, root)]

    def _related(self, members: list[str], root: str) -> list[Related]:
        """These runs, in order."""
        found = self._database.rows(
            f"{_SUMMARY} WHERE trace IN (SELECT value FROM json_each(?))", msgspec.json.encode(members).decode()
        )
        left = dict(
            self._database.rows(
                "SELECT trace, id FROM runs JOIN exchanges ON exchanges.sequence = above"
                " WHERE parent IS NOT NULL AND trace IN (SELECT value FROM json_each(?))",
                msgspec.json.encode(members).decode(),
            )
        )
        related = [Related(run=summary, turn=left.get(summary.id)) for summary in map(_summary, found)]
        return sorted(related, key=lambda each: (each.run.id != root, each.run.started_at, each.run.id))


def _summary(row: tuple[Any, ...]) -> RunSummary:
    trace, dataset, title, kind, parent, model, state, started_at, ended_at, turns, calls, tool_errors = row[:12]
    errors, *tokens, cost, children = row[12:]
    return RunSummary(
        id=trace,
        dataset=dataset,
        title=title,
        kind=RunKind(kind),
        parent=parent,
        model=model,
        state=TurnState(state),
        started_at=started_at,
        ended_at=ended_at,
        turns=turns,
        tool_calls=calls,
        tool_errors=tool_errors,
        errors=errors,
        tokens=_tokens(tokens),
        cost=_dollars(cost),
        children=children,
    )


def _turn(row: tuple[Any, ...], number: int) -> TurnSummary:
    _, identity, run, rule, parent, retry_of, state, status, model, stop_reason, started_at, ended_at = row[:12]
    first_byte, rate, *tokens, cost, tools, tool_errors = row[12:]
    return TurnSummary(
        id=identity,
        run=run,
        number=number,
        rule=rule,
        parent=parent,
        retry_of=retry_of,
        state=TurnState(state),
        status=status,
        model=model,
        stop_reason=stop_reason,
        started_at=started_at,
        duration=round(max(ended_at - started_at, 0.0), 6),
        time_to_first_byte=first_byte,
        tokens_per_second=rate,
        tokens=_tokens(tokens),
        cost=_dollars(cost),
        tools=_names(tools),
        tool_errors=tool_errors,
    )


def _tokens(counts: list[int]) -> Tokens:
    given, output, cache_read, cache_written = counts
    return Tokens(input=given, output=output, cache_read=cache_read, cache_written=cache_written)


def _dollars(cost: int | None) -> float | None:
    return cost / NANO if cost is not None else None


def _token(last: RunSummary) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode((last.started_at, last.id))).decode().rstrip("=")


def _place(token: str) -> tuple[float, str]:
    """The last run's beginning and id, of the page that this token was given with."""
    try:
        data = base64.b64decode(token + "=" * (-len(token) % 4), b"-_", validate=True)
        started_at, run = msgspec.json.decode(data, type=tuple[float, str])
    except (binascii.Error, ValueError) as error:
        raise Unclear("this is not what a page of runs was given to go on from") from error
    if not math.isfinite(started_at):
        raise Unclear("this is not what a page of runs was given to go on from")
    return started_at, run
