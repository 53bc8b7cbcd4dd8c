"""Every question about known turns is answered from an index, and by a bounded number of turns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from conversing import START, Call, Conversed, text, user
from sidestream.store.database import Database
from sidestream.store.known import KnownTurns

if TYPE_CHECKING:
    from collections.abc import Callable

ASK = user("The same question as ever?")


class Watched(Database):
    """A database in memory that keeps the plan of every query."""

    plans: list[str]

    def rows(self, sql: str, *values: Any) -> list[Any]:
        found = super().rows(f"EXPLAIN QUERY PLAN {sql}", *values)
        self.plans += [row[3] for row in found]
        return super().rows(sql, *values)


@pytest.mark.parametrize(
    "ask",
    [
        lambda known: list(known.leaving([b"state"] * 600)),
        lambda known: list(known.outlined([b"state"])),
        lambda known: known.free(b"state"),
        lambda known: known.asking(b"state", incomplete=True),
        lambda known: known.asking(b"state", incomplete=False),
        lambda known: known.was_asked(b"state", b"manner"),
        lambda known: known.is_done(1),
        lambda known: known.cut([b"state", b"other"]),
        lambda known: known.is_taken(1),
        lambda known: known.is_taken(1, but=2),
        lambda known: known.naming("answer", b"name"),
        lambda known: known.tips("session", ""),
        lambda known: known.passing_on([b"text"]),
        lambda known: known.history(1),
    ],
)
def test_no_question_walks_all_turns(ask: Callable[[KnownTurns], object]) -> None:
    opened = Database.open(None)
    database = Watched(opened.connection, None)
    database.plans = []
    ask(KnownTurns(database, Call("c", [ASK], None, START).reading().call, 1))
    opened.close()
    bounded = {"SCAN turns"} if "CO-ROUTINE turns" in database.plans else set()  # the latest 4,096 of those alike
    walks = {plan for plan in database.plans if plan.startswith(("SCAN turns", "SCAN clues", "SCAN passed"))}
    assert set() == walks - bounded
    assert database.plans


def test_of_very_many_alike_only_the_latest_are_given() -> None:
    calls = [Call(f"c{number}", [ASK], [text("The same.")], START + number) for number in range(70)]
    with Conversed() as conversed:
        conversed.add(*calls)
        call = Call("d", [ASK], None, START + 100).reading().call
        known = conversed.known(call)
        given = known.asking(call.states[-1], incomplete=False)
    assert (64, START + 69, START + 6) == (len(given), given[0].started_at, given[-1].started_at)


def test_only_what_began_before_is_given() -> None:
    with Conversed() as conversed:
        conversed.add(Call("c1", [ASK], None, START), Call("c2", [ASK], None, START + 10))
        call = Call("d", [ASK], None, START + 5).reading().call
        given = conversed.known(call).asking(call.states[-1], incomplete=True)
    assert [START] == [each.started_at for each in given]
