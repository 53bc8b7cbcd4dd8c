"""Runs as files to take away."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from sidestream.store.faults import StoreUnavailable
from stored import a_run
from viewing import Stage, staged, viewer

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("wanted", "name", "media_type"),
    [
        ("json", "run-r-0.json", "application/json"),
        ("jsonl", "run-r-0.jsonl", "application/x-ndjson"),
        ("openai", "run-r-0.openai.json", "application/json"),
        ("html", "run-r-0.html", "text/html"),
    ],
)
async def test_a_run_is_a_file_to_take_away(tmp_path: Path, wanted: str, name: str, media_type: str) -> None:
    async with (
        staged(tmp_path, *a_run("r", 60, words=2)) as stage,
        viewer(stage) as url,
        aiohttp.ClientSession() as client,
        client.get(f"{url}/runs/r-0/export/{wanted}") as answer,
    ):
        body = await answer.text()
        assert (200, media_type) == (answer.status, answer.content_type)
        assert f'attachment; filename="{name}"' == answer.headers["Content-Disposition"]
        assert "nosniff" == answer.headers["X-Content-Type-Options"]
    whole = {"json": f"[{body}]", "openai": body, "jsonl": f"[{','.join(body.splitlines())}]", "html": "[]"}[wanted]
    assert {"json": 1, "jsonl": 60, "openai": 121, "html": 0}[wanted] == len(json.loads(whole))


@pytest.mark.parametrize("path", ["/runs/nowhere/export/json", "/runs/r-0/export/pdf"])
async def test_what_is_not_there_is_not_found(tmp_path: Path, path: str) -> None:
    async with (
        staged(tmp_path, *a_run("r", 1)) as stage,
        viewer(stage) as url,
        aiohttp.ClientSession() as client,
        client.get(f"{url}{path}") as answer,
    ):
        assert 404 == answer.status
        assert "Content-Disposition" not in answer.headers


async def test_what_fails_in_the_middle_is_broken_off_and_never_ends_well(tmp_path: Path) -> None:
    class Failing(Stage):
        async def look(self, what: Any, *args: Any, **kwargs: Any) -> Any:
            if kwargs.get("first", 1) > 1:
                raise StoreUnavailable("the disk is gone")
            return await super().look(what, *args, **kwargs)

    stage = Failing(tmp_path)
    stage.add(*a_run("r", 60, words=2))
    async with viewer(stage) as url, aiohttp.ClientSession() as client:
        answer = await client.get(f"{url}/runs/r-0/export/json")
        assert 200 == answer.status
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.read()
    await stage.close()
