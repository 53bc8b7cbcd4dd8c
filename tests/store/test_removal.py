"""What goes when somebody deletes a run or a dataset, and what stays."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import pytest

from conversing import START, Call, assistant, text, tool_result, tool_use, user
from sidestream.store import removal
from sidestream.store.library import Library
from sidestream.store.rows import Deleted, Item, State
from sidestream.store.shapes import RunFilter
from sidestream.store.store import Store
from stored import a_run, moved, stored

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ALL = RunFilter(everything=True)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(tmp_path / "store.db")
    yield store
    store.close()


def put(store: Store, *calls: Call, sinks: tuple[str, ...] = ()) -> None:
    store.commit([Item(call.record(), call.reading(), None, sinks) for call in calls])


def said(name: str, words: str, dataset: str = "demo") -> Call:
    return Call(name, [user(words)], [text("Well.")], START, dataset=dataset)


def left(store: Store) -> list[str]:
    return [record.id for _, record in store.exchanges()]


def deleted(store: Store, **what: Any) -> Deleted:
    """All steps of it, added up."""
    exchanges = turns = deliveries = 0
    while (step := store.delete(**what)).more:
        exchanges, turns, deliveries = exchanges + step.exchanges, turns + step.turns, deliveries + step.deliveries
    return Deleted(exchanges, turns, deliveries, more=False)


def test_a_dataset_goes_with_all_its_exchanges_and_the_others_stay(store: Store) -> None:
    put(store, said("x1", "one"), said("x2", "two", "other"), said("x3", "three"))
    no_turn = said("x4", "four")
    store.commit([Item(no_turn.record(), None, "KeyError", ())])
    assert Deleted(3, 2, 0, more=False) == deleted(store, dataset="demo")
    assert ["x2"] == left(store)


@pytest.mark.parametrize(
    "what", [{"dataset": "nobody's"}, {"run": "nobody's"}, {"run": "\udcff"}, {"dataset": "\udcff"}]
)
def test_what_is_not_there_changes_nothing(store: Store, what: dict[str, Any]) -> None:
    put(store, said("x1", "one"))
    assert (Deleted(0, 0, 0, more=False), 0) == (store.delete(**what), store.purging())
    assert ["x1"] == left(store)


def family(name: str) -> list[Call]:
    """A run of three turns, one that left it after the first, and one that left that."""
    first = [user(f"{name} begins")]
    second = [*first, assistant([text("One.")]), user(f"{name} goes on")]
    third = [*second, assistant([text("Two.")]), user(f"{name} ends")]
    branch = [*first, assistant([text("One.")]), user(f"{name} goes elsewhere")]
    twig = [*branch, assistant([text("Else.")]), user(f"{name} on the branch")]
    other_twig = [*branch, assistant([text("Else.")]), user(f"{name} on another twig")]
    return [
        Call(f"{name}1", first, [text("One.")], START),
        Call(f"{name}2", second, [text("Two.")], START + 2),
        Call(f"{name}3", third, [text("Three.")], START + 4),
        Call(f"{name}4", branch, [text("Else.")], START + 6),
        Call(f"{name}5", twig, [text("Green.")], START + 8),
        Call(f"{name}6", other_twig, [text("Brown.")], START + 10),
    ]


@pytest.mark.parametrize(("run", "gone"), [("a1", 6), ("a4", 3), ("a6", 1)])
@pytest.mark.parametrize("most", [1, 2, 200])
def test_a_run_goes_with_all_that_left_it_and_nothing_else(store: Store, run: str, gone: int, most: int) -> None:
    put(store, *family("a"), *family("b"))
    assert Deleted(gone, gone, 0, more=False) == deleted(store, run=run, most=most)
    stays = [name for name in ("a1", "a2", "a3", "a4", "a5", "a6") if name < run or gone == 6][: 6 - gone]
    assert [*stays, "b1", "b2", "b3", "b4", "b5", "b6"] == left(store)


def test_what_is_to_be_delivered_goes_too_and_is_counted(store: Store) -> None:
    put(store, said("x1", "one"), said("x2", "two"), said("x3", "three"), sinks=("explorer", "jsonl"))
    rows = store.deliveries()
    moved(store, rows[0], State.DELIVERED)
    moved(store, rows[1], State.PARKED)
    assert Deleted(3, 3, 5, more=False) == deleted(store, dataset="demo")
    assert ([], 0) == (store.deliveries(), sum(n for states in store.counts().values() for n in states.values()))


def test_a_delivery_under_way_may_end_after_it(store: Store) -> None:
    put(store, said("x1", "one"), sinks=("explorer",))
    (row,) = store.deliveries()
    deleted(store, run="x1")
    moved(store, row, State.DELIVERED)
    assert [] == store.deliveries()


def test_what_was_packed_with_them_can_still_be_read(store: Store, tmp_path: Path) -> None:
    """Of a run of another dataset the calls are like those before it."""
    items = a_run("r", 12)
    stored(store, *items)
    store._database.connection.execute("UPDATE exchanges SET dataset = 'x' WHERE sequence % 3 = 0")  # noqa: SLF001
    assert 4 == deleted(store, dataset="x", most=2).exchanges
    reader = Store.open_reader(tmp_path / "store.db")
    kept = [record for _, record in reader.exchanges()]
    reader.close()
    assert [item.record for number, item in enumerate(items, 1) if number % 3] == kept


def test_steps_are_no_larger_than_they_may_be(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, *family("a"))
    monkeypatch.setattr(removal, "_STEP_BYTES", 1)
    steps = [store.delete(dataset="demo", most=4) for _ in range(7)]
    assert ([1] * 6 + [0], [True] * 6 + [False]) == ([step.exchanges for step in steps], [step.more for step in steps])


def test_the_store_says_that_something_may_be_left_until_it_was_purged(store: Store) -> None:
    put(store, said("x1", "one"), said("x2", "two"))
    store.delete(run="x1")
    steps = store.purging()
    store.delete(run="x2")
    store.purged(steps)
    assert store.purging() > steps > 0
    store.purged(store.purging())
    assert 0 == store.purging()


def canaries(word: str, dataset: str) -> list[Call]:
    """Calls that have a word in all places there are, beside what every dataset has."""
    image = base64.b64encode((word * 900).encode()).decode()
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": image}}
    use = tool_use("t1", f"{word}tool", **{f"{word}key": [f"{word}value", {"deep": word}]})
    asked = [user(f"{word} title", picture, "what every dataset has")]
    thinking = {"type": "thinking", "thinking": f"{word} thought", "signature": "c2ln"}
    back = [*asked, assistant([thinking, use]), user(tool_result("t1", f"{word} result"))]
    facts: dict[str, Any] = {
        "dataset": dataset,
        "body": {"system": f"{word} system", "model": f"{word}-model", "tools": [{"name": f"{word}tool"}]},
        "headers": {"x-canary": word},
    }
    return [
        Call(f"{dataset}1", asked, [thinking, use], START, **facts),
        Call(f"{dataset}2", back, [text(f"{word} answer")], START + 2, **facts),
        Call(f"{dataset}3", [user("shared words")], [text("Shared.")], START + 4, **facts),
        Call(f"{dataset}4", [user(f"{word} again")], None, START + 6, **facts),
    ]


def purged(store: Store) -> None:
    """As the recorder does it."""
    steps = store.purging()
    while store.index(2000):
        while store.merge_index(2):
            pass
    while store.purge_index(2):
        pass
    assert store.vacuum(1 << 20)
    store.purged(steps)


def test_not_a_byte_is_left_of_a_deleted_dataset(store: Store, tmp_path: Path) -> None:
    word, other = "zqcanary", "vxother"
    for round_ in range(3):  # words of one segment after the other, and their merges
        for dataset, each in (("gone", word), ("kept", other)):
            calls = canaries(each, f"{dataset}{round_}")
            for call in calls:
                call.dataset = dataset
            put(store, *calls, sinks=("explorer",))
            while store.index(3000):
                store.merge_index(1)
    inside = base64.b64encode((word * 900).encode())[30:60]

    def files_with(*needles: bytes) -> set[str]:
        files = [(file.name, file.read_bytes().lower()) for file in sorted(tmp_path.iterdir())]
        return {name for name, data in files if any(needle.lower() in data for needle in needles)}

    library = Library.open(tmp_path / "store.db")
    for query in (f"{word} title", f"{word}tool", f"{word}key", f"{word} thought", f"{word} result", f"{word} system"):
        assert {"gone"} == {hit.run.dataset for hit in library.search(query, ALL).hits}
    assert files_with(word.encode())
    reading = deleted(store, dataset="gone", most=3)
    assert (12, 12) == (reading.exchanges, reading.turns)
    purged(store)
    assert set() == files_with(word.encode(), b"gone1", b"gone2", inside)
    assert files_with(other.encode())
    assert [] == library.search(word, ALL).hits
    assert {"kept"} == {hit.run.dataset for hit in library.search("shared", ALL).hits}
    assert {"kept"} == {hit.run.dataset for hit in library.search(f"{other} thought", ALL).hits}
    assert ["kept"] == [dataset.name for dataset in library.datasets()]
    library.close()


def test_a_message_that_another_dataset_has_is_still_found_there(store: Store, tmp_path: Path) -> None:
    put(store, said("x1", "the same needle"), said("x2", "the same needle", "other"))
    while store.index(1 << 20):
        pass
    deleted(store, dataset="demo")
    purged(store)
    library = Library.open(tmp_path / "store.db")
    (hit,) = library.search("needle", ALL).hits
    assert ("x2", "other") == (hit.turn, hit.run.dataset)
    (messages,) = library.messages("x2")
    assert "the same needle" == messages.messages[0]["content"]
    library.close()
