"""What is found of what was said, in which runs, and page by page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from conversing import START, Call, assistant, text, tool_result, tool_use, user
from sidestream.store import search
from sidestream.store.library import Library
from sidestream.store.rows import Item
from sidestream.store.shapes import HitPage, Piece, RunFilter, TurnState, Unclear
from sidestream.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ALL = RunFilter(everything=True)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(tmp_path / "store.db")
    yield store
    store.close()


@pytest.fixture
def library(store: Store, tmp_path: Path) -> Iterator[Library]:
    assert store.counts() == {}
    library = Library.open(tmp_path / "store.db")
    yield library
    library.close()


def put(store: Store, *calls: Call) -> None:
    """Store these calls, and have them indexed."""
    store.commit([Item(call.record(), call.reading(), None, []) for call in calls])
    while store.index(1 << 20):
        pass


def said(number: int, words: str, answer: str = "Well.", **facts: Any) -> Call:
    """A run of one turn."""
    return Call(f"x{number}", [user(words)], [text(answer)], START + number, **facts)


def turns(library: Library, words: str, wanted: RunFilter = ALL, **page: Any) -> list[str]:
    return [hit.turn for hit in library.search(words, wanted, **page).hits]


def agent(store: Store) -> list[Call]:
    """A run of two turns with a tool, and what came before and after in other runs."""
    asked = [user("Please weigh the anchor")]
    used = [
        {"type": "thinking", "thinking": "Pondering kelp", "signature": "c2ln"},
        tool_use("t1", "read_log", path="/var/kraken", depth=[417]),
    ]
    back = [*asked, assistant(used), user(tool_result("t1", "barnacles everywhere"))]
    calls = [
        Call("a1", asked, used, START, body={"system": "You are a bosun."}),
        Call("a2", back, [text("Aye, Käpt'n")], START + 5, body={"system": "You are a bosun."}),
    ]
    put(store, *calls)
    return calls


@pytest.mark.parametrize(
    ("words", "turn", "number", "role"),
    [
        ("anchor", "a1", 1, "user"),
        ("bosun", "a1", 1, "system"),
        ("kelp", "a1", 1, "thinking"),
        ("read_log", "a1", 1, "assistant"),
        ("read log", "a1", 1, "assistant"),
        ("kraken", "a1", 1, "assistant"),
        ("depth 417", "a1", 1, "assistant"),
        ("barnacles", "a2", 2, "tool"),
        ("kapt", "a2", 2, "assistant"),
        ("WEIGH anchor", "a1", 1, "user"),
        ('"weigh the anchor"', "a1", 1, "user"),
        ("barn*", "a2", 2, "tool"),
    ],
)
def test_all_that_was_said_is_found_where_it_was_said_first(
    store: Store, library: Library, words: str, turn: str, number: int, role: str
) -> None:
    agent(store)
    (hit,) = [hit for hit in library.search(words, ALL).hits if hit.turn == turn and hit.role == role]
    assert ("a1", number) == (hit.run.id, hit.number)
    assert any(piece.hit for piece in hit.snippet)


@pytest.mark.parametrize("words", ["absent", "anchor absent", '"anchor the weigh"', "ancho", "c2ln", "input_schema"])
def test_what_was_not_said_is_not_found(store: Store, library: Library, words: str) -> None:
    agent(store)
    assert HitPage(hits=[], next=None, indexing=0) == library.search(words, ALL)


def test_a_hit_shows_its_words(store: Store, library: Library) -> None:
    agent(store)
    (hit,) = library.search("the ANCHOR", ALL).hits
    assert [
        Piece(text="Please weigh "),
        Piece(text="the", hit=True),
        Piece(text=" "),
        Piece(text="anchor", hit=True),
    ] == hit.snippet


def test_what_many_turns_say_is_one_hit_with_the_first_of_them(store: Store, library: Library) -> None:
    put(store, *(said(number, "the same needle") for number in range(5)))
    assert ["x0"] == turns(library, "needle")


def test_the_newest_come_first_and_pages_join(store: Store, library: Library) -> None:
    put(store, *(said(number, f"needle {number}") for number in range(7)))
    first = library.search("needle", ALL, limit=3)
    second = library.search("needle", ALL, limit=3, before=first.next)
    third = library.search("needle", ALL, limit=3, before=second.next)
    found = [[hit.turn for hit in page.hits] for page in (first, second, third)]
    assert [["x6", "x5", "x4"], ["x3", "x2", "x1"], ["x0"]] == found
    assert third.next is None


def test_a_filter_is_for_the_run(store: Store, library: Library) -> None:
    put(
        store,
        said(1, "needle one", dataset="other"),
        said(2, "needle two"),
        Call("x3", [user("needle three")], None, START + 3),
    )
    assert ["x3", "x2", "x1"] == turns(library, "needle")
    assert ["x1"] == turns(library, "needle", RunFilter(dataset="other"))
    assert ["x3"] == turns(library, "needle", RunFilter(state=TurnState.FAILED))
    assert ["x2", "x1"] == turns(library, "needle", RunFilter(errors=False))
    assert ["x3"] == turns(library, "needle", RunFilter(since=START + 3))
    assert ["x1"] == turns(library, "needle", RunFilter(until=START + 2))
    assert [] == turns(library, "needle", RunFilter(tool="look"))
    assert [] == turns(library, "needle", RunFilter(dataset="nobody's"))


def test_with_a_filter_it_is_the_first_turn_of_a_run_that_is_wanted(store: Store, library: Library) -> None:
    system = {"system": "You are a bosun."}
    put(store, said(1, "needle", body=system), said(2, "needle", dataset="other", body=system))
    for words in ("needle", "bosun"):
        assert (["x1"], ["x2"]) == (turns(library, words), turns(library, words, RunFilter(dataset="other")))


@pytest.mark.parametrize("words", ["needle", "bosun"])
def test_it_is_found_behind_many_turns_that_say_it_in_other_runs(
    store: Store, library: Library, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    for name in ("_SAYING",):
        monkeypatch.setattr(search, name, tuple(each.replace("200", "3") for each in search._SAYING))  # noqa: SLF001
    monkeypatch.setattr(search, "_MOST_TURNS", 3)
    system = {"system": "You are a bosun."}
    put(
        store,
        *(said(number, "needle", dataset="other" if number == 8 else "demo", body=system) for number in range(10)),
    )
    assert ["x8"] == turns(library, words, RunFilter(dataset="other"))


def test_branches_are_found_where_everything_is_wanted(store: Store, library: Library) -> None:
    one = said(1, "first")
    history = [*one.messages, assistant([text("Well.")])]
    put(
        store,
        one,
        Call("x2", [*history, user("on")], [text("Yes.")], START + 2),
        Call("x3", [*history, user("needle")], [text("No.")], START + 3),
    )
    assert (["x3"], []) == (turns(library, "needle"), turns(library, "needle", RunFilter()))


def test_a_page_that_takes_long_ends_and_can_be_gone_on_from(
    store: Store, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, *(said(number, f"needle {number}") for number in range(7)))
    monkeypatch.setattr(search, "_SECONDS", -1.0)
    monkeypatch.setattr(search, "_STRETCH", 4)
    found, page = list[str](), None
    pages = 0
    while True:
        pages += 1
        got = library.search("needle", ALL, before=page)
        found += [hit.turn for hit in got.hits]
        if (page := got.next) is None:
            break
    assert (["x6", "x5", "x4", "x3", "x2", "x1", "x0"], True) == (found, pages > 3)


@pytest.mark.parametrize("words", ["needle", "needle*", '"needle"', "needle 3", "nee* 3"])
def test_however_it_is_divided_the_same_is_found(
    store: Store, library: Library, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    put(store, *(said(number, f"needle {number % 4}") for number in range(9)))
    expected = turns(library, words)
    monkeypatch.setattr(search, "_STRETCH", 1)
    monkeypatch.setattr(search, "_AT_ONCE", 1)
    assert expected == turns(library, words)
    assert expected


@pytest.mark.parametrize("before", ["", "x", "-1", "1.5", "²", "9" * 19, "\udcff"])
def test_a_page_that_nobody_was_given_is_unclear(library: Library, before: str) -> None:
    with pytest.raises(Unclear, match="go on from"):
        library.search("needle", ALL, before=before)


@pytest.mark.parametrize("limit", [0, -1, 1001])
def test_a_page_of_another_size_is_unclear(library: Library, limit: int) -> None:
    with pytest.raises(Unclear, match="1 to 1000"):
        library.search("needle", ALL, limit=limit)


def test_an_empty_store_has_nothing(library: Library) -> None:
    assert HitPage(hits=[], next=None, indexing=0) == library.search("needle", ALL)
