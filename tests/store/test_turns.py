"""What is stored of turns is told as it was, and how they are connected."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from conversing import START, Call, Conversed, assistant, text, user
from sidestream.store.database import Database
from sidestream.store.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conversing import Json

ASK, MORE = user("Is it dry?"), user("And tomorrow?")
DRY = [text("It is dry.")]


@pytest.fixture
def known() -> Iterator[Conversed]:
    with Conversed() as conversed:
        yield conversed


def a_run(turns: int) -> list[Call]:
    history: list[Json] = []
    calls = []
    for number in range(turns):
        history = [*history, user(f"Question {number}"), assistant([text(f"Answer {number}")])]
        calls.append(Call(f"c{number}", history[:-1], history[-1]["content"], START + 10 * number))
    return calls


def test_the_path_leads_from_a_turn_to_the_beginning_of_its_trace(known: Conversed) -> None:
    calls = a_run(4)
    known.add(*calls)
    assert ["c0", "c1", "c2", "c3"] == known.path(calls[3])


def test_the_path_of_a_branch_ends_where_it_left(known: Conversed) -> None:
    calls = a_run(3)
    branch = Call("b1", [*calls[1].messages[:-1], MORE], DRY, START + 100)
    known.add(*calls, branch)
    assert ["b1"] == known.path(branch)


def test_a_retry_stands_on_the_path_for_what_it_tried_again(known: Conversed) -> None:
    first, second, third = a_run(3)
    failed = Call("f", second.messages, None, START + 5)
    known.add(first, failed, second, third)
    assert ["c0", "c1", "c2"] == known.path(third)


def test_titles_lead_down_to_a_branch_of_a_branch(known: Conversed) -> None:
    calls = a_run(3)
    one = Call("b1", [*calls[1].messages[:-1], MORE], DRY, START + 100)
    two = Call("b2", [*one.messages, assistant(DRY), user("Why?")], DRY, START + 110)
    three = Call("b3", [*one.messages, assistant(DRY), user("How?")], DRY, START + 120)
    known.add(*calls, one, two, three)
    origin = known.turns["b3"].origin
    assert origin is not None
    assert (["Question 0", "And tomorrow?"], "b1", "b1", 1) == (origin.path, origin.trace, origin.turn, origin.number)
    assert "How?" == known.turns["b3"].title


def test_a_turn_whose_trace_has_lost_its_beginning_is_told_all_the_same(known: Conversed) -> None:
    calls = a_run(3)
    known.add(*calls)
    known.forget(calls[0])
    turn = known.turns["c2"]
    assert ("c0", "", None, 2) == (turn.trace, turn.title, turn.origin, turn.number)


def test_what_is_not_there_is_a_look_up_that_fails() -> None:
    database = Database.open(None)
    turns = Turns(database, contents=None)  # type: ignore[arg-type]  # nothing is read
    with pytest.raises(LookupError, match="no turn 7"):
        turns.turn(7)
    database.close()
