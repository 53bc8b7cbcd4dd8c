"""Every listener is told all that it wants, in order, or is told that it has missed something."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from sidestream.tasks import spawn
from sidestream.viewer.feed import KEPT, KEPT_BYTES, MOST_LISTENERS, QUEUE, Feed, FeedFull, Wanted

if TYPE_CHECKING:
    from sidestream.viewer.feed import Event, Listener


async def heard(listener: Listener, count: int) -> list[Event]:
    """The next so many events."""
    async with asyncio.timeout(5):
        return [await anext(listener) for _ in range(count)]


async def rest(listener: Listener) -> list[Event]:
    """All events up to the listener's end."""
    async with asyncio.timeout(5):
        return [event async for event in listener]


def told(events: list[Event]) -> list[tuple[str, bytes]]:
    return [(event.kind, event.data) for event in events]


async def test_who_listens_hears_what_happens_from_then_on_in_order() -> None:
    feed = Feed()
    feed.publish("began", {"id": "a"})
    with feed.listen() as listener:
        feed.publish("began", {"id": "b"})
        feed.publish("gone", {"id": "b"})
        assert [("began", b'{"id":"b"}'), ("gone", b'{"id":"b"}')] == told(await heard(listener, 2))


async def test_who_waits_is_woken() -> None:
    feed = Feed()
    with feed.listen() as listener:
        waiting = spawn(heard(listener, 1), name="listener")
        await asyncio.sleep(0)
        feed.publish("gone", {"id": "a"})
        assert [("gone", b'{"id":"a"}')] == told(await waiting)


async def test_who_comes_back_hears_exactly_what_was_missed() -> None:
    feed = Feed("e")
    with feed.listen() as listener:
        for number in range(1, 5):
            feed.publish("gone", {"id": str(number)})
        (first, second) = await heard(listener, 2)
    assert ("e-1", "e-2") == (first.id("e"), second.id("e"))
    with feed.listen("e-2") as again:
        feed.publish("gone", {"id": "5"})
        assert [3, 4, 5] == [event.number for event in await heard(again, 3)]


async def test_who_was_given_nothing_that_it_wanted_comes_back_without_a_reset() -> None:
    feed = Feed("e")
    with feed.listen(wanted=Wanted(dataset="mine")) as listener:
        for _ in range(KEPT + 10):
            feed.publish("gone", {}, dataset="other")
        place = listener.caught_up
    feed.publish("gone", {"id": "m"}, dataset="mine")
    with feed.listen(place, Wanted(dataset="mine")) as again:
        assert [("gone", b'{"id":"m"}')] == told(await heard(again, 1))


async def test_the_place_of_one_that_has_not_heard_everything_is_before_what_is_left() -> None:
    feed = Feed("e")
    with feed.listen() as listener:
        for number in range(3):
            feed.publish("gone", {"id": str(number)})
        await heard(listener, 1)
        assert "e-1" == listener.caught_up
        await heard(listener, 2)
        assert "e-3" == listener.caught_up


@pytest.mark.parametrize(
    "after", ["other-1", "e-99", "e-", "e", "e-x", "e--1", "e-" + "9" * 400, "e-1\N{SUPERSCRIPT TWO}"]
)
async def test_who_comes_from_elsewhere_is_told_so_and_then_all_that_is_kept(after: str) -> None:
    feed = Feed("e")
    for number in range(2):
        feed.publish("gone", {"id": str(number)})
    with feed.listen(after) as listener:
        first, *others = await heard(listener, 3)
    assert ("reset", b"{}", "e-0") == (first.kind, first.data, first.id("e"))
    assert [1, 2] == [event.number for event in others]


async def test_who_has_waited_for_the_feed_hears_it_from_its_beginning() -> None:
    feed = Feed()
    feed.publish("gone", {"id": "a"})
    with feed.listen("0") as listener:
        assert [("gone", b'{"id":"a"}')] == told(await heard(listener, 1))


async def test_who_was_away_for_too_long_is_told_so() -> None:
    feed = Feed("e")
    for _ in range(KEPT + 2):
        feed.publish("gone", {})
    with feed.listen("e-1") as late, feed.listen("e-2") as in_time:
        assert ["reset", "gone"] == [event.kind for event in await heard(late, 2)]
        assert [3] == [event.number for event in await heard(in_time, 1)]


async def test_of_large_events_fewer_can_be_had_again() -> None:
    feed = Feed("e")
    for number in range(1, 101):
        feed.publish("gone", {"id": f"{number:060000}"})
    size = len(b'{"id":""}') + 60_000
    with feed.listen("e-1") as listener:
        events = await heard(listener, 1 + KEPT_BYTES // size)
    assert "reset" == events[0].kind
    assert list(range(101 - KEPT_BYTES // size, 101)) == [event.number for event in events[1:]]


async def test_one_that_is_too_slow_is_let_go_and_told_to_look_everything_up() -> None:
    feed = Feed("e")
    with capture_logs() as logs, feed.listen() as slow, feed.listen() as quick:
        for _ in range(QUEUE + 5):
            feed.publish("gone", {})
            await heard(quick, 1)
        assert [("reset", b"{}")] == told(await rest(slow))
        assert 1 == feed.listeners
    assert [("feed_listener_dropped", "info")] == [(entry["event"], entry["log_level"]) for entry in logs]


async def test_what_is_not_wanted_is_not_told() -> None:
    feed = Feed()
    with (
        feed.listen(wanted=Wanted(dataset="d")) as dataset,
        feed.listen(wanted=Wanted(run="r")) as run,
        feed.listen(wanted=Wanted(kinds=frozenset({"ended"}))) as kind,
    ):
        feed.publish("began", {"n": 1}, dataset="d", runs=["other"])
        feed.publish("ended", {"n": 2}, dataset="other", runs=["r", "other"])
        feed.publish("removed", {"n": 3})
        feed.reset()
        feed.close()
        assert [b'{"n":1}', b'{"n":3}', b"{}"] == [event.data for event in await rest(dataset)]
        assert [b'{"n":2}', b'{"n":3}', b"{}"] == [event.data for event in await rest(run)]
        assert ["ended", "reset"] == [event.kind for event in await rest(kind)]


async def test_what_is_too_large_is_told_as_a_reset() -> None:
    feed = Feed()
    with feed.listen() as listener:
        feed.publish("ended", {"title": "x" * 100_000})
        assert [("reset", b"{}")] == told(await heard(listener, 1))


async def test_only_so_many_may_listen() -> None:
    feed = Feed()
    listeners = [feed.listen() for _ in range(MOST_LISTENERS)]
    with pytest.raises(FeedFull, match="too many listeners"):
        feed.listen()
    with listeners[0]:
        pass
    with feed.listen():
        assert MOST_LISTENERS == feed.listeners


async def test_at_its_end_all_are_let_go_after_what_is_still_to_be_heard() -> None:
    feed = Feed()
    with feed.listen() as listener, feed.listen() as waiting:
        ending = spawn(rest(waiting), name="listener")
        await asyncio.sleep(0)
        feed.publish("gone", {})
        feed.close()
        assert ["gone"] == [event.kind for event in await rest(listener)]
        assert ["gone"] == [event.kind for event in await ending]
    with pytest.raises(FeedFull, match="stopping"):
        feed.listen()


def test_with_nobody_there_only_what_somebody_may_come_back_for_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidestream.viewer.feed._LINGER", 0.0)
    feed = Feed()
    assert not any(map(feed.wants, ("began", "progress", "ended")))
    with feed.listen(wanted=Wanted(kinds=frozenset({"ended"}))):
        assert [False, True] == [feed.wants("progress"), feed.wants("ended")]
        with feed.listen():
            assert feed.wants("progress")
        monkeypatch.setattr("sidestream.viewer.feed._LINGER", 60.0)
    assert [False, False, True] == [feed.wants(kind) for kind in ("began", "progress", "ended")]
