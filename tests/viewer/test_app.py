"""The viewer's application: its files, the page that asks for the token, and what it says when something is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import aiohttp
import pytest

from sidestream.store.faults import StoreUnavailable
from sidestream.viewer.rendering import PAGE_HEADERS, STATIC, static_version
from stored import a_run
from viewing import Stage, staged, viewer

if TYPE_CHECKING:
    from pathlib import Path

FILES = sorted(file.name for file in STATIC.iterdir() if file.name.endswith((".css", ".js", ".svg")))


async def test_files_are_kept_by_browsers_and_named_by_what_is_in_them(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage, viewer(stage) as url, aiohttp.ClientSession(url) as client:
        for name in FILES:
            async with client.get(f"/static/{name}?{static_version(name)}") as answer:
                assert (200, STATIC.joinpath(name).read_bytes()) == (answer.status, await answer.read())
                kind = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}[name.rpartition(".")[2]]
                assert ("nosniff", kind) == (answer.headers["X-Content-Type-Options"], answer.content_type)
                assert "immutable" in answer.headers["Cache-Control"]


@pytest.mark.parametrize("path", ["/static/", "/static/none.css", "/static/../app.py", "/static/%2e%2e%2fapp.py", "/x"])
async def test_no_other_files_are_served(path: str, tmp_path: Path) -> None:
    async with staged(tmp_path) as stage, viewer(stage) as url, aiohttp.ClientSession() as client:
        async with client.get(f"{url}{path}") as answer:
            assert 404 == answer.status


async def test_the_page_that_asks_for_the_token_says_when_it_was_wrong(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage, viewer(stage) as url, aiohttp.ClientSession(url) as client:
        pages = []
        for path in ("/login", "/login?wrong", "/login?wrong=<script>"):
            async with client.get(path) as answer:
                assert dict(PAGE_HEADERS).items() <= dict(answer.headers).items()
                pages.append(await answer.text())
    assert ("POST" in pages[0].upper(), pages[1]) == (True, pages[2])
    assert pages[0] != pages[1]


@pytest.mark.parametrize(
    "path", ["/runs/{}", "/turns/{}", "/ui/api/runs/{}", "/ui/api/turns/{}", "/runs/{}/export/json"]
)
async def test_what_is_not_there_is_told_without_repeating_its_name(path: str, tmp_path: Path) -> None:
    canary = "<script>canary</script>"
    url_path = path.format("%3Cscript%3Ecanary%3C%2Fscript%3E")
    async with staged(tmp_path) as stage, viewer(stage) as url, aiohttp.ClientSession() as client:
        async with client.get(f"{url}{url_path}") as answer:
            text = await answer.text()
    assert (404, False) == (answer.status, canary in text)


class Closed(Stage):
    """Cannot be looked at now."""

    async def look(self, *_args: object, **_kwargs: object) -> object:  # type: ignore[override]
        raise StoreUnavailable("the store is not there")


async def test_while_the_store_cannot_be_read_pages_and_programs_are_told(tmp_path: Path) -> None:
    stage = Closed(tmp_path)
    async with viewer(stage) as url, aiohttp.ClientSession(url) as client:
        async with client.get("/") as page:
            shown = await page.text()
        async with client.get("/ui/api/runs") as answer:
            told = await answer.json()
    await stage.close()
    assert (503, "text/html", True) == (page.status, page.content_type, "the store is not there" in shown)
    assert (503, {"error": "the store is not there", "detail": "the store is not there"}) == (answer.status, told)


async def test_where_it_is_mounted_every_link_leads_there(tmp_path: Path) -> None:
    async with staged(tmp_path, *a_run("r", 1)) as stage, viewer(stage, X_Sidestream_Base="/looking") as url:
        async with aiohttp.ClientSession(url) as client:
            for path in ("/", "/runs/r-0", "/turns/r-0", "/overview", "/deliveries", "/login"):
                async with client.get(path) as answer:
                    page = await answer.text()
                assert 'href="/looking/' in page
                for attribute in ('href="/', 'src="/', 'action="/'):
                    assert page.count(attribute) == page.count(f"{attribute}looking/")
