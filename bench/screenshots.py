"""Pictures of the viewer's pages, with a day of three made-up agents in them.

All pages, light, dark, and as wide as a phone, into ``build/screenshots``; and the two that the README shows into
``docs/images``. ``make screenshots`` takes them; it needs a Chromium.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from playwright.async_api import async_playwright

from exhibits import a_day
from sidestream.store.rows import State
from surfing import CHROMIUM, OPTIONS, looking
from viewing import Stage, staged, viewer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from playwright.async_api import Browser

ROOT: Final = Path(__file__).parent.parent
FOLDER: Final = ROOT / "build" / "screenshots"
IMAGES: Final = ROOT / "docs" / "images"
PAGES: Final = {
    "runs": "/",
    "run": "/runs/mend-1",
    "turn": "/turns/mend-4",
    "overview": "/overview",
    "deliveries": "/deliveries",
    "search": "/?q=offset",
    "delete": "/runs/mend-1/delete",
}
LOOKS: Final[dict[str, dict[str, Any]]] = {
    "light": {"color_scheme": "light", "viewport": {"width": 1280, "height": 800}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 1280, "height": 800}},
    "phone": {"color_scheme": "light", "viewport": {"width": 360, "height": 740}, "device_scale_factor": 2},
}
NO_GUTTER: Final = "document.documentElement.style.scrollbarGutter = 'auto'"
"""The place that is kept for a scroll bar is empty on a picture."""
README: Final = (("run", "light", "run.png"), ("runs", "dark", "runs.png"))
"""Page, look, and the file that the README shows."""


@asynccontextmanager
async def exhibition(folder: Path) -> AsyncIterator[str]:
    """The viewer's address, on a store with a day of runs."""
    async with staged(folder, *a_day(time.time(), ["explorer"])) as stage:
        _deliver(stage)
        while stage.store.index(1_000_000):
            pass
        stage.sink_names = ["explorer", "jsonl"]
        async with viewer(stage) as url:
            try:
                yield url
            finally:
                stage.feed.close()


def _deliver(stage: Stage) -> None:
    """Most have arrived; some have not, for some reason."""
    for place, delivery in enumerate(stage.store.deliveries(limit=1000)):
        delivery.attempts = 1
        delivery.state = State.DELIVERED
        if place in {4, 5}:
            delivery.state, delivery.attempts, delivery.reason = State.DEAD, 12, "the sink answered 413"
        if place == 7:
            delivery.state, delivery.reason = State.PARKED, "the key is not known"
        stage.store.save([delivery])


async def take(browser: Browser, url: str) -> None:
    """Take all pictures."""
    for look, options in LOOKS.items():
        async with looking(browser, **options) as sight:
            for name, path in PAGES.items():
                await sight.page.goto(url + path)
                await sight.page.screenshot(path=FOLDER / f"{name}-{look}.png", full_page=True)
                print(FOLDER / f"{name}-{look}.png")
    for name, look, file in README:
        async with looking(browser, **LOOKS[look]) as sight:
            await sight.page.goto(url + PAGES[name])
            await sight.page.evaluate(NO_GUTTER)
            await sight.page.screenshot(path=IMAGES / file)
            print(IMAGES / file)


async def main() -> int:
    if CHROMIUM is None:
        print("there is no Chromium here")
        return 1
    for folder in (FOLDER, IMAGES):
        folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        async with exhibition(Path(name)) as url, async_playwright() as engine:
            browser = await engine.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
            await take(browser, url)
            await browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
