"""What a person looks through in a store; what each part answers is told in its own tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from growing import Agent
from sidestream.errors import SidestreamError
from sidestream.store.library import Library
from sidestream.store.rows import Item
from sidestream.store.shapes import RunFilter
from sidestream.store.store import Store
from stored import a_run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    store = Store.open(path)
    yield store
    store.close()


@pytest.fixture
def library(store: Store, path: Path) -> Iterator[Library]:
    del store  # it has made the file
    library = Library.open(path)
    yield library
    library.close()


def test_without_a_store_there_is_nothing_to_open(path: Path) -> None:
    with pytest.raises(SidestreamError):
        Library.open(path)
    assert not path.exists()


def test_what_is_stored_meanwhile_is_seen(store: Store, library: Library) -> None:
    assert [] == library.runs(RunFilter()).runs
    store.commit(a_run("r", 2))
    [run] = library.runs(RunFilter()).runs
    assert ("r-0", 2, run) == (run.id, run.turns, library.summary("r-0"))
    assert (run, ["r-0", "r-1"]) == ((found := library.run("r-0")).summary, [turn.id for turn in found.turns])


def test_a_turn_is_the_same_by_itself_and_among_the_others(store: Store, library: Library) -> None:
    store.commit(a_run("r", 3))
    messages = library.messages("r-0")
    assert messages == [library.turn(f"r-{number}") for number in range(3)]
    assert [each.facts for each in messages] == [library.facts(f"r-{number}") for number in range(3)]
    assert messages[1:2] == library.messages("r-0", first=2, count=1)
    assert {1} == {each.answered for each in messages}


def test_the_system_prompt_comes_with_the_first_turn_and_where_it_is_another_one(
    store: Store, library: Library
) -> None:
    agent = Agent()
    calls = [agent.call(), agent.call(), agent.call(body={"system": "Be long."})]
    for call in calls:
        store.commit([Item(call.record(), call.reading(), None, ())])
    shown = [library.turn(call.id) for call in calls]
    assert [["Be brief."], [], ["Be long."]] == [[message["content"] for message in each.system] for each in shown]
    assert [False, False, True] == ["system" in each.changed for each in shown]


def test_a_record_is_read_as_it_was_captured(store: Store, library: Library) -> None:
    [item] = a_run("r", 1)
    store.commit([item])
    assert item.record == library.record("r-0")


@pytest.mark.parametrize("what", [Library.summary, Library.run, Library.turn, Library.facts, Library.record])
def test_what_is_not_there_cannot_be_found(what: object, library: Library) -> None:
    assert callable(what)
    with pytest.raises(LookupError):
        what(library, "nobody")


def test_it_can_be_closed_twice(library: Library) -> None:
    library.close()
    library.close()
