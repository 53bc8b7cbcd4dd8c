"""Every page can be used by everybody: checked by axe-core, light and dark, and on a screen as narrow as a phone's."""

from __future__ import annotations

import json
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import pytest
from axe_playwright_python.async_playwright import Axe

from exhibits import a_day
from sidestream.store.rows import State
from surfing import looking
from viewing import staged, viewer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from playwright.async_api import Browser, Page, ViewportSize

pytestmark = pytest.mark.asyncio(loop_scope="session")

PAGES: Final = {
    "/": 200,
    "/?q=offset": 200,
    "/?q=%22": 400,
    "/runs/mend-1": 200,
    "/runs/mend-1/delete": 200,
    "/turns/mend-4": 200,
    "/overview": 200,
    "/deliveries": 200,
    "/login?wrong": 200,
    "/runs/nowhere": 404,
    "/runs/mend-1/export/html": 200,
}
"""What is looked at, and its status."""
SERIOUS: Final = {"serious", "critical"}
OPTIONS: Final = {"resultTypes": ["violations"], "selectors": False, "preload": False}
CONTRAST: Final = f"axe.run({json.dumps({**OPTIONS, 'runOnly': ['color-contrast']})})"
"""All that can be otherwise in other colours."""
COLOURFUL: Final = {"/", "/?q=offset", "/runs/mend-1", "/turns/mend-4", "/overview", "/deliveries"}
"""Pages that have, together, all colours that there are."""
PHONE: Final[ViewportSize] = {"width": 360, "height": 640}
DESK: Final[ViewportSize] = {"width": 1280, "height": 800}
WIDER: Final = """document.documentElement.scrollWidth <= innerWidth ? [] : [...document.querySelectorAll("body *")]
    .filter((each) => each.getBoundingClientRect().right > innerWidth && !each.closest(".scroll, pre, .unseen"))
    .map((each) => each.className || each.tagName)"""
"""What makes a page wider than its window."""


@asynccontextmanager
async def shown(folder: Path) -> AsyncIterator[str]:
    """The viewer, with a day of runs, and a delivery in each state."""
    async with staged(folder, *a_day(time.time(), ["explorer"])[-16:]) as stage:
        for delivery, state in zip(stage.store.deliveries(limit=100), State, strict=False):
            delivery.state, delivery.reason = state, "the sink answered 413"
            stage.store.save([delivery])
        while stage.store.index(1 << 20):
            pass
        stage.sink_names = ["explorer", "jsonl"]
        async with viewer(stage) as url:
            try:
                yield url
            finally:
                stage.feed.close()


async def opened(page: Page, url: str, path: str, folder: Path) -> None:
    """Open a page, and all that is folded on it; what is to be taken away, as a file."""
    if path.endswith("/html"):
        answer = await page.request.get(url + path)
        (folder / "export.html").write_bytes(await answer.body())
        await page.goto((folder / "export.html").as_uri())
    else:
        answered = await page.goto(url + path)
        assert answered is not None
        assert PAGES[path] == answered.status
    await page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")


def violations(found: dict[str, Any]) -> list[str]:
    """What axe-core found that is serious or critical: rule, and the elements."""
    return [
        f"{each['id']}: {[node['html'][:200] for node in each['nodes']]}"
        for each in found["violations"]
        if each["impact"] in SERIOUS
    ]


async def test_every_page_can_be_used_by_everybody_and_on_a_phone(tmp_path: Path, browser: Browser) -> None:
    async with shown(tmp_path) as url, looking(browser, viewport=PHONE, bypass_csp=True) as sight:
        page, found, wider = sight.page, {}, {}
        for path in PAGES:
            await page.emulate_media(color_scheme="light")
            await opened(page, url, path, tmp_path)
            wider[path] = await page.evaluate(WIDER)
            await page.set_viewport_size(DESK)
            found[path] = violations((await Axe().run(page, options=OPTIONS)).response)
            if path in COLOURFUL:
                await page.emulate_media(color_scheme="dark")
                found[f"{path} in the dark"] = violations(await page.evaluate(CONTRAST))
            await page.set_viewport_size(PHONE)
    assert ({}, {}) == tuple({where: what for where, what in each.items() if what} for each in (found, wider))
