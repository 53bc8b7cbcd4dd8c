"""What a page of somebody else's can do to the viewer in the same browser: nothing. And what its own pages can."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import pytest
from aiohttp import web
from playwright.async_api import expect

from gateway_process import GatewayProcess
from rawhttp import KEYS, exchange, post
from sidestream.testing import ScriptedUpstream, running
from sidestream.testing.upstream import response
from surfing import awake, looking

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from playwright.async_api import Browser

    from sidestream.testing.upstream import Connection, Received

pytestmark = pytest.mark.asyncio(loop_scope="session")

TOKEN: Final = "only-for-those-who-may-look"
BODY: Final = b'{"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "A secret question"}]}'
AUTHORIZED: Final = KEYS.replace("canary", f"canary;invariant-auth=inv-{'a' * 64}")
FOREIGN: Final = b"GET /ui/api/runs HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
TRIES: Final = """async ([gateway, run]) => {
    const tries = [
        ["/deliveries/redeliver", {method: "POST", body: new URLSearchParams({state: "dead"})}],
        [`/runs/${run}/delete`, {method: "POST", body: new URLSearchParams()}],
        [`/ui/api/runs/${run}`, {method: "DELETE"}],
        ["/ui/api/redeliver?state=dead", {method: "POST"}],
        ["/ui/api/runs", {}],
    ];
    for (const mode of ["cors", "no-cors"]) {
        for (const [path, options] of tries) {
            if (mode === "no-cors" && options.method === "DELETE") continue;
            try {
                const answer = await fetch(gateway + path, {...options, mode, credentials: "include"});
                if (answer.type !== "opaque") return path;
            } catch { /* as it should be */ }
        }
    }
    return "nothing";
}"""
"""What of a gateway another page can reach by script: the path of the first answer that it may read, or "nothing"."""


async def provider(_request: Received, connection: Connection) -> None:
    await connection.send(response(b'{"type": "error", "error": {"type": "x", "message": "A secret answer"}}'))


async def refusing(_request: Received, connection: Connection) -> None:
    await connection.send(response(b"{}", status="422 Unprocessable"))


@asynccontextmanager
async def gateway(folder: Path, **config: Any) -> AsyncIterator[tuple[GatewayProcess, ScriptedUpstream]]:
    """A gateway with one run, and the sink that refuses it."""
    async with (
        ScriptedUpstream(provider) as upstream,
        ScriptedUpstream(refusing) as explorer,
        GatewayProcess(folder, upstream.url, sinks=[{"explorer": {"url": explorer.url}}], **config) as process,
    ):
        assert 200 == (await exchange(process.url, post(BODY, headers=AUTHORIZED))).status
        yield process, explorer


async def told(url: str, path: str) -> Any:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with aiohttp.ClientSession(headers=headers) as session, session.get(url + path) as response:
        return await response.json()


async def the_run(url: str) -> str:
    """The run, once it is stored and its delivery was refused."""
    async with asyncio.timeout(20):
        while not (await told(url, "/ui/api/deliveries?state=dead"))["deliveries"]:  # noqa: ASYNC110  # another process
            await asyncio.sleep(0.05)
    (run,) = (await told(url, "/ui/api/runs"))["runs"]
    return str(run["id"])


@asynccontextmanager
async def elsewhere(gateway: str, run: str) -> AsyncIterator[str]:
    """Somebody else's site: a page with forms that lead to the gateway, and one with its pages in frames."""
    forms = "".join(
        f'<form method="post" action="{gateway}{path}"><input name="state" value="dead"><button>{name}</button></form>'
        for name, path in (("redeliver", "/deliveries/redeliver"), ("delete", f"/runs/{run}/delete"))
    )
    frames = f'<iframe src="{gateway}/"></iframe><iframe src="{gateway}/runs/{run}"></iframe>'

    async def page(request: web.Request) -> web.Response:
        return web.Response(text=frames if request.path == "/frames" else forms, content_type="text/html")

    app = web.Application()
    app.router.add_get("/{tail:.*}", page)
    async with running(app) as url:
        yield url


async def test_a_foreign_page_and_a_foreign_name_can_neither_read_nor_change_anything(
    tmp_path: Path, browser: Browser
) -> None:
    async with gateway(tmp_path) as (process, explorer), looking(browser) as sight:
        url, page = await awake(process.url), sight.page
        run = await the_run(url)
        async with elsewhere(url, run) as site:
            for foreign in (site, site.replace("127.0.0.1", "evil.example")):  # another port here, and another host
                for name in ("redeliver", "delete"):
                    await page.goto(foreign)
                    await page.get_by_role("button", name=name).click()
                    await expect(page.locator("body")).to_contain_text("another site's page must not ask this")
                await page.goto(foreign)
                assert "nothing" == await page.evaluate(TRIES, [url, run])
                await page.goto(f"{foreign}/frames")
                shown = [await frame.locator("body").inner_text() for frame in page.frames[1:]]
                assert (2, False) == (len(shown), any("secret" in text or "sidestream" in text for text in shown))
        await page.goto(f"{url.replace('127.0.0.1', 'rebound.example')}/runs/{run}")
        await expect(page.locator("body")).to_contain_text("this name is not known here")
        assert 403 == (await exchange(url, FOREIGN, method="GET")).status
        assert (run, 1) == (await the_run(url), len(explorer.requests))


async def test_the_forms_of_its_own_pages_work(tmp_path: Path, browser: Browser) -> None:
    async with gateway(tmp_path) as (process, explorer), looking(browser) as sight:
        url, page = await awake(process.url), sight.page
        run = await the_run(url)
        await page.goto(f"{url}/deliveries")
        await page.get_by_role("button", name="Redeliver all dead").click()
        await expect(page.get_by_role("status").filter(has_text="begins anew")).to_be_visible()
        await the_run(url)
        assert 2 == len(explorer.requests)
        await page.goto(f"{url}/runs/{run}/delete")
        await page.get_by_role("button", name="Delete").click()
        await expect(page.get_by_text("No run has been recorded yet")).to_be_visible()
        assert [] == sight.wrong


async def test_with_a_token_nothing_is_shown_without_it_and_everything_with_it(
    tmp_path: Path, browser: Browser
) -> None:
    access = {"access": "token", "token": TOKEN}
    async with gateway(tmp_path, viewer=access) as (process, _), looking(browser) as sight:
        url, page = await awake(process.url), sight.page
        run = await the_run(url)
        for path in ("/", "/overview", "/deliveries", f"/runs/{run}", f"/turns/{run}"):
            await page.goto(url + path)
            assert f"{url}/login" == page.url
        await page.get_by_label("Token").fill("a wrong token, but a long one")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("alert")).to_have_text("That is not the token.")
        await page.get_by_label("Token").fill(TOKEN)
        await page.keyboard.press("Enter")
        await page.wait_for_url(f"{url}/")
        await page.get_by_role("link", name="A secret question").click()
        await expect(page.locator(".turn")).to_have_count(1)
        await expect(page.locator("#live")).to_have_text("live")
        assert ([], True) == (sight.wrong, all(each["httpOnly"] for each in await page.context.cookies()))
        health, metrics = await process.get("health"), await process.get("metrics")
        assert (b'{"status":"ok"}', 401) == (health.body, metrics.status)
        assert [401, 403] == [await without(url, path) for path in ("/ui/api/runs", "/api/v1/user/identity")]


async def without(url: str, path: str) -> int:
    """The status of an answer to somebody without a token."""
    async with aiohttp.ClientSession() as session, session.get(url + path) as response:
        return response.status
