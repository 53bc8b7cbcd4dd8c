"""What somebody sees who opens the viewer before the agent begins: a run as it happens; and what to do with it."""

from __future__ import annotations

import asyncio
import io
import json
from typing import TYPE_CHECKING

import pytest
from playwright.async_api import expect

from gateway_process import GatewayProcess
from sidestream.demo.agent import Agent
from sidestream.demo.provider import KEY, pieces, stream
from sidestream.demo.screen import Screen
from sidestream.demo.story import ANSWERS
from sidestream.testing import ScriptedUpstream
from sidestream.testing.gateway import PREFIX
from sidestream.testing.upstream import STREAM_HEAD, chunk
from surfing import awake, looking

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.async_api import Browser, Page

    from sidestream.testing.upstream import Connection, Received
    from surfing import Sight

pytestmark = pytest.mark.asyncio(loop_scope="session")

FIRST_WORDS = b"I'll look"
"""The demo's first answer is said up to here, until somebody lets it go on."""
LAST_WORDS = "The 苔 will thank you."


class Hesitant:
    """The demo's provider, which stops within its first answer until `go`."""

    def __init__(self) -> None:
        self.go = asyncio.Event()

    async def __call__(self, request: Received, connection: Connection) -> None:
        turn = sum(message["role"] == "assistant" for message in json.loads(bytes(request.body))["messages"])
        await connection.send(STREAM_HEAD)
        said = b""
        for piece in pieces(stream(ANSWERS[turn])):
            await connection.send(chunk(piece))
            if turn == 0 and FIRST_WORDS in said:  # the piece before has these words, and this one the event's end
                await self.go.wait()
            said += piece
        await connection.send(chunk(b""))


async def found(page: Page, words: str) -> None:
    """Search until something is found: texts become findable a moment after they are stored."""
    async with asyncio.timeout(20):
        while True:
            await page.get_by_role("searchbox").fill(words)
            await page.keyboard.press("Enter")
            await page.wait_for_url("**/?q=*")
            if await page.locator("mark").count():
                return


async def downloaded(page: Page, name: str, folder: Path) -> Path:
    await page.get_by_text("Export", exact=True).click()
    async with page.expect_download() as download:
        await page.get_by_role("link", name=name).click()
    file = await download.value
    await file.save_as(folder / file.suggested_filename)
    return folder / file.suggested_filename


async def watched(sight: Sight, url: str, provider: Hesitant, agent: Agent) -> None:
    """Follow the run from the empty list to its last word."""
    page = sight.page
    await page.goto(url)
    await expect(page.get_by_text("No run has been recorded yet")).to_be_visible()
    await expect(page.locator("#live")).to_have_text("live")
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(agent.run())
        await expect(page.locator(".badge.running")).to_have_text("running now")
        await page.locator("[data-item] a.title").click()
        said = page.locator(".item.assistant .prose")
        await expect(said.first).to_contain_text("I'll look")
        assert "sky" not in await said.first.inner_text()
        provider.go.set()
        await expect(said.first).to_contain_text("I'll look at the soil and at the sky. 🌿")
        await expect(page.locator(".turn.answered")).to_have_count(4)
    await expect(said.last).to_contain_text(LAST_WORDS)
    await expect(page.locator("#run-head .badge")).to_have_text("answered")


async def test_a_run_is_watched_while_it_happens_then_searched_read_taken_away_and_removed(
    tmp_path: Path, browser: Browser
) -> None:
    provider = Hesitant()
    async with (
        ScriptedUpstream(provider) as upstream,
        GatewayProcess(tmp_path, upstream.url) as gateway,
        looking(browser) as sight,
    ):
        url, page = await awake(gateway.url), sight.page
        agent = Agent(f"{url}{PREFIX}/moss-garden/anthropic", KEY, Screen(io.StringIO(), width=80, styled=False))
        await watched(sight, url, provider, agent)
        run = page.url

        await page.goto(url)
        await found(page, "slow soak")
        await expect(page.locator("mark").first).to_have_text("slow")
        await page.locator("[data-item] a.title").first.click()
        await page.wait_for_url("**/runs/**")

        await page.goto(run)
        exported = json.loads((await downloaded(page, "JSON, everything", tmp_path)).read_text())
        await page.goto(run)
        alone = await downloaded(page, "HTML, one file", tmp_path)
        assert LAST_WORDS in json.dumps(exported, ensure_ascii=False)
        async with looking(browser) as other:
            await other.page.goto(alone.as_uri())
            await expect(other.page.locator(".turn")).to_have_count(4)
            assert ([], [alone.as_uri()]) == (other.wrong, other.asked)

        await by_keys(page, url)
        await expect(page.locator("#changed ~ *").first).to_be_visible()
        await expect(page.locator("#cache ~ p").first).to_contain_text("tokens")

        await page.goto(run)
        await page.get_by_role("link", name="Delete").click()
        await page.get_by_role("button", name="Delete").click()
        await expect(page.get_by_text("No run has been recorded yet")).to_be_visible()
        assert [] == sight.wrong


async def by_keys(page: Page, url: str) -> None:
    """From the list to a turn's page, without a mouse."""
    await page.goto(url)
    await page.keyboard.press("?")
    await expect(page.locator("#keys")).to_be_visible()
    await page.keyboard.press("Escape")
    await page.keyboard.press("j")
    await page.keyboard.press("Enter")
    await page.wait_for_url("**/runs/**")
    for key in ("j", "j", "k", "j", "Enter"):
        await page.keyboard.press(key)
    await page.wait_for_url("**/turns/**")
    await expect(page.get_by_role("heading", level=1)).to_have_text("Turn 2")
