"""A turn is shown in all detail: what went over the wire, what changed, and why the prompt cache missed."""

from __future__ import annotations

import base64
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from msgspec.structs import replace

from conversing import START, Call, assistant, text, tool_result, tool_use, user
from hostile import HOSTILE, Page
from shown import said, told
from sidestream.providers import PROVIDERS
from sidestream.providers.jsons import clean_text
from sidestream.store.rows import Item
from sidestream.store.shapes import Running, TurnState
from sidestream.traces.understanding import understand
from stored import a_run
from viewing import staged, viewer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from viewing import Stage

DOT = base64.b64decode("iVBORw0KGgo=")
PICTURE = {
    "type": "image",
    "source": {"type": "base64", "media_type": "image/png", "data": base64.b64encode(DOT + bytes(30_000)).decode()},
}
EPHEMERAL = {"type": "ephemeral"}


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with staged(tmp_path) as made:
        yield made


def an_item(call: Call, **changes: Any) -> Item:
    record = replace(call.record(), **changes)
    return Item(record, understand(record, PROVIDERS["anthropic"]), None, ())


def two(**body: Any) -> list[Item]:
    """A turn, and another that goes on from it with other fields in its request."""
    asked = [user({**text("Is it dry?"), "cache_control": EPHEMERAL})]
    answer = [tool_use("t1", place="Bern")]
    on = [*asked, assistant(answer), user(tool_result("t1", "Dry."))]
    return [an_item(Call("c1", asked, answer, START)), an_item(Call("c2", on, [text("Dry.")], START + 30, body=body))]


async def get(address: str, status: int = 200) -> Page:
    async with aiohttp.ClientSession() as session, session.get(address) as response:
        body = await response.text()
        assert status == response.status, body
        return Page(body)


async def test_request_and_response_are_shown_with_a_command_to_repeat_them(stage: Stage) -> None:
    stage.add(*two())
    async with viewer(stage) as url:
        page = await get(f"{url}/turns/c2")
    assert [] == page.wrong
    for words in ("POST /v1/messages", '"max_tokens": 100', "msg_c2", "$ANTHROPIC_API_KEY", "/gateway/demo/anthropic"):
        assert words in page.text


async def test_neighbours_and_the_run_are_one_step_away(stage: Stage) -> None:
    stage.add(*a_run("r", 3, words=2))
    async with viewer(stage) as url:
        page = await get(f"{url}/turns/r-1")
    assert {"/turns/r-0", "/turns/r-2", "/runs/r-0?turn=r-1#t-r-1"} <= {*page.links}


async def test_events_are_shown_with_the_times_they_came_at(stage: Stage) -> None:
    call = Call("c1", [user("Hi")], [text("Ho")], START, complete=False)
    stage.add(an_item(call, response_headers={"content-type": "text/event-stream"}, response_times=(0.125,)))
    async with viewer(stage) as url:
        page = await get(f"{url}/turns/c1")
    for words in ("message_start", "content_block_start", "0.125", "2 events in 1 chunk."):
        assert words in page.text


async def test_what_changed_since_the_turn_before_is_told(stage: Stage) -> None:
    stage.add(*two(system="Be verbose.", tools=[{"name": "write"}], temperature=1))
    async with viewer(stage) as url:
        page = await get(f"{url}/turns/c2")
    for words in ("- Be brief.", "+ Be verbose.", "+ write", "- look", "temperature", "2 messages added behind 1"):
        assert words in page.text


async def test_the_place_where_the_cached_prefix_breaks_is_told(stage: Stage) -> None:
    stage.add(*two(system="Be brief!", cache_control=EPHEMERAL))
    async with viewer(stage) as url:
        page = await get(f"{url}/turns/c2")
    for words in ("system", "character 8", "- Be brief.", "+ Be brief!", "It does not begin as the turn before did"):
        assert words in page.text


async def test_an_intact_prefix_is_told(stage: Stage) -> None:
    stage.add(*two())
    async with viewer(stage) as url:
        page = await get(f"{url}/turns/c2")
    assert "The prefix is intact: all 3 blocks of the turn before are the same" in page.text


async def test_a_first_turn_has_nothing_to_be_compared_with(stage: Stage) -> None:
    stage.add(*two())
    async with viewer(stage) as url:
        page = await get(f"{url}/turns/c1")
    assert "There is no turn before it to compare it with." in page.text


async def test_requests_that_are_not_whole_are_not_compared(stage: Stage) -> None:
    first, second = two()
    stage.add(first)
    stage.add(Item(replace(second.record, request_truncated=True), second.reading, None, ()))
    async with viewer(stage) as url:
        page = await get(f"{url}/turns/c2")
    assert "The requests cannot be compared" in page.text
    assert "The request was not captured whole." in page.text


async def test_a_turn_under_way_shows_its_messages_and_says_what_comes_later(stage: Stage) -> None:
    line = Running(
        id="x1",
        run="x1",
        dataset="demo",
        model=None,
        title="",
        started_at=START,
        request_bytes=0,
        response_bytes=0,
        answering=False,
    )
    stage.under_way = [(line, told(1, said("user", "Is it dry?"), run="x1", state=TurnState.RUNNING))]
    async with viewer(stage) as url:
        page = await get(f"{url}/turns/x1")
    assert "Is it dry?" in page.text
    assert "This turn is under way." in page.text


async def test_a_turn_whose_capture_is_gone_shows_its_messages(tmp_path: Path) -> None:
    async with staged(tmp_path, *two()):
        pass
    without_captures(tmp_path / "store.db")
    async with staged(tmp_path) as again, viewer(again) as url:
        page = await get(f"{url}/turns/c2")
    assert "is not kept of this turn" in page.text
    assert "Dry." in page.text


async def test_a_turn_that_is_not_there_is_a_404(stage: Stage) -> None:
    async with viewer(stage) as url:
        assert "removed" in (await get(f"{url}/turns/none", 404)).text
        await get(f"{url}/turns/none/images/0", 404)


async def test_a_picture_is_served_as_one_and_nothing_else(stage: Stage) -> None:
    stage.add(an_item(Call("c1", [user(PICTURE)], [text("A dot.")], START)))
    async with viewer(stage) as url, aiohttp.ClientSession() as session:
        async with session.get(f"{url}/turns/c1/images/0") as response:
            assert ("image/png", "nosniff") == (response.content_type, response.headers["X-Content-Type-Options"])
            assert DOT + bytes(30_000) == await response.read()
        async with session.get(f"{url}/turns/c1") as response:
            assert 'src="/turns/c1/images/0"' in await response.text()
        assert "removed" in (await get(f"{url}/turns/c1/images/1", 404)).text


async def test_whatever_went_over_the_wire_stays_text(stage: Stage) -> None:
    texts = [clean_text(each).replace("\0", "") for each in HOSTILE]
    for number, words in enumerate(texts):
        stage.add(
            an_item(
                Call(f"c{number}", [user(words)], None, START + number),
                path=f"/v1/messages{words}",
                request_headers={"content-type": words, "anthropic-beta": words},
                response_headers={"content-type": "text/event-stream", "request-id": words},
                response_chunks=(f"event: {words}\ndata: {words}\n\n".encode(),),
                response_times=(0.1,),
                error=words,
            )
        )
    async with viewer(stage) as url:
        pages = [await get(f"{url}/turns/c{number}") for number in range(len(texts))]
    assert [] == [wrong for page in pages for wrong in page.wrong]
    assert all(words in page.text for words, page in zip(texts, pages, strict=True) if words.isprintable())


def without_captures(path: Path) -> None:
    """Remove what was captured, as if it had only been pushed."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DELETE FROM captures")
        connection.commit()
