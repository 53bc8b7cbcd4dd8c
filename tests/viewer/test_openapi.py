"""The description of the JSON API: of all that there is, and true of every answer."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from exhibits import a_day
from sidestream.store.library import Library
from sidestream.store.shapes import RunFilter, Running
from sidestream.viewer import api, events
from sidestream.viewer.openapi import OPERATIONS, description
from stored import BEGAN
from viewing import Stage, staged, viewer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

ITSELF = ("get", "/ui/api/openapi.json")


@asynccontextmanager
async def asking(folder: Path) -> AsyncIterator[tuple[Stage, aiohttp.ClientSession]]:
    """A store of a day, with one turn more under way, and who asks."""
    async with staged(folder, *a_day(BEGAN, ["explorer"])) as stage:
        while stage.store.index(1 << 20):
            pass
        async with viewer(stage) as url, aiohttp.ClientSession(url) as client:
            yield stage, client


def schema_of(method: str, path: str, status: str = "200") -> dict[str, Any]:
    whole = description()
    answer = whole["paths"][path][method]["responses"][status]["content"]["application/json"]["schema"]
    return {**answer, "components": whole["components"]}


def check(answer: Any, method: str, path: str, status: str = "200") -> None:
    problems = [
        problem.message for problem in Draft202012Validator(schema_of(method, path, status)).iter_errors(answer)
    ]
    assert [] == problems


def test_what_is_described_is_what_there_is() -> None:
    described = {(method, path) for path, methods in description()["paths"].items() for method in methods}
    there = {(route.method.lower(), route.path) for route in (*api.routes, *events.routes)}
    assert there == described | {ITSELF}


async def test_the_description_is_served_and_its_schemas_can_be_read(tmp_path: Path) -> None:
    async with asking(tmp_path) as (_, client), client.get(ITSELF[1]) as answer:
        assert description() == await answer.json()
    assert "3.1.0" == description()["openapi"]
    for name, schema in description()["components"]["schemas"].items():
        Draft202012Validator.check_schema({"$id": f"https://example.com/{name}", **schema})


async def test_every_answer_is_as_it_is_described(tmp_path: Path) -> None:
    async with asking(tmp_path) as (stage, client):
        runs = (await stage.look(Library.runs, RunFilter(everything=True), limit=200)).runs
        turn = await stage.look(Library.turn, (await stage.look(Library.run, runs[0].id)).turns[0].id)
        stage.under_way.append((_running(runs[0].id), turn))
        turns = [each.id for run in runs for each in (await stage.look(Library.run, run.id)).turns]
        places = {"{run}": [run.id for run in runs], "{turn}": [*turns, "under-way"]}
        seen = 0
        for operation in OPERATIONS:
            if operation.method == "get":
                mark = next((mark for mark in places if mark in operation.path), "")
                for name in places.get(mark, [""]):
                    if operation.path.endswith("/record") and name == "under-way":
                        continue
                    query = {"q": "the", "since": str(BEGAN - 86400), "until": str(BEGAN + 86400)}
                    async with client.get(operation.path.replace(mark or "\0", name), params=query) as answer:
                        assert 200 == answer.status
                        check(await answer.json(), "get", operation.path)
                        seen += 1
    assert seen > 2 * len(turns)


async def test_what_is_counted_is_as_it_is_described(tmp_path: Path) -> None:
    async with asking(tmp_path) as (stage, client):
        stage.sink_names.append("explorer")
        [run, *_] = (await stage.look(Library.runs, RunFilter())).runs
        for path, url in (
            ("/ui/api/redeliver", "/ui/api/redeliver?state=delivered"),
            ("/ui/api/runs/{run}/deliver", f"/ui/api/runs/{run.id}/deliver?sink=explorer"),
        ):
            async with client.post(url) as answer:
                assert 200 == answer.status
                check(await answer.json(), "post", path)


async def test_a_parameter_that_cannot_be_understood_is_named_and_never_repeated(tmp_path: Path) -> None:
    places = {"{run}": "r", "{turn}": "t", "{dataset}": "d"}
    wrong: list[tuple[str, str, str, str]] = []
    for operation in OPERATIONS:
        for name, schema, about in operation.query:
            bad = ["x" * 1001]
            if schema["type"] in {"integer", "boolean"} or "enum" in schema or "Unix" in about:
                bad += ["<canary>", "-1e999"]
            if "maximum" in schema:
                bad.append(str(schema["maximum"] + 1))
            if schema.get("minimum"):
                bad.append("0")
            wrong += [(operation.method, operation.path, name, value) for value in bad]
    async with asking(tmp_path) as (_, client):
        for method, path, name, value in wrong:
            url = path
            for mark, place in places.items():
                url = url.replace(mark, place)
            async with client.request(method, url, params={"q": "word", name: value}) as answer:
                told = await answer.json()
            check(told, method, path, "default")
            assert (400, name) == (answer.status, told["error"].partition(":")[0])
            assert value not in told["error"] or len(value) == 1


async def test_what_is_not_there_is_told_as_described(tmp_path: Path) -> None:
    async with asking(tmp_path) as (_, client):
        for method, path in (
            *(("get", "/ui/api/runs/{run}"), ("get", "/ui/api/turns/{turn}"), ("get", "/ui/api/turns/{turn}/record")),
            *(("get", "/ui/api/runs/{run}/messages"), ("post", "/ui/api/runs/{run}/deliver")),
        ):
            url = path.replace("{run}", "nobody").replace("{turn}", "nothing")
            async with client.request(method, url, params={"sink": "nowhere"}) as answer:
                assert 404 == answer.status
                check(await answer.json(), method, path, "default")


def _running(run: str) -> Running:
    return Running(
        id="under-way",
        run=run,
        dataset="demo",
        model=None,
        title="Hello",
        started_at=BEGAN,
        request_bytes=10,
        response_bytes=0,
        answering=False,
    )
