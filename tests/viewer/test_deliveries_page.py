from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlencode

import pytest
from aiohttp import ClientSession

from hostile import HOSTILE, Page
from sidestream.store.rows import State
from sidestream.viewer.deliveries_page import by_sink
from stored import BEGAN, an_item, moved, stored
from viewing import Stage, staged, viewer

if TYPE_CHECKING:
    from pathlib import Path


async def got(url: str, path: str = "/deliveries") -> tuple[int, Page]:
    async with ClientSession() as session, session.get(url + path) as response:
        return response.status, Page(await response.text())


def turns_in(page: Page) -> list[str]:
    """The turns that a page links to, in order."""
    return [link.removeprefix("/turns/") for link in page.links if link.startswith("/turns/")]


async def posted(url: str, path: str = "/deliveries/redeliver", **form: str) -> tuple[int, str, Page]:
    """Send a form; the status and text of what comes in the end, and where that is."""
    async with ClientSession() as session, session.post(url + path, data=form) as response:
        return response.status, response.url.path_qs, Page(await response.text())


def states(stage: Stage) -> dict[str, State]:
    return {each.exchange: each.state for each in stage.store.deliveries(limit=100)}


def three(stage: Stage) -> None:
    """One delivery that is dead, one parked, one delivered."""
    dead, parked, done = stored(stage.store, an_item("x1"), an_item("x2", dataset="other"), an_item("x3"))
    moved(stage.store, dead, State.DEAD, attempts=12, reason="refused for good")
    moved(stage.store, parked, State.PARKED, attempts=1, reason="the key is not known", ambiguous=True)
    moved(stage.store, done, State.DELIVERED, attempts=1)


async def test_deliveries_are_shown_with_counts_of_each_sink(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage, viewer(stage) as url:
        three(stage)
        stage.sink_names = ["explorer", "jsonl"]
        status, page = await got(url)

    words = " ".join(page.text.split())
    assert (200, []) == (status, page.wrong)
    assert ["x3", "x2", "x1"] == turns_in(page)
    assert "Sink pending sending to be retried delivered parked dead explorer 0 0 0 1 1 1 jsonl 0 0 0 0 0 0" in words
    assert "parked explorer other x2 attempts 1 the key is not known; it may have arrived Redeliver" in words


@pytest.mark.parametrize(
    ("query", "turns"),
    [("state=dead", ["x1"]), ("dataset=other", ["x2"]), ("sink=explorer", ["x3", "x2", "x1"]), ("sink=jsonl", [])],
)
async def test_a_query_chooses_deliveries(tmp_path: Path, query: str, turns: list[str]) -> None:
    async with staged(tmp_path) as stage, viewer(stage) as url:
        three(stage)
        _, page = await got(url, f"/deliveries?{query}")

    assert turns == turns_in(page)
    assert ("No delivery is like that" in page.text) is (not turns)


async def test_many_deliveries_have_pages(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage, viewer(stage) as url:
        three(stage)
        _, first = await got(url, "/deliveries?limit=2&sink=explorer")
        older = next(link for link in first.links if "before=" in link)
        _, second = await got(url, older)

    assert [["x3", "x2"], ["x1"]] == [turns_in(page) for page in (first, second)]
    assert "Newest" in second.text
    assert "Older" not in second.text


async def test_when_something_is_retried_is_told(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage, viewer(stage) as url:
        (delivery,) = stored(stage.store, an_item("x1"))
        moved(stage.store, delivery, State.RETRY_AT, due_at=BEGAN)
        _, page = await got(url)

    assert "due 2026-09-21 14:13:20" in " ".join(page.text.split())
    assert "Redeliver" not in page.text.replace("Redeliver\n", "", 1)  # the heading of the column


async def test_a_single_delivery_begins_anew(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage, viewer(stage) as url:
        three(stage)
        status, where, page = await posted(url, state="delivered", sink="explorer", exchange="x3")
        expected = {"x1": State.DEAD, "x2": State.PARKED, "x3": State.PENDING}
        assert expected == states(stage)

    assert (200, "/deliveries?begun=1") == (status, where)
    assert "1 delivery begins anew." in page.text


async def test_all_that_is_shown_begins_anew_and_the_page_stays_what_it_was(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage, viewer(stage) as url:
        three(stage)
        await posted(url, state="dead")
        _, where, page = await posted(url, "/deliveries/redeliver?dataset=other", state="parked", dataset="none")
        expected = {"x1": State.PENDING, "x2": State.PARKED, "x3": State.DELIVERED}
        assert expected == states(stage)

    assert "/deliveries?dataset=other&begun=0" == where
    assert "Nothing was there to begin anew." in page.text


@pytest.mark.parametrize("form", [{}, {"state": ""}, {"state": "no-such"}, {"state": "sending"}])
async def test_only_what_has_come_to_rest_begins_anew(tmp_path: Path, form: dict[str, str]) -> None:
    async with staged(tmp_path) as stage, viewer(stage) as url:
        three(stage)
        before = states(stage)
        status, _, page = await posted(url, **form)
        assert before == states(stage)

    assert 400 == status
    assert "state: expected one of delivered, parked, dead" in page.text


async def test_a_form_that_is_no_text_is_refused(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage, viewer(stage) as url, ClientSession() as session:
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        async with session.post(f"{url}/deliveries/redeliver", data=b"state=\xff", headers=headers) as response:
            assert 400 == response.status


async def test_buttons_are_there_for_what_somebody_can_do_something_about(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage, viewer(stage) as url:
        three(stage)
        _, everything = await got(url)
        _, dead = await got(url, "/deliveries?state=dead&dataset=demo")

    assert "Redeliver all dead\n" in everything.text
    assert "Redeliver all parked\n" in everything.text
    assert "Redeliver all dead in demo\n" in dead.text
    assert "Redeliver all parked" not in dead.text


@pytest.mark.parametrize(
    ("sinks", "text"), [([], "No sink is configured"), (["jsonl"], "Nothing has been delivered yet")]
)
async def test_an_empty_page_says_why(tmp_path: Path, sinks: list[str], text: str) -> None:
    async with staged(tmp_path) as stage, viewer(stage) as url:
        stage.sink_names = sinks
        _, page = await got(url)

    assert text in page.text
    assert ("- explorer:" in page.text) is (not sinks)


async def test_a_sink_that_was_taken_out_of_the_configuration_is_told_as_such(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage, viewer(stage) as url:
        three(stage)
        stage.sink_names = ["jsonl"]
        _, page = await got(url)

    assert "explorer (not configured)" in page.text


def test_sinks_are_counted_in_every_state_those_that_are_configured_first() -> None:
    counted = by_sink(["b"], {"a": {"dead": 2}})

    assert ["b", "a"] == list(counted)
    assert {state: 0 for state in State} | {State.DEAD: 2} == counted["a"]  # noqa: C420  # plain to see


@pytest.mark.parametrize("words", HOSTILE)
async def test_nothing_that_is_stored_or_asked_becomes_markup(tmp_path: Path, words: str) -> None:
    plain = words.encode(errors="replace").decode()
    async with staged(tmp_path) as stage, viewer(stage) as url:
        (delivery,) = stored(stage.store, an_item(plain, sinks=[plain], dataset=plain))
        moved(stage.store, delivery, State.DEAD, reason=words)
        stage.sink_names = [plain]
        asked = urlencode({"sink": plain, "dataset": plain})
        for path in ("/deliveries", f"/deliveries?{asked}"):
            status, page = await got(url, path)
            assert (200, []) == (status, page.wrong), path
