"""What was made of bytes is found again as long as there is room for it."""

from __future__ import annotations

from sidestream.providers.recall import Recall


def test_what_was_kept_is_recalled_by_what_it_was_made_of() -> None:
    recall = Recall[str]()
    recall.keep(recall.key(b"one"), "first", 3)
    assert "first" == recall.get(recall.key(b"one"))
    assert recall.get(recall.key(b"two")) is None


def test_what_nobody_asks_for_makes_room_for_what_is_new() -> None:
    recall = Recall[int](16 * 1124)
    recall.keep(b"wanted", 1, 100)
    recall.keep(b"unwanted", 2, 100)
    for number in range(100):
        recall.keep(b"%d" % number, number, 100)
        assert 1 == recall.get(b"wanted")
    assert recall.get(b"unwanted") is None
    assert 99 == recall.get(b"99")
    assert sum(recall.get(b"%d" % number) is not None for number in range(100)) <= 16


def test_what_is_very_large_is_not_kept() -> None:
    recall = Recall[int](1600)
    recall.keep(b"large", 1, 101)
    assert recall.get(b"large") is None
