"""The gateway inside another application: with its middlewares, signals, shutdown and default server settings."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web
from structlog.testing import capture_logs

from rawhttp import KEYS, connect, exchange, post
from sidestream import SidestreamError, create_app, mount, mount_viewer
from sidestream.testing import ScriptedUpstream, running
from sidestream.testing.upstream import STREAM_HEAD, Connection, Received, chunk

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

EVENT = b'event: ping\ndata: {"type": "ping"}\n\n'
MESSAGES = "/llm/my-agent/anthropic/v1/messages"


def settings(upstream: str, file: Path | None = None) -> dict[str, Any]:
    sinks = [{"jsonl": {"path": str(file)}}] if file else []
    return {"upstreams": {"anthropic": {"url": upstream}}, "sinks": sinks}


def host(events: list[str]) -> web.Application:
    """An application with a life of its own."""

    @web.middleware
    async def own_middleware(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        response = await handler(request)
        events.append(f"{request.path} {response.status}")
        return response

    async def own_header(_request: web.Request, response: web.StreamResponse) -> None:
        response.headers["X-Host"] = "mine"

    async def hello(_request: web.Request) -> web.Response:
        return web.Response(text="hello")

    async def started(_app: web.Application) -> None:
        events.append("startup")

    async def ended(_app: web.Application) -> None:
        events.append("cleanup")

    app = web.Application(middlewares=[own_middleware])
    app.on_response_prepare.append(own_header)
    app.on_startup.append(started)
    app.on_cleanup.append(ended)
    app.router.add_get("/hello", hello)
    return app


async def test_a_mounted_gateway_relays_and_traces_and_the_host_goes_on_as_before(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    async def script(_received: Received, connection: Connection) -> None:
        await connection.send(STREAM_HEAD + chunk(EVENT) + chunk(b""))

    upstream.script = script
    events: list[str] = []
    app = host(events)
    mount(app, "/llm", settings(upstream.url, tmp_path / "t.jsonl"))
    async with running(app) as origin:
        hello = await exchange(origin, b"GET /hello HTTP/1.1\r\nHost: g\r\n\r\n", method="GET")
        answer = await exchange(origin, post(b'{"messages":[]}', path=MESSAGES))
        health = await exchange(origin, b"GET /llm/health HTTP/1.1\r\nHost: g\r\n\r\n", method="GET")
    assert (b"hello", "mine") == (hello.body, hello.field("X-Host"))
    assert hello.field("Server")
    assert (EVENT, True) == (answer.body, answer.complete)
    assert answer.field("Server") is None
    assert {"anthropic": {"200": {"completed": 1}}} == json.loads(health.body)["relay"]["exchanges"]
    assert ["startup", "/hello 200", f"{MESSAGES} 200", "/llm/health 200", "cleanup"] == events
    assert 1 == len((tmp_path / "t.jsonl").read_text().splitlines())


async def test_a_gateway_can_be_mounted_deeper_down(upstream: ScriptedUpstream) -> None:
    app, middle = web.Application(), web.Application()
    mount(middle, "/llm", settings(upstream.url))
    app.add_subapp("/team", middle)
    async with running(app) as origin:
        assert 200 == (await exchange(origin, post(path=f"/team{MESSAGES}?a=%7E"))).status
        wrong = await exchange(origin, post(path="/team/llm/nowhere"))
    assert ["/v1/messages?a=%7E"] == [request.target for request in upstream.requests]
    assert "/team/llm/[{dataset}/]{provider}/{path}" in json.loads(wrong.body)["error"]["message"]


async def test_an_encoded_request_body_is_refused_where_the_server_would_decode_it(upstream: ScriptedUpstream) -> None:
    app = web.Application()
    mount(app, "/llm", settings(upstream.url))
    packed = gzip.compress(b"{}")
    async with running(app) as origin:
        answer = await exchange(origin, post(packed, path=MESSAGES, headers=f"{KEYS}Content-Encoding: gzip\r\n"))
    assert (415, "encoded_body") == (answer.status, answer.field("x-sidestream-error"))
    assert [] == upstream.requests


async def test_a_host_that_declares_raw_bodies_gets_them_relayed(upstream: ScriptedUpstream) -> None:
    app = web.Application()
    mount(app, "/llm", settings(upstream.url), raw_request_bodies=True)
    packed = gzip.compress(b"{}")
    async with running(app, auto_decompress=False) as origin:
        await exchange(origin, post(packed, path=MESSAGES, headers=f"{KEYS}Content-Encoding: gzip\r\n"))
    assert packed == bytes(upstream.requests[0].body)


async def test_a_host_that_shuts_down_in_mid_stream_leaves_a_trace(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    async def script(_received: Received, connection: Connection) -> None:
        await connection.send(STREAM_HEAD + chunk(EVENT))
        await connection.closed_by_peer()

    upstream.script = script
    app = web.Application()
    mount(app, "/llm", settings(upstream.url, tmp_path / "t.jsonl"))
    async with running(app, shutdown_timeout=0.05) as origin:
        async with connect(origin) as client:
            await client.send(post(path=MESSAGES))
            await client.until(EVENT)
    (trace,) = map(json.loads, (tmp_path / "t.jsonl").read_text().splitlines())
    assert trace["metadata"]["outcome"] in {"cancelled", "client_disconnected"}


async def test_server_options_are_ignored_with_a_warning(upstream: ScriptedUpstream) -> None:
    app = web.Application()
    with capture_logs() as logs:
        mount(app, "/llm", {**settings(upstream.url), "server": {"port": 1}})
    assert ["server_options_ignored"] == [entry["event"] for entry in logs]


async def test_create_app_is_a_whole_application(upstream: ScriptedUpstream) -> None:
    async with running(create_app(settings(upstream.url))) as origin:
        assert 200 == (await exchange(origin, post())).status
        assert 404 == (await exchange(origin, post(path="/elsewhere"))).status


@pytest.mark.parametrize("size", [10, 3_000_000])
async def test_default_server_settings_carry_bodies_of_any_size(upstream: ScriptedUpstream, size: int) -> None:
    app = web.Application()
    mount(app, "/llm", settings(upstream.url))
    async with running(app) as origin, connect(origin) as client:
        sending = asyncio.create_task(client.send(post(bytes(size), path=MESSAGES)))
        assert 200 == (await client.answer()).status
        await sending
    assert size == len(upstream.requests[0].body)


MESSAGE = b'{"type":"message","role":"assistant","content":[{"type":"text","text":"Yes."}],"stop_reason":"end_turn"}'
ASKS = b'{"messages":[{"role":"user","content":"Is there tea?"}]}'


def with_viewer(upstream: str, folder: Path, **viewer: Any) -> web.Application:
    """A host with a gateway and its viewer."""
    app = web.Application()
    config = {**settings(upstream), "recorder": {"dir": str(folder / "data"), "min_free": 0}, "viewer": viewer}
    mount(app, "/gw", config)
    mount_viewer(app, "/traces", config)
    return app


async def until_200(session: aiohttp.ClientSession, path: str, contains: str = "", **headers: str) -> str:
    """The answer, as soon as it is one: the recorder may still be starting, or reading."""
    async with asyncio.timeout(10):
        while True:
            async with session.get(path, headers=headers) as answer:
                text = await answer.text()
            if answer.status == 200 and contains in text:
                return text
            await asyncio.sleep(0.01)


async def test_a_mounted_viewer_shows_the_runs_below_its_prefix(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    async def script(_received: Received, connection: Connection) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        await connection.send(head % len(MESSAGE) + MESSAGE)

    upstream.script = script
    app = with_viewer(upstream.url, tmp_path, access="open")
    async with running(app) as origin, aiohttp.ClientSession(origin) as session:
        assert 200 == (await exchange(origin, post(ASKS, path="/gw/my-agent/anthropic/v1/messages"))).status
        (run,) = json.loads(await until_200(session, "/traces/ui/api/runs", "tea"))["runs"]
        page = await until_200(session, f"/traces/runs/{run['id']}")
        links = set(re.findall(r'(?:href|src|action)="(/[^"]*)"', page))
        (style,) = (link for link in links if "/style.css" in link)
        assert "font" in await until_200(session, style)
    assert ("Is there tea?", 1) == (run["title"], run["turns"])
    assert "Yes." in page
    assert {"traces"} == {link.split("/")[1] for link in links}


async def test_a_mounted_viewer_asks_for_the_token(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    """Nobody knows here who reaches the host. A browser is shown where to give it, and keeps it for these paths."""
    token = "seven-times-seven-moons"
    app = with_viewer(upstream.url, tmp_path, token=token)
    async with running(app) as origin, aiohttp.ClientSession(origin, cookie_jar=aiohttp.DummyCookieJar()) as session:

        async def get(path: str, accept: str) -> aiohttp.ClientResponse:
            async with session.get(path, headers={"Accept": accept}, allow_redirects=False) as answer:
                return answer

        refused = await get("/traces/ui/api/runs", "application/json")
        sent_on = await get("/traces/", "text/html")
        entered = await get(f"/traces/login?token={token}", "text/html")
        ((name, cookie),) = entered.cookies.items()
        await until_200(session, "/traces/ui/api/runs", Authorization=f"Bearer {token}")
        await until_200(session, "/traces/ui/api/runs", Cookie=f"{name}={cookie.value}")
    assert (401, "token_needed") == (refused.status, refused.headers["x-sidestream-error"])
    assert (303, "/traces/login") == (sent_on.status, sent_on.headers["Location"])
    assert (303, "/traces/", "/traces/") == (entered.status, entered.headers["Location"], cookie["path"])
    assert token not in cookie.value


def test_without_a_store_there_is_no_viewer() -> None:
    with pytest.raises(SidestreamError, match=r"recorder\.mode is 'none'"):
        mount_viewer(web.Application(), "/traces", {"recorder": {"mode": "none"}})
