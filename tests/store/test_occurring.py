"""What is known to be nowhere need not be looked for; and calls that are stored at once are placed as one by one."""

from __future__ import annotations

from contextlib import closing
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from conversing import START, Call, assistant, text, tool_result, tool_use, user
from growing import Agent
from sidestream.store.database import Database
from sidestream.store.occurring import ASKING, CUT, LEAVING, PASSED, Occurring
from sidestream.store.rows import Item
from sidestream.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

TABLES = ("turns", "passed", "clues", "said", "measures", "runs", "tool_results")


@pytest.fixture
def database() -> Iterator[Database]:
    database = Database.open(None)
    yield database
    database.close()


@pytest.fixture
def occurring(database: Database) -> Occurring:
    return Occurring(database)


def calls_of_many_kinds() -> list[Call]:
    """Runs with failures, retries, answers that were cut off, branches and children; and the same request thrice."""
    task = "Find out everything for me."
    asked, called, result = [user("Delegate it")], [tool_use("t1", "agent", prompt=task)], user(tool_result("t1", "ok"))
    calls = [
        Call("parent", asked, called, START + 1),
        Call("child", [user(task)], [text("It is so.")], START + 3),
        Call("again", [*asked, assistant(called), result], [text("Done.")], START + 9),
        *(Call(f"same{number}", [user("Same")], [text("Same")], START + number / 2) for number in range(3)),
    ]
    for letter in "abc":
        agent = Agent(letter, START + ord(letter))
        calls += [agent.call(), agent.call(name=f"{letter}-failed", answer=False), agent.call()]
        calls += [agent.call(name=f"{letter}-cut", complete=False), agent.call(name=f"{letter}-retried"), agent.call()]
        calls += agent.fork(f"{letter}x", 1).calls(2)
    return calls


def stored(batches: Sequence[Sequence[Call]]) -> dict[str, list[Any]]:
    """All that is known of turns once these were committed."""
    database = Database.open(None)
    with closing(Store(database, now=lambda: START)) as store:
        for batch in batches:
            store.commit([Item(call.record(), call.reading(), None, ()) for call in batch])
        return {table: database.rows(f"SELECT * FROM {table} ORDER BY 1, 2, 3") for table in TABLES}  # noqa: S608


@pytest.mark.parametrize("seed", range(8))
def test_calls_that_are_stored_at_once_are_placed_as_those_that_are_stored_one_by_one(seed: int) -> None:
    calls = calls_of_many_kinds()
    if seed:
        Random(seed).shuffle(calls)
    expected = stored([[call] for call in calls])
    assert expected == stored([calls])
    assert expected == stored([calls[:7], calls[7:20], calls[20:]])


def test_what_no_turn_has_is_known_to_be_nowhere_until_one_has_it(database: Database, occurring: Occurring) -> None:
    call = Call("a", [user("Hello")], [text("Hi")], START).reading().call
    with database.transaction():
        occurring.look([call])
        assert not occurring.may(call.scope, ASKING, call.states[-1])
        occurring.note(call.scope, ASKING, call.states[-1])
        assert occurring.may(call.scope, ASKING, call.states[-1])
        assert not occurring.may(call.scope, LEAVING, call.states[-1])
        assert not occurring.may(call.scope, CUT, b"")


def test_what_was_not_looked_up_may_be_anywhere(database: Database, occurring: Occurring) -> None:
    call, other = (Call(words, [user(words)], [text("Hi")], START).reading().call for words in ("a", "b"))
    with database.transaction():
        occurring.look([call])
        assert occurring.may(other.scope, ASKING, other.states[-1])
        assert occurring.may(b"another scope", ASKING, call.states[-1])


def test_what_was_looked_up_in_one_transaction_says_nothing_in_another(
    database: Database, occurring: Occurring
) -> None:
    call = Call("a", [user("Hello")], [text("Hi")], START).reading().call
    with database.transaction():
        occurring.look([call])
    with database.transaction():
        assert occurring.may(call.scope, PASSED, call.leaving or b"")


def test_what_turns_have_is_found_whatever_it_is(database: Database) -> None:
    calls = [Call("first", [user("Hello")], [text("Hi")], START)]
    calls.append(Call("second", [*calls[0].messages, assistant([text("Hi")]), user("So?")], [text("Yes")], START + 5))
    stored_in(database, calls)
    occurring, first = Occurring(database), calls[0].reading().call
    with database.transaction():
        occurring.look([first, calls[1].reading().call])
        assert occurring.may(first.scope, ASKING, first.states[-1])
        assert occurring.may(first.scope, PASSED, first.leaving or b"")
        assert occurring.may(first.scope, LEAVING, first.leaving or b"") is True


def stored_in(database: Database, calls: Sequence[Call]) -> None:
    store = Store(database, now=lambda: START)
    store.commit([Item(call.record(), call.reading(), None, ()) for call in calls])
