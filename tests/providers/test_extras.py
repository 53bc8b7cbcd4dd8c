"""Leftovers are kept within bounds, and what does not fit is counted."""

from __future__ import annotations

from sidestream.providers.extras import MOST_BYTES, MOST_ITEMS, Extras


def test_nothing_left_over_says_nothing() -> None:
    assert Extras().facts() == {}


def test_leftovers_are_kept_by_kind() -> None:
    extras = Extras()
    extras.keep("events", {"type": "a"}, 10)
    extras.keep("deltas", {"type": "b"}, 10)
    extras.keep("events", "text", 10)
    assert extras.facts() == {"events": [{"type": "a"}, "text"], "deltas": [{"type": "b"}]}


def test_what_is_too_much_is_counted() -> None:
    extras = Extras()
    for number in range(MOST_ITEMS + 5):
        extras.keep("events", number, 1)
    assert (len(extras.facts()["events"]), extras.facts()["dropped"]) == (MOST_ITEMS, 5)


def test_what_is_too_large_is_counted() -> None:
    extras = Extras()
    extras.keep("events", "large", MOST_BYTES + 1)
    extras.keep("events", "small", 1)
    assert extras.facts() == {"events": ["small"], "dropped": 1}
