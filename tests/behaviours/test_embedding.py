"""The gateway inside another application: with its middlewares, signals, shutdown and default server settings."""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from rawhttp import KEYS, connect, exchange, post
from sidestream import create_app, mount
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
