"""A real browser without a window, and a page of it that keeps whatever went wrong.

Where there is no Chromium, tests that need one are skipped; with the environment variable SIDESTREAM_BROWSER=required
they fail, so that nobody takes a machine without a browser for one on which all is well.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import aiohttp
import pytest
import pytest_asyncio
from playwright.async_api import async_playwright

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from playwright.async_api import Browser, Page, Request

CHROMIUM: Final = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OPTIONS: Final = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-quic",
    "--no-first-run",
    "--host-resolver-rules=MAP *.example 127.0.0.1",
]
PATIENCE: Final = 15_000
"""Milliseconds that anything on a page may take."""
_VIOLATIONS: Final = """
    document.addEventListener("securitypolicyviolation", (event) => {
        console.error(`policy violated: ${event.violatedDirective} by ${event.blockedURI}`);
    });
"""


@dataclass
class Sight:
    """A page of the browser. `wrong` is what went wrong on it, `asked` the addresses of all that it asked for."""

    page: Page
    wrong: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    async def watch(self) -> None:
        """Begin to notice: errors of scripts, of the console, violations of the policy, and boxes that pop up."""
        self.page.set_default_timeout(PATIENCE)
        self.page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        self.page.on("console", lambda said: self.wrong.append(said.text) if said.type == "error" else None)
        self.page.on("dialog", self._dismiss)
        self.page.on("request", self._note)
        await self.page.add_init_script(_VIOLATIONS)

    def hosts(self) -> set[str]:
        """Whom the page has asked for anything."""
        return {urlsplit(address).netloc for address in self.asked}

    async def _dismiss(self, dialog: Any) -> None:
        self.wrong.append(f"dialog: {dialog.message}")
        await dialog.dismiss()

    def _note(self, request: Request) -> None:
        if not request.url.startswith("data:"):
            self.asked.append(request.url)


async def awake(gateway: str) -> str:
    """The origin of a gateway's address, once its recorder answers, too: a relay is ready before that."""
    parts = urlsplit(gateway)
    url = f"{parts.scheme}://{parts.netloc}"
    async with asyncio.timeout(30), aiohttp.ClientSession() as session:
        while True:
            async with session.get(f"{url}/static/style.css") as response:
                if response.status != 503:
                    return url
            await asyncio.sleep(0.05)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    if CHROMIUM is None:
        if os.environ.get("SIDESTREAM_BROWSER") == "required":
            pytest.fail("SIDESTREAM_BROWSER=required, and there is no Chromium here")
        pytest.skip("there is no Chromium here")
    async with async_playwright() as engine:
        browser = await engine.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield browser
        await browser.close()


@contextlib.asynccontextmanager
async def looking(browser: Browser, **options: Any) -> AsyncIterator[Sight]:
    """A page of its own, without anybody's cookies, which is watched; `options` are those of a browser's context."""
    context = await browser.new_context(**options)
    try:
        sight = Sight(await context.new_page())
        await sight.watch()
        yield sight
    finally:
        await context.close()
