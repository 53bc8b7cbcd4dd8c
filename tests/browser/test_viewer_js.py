"""What the script of all pages does, in a real browser."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from conversing import Call, text, user
from sidestream.store.rows import Item
from stored import BEGAN
from surfing import looking
from viewing import Stage, staged, viewer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from playwright.async_api import Browser, Page

FOCUSED = "document.activeElement.closest('[data-item]')?.dataset.item ?? document.activeElement.tagName"

pytestmark = pytest.mark.asyncio(loop_scope="session")


def said(name: str, words: str, begun: float) -> Item:
    call = Call(name, [user(words)], [text("Hi")], begun)
    return Item(call.record(), call.reading(), None, ())


@asynccontextmanager
async def browsing(stage: Stage, browser: Browser, **options: Any) -> AsyncIterator[tuple[str, Page]]:
    """The viewer's address, and a page of a browser, on which nothing may go wrong."""
    async with viewer(stage) as url, looking(browser, **options) as sight:
        try:
            yield url, sight.page
            assert [] == sight.wrong
        finally:
            await sight.page.close()  # before the feed is, or it would complain of that
            stage.feed.close()


async def test_a_list_is_gone_through_by_keys_and_stays_up_to_date(tmp_path: Path, browser: Browser) -> None:
    items = [said("r1", "One", BEGAN), said("r2", "Two", BEGAN + 1)]
    async with staged(tmp_path, *items) as stage, browsing(stage, browser) as (url, page):
        await page.goto(url)
        await page.locator("#live.on").wait_for()
        at = []
        for key in ("j", "j", "j", "k", "ArrowDown", "/", "j", "Escape", "k"):
            await page.keyboard.press(key)
            at.append(await page.evaluate(FOCUSED))
        assert ["r2", "r1", "r1", "r2", "r1", "INPUT", "INPUT", "BODY", "r1"] == at

        stage.add(said("r3", "Three", BEGAN + 2))
        stage.feed.publish("ended", {})
        await page.locator("[data-item=r3]").wait_for()
        assert "r1" == await page.evaluate(FOCUSED)

        await page.keyboard.press("Control+k")
        await page.keyboard.press("Enter")
        await page.wait_for_url("**/runs/r1")


async def test_keys_are_told_and_can_be_switched_off(tmp_path: Path, browser: Browser) -> None:
    async with staged(tmp_path, said("r1", "One", BEGAN)) as stage, browsing(stage, browser) as (url, page):
        await page.goto(url)
        await page.keyboard.press("?")
        assert "Go to the overview" in await page.locator("#keys").inner_text()
        await page.get_by_label("Letters are keys").uncheck()
        await page.keyboard.press("Escape")
        await page.keyboard.press("j")
        assert "r1" != await page.evaluate(FOCUSED)

        await page.goto(f"{url}/deliveries")
        await page.get_by_role("button", name="Keyboard shortcuts").click()
        await page.get_by_label("Letters are keys").check()
        await page.keyboard.press("Escape")
        await page.keyboard.press("g")
        await page.keyboard.press("o")
        await page.wait_for_url("**/overview")


async def test_times_are_the_readers_own_and_no_page_is_wider_than_a_phone(tmp_path: Path, browser: Browser) -> None:
    phone = {"viewport": {"width": 360, "height": 640}, "timezone_id": "Asia/Tokyo", "locale": "en-GB"}
    words = f"One {'unbroken' * 40}"
    async with (
        staged(tmp_path, said("r1", words, BEGAN)) as stage,
        browsing(stage, browser, **phone) as (url, page),
    ):
        stage.sink_names = ["explorer", "a-sink-with-a-rather-long-name-that-somebody-made-up"]
        for path in ("/overview?span=30d", "/deliveries", "/?q=One", "/"):
            await page.goto(url + path)
            assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
        title = await page.locator("[data-item] time").get_attribute("title")

    assert "21 September 2026 at 23:13:20" in (title or "")
