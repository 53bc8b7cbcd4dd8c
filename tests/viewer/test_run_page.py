"""A run can be read from top to bottom, whether it is stored, still running, long, or meant to do harm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from conversing import START, Call, assistant, text, tool_result, tool_use, user
from hostile import HOSTILE, Page
from shown import said, told
from sidestream.providers.jsons import clean_text
from sidestream.store.rows import Item
from sidestream.store.shapes import Running, TurnState
from stored import a_run
from viewing import staged, viewer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from viewing import Stage


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with staged(tmp_path) as made:
        yield made


def items(*calls: Call) -> list[Item]:
    return [Item(call.record(), call.reading(), None, ()) for call in calls]


def a_story() -> list[Call]:
    """A question, a tool, its result, an answer; the second turn fails at first."""
    asked = [user("Is it dry?")]
    called = [text("Let me look."), tool_use("t1", place="Bern")]
    brought = [*asked, assistant(called), user(tool_result("t1", "Dry as dust."))]
    return [
        Call("c1", asked, called, START),
        Call("c2", brought, None, START + 10),
        Call("c3", brought, [text("It is **dry**.")], START + 20, headers={"x-stainless-retry-count": "1"}),
    ]


async def get(address: str, status: int = 200) -> Page:
    async with aiohttp.ClientSession() as session, session.get(address) as response:
        body = await response.text()
        assert status == response.status, body
        return Page(body)


async def post(address: str, **form: str) -> tuple[int, str]:
    async with (
        aiohttp.ClientSession() as session,
        session.post(address, data=form, allow_redirects=False) as response,
    ):
        return response.status, response.headers.get("Location", "")


def under_way(exchange: str, run: str, number: int, *messages: dict[str, Any], **facts: Any) -> tuple[Running, Any]:
    line = Running(
        id=exchange,
        run=run,
        dataset="demo",
        model="m",
        title="A new one",
        started_at=START + 100,
        request_bytes=1,
        response_bytes=0,
        answering=False,
    )
    turn = told(number, *messages, id=exchange, run=run, state=TurnState.RUNNING, started_at=START + 100, **facts)
    return line, turn


async def test_a_run_shows_its_turns_with_calls_and_results_together(stage: Stage) -> None:
    stage.add(*items(*a_story()))
    async with viewer(stage) as url:
        page = await get(f"{url}/runs/c1")
    assert [] == page.wrong
    assert page.text.index("Let me look.") < page.text.index("Dry as dust.") < page.text.index("529: overloaded_error")
    assert 1 == page.text.count("Dry as dust.")
    assert "retry of turn 2" in page.text


async def test_links_lead_below_the_path_that_the_viewer_is_reached_under(stage: Stage) -> None:
    stage.add(*items(*a_story()))
    async with viewer(stage, X_Sidestream_Base="/traces") as url:
        page = await get(f"{url}/runs/c1")
    assert "/traces/turns/c1" in page.links
    assert all(link.startswith(("/traces/", "#")) for link in page.links)


async def test_a_run_that_is_not_there_is_a_404(stage: Stage) -> None:
    async with viewer(stage) as url:
        assert "removed" in (await get(f"{url}/runs/none", 404)).text
        assert "removed" in (await get(f"{url}/runs/none/delete", 404)).text
        assert 404 == (await post(f"{url}/runs/none/delete"))[0]


async def test_a_long_run_is_shown_page_by_page(stage: Stage) -> None:
    stage.add(*a_run("long", 53, words=2))
    async with viewer(stage) as url:
        first, second = await get(f"{url}/runs/long-0"), await get(f"{url}/runs/long-0?from=51")
        found = await get(f"{url}/runs/long-0?turn=long-51")
    assert ("Turns 1 to 50 of 53" in first.text, "/runs/long-0?from=51" in first.links) == (True, True)
    assert ("Turns 51 to 53 of 53" in second.text, "/runs/long-0?from=1" in second.links) == (True, True)
    assert "Turns 51 to 53 of 53" in found.text


async def test_a_result_on_the_next_page_is_shown_with_its_call(stage: Stage) -> None:
    history: list[Any] = []
    calls = []
    for number in range(51):
        history = [*history, user(tool_result(f"t{number - 1}", f"result {number}") if number else "Go")]
        content = [tool_use(f"t{number}", step=number)]
        calls.append(Call(f"c{number}", history, content, START + number * 10))
        history = [*history, assistant(content)]
    stage.add(*items(*calls))
    async with viewer(stage) as url:
        first, second = await get(f"{url}/runs/c0"), await get(f"{url}/runs/c0?from=51")
    assert "result 50" in first.text
    assert "result 50" not in second.text
    assert "/runs/c0?from=1#t-c49" in second.links


@pytest.mark.parametrize("number", ["x", "-1", "1e3", "\u0661", "9" * 30])
async def test_a_number_that_is_none_is_refused(stage: Stage, number: str) -> None:
    stage.add(*a_run("r", 1))
    async with viewer(stage) as url:
        assert "from: expected the number of a turn" in (await get(f"{url}/runs/r-0?from={number}", 400)).text


async def test_a_run_of_which_nothing_is_stored_yet_is_shown(stage: Stage) -> None:
    stage.under_way = [under_way("new", "new", 1, said("user", "Is it dry?"))]
    async with viewer(stage) as url:
        page = await get(f"{url}/runs/new")
        fragment = await get(f"{url}/runs/new/turns/new/fragment?before")
        header = await get(f"{url}/runs/new/header")
    assert ("A new one" in page.text, "Is it dry?" in page.text) == (True, True)
    assert "Waiting for the answer" in page.text
    assert "Is it dry?" in fragment.text
    assert "running" in header.text


async def test_a_turn_under_way_stands_behind_the_others(stage: Stage) -> None:
    stage.add(*items(*a_story()))
    stage.under_way = [under_way("c4", "c1", 4, said("user", "And now?"), said("assistant", "It"), answered=1)]
    async with viewer(stage) as url:
        page = await get(f"{url}/runs/c1")
    assert page.text.index("Turn 3") < page.text.index("Turn 4") < page.text.index("And now?")
    assert "Answering" in page.text


async def test_a_turn_that_is_stored_is_not_shown_as_under_way_too(stage: Stage) -> None:
    stage.add(*items(*a_story()))
    stage.under_way = [under_way("c3", "c1", 3, said("user", "Twice"))]
    async with viewer(stage) as url:
        page = await get(f"{url}/runs/c1")
    assert "Twice" not in page.text


async def test_a_fragment_is_one_turn_and_the_one_before_if_asked_for(stage: Stage) -> None:
    stage.add(*items(*a_story()))
    async with viewer(stage) as url:
        one = await get(f"{url}/runs/c1/turns/c2/fragment")
        two = await get(f"{url}/runs/c1/turns/c2/fragment?before")
        await get(f"{url}/runs/other/turns/c2/fragment", 404)
    assert ("Dry as dust." in one.text, "Dry as dust." in two.text) == (False, True)
    assert ("Let me look." in one.text, "Let me look." in two.text) == (False, True)


async def test_a_run_is_delivered_to_a_sink_of_ones_choice(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    async def deliver(run: str, sink: str) -> int:
        asked.append((run, sink))
        return 3

    monkeypatch.setattr(stage, "deliver", deliver)
    stage.add(*items(*a_story()))
    stage.sink_names = ["explorer", "<jsonl>"]
    async with viewer(stage) as url:
        assert (400, "") == await post(f"{url}/runs/c1/deliver", sink="none")
        status, target = await post(f"{url}/runs/c1/deliver", sink="<jsonl>")
        page = await get(f"{url}{target}")
    assert (303, [("c1", "<jsonl>")]) == (status, asked)
    assert "3 turns are on the way to <jsonl>" in page.text


async def test_a_run_is_deleted_after_it_was_asked_for(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    async def delete(*, run: str | None = None, dataset: str | None = None) -> int:
        asked.append((run, dataset))
        return 3

    monkeypatch.setattr(stage, "delete", delete)
    stage.add(*items(*a_story()))
    async with viewer(stage) as url:
        page = await get(f"{url}/runs/c1/delete")
        assert (303, "/") == await post(f"{url}/runs/c1/delete")
    assert "Delete this run?" in page.text
    assert [("c1", None)] == asked


async def test_whatever_was_said_stays_text(stage: Stage) -> None:
    texts = [clean_text(each).replace("\0", "") for each in HOSTILE]
    history: list[Any] = []
    calls = []
    for number, words in enumerate(texts):
        history = [*history, user(words) if not number else user(tool_result(f"t{number - 1}", words), words)]
        content = [
            text(words),
            {"type": "thinking", "thinking": words},
            tool_use(f"t{number}", words, **{words: words}),
        ]
        body = {"system": words, "model": words, "tools": [{"name": words}], "metadata": {words: words}}
        calls.append(Call(f"c{number}", history, content, START + number * 10, body=body))
        history = [*history, assistant(content)]
    stage.add(*items(*calls))
    async with viewer(stage) as url:
        pages = [await get(f"{url}/runs/c0"), *[await get(f"{url}/turns/{call.id}") for call in calls]]
    assert [] == [wrong for page in pages for wrong in page.wrong]
    assert all(words in pages[0].text for words in texts if words.isprintable())


async def test_a_page_comes_with_headers_that_let_nothing_run(stage: Stage) -> None:
    stage.add(*items(*a_story()))
    async with viewer(stage) as url, aiohttp.ClientSession() as session:
        for path in ("/runs/c1", "/runs/c1/header", "/runs/c1/turns/c1/fragment", "/turns/c1"):
            async with session.get(f"{url}{path}") as response:
                assert "default-src 'none'; script-src 'self'" in response.headers["Content-Security-Policy"]
                assert "no-store" == response.headers["Cache-Control"]
