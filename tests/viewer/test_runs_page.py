from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlencode

import pytest
from aiohttp import ClientSession

from conversing import Call, assistant, text, tool_result, tool_use, user
from hostile import HOSTILE, Page
from sidestream.errors import SidestreamError
from sidestream.store.rows import Item
from sidestream.store.shapes import RunFilter, Running, RunPage, RunSummary, Tokens, TurnState
from sidestream.viewer.runs_page import rows_of, summary_of
from stored import BEGAN
from viewing import Stage, staged, viewer

if TYPE_CHECKING:
    from pathlib import Path

    from aiohttp import ClientResponse


def said(name: str, words: str, begun: float = BEGAN, **facts: Any) -> Item:
    """A run of one turn."""
    call = Call(name, [user(words)], [text("Hi")], begun, **facts)
    return Item(call.record(), call.reading(), None, ())


def under_way(name: str = "u1", run: str = "u1", **facts: Any) -> Running:
    known: dict[str, Any] = {
        "id": name,
        "run": run,
        "dataset": "demo",
        "model": "claude-x",
        "title": "Under way",
        "started_at": BEGAN + 100,
        "request_bytes": 1,
        "response_bytes": 0,
        "answering": False,
    }
    return Running(**known | facts)


def a_summary(name: str, **facts: Any) -> RunSummary:
    known: dict[str, Any] = {
        "id": name,
        "dataset": "demo",
        "title": name,
        "state": TurnState.ANSWERED,
        "started_at": BEGAN,
        "ended_at": BEGAN + 1,
        "turns": 1,
        "tool_calls": 0,
        "tool_errors": 0,
        "errors": 0,
        "tokens": Tokens(),
        "cost": None,
    }
    return RunSummary(**known | facts)


async def got(url: str, path: str = "/", **headers: str) -> tuple[ClientResponse, Page]:
    async with ClientSession() as session, session.get(url + path, headers=headers) as response:
        return response, Page(await response.text())


async def shown(stage: Stage, path: str = "/", **headers: str) -> Page:
    """A page that is there, and is as it should be."""
    async with viewer(stage) as url:
        response, page = await got(url, path, **headers)
    assert (200, []) == (response.status, page.wrong)
    return page


def runs_in(page: Page) -> list[str]:
    """The ids of the runs that a page links to, in order."""
    return [link.removeprefix("/runs/") for link in page.links if link.startswith("/runs/")]


async def test_runs_are_listed_newest_first_with_what_matters_of_them(tmp_path: Path) -> None:
    call = Call("r2", [user("Look it up")], [tool_use("t1")], BEGAN + 10, dataset="other")
    asked = [user("Look it up"), assistant([tool_use("t1")]), user({**tool_result("t1", "no"), "is_error": True})]
    answer = Call("r3", asked, [text("Gone")], BEGAN + 12, dataset="other")
    items = [Item(each.record(), each.reading(), None, ()) for each in (call, answer)]
    async with staged(tmp_path, said("r1", "Hello"), *items) as stage:
        page = await shown(stage)

    assert ["r2", "r1"] == runs_in(page)
    row = " ".join(page.text[page.text.index("Look it up") : page.text.index("Hello")].split())
    assert row.startswith("Look it up other claude-x answered 2 turns 1 1 error 20 / 10 \u2013 3.0 s ")


@pytest.mark.parametrize(
    ("query", "runs"),
    [
        ("dataset=other", ["r2"]),
        ("state=failed", ["r3"]),
        ("errors=false", ["r2", "r1"]),
        (f"since={BEGAN + 5}&until={BEGAN + 15}", ["r2"]),
        ("model=unknown", []),
        ("tool=look&everything=true", []),
    ],
)
async def test_a_query_chooses_runs(tmp_path: Path, query: str, runs: list[str]) -> None:
    failed = Call("r3", [user("Fail")], None, BEGAN + 20)
    items = [said("r1", "One"), said("r2", "Two", BEGAN + 10, dataset="other")]
    async with staged(tmp_path, *items, Item(failed.record(), failed.reading(), None, ())) as stage:
        page = await shown(stage, f"/?{query}")

    assert runs == runs_in(page)
    assert ("No run is like that" in page.text) is (not runs)


async def test_a_long_list_has_pages_that_keep_what_was_asked_for(tmp_path: Path) -> None:
    items = [said(f"r{number}", f"Number {number}", BEGAN + number) for number in range(5)]
    async with staged(tmp_path, *items) as stage, viewer(stage) as url:
        _, first = await got(url, "/?limit=2&dataset=demo")
        older = next(link for link in first.links if "before=" in link)
        _, second = await got(url, older)
        newest = next(link for link in second.links if "limit=2" in link and "before=" not in link)
        _, again = await got(url, newest)

    assert [["r4", "r3"], ["r2", "r1"], ["r4", "r3"]] == [runs_in(page) for page in (first, second, again)]
    assert ["demo"] == parse_qs(older.partition("?")[2])["dataset"]


async def test_the_rows_alone_can_be_asked_for(tmp_path: Path) -> None:
    async with staged(tmp_path, said("r1", "Hello")) as stage, viewer(stage) as url:
        response, page = await got(url, "/", **{"X-Fragment": "rows"})

    assert ["/runs/r1", "/?dataset=demo"] == page.links
    assert "no-store" == response.headers["Cache-Control"]
    assert "sidestream" not in page.text


async def test_links_begin_with_the_path_that_the_viewer_is_under(tmp_path: Path) -> None:
    async with staged(tmp_path, said("r1", "Hello")) as stage, viewer(stage, X_Sidestream_Base="/traces") as url:
        _, page = await got(url)

    assert [] == [link for link in page.links if not link.startswith(("/traces/", "#"))]


async def test_without_any_run_the_page_says_how_to_get_one(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        page = await shown(stage)

    assert "ANTHROPIC_BASE_URL=http://127.0.0.1:8005/api/v1/gateway/my-agent/anthropic" in page.text


async def test_a_run_under_way_is_first_and_told_as_such(tmp_path: Path) -> None:
    async with staged(tmp_path, said("r1", "Hello", BEGAN + 500)) as stage:
        stage.under_way = [(under_way(), None)]  # type: ignore[list-item]  # nobody asks for what it says
        page = await shown(stage)

    assert ["u1", "r1"] == runs_in(page)
    assert re.search(r"Under way\s+demo\s+claude-x\s+running now", page.text)


async def test_a_run_that_goes_on_is_listed_once(tmp_path: Path) -> None:
    async with staged(tmp_path, said("r1", "Hello"), said("r2", "Later", BEGAN + 10)) as stage:
        stage.under_way = [(under_way(run="r1"), None)]  # type: ignore[list-item]  # as above
        page = await shown(stage)

    assert ["r1", "r2"] == runs_in(page)
    assert re.search(r"Hello\s+demo\s+claude-x\s+running now\s+2 turns", page.text)


async def test_what_is_stored_is_shown_though_nobody_knows_what_is_under_way(tmp_path: Path) -> None:
    class Deaf(Stage):
        async def running(self) -> list[Running]:
            raise SidestreamError("not now")

    stage = Deaf(tmp_path)
    try:
        stage.add(said("r1", "Hello"))
        page = await shown(stage)
    finally:
        await stage.close()

    assert ["r1"] == runs_in(page)


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [
        (RunFilter(), True),
        (RunFilter(dataset="demo", model="m", errors=False, since=BEGAN, until=BEGAN + 1), True),
        (RunFilter(dataset="other"), False),
        (RunFilter(model="other"), False),
        (RunFilter(errors=True), False),
        (RunFilter(tool="look"), False),
        (RunFilter(since=BEGAN + 1), False),
        (RunFilter(until=BEGAN), False),
    ],
)
def test_a_new_run_under_way_is_shown_to_those_who_want_such(wanted: RunFilter, fits: bool) -> None:
    run = a_summary("u1", state=TurnState.RUNNING, model="m")

    assert ([run] if fits else []) == rows_of(RunPage(runs=[], next=None), [run], wanted, first=True)


def test_on_later_pages_a_run_under_way_stays_in_its_place() -> None:
    live = a_summary("r2", state=TurnState.RUNNING)
    found = RunPage(runs=[a_summary("r1"), a_summary("r2")], next=None)

    assert [a_summary("r1"), live] == rows_of(found, [live], RunFilter(), first=False)


def test_turns_under_way_count_in_their_run() -> None:
    running = [under_way("u1", "r1", model=None), under_way("u2", "r1", model=None)]

    together = summary_of(running, a_summary("r1", model="m", turns=3))

    assert (5, "m", TurnState.RUNNING) == (together.turns, together.model, together.state)


async def test_words_are_found_in_what_was_said_and_lead_to_the_turn(tmp_path: Path) -> None:
    async with staged(tmp_path, said("r1", "The quick brown fox"), said("r2", "A slow fish", BEGAN + 1)) as stage:
        while stage.store.index(1 << 20):
            pass
        async with viewer(stage) as url:
            async with ClientSession() as session, session.get(f"{url}/?q=quick") as response:
                markup = await response.text()

    assert ["r1#t-r1"] == runs_in(Page(markup))
    assert "The <mark>quick</mark> brown fox" in markup


async def test_words_are_found_in_branches_too(tmp_path: Path) -> None:
    begun = [user("Which?"), assistant([text("This one.")])]
    calls = [
        Call("r1", begun[:1], [text("This one.")], BEGAN),
        Call("r2", [*begun, user("Go on.")], [text("So it is.")], BEGAN + 2),
        Call("r3", [*begun, user("Another needle.")], [text("There.")], BEGAN + 4),
    ]
    async with staged(tmp_path, *(Item(call.record(), call.reading(), None, ()) for call in calls)) as stage:
        while stage.store.index(1 << 20):
            pass
        page = await shown(stage, "/?q=needle")
    assert ["r3#t-r3"] == runs_in(page)


async def test_what_cannot_be_found_yet_is_said(tmp_path: Path) -> None:
    async with staged(tmp_path, said("r1", "The quick brown fox")) as stage:
        page = await shown(stage, "/?q=quick&dataset=demo")

    assert "are stored but cannot be found yet" in page.text
    assert "No message has all of these words" in page.text
    assert "/?q=quick" in page.links


async def test_words_that_are_none_are_told_beside_the_form(tmp_path: Path) -> None:
    async with staged(tmp_path, said("r1", "Hello")) as stage, viewer(stage) as url:
        response, page = await got(url, "/?q=%22")

    assert 400 == response.status
    assert "All runs" not in page.text
    assert "Show" in page.text


async def test_a_query_that_is_unclear_is_a_page_that_says_so(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage, viewer(stage) as url:
        response, page = await got(url, "/?state=no-such")

    assert (400, []) == (response.status, page.wrong)
    assert "state: expected one of running, answered" in page.text
    assert "no-such" not in page.text


@pytest.mark.parametrize("words", HOSTILE)
async def test_nothing_that_was_said_or_asked_becomes_markup(tmp_path: Path, words: str) -> None:
    call = Call("r1", [user(f"needle {words}")], [tool_use("t1", words)], BEGAN, body={"model": words})
    async with staged(tmp_path, Item(call.record(), call.reading(), None, ())) as stage:
        stage.under_way = [(under_way(title=words, model=words, dataset=words), None)]  # type: ignore[list-item]
        while stage.store.index(1 << 20):
            pass
        asked = urlencode(
            dict.fromkeys(("dataset", "model", "tool"), words.encode(errors="replace")) | {"since": "3d", "until": "1d"}
        )
        async with viewer(stage) as url:
            for path in ("/", "/?q=needle", f"/?{asked}", f"/?q=needle&{asked}", f"/?{asked}&before=x"):
                _, page = await got(url, path)
                assert [] == page.wrong, path
