"""What was made of bytes is found again as long as there is room for it."""

from __future__ import annotations

import gc
import tracemalloc
from typing import Any

import pytest

from sidestream.providers.anthropic.recalling import read
from sidestream.providers.recall import Recall

ROOM = 16 << 10


def test_what_was_kept_is_recalled_by_what_it_was_made_of() -> None:
    recall = Recall[str]()
    recall.keep(recall.key(b"one"), "first")
    assert "first" == recall.get(recall.key(b"one"))
    assert recall.get(recall.key(b"two")) is None


def test_what_nobody_asks_for_makes_room_for_what_is_new() -> None:
    recall = Recall[int](ROOM)
    recall.keep(b"wanted", 1)
    recall.keep(b"unwanted", 2)
    for number in range(100):
        recall.keep(b"%d" % number, number)
        assert 1 == recall.get(b"wanted")
    assert recall.get(b"unwanted") is None
    assert 99 == recall.get(b"99")
    assert sum(recall.get(b"%d" % number) is not None for number in range(100)) <= ROOM // 256


def test_what_is_very_large_is_not_kept() -> None:
    recall = Recall[bytes](ROOM)
    recall.keep(b"large", bytes(ROOM // 8))
    assert recall.get(b"large") is None


@pytest.mark.parametrize(
    "value",
    [[[]] * 300, [{}] * 300, [{"": 0.5}] * 100, [{str(number): number} for number in range(1000, 1060)], "💬" * 5000],
    ids=["lists", "dicts", "pairs", "names", "wide text"],
)
def test_what_takes_much_more_memory_than_its_text_counts_as_what_it_takes(value: Any) -> None:
    recall = Recall[Any](ROOM)
    recall.keep(b"one", value)
    assert recall.get(b"one") is None


def test_messages_made_to_take_much_memory_do_not_fill_it() -> None:
    call = b'{"type":"tool_use","input":{"":[%b]}}' % b",".join([b"[]"] * 12_000)
    gc.collect()
    tracemalloc.start()
    try:
        for number in range(20):
            read(b'{"messages":[{"role":"assistant","id":%d,"content":[%b]}]}' % (number, call))
        gc.collect()
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 10 << 20
