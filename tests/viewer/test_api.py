"""The JSON API: what each address answers of a real store. That answers have their shapes is told in test_openapi."""

from __future__ import annotations

import gzip
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from growing import Agent
from sidestream.store.rows import Item, State
from sidestream.viewer.envelope import PAGE_HEADERS
from stored import BEGAN, a_record, a_run, an_item, moved
from viewing import Stage, staged, viewer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

Json = Any
MOST = 2 << 20
"""Bytes of a body that are shown."""


class Client:
    """Asks the API of a stage."""

    def __init__(self, stage: Stage, session: aiohttp.ClientSession) -> None:
        self.stage = stage
        self._session = session

    async def ask(self, path: str, method: str = "GET", **query: str) -> tuple[int, Json]:
        """Status and answer."""
        async with self._session.request(method, f"/ui/api/{path}", params=query) as answer:
            assert dict(PAGE_HEADERS).items() <= dict(answer.headers).items()
            return answer.status, await answer.json()

    async def get(self, path: str, **query: str) -> Json:
        status, answer = await self.ask(path, **query)
        assert 200 == status
        return answer


@asynccontextmanager
async def asking(folder: Path, *items: Item) -> AsyncIterator[Client]:
    async with staged(folder, *items) as stage, viewer(stage) as url, aiohttp.ClientSession(url) as session:
        yield Client(stage, session)


async def test_runs_come_page_by_page_newest_first(tmp_path: Path) -> None:
    items = [item for number in range(3) for item in a_run(f"r{number}", 2, began=BEGAN + 1000 * number)]
    async with asking(tmp_path, *items) as client:
        assert ["demo"] == [each["name"] for each in await client.get("datasets")]
        whole = await client.get("runs", limit="200")
        first = await client.get("runs", limit="2")
        rest = await client.get("runs", limit="2", before=first["next"])
    assert (["r2-0", "r1-0", "r0-0"], None) == ([run["id"] for run in whole["runs"]], whole["next"])
    assert (whole["runs"], None) == (first["runs"] + rest["runs"], rest["next"])


async def test_runs_are_filtered(tmp_path: Path) -> None:
    items = [*a_run("old", 1), *a_run("new", 1, began=BEGAN + 1000)]
    async with asking(tmp_path, *items) as client:
        for query, expected in (
            ({"since": str(BEGAN + 500)}, ["new-0"]),
            ({"until": str(BEGAN + 500)}, ["old-0"]),
            ({"dataset": "other"}, []),
            ({"dataset": "demo", "model": ""}, ["new-0", "old-0"]),
            ({"errors": "true"}, []),
        ):
            assert (query, expected) == (query, [run["id"] for run in (await client.get("runs", **query))["runs"]])


async def test_messages_of_a_run_are_had_from_any_turn_on(tmp_path: Path) -> None:
    async with asking(tmp_path, *a_run("r", 5)) as client:
        assert [1, 2, 3, 4, 5] == [each["turn"]["number"] for each in await client.get("runs/r-0/messages")]
        some = await client.get("runs/r-0/messages", first="4", count="1")
        assert ["r-3"] == [each["turn"]["id"] for each in some]
        assert [] == await client.get("runs/r-0/messages", first="6")
        assert 404 == (await client.ask("runs/nobody/messages"))[0]


async def test_a_turn_is_had_from_the_store_or_while_it_runs(tmp_path: Path) -> None:
    async with asking(tmp_path, *a_run("r", 1)) as client:
        stored = await client.get("turns/r-0")
        assert ("r-0", ["user", "assistant"]) == (stored["turn"]["id"], [each["role"] for each in stored["messages"]])
        assert 404 == (await client.ask("turns/under-way"))[0]
        assert [] == await client.get("running")


async def test_words_are_found_in_branches_too(tmp_path: Path) -> None:
    agent = Agent()
    calls = [*agent.calls(2), *agent.fork("b", 1).calls(1)]
    async with asking(tmp_path, *(Item(call.record(), call.reading(), None, ()) for call in calls)) as client:
        while client.stage.store.index(1 << 20):
            pass
        everywhere = await client.get("search", q="b1")
        runs_only = await client.get("search", q="b1", everything="false")
    assert (True, []) == (bool(everywhere["hits"]), runs_only["hits"])


@pytest.mark.parametrize("query", [{}, {"q": ""}, {"q": '"'}])
async def test_without_a_word_nothing_can_be_found(query: dict[str, str], tmp_path: Path) -> None:
    async with asking(tmp_path) as client:
        assert 400 == (await client.ask("search", **query))[0]


async def test_an_exchange_is_shown_decoded_as_it_was_on_the_wire(tmp_path: Path) -> None:
    body = b'{"model": "m", "word": "\\u00fc \\ud800"}' + b"\xff"
    packed = gzip.compress(body)
    record = a_record(
        "x1",
        request_headers={"content-encoding": "gzip"},
        request_chunks=(packed[:10], packed[10:]),
        request_truncated=True,
    )
    async with asking(tmp_path, Item(record, an_item().reading, None, ())) as client:
        shown = await client.get("turns/x1/record")
        assert 404 == (await client.ask("turns/nothing/record"))[0]
    assert ('{"model": "m", "word": "\\u00fc \\ud800"}\ufffd', True) == (shown["request"], shown["request_truncated"])
    assert ("event: ping\n\n", False) == (shown["response"], shown["response_truncated"])
    assert ([7, 0, 6], [0.25, 0.5, 0.75]) == (shown["chunk_sizes"], shown["chunk_times"])


@pytest.mark.parametrize("packed", [False, True])
async def test_of_a_huge_body_the_beginning_is_shown_and_that_it_is_one(packed: bool, tmp_path: Path) -> None:
    body = b"a" * (MOST + 1)
    record = a_record(
        response_headers={"content-encoding": "gzip"} if packed else {},
        response_chunks=(gzip.compress(body) if packed else body,),
        response_times=(0.5,),
    )
    async with asking(tmp_path, Item(record, an_item().reading, None, ())) as client:
        shown = await client.get("turns/x1/record")
    assert (MOST, True, False) == (len(shown["response"]), shown["response_truncated"], shown["request_truncated"])


async def test_an_overview_is_of_the_last_day_unless_something_else_is_asked_for(tmp_path: Path) -> None:
    async with asking(tmp_path, *a_run("r", 3)) as client:
        now = await client.get("overview")
        then = await client.get("overview", since=str(BEGAN), until=str(BEGAN + 60), buckets="4")
        assert 400 == (await client.ask("overview", since=str(BEGAN), until=str(BEGAN - 1)))[0]
    assert (86400.0, 0, 60) == (now["until"] - now["since"], now["total"]["turns"], len(now["buckets"]))
    assert (3, 4) == (then["total"]["turns"], len(then["buckets"]))


async def test_deliveries_are_counted_listed_and_begun_anew(tmp_path: Path) -> None:
    async with asking(tmp_path, *a_run("r", 4, ["explorer", "jsonl"])) as client:
        for delivery in client.stage.store.deliveries():
            if delivery.sink == "explorer":
                moved(client.stage.store, delivery, State.DEAD, reason="refused")
        told = await client.get("deliveries", state="dead", limit="3")
        ids = [row["id"] for row in told["deliveries"]]
        rest = await client.get("deliveries", state="dead", before=str(ids[-1]))
        assert {"explorer": {"dead": 4}, "jsonl": {"pending": 4}} == told["counts"]
        assert (3, 1, True) == (len(ids), len(rest["deliveries"]), ids[-1] > rest["deliveries"][0]["id"])
        assert (200, {"deliveries": 1}) == await client.ask("redeliver", "POST", turn="r-0")
        assert (200, {"deliveries": 3}) == await client.ask("redeliver", "POST", sink="explorer")
        assert (200, {"deliveries": 0}) == await client.ask("redeliver", "POST")
        assert 400 == (await client.ask("redeliver", "POST", state="pending"))[0]


async def test_a_run_is_delivered_to_a_sink_that_has_a_name(tmp_path: Path) -> None:
    async with asking(tmp_path, *a_run("r", 3)) as client:
        assert (200, {"turns": 3}) == await client.ask("runs/r-0/deliver", "POST", sink="explorer")
        assert 400 == (await client.ask("runs/r-0/deliver", "POST"))[0]
        assert 404 == (await client.ask("runs/nobody/deliver", "POST", sink="explorer"))[0]


@pytest.mark.parametrize("path", ["runs", "runs/r-0", "datasets/demo", "redeliver", "runs/r-0/deliver", "nowhere", ""])
async def test_what_cannot_be_done_with_an_address_is_told_in_json(path: str, tmp_path: Path) -> None:
    async with asking(tmp_path, *a_run("r", 1)) as client:
        status, told = await client.ask(path, "PATCH")
    assert (True, {"error", "detail"}) == (status in {404, 405}, set(told))
