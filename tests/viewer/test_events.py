"""The feed as browsers and `sidestream tail` read it: whatever happens to a connection, no event is lost unnoticed."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import pytest
from aiohttp import ClientSession
from aiohttp_sse_client.client import EventSource

from recording import eventually
from sidestream.testing import running
from sidestream.viewer import events
from sidestream.viewer.app import viewer_app
from sidestream.viewer.feed import MOST_LISTENERS, Feed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aiohttp import ClientResponse

    from sidestream.viewer.backstage import Backstage


@dataclass
class Stage:
    """A backstage where only the feed is asked for."""

    feed: Feed


@asynccontextmanager
async def serving(feed: Feed) -> AsyncIterator[str]:
    app = viewer_app(cast("Backstage", Stage(feed)))
    app.on_shutdown.append(events.let_go)
    async with running(app, handler_cancellation=True) as url:
        yield f"{url}/ui/api/events"


async def lines(response: ClientResponse, count: int) -> list[str]:
    async with asyncio.timeout(5):
        return [(await response.content.readline()).decode().rstrip("\n") for _ in range(count)]


async def test_an_event_has_its_id_its_kind_and_its_data_on_a_line_each() -> None:
    feed = Feed("e")
    async with serving(feed) as url, ClientSession() as session, session.get(url) as response:
        assert ["retry: 1000", "id: e-0", ""] == await lines(response, 3)
        feed.publish("began", {"title": "two\nlines"})
        assert ["id: e-1", "event: began", r'data: {"title":"two\nlines"}', ""] == await lines(response, 4)


async def test_nobody_on_the_way_keeps_or_holds_back_what_is_told() -> None:
    async with serving(Feed()) as url, ClientSession() as session, session.get(url) as response:
        about = {name: response.headers[name] for name in ("Content-Type", "Cache-Control", "X-Accel-Buffering")}
    assert {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"} == about


async def test_in_silence_it_says_that_it_is_there_and_where_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidestream.viewer.events._KEEP_ALIVE", 0.05)
    feed = Feed("e")
    async with serving(feed) as url, ClientSession() as session, session.get(f"{url}?dataset=mine") as response:
        await lines(response, 3)
        feed.publish("gone", {}, dataset="other")
        while (said := await lines(response, 3))[1] != "id: e-1":
            assert ": nothing new" == said[0]
        assert [": nothing new", "id: e-1", ""] == said


@pytest.mark.parametrize("by_header", [True, False])
async def test_who_comes_back_is_told_what_was_missed(by_header: bool) -> None:
    feed = Feed("e")
    for number in range(3):
        feed.publish("gone", {"n": number})
    async with serving(feed) as url, ClientSession() as session:
        headers = {"Last-Event-ID": "e-1"} if by_header else {}
        async with session.get(url if by_header else f"{url}?after=e-1", headers=headers) as response:
            said = await lines(response, 11)
    assert ["id: e-1", 'data: {"n":1}', 'data: {"n":2}'] == [said[1], said[5], said[9]]


async def test_only_what_is_wanted_is_told() -> None:
    feed = Feed()
    async with serving(feed) as url, ClientSession() as session:
        async with session.get(f"{url}?run=r&dataset=d&kinds=began,ended") as response:
            await lines(response, 3)
            feed.publish("gone", {}, dataset="d", runs=["r"])
            feed.publish("began", {}, dataset="d", runs=["x"])
            feed.publish("began", {}, dataset="x", runs=["r"])
            feed.publish("ended", {}, dataset="d", runs=["r"])
            assert "event: ended" == (await lines(response, 2))[1]


async def test_the_end_of_the_recorder_is_the_clean_end_of_the_stream() -> None:
    feed = Feed()
    async with ClientSession() as session:
        async with serving(feed) as url:
            response = await session.get(url)
            await lines(response, 3)
            feed.publish("gone", {})
        async with asyncio.timeout(5):
            assert b"event: gone" in await response.read()


async def test_one_who_leaves_makes_room() -> None:
    feed = Feed()
    async with serving(feed) as url, ClientSession() as session:
        async with session.get(url) as response:
            await lines(response, 3)
            assert 1 == feed.listeners
        await eventually(lambda: not feed.listeners)


async def test_one_that_does_not_read_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidestream.viewer.events._STALLED", 0.05)
    feed = Feed()
    async with serving(feed) as url, ClientSession(read_bufsize=1024) as session, session.get(url) as response:
        await lines(response, 3)
        for _ in range(200):
            feed.publish("gone", {"x": "x" * 60_000})
        await eventually(lambda: not feed.listeners)


async def test_there_is_no_place_for_one_too_many() -> None:
    feed = Feed()
    for _ in range(MOST_LISTENERS):
        feed.listen()
    async with serving(feed) as url, ClientSession() as session, session.get(url) as response:
        assert (503, "there are too many listeners") == (response.status, (await response.json())["error"])


async def test_a_reader_that_comes_back_by_itself_hears_everything_once() -> None:
    """An independent reader of the format, connected to one server after the other with the same feed."""
    feed, heard = Feed("e"), list[str]()
    async with ClientSession() as session:
        async with serving(feed) as url:
            source = EventSource(url, session=session)
            async with source, asyncio.timeout(5):
                feed.publish("gone", {"n": 1})
                heard.append((await anext(source)).data)
                feed.publish("gone", {"n": 2})
                feed.publish("gone", {"n": 3})
                await source.close()
                await source.connect()
                heard += [(await anext(source)).data for _ in range(2)]
    assert ['{"n":1}', '{"n":2}', '{"n":3}'] == heard
