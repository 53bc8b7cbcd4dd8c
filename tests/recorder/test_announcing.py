"""Those who listen hear of every turn: that it begins, how it comes on, and that it has ended, in this order."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from structlog.testing import capture_logs

from journaling import begin
from recording import a_call, eventually
from sidestream.recorder.underway import UnderWay
from sidestream.store.library import Library
from sidestream.traces.entries import Kind
from sidestream.viewer.feed import Wanted
from watching import data_of, heard, streamed, watched

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from sidestream.viewer.feed import Event, Listener


async def up_to(listener: Listener, kind: str) -> list[Event]:
    """All events up to the next of this kind."""
    events: list[Event] = []
    async with asyncio.timeout(10):
        while not events or events[-1].kind != kind:
            events.append(await anext(listener))
    return events


async def test_a_turn_is_told_from_its_beginning_to_its_end(tmp_path: Path) -> None:
    first, second = streamed("It ", "is")
    async with watched(tmp_path) as recorder:
        await recorder.call(1)
        with recorder.plane.feed.listen() as listener:
            number = recorder.begin(2, first)
            begun = await heard(listener, "began")
            recorder.more(number, second)
            progress = await heard(listener, "progress")
            recorder.end(number)
            ended = await heard(listener, "ended")
    assert ("call-2", "call-1", "d", len(first)) == (
        begun["id"],
        begun["run"],
        begun["dataset"],
        begun["response_bytes"],
    )
    assert {"id": "call-2", "run": "call-1", "response_bytes": len(first + second)} == progress
    assert ("call-1", 2, "call-2", 2) == (
        ended["run"]["id"],
        ended["run"]["turns"],
        ended["turn"]["id"],
        ended["turn"]["number"],
    )


async def test_what_is_told_to_have_ended_is_in_the_store(tmp_path: Path) -> None:
    async with watched(tmp_path) as recorder:
        with recorder.plane.feed.listen() as listener:
            for number in range(1, 4):
                recorder.end(recorder.begin(number, a_call(number)[1]))
                ended = await heard(listener, "ended")
                found = await recorder.desk.look(Library.turn, f"call-{number}")
                assert (f"call-{number}", "call-1") == (ended["turn"]["id"], found.turn.run)


async def test_one_that_is_abandoned_is_told_to_be_gone(tmp_path: Path) -> None:
    async with watched(tmp_path) as recorder:
        with recorder.plane.feed.listen() as listener:
            number = recorder.begin(1)
            await heard(listener, "began")
            recorder.end(number, Kind.ABANDON)
            assert {"id": "call-1"} == await heard(listener, "gone")


async def test_one_that_belongs_elsewhere_after_all_is_told_again_to_those_who_look_at_either_run(
    tmp_path: Path,
) -> None:
    """What it goes on from ends, and comes into the store, after it has begun: relays write a little late."""
    async with watched(tmp_path) as recorder:
        feed = recorder.plane.feed
        with feed.listen(wanted=Wanted(run="call-1")) as old, feed.listen(wanted=Wanted(run="call-2")) as new:
            first = recorder.begin(1, a_call(1)[1])
            recorder.begin(2, b"{")
            assert "call-2" == (await heard(new, "began"))["run"]
            recorder.end(first)
            assert ["call-1", "call-1"] == [(await heard(each, "began"))["run"] for each in (old, new)]


async def test_progress_is_told_now_and_then_and_the_latest_in_any_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidestream.recorder.announcing._PAUSE", 0.1)
    begun, *pieces = streamed(*"It is what it is, and that is all there is to it.")
    async with watched(tmp_path) as recorder:
        with recorder.plane.feed.listen() as listener:
            number = recorder.begin(1, begun)
            await heard(listener, "began")
            loop = asyncio.get_running_loop()
            since = loop.time()
            for piece in pieces:
                recorder.more(number, piece)
                await asyncio.sleep(0)
            told = [await heard(listener, "progress")]
            while told[-1]["response_bytes"] < len(begun) + sum(map(len, pieces)):
                told.append(await heard(listener, "progress"))
            assert len(told) <= 2 + (loop.time() - since) / 0.1


async def test_a_request_that_does_not_arrive_is_told_of_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidestream.recorder.announcing._UNPLACED", 0.05)
    monkeypatch.setattr("sidestream.recorder.announcing._PAUSE", 0.05)
    async with watched(tmp_path) as recorder:
        with recorder.plane.feed.listen() as listener:
            number = recorder.journal.open()
            assert number is not None
            recorder.journal.put(Kind.BEGIN, number, 0.0, begin("a"))
            recorder.journal.put(Kind.REQUEST, number, 0.0, b'{"messages": [')
            told = await heard(listener, "began")
    assert ("a", "a", False) == (told["id"], told["run"], told["answering"])


async def test_nobody_there_nothing_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []
    monkeypatch.setattr(UnderWay, "place", lambda *_: looked.append(1))
    monkeypatch.setattr("sidestream.viewer.feed._LINGER", 0.0)
    async with watched(tmp_path) as recorder:
        await recorder.call(1)
        recorder.begin(2)
        await recorder.call(3)
        with recorder.plane.feed.listen() as listener:
            assert ([], "0") == (looked, listener.caught_up.rpartition("-")[2])


async def test_who_was_away_for_a_moment_hears_what_has_ended_meanwhile(tmp_path: Path) -> None:
    async with watched(tmp_path) as recorder:
        feed = recorder.plane.feed
        with feed.listen() as listener:
            place = listener.caught_up
        await recorder.call(1)
        with feed.listen(place) as again:
            assert "call-1" == (await heard(again, "ended"))["turn"]["id"]


async def test_of_very_many_that_end_at_once_none_is_told_but_that_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidestream.recorder.announcing._MOST_AT_ONCE", 1)
    async with watched(tmp_path) as recorder:
        with recorder.plane.feed.listen() as listener:
            for number in (1, 2, 3):
                recorder.end(recorder.begin(number, a_call(number)[1]))
            assert {} == await heard(listener, "reset")


async def test_where_the_store_cannot_be_read_that_is_logged_once_and_all_look_again_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = []

    def failing(*_: object) -> Any:
        failures.append(1)
        raise RuntimeError("sk-canary")

    monkeypatch.setattr("sidestream.recorder.announcing._PAUSE", 0.01)
    async with watched(tmp_path) as recorder:
        with recorder.plane.feed.listen() as listener, capture_logs() as logs:
            with monkeypatch.context() as broken:
                broken.setattr(Library, "predict", failing)
                recorder.begin(1)
                await eventually(lambda: len(failures) > 1)
            events = await up_to(listener, "reset")
    assert ["announcing_failed"] == [entry["event"] for entry in logs]
    assert "canary" not in str(logs)
    assert {"call-1"} == {data_of(event)["id"] for event in events[:-1]}


async def test_no_message_is_in_an_event(tmp_path: Path) -> None:
    async with watched(tmp_path) as recorder:
        with recorder.plane.feed.listen() as listener:
            recorder.end(recorder.begin(1, a_call(1)[1]))
            events = await up_to(listener, "ended")
    assert "It is 1." not in json.dumps([event.data.decode() for event in events])
