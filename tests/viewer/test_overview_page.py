from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest
from aiohttp import ClientSession

from conversing import Call, assistant, text, tool_result, tool_use, user
from hostile import HOSTILE, Page
from sidestream.store.rows import Item
from sidestream.store.shapes import Bucket, Overview, Percentiles, Tokens
from sidestream.viewer.overview_page import charts_of
from viewing import staged, viewer

if TYPE_CHECKING:
    from pathlib import Path


def a_run_with_a_tool(began: float, name: str = "look", **facts: Any) -> list[Item]:
    """Two turns: one that calls a tool, and one that brings its result."""
    asked, content = [user("Look it up")], [tool_use("t1", name)]
    calls = [
        Call("r1", asked, content, began, **facts),
        Call("r2", [*asked, assistant(content), user(tool_result("t1", "so"))], [text("So")], began + 3, **facts),
    ]
    return [Item(call.record(), call.reading(), None, ()) for call in calls]


async def got(url: str, path: str) -> tuple[int, Page]:
    async with ClientSession() as session, session.get(url + path) as response:
        return response.status, Page(await response.text())


async def test_figures_charts_tools_and_models_of_a_span_are_shown(tmp_path: Path) -> None:
    async with staged(tmp_path, *a_run_with_a_tool(time.time() - 600)) as stage, viewer(stage) as url:
        status, page = await got(url, "/overview?span=1h&dataset=demo")

    words = " ".join(page.text.split())
    assert (200, []) == (status, page.wrong)
    assert "Turns 2 Went wrong 0 0.0 % Tokens in 20 Tokens out 10" in words
    assert "Tool Calls Errors p50 p95 look 1 0 2.0 s 2.0 s" in words
    assert "Model Turns Share claude-x 2 100 %" in words
    titles = ["Turns", "Tokens", "Time of a whole answer", "Time to the first byte"]
    assert titles == [title for title in titles if f"Figures of {title.lower()}" in words]
    assert {"/?tool=look&dataset=demo", "/?model=claude-x&dataset=demo"} <= set(page.links)


@pytest.mark.parametrize("span", ["", "1h", "24h", "7d", "30d"])
async def test_a_span_without_anything_is_a_page_too(tmp_path: Path, span: str) -> None:
    async with staged(tmp_path) as stage, viewer(stage) as url:
        status, page = await got(url, f"/overview?span={span}&dataset=")

    assert (200, []) == (status, page.wrong)
    assert "Nothing began in this span." in page.text
    assert "No tool was called." in page.text


async def test_a_span_that_is_none_is_refused(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage, viewer(stage) as url:
        status, page = await got(url, "/overview?span=no-such")

    assert 400 == status
    assert "span: expected one of 1h, 24h, 7d, 30d" in page.text


def test_turns_that_went_wrong_are_a_part_of_all_and_costs_and_waits_are_charts_of_their_own() -> None:
    waits = Percentiles(p50=1, p95=2, p99=3)
    buckets = [
        Bucket(start=0, turns=5, errors=2, tokens=Tokens(input=1, output=2, cache_read=3, cache_written=4), cost=0.5),
        Bucket(start=60, durations=waits, first_bytes=waits),
    ]
    overview = Overview(since=0, until=120, seconds=60, buckets=buckets, total=Bucket(start=0), tools=[], models={})

    shown = {chart.id: {each.name: list(each.values) for each in chart.series} for chart in charts_of(overview)}

    waited: dict[str, list[float | None]] = {"p50": [None, 1], "p95": [None, 2], "p99": [None, 3]}
    expected = {
        "turns": {"went wrong": [2, 0], "went well": [3, 0]},
        "tokens": {"output": [2, 0], "input": [1, 0], "written to cache": [4, 0], "read from cache": [3, 0]},
        "answers": waited,
        "first": waited,
        "cost": {"cost": [0.5, 0.0]},
    }
    assert expected == shown


@pytest.mark.parametrize("words", HOSTILE)
async def test_no_name_becomes_markup(tmp_path: Path, words: str) -> None:
    items = a_run_with_a_tool(
        time.time() - 600, words, body={"model": words}, dataset=words.encode(errors="replace").decode()
    )
    asked = urlencode({"dataset": words.encode(errors="replace")})
    async with staged(tmp_path, *items) as stage, viewer(stage) as url:
        for path in ("/overview", f"/overview?{asked}"):
            assert [] == (await got(url, path))[1].wrong, path
