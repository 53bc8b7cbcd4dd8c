"""The viewer on the gateway's own port: who sees what, and that calls and looks leave each other alone."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from rawhttp import Answer, connect, exchange, post
from recording import eventually
from sidestream import create_app
from sidestream.server import serving
from sidestream.store.directory import Directory
from sidestream.viewer.app import LARGEST_BODY

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from sidestream.testing import ScriptedUpstream

TOKEN = "a-token-of-more-than-16-characters"
BEARER = f"Authorization: Bearer {TOKEN}\r\n"
BODY = b'{"model": "m", "messages": [{"role": "user", "content": "Hello"}]}'
PREFIX = "/api/v1/gateway"


@asynccontextmanager
async def a_gateway(
    folder: Path, upstream: str, *, mode: str = "thread", host: str = "", **viewer: Any
) -> AsyncIterator[str]:
    config = {
        "server": {"host": host or "127.0.0.1"},
        "recorder": {"mode": mode, "dir": str(folder / "data"), "min_free": 0},
        "viewer": viewer,
        "upstreams": {"anthropic": {"url": upstream}},
    }
    async with serving(create_app(config, raw_request_bodies=True), "127.0.0.1", 0, pause=0) as port:
        if mode == "thread" and viewer.get("enabled", True):
            await eventually(Directory(folder / "data").socket.is_socket)
        yield f"http://127.0.0.1:{port}"


async def get(url: str, path: str, headers: str = "", *, host: str = "localhost") -> Answer:
    return await exchange(url, f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n".encode(), method="GET")


async def test_a_call_is_seen_at_once_by_those_who_listen_and_then_looked_up(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    async with a_gateway(tmp_path, upstream.url) as url, connect(url) as listener:
        await listener.send(b"GET /ui/api/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"text/event-stream" in await listener.head()
        await listener.until(b"\n\n")
        assert 200 == (await exchange(url, post(BODY))).status
        event = await listener.until(b"event: ended\n") + await listener.until(b"\n\n")
        turn = msgspec.json.decode(event.rpartition(b"data: ")[2])["turn"]["id"]
        page, told = await get(url, f"/turns/{turn}", "Accept: text/html\r\n"), await get(url, f"/ui/api/turns/{turn}")
        assert (200, 200, turn) == (page.status, told.status, msgspec.json.decode(told.body)["turn"]["id"])
        assert [] == [name for name, _ in page.fields if name.lower().startswith("x-sidestream")]
    assert 1 == len(upstream.requests)


async def test_what_others_reach_needs_the_token_and_what_is_counted_too(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    async with a_gateway(tmp_path, upstream.url, host="0.0.0.0", token=TOKEN) as url:
        assert [401, 401, 401] == [
            (await get(url, path, host="10.0.0.1")).status for path in ("/", "/ui/api/runs", f"{PREFIX}/metrics")
        ]
        assert {"status": "ok"} == msgspec.json.decode((await get(url, f"{PREFIX}/health")).body)
        assert 200 == (await get(url, f"{PREFIX}/ready")).status
        assert "relay" in msgspec.json.decode((await get(url, f"{PREFIX}/health", BEARER)).body)
        assert [200, 200] == [(await get(url, path, BEARER)).status for path in ("/", f"{PREFIX}/metrics")]
        assert 200 == (await exchange(url, post(BODY))).status
    assert not (tmp_path / "data" / "viewer.token").exists()


async def test_a_token_is_made_where_none_is_said(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    async with a_gateway(tmp_path, upstream.url, access="token") as url:
        assert 401 == (await get(url, "/ui/api/runs")).status
        token = Directory(tmp_path / "data").viewer_token()
        assert 200 == (await get(url, "/ui/api/runs", f"Authorization: Bearer {token}\r\n")).status
    assert 0o600 == (tmp_path / "data" / "viewer.token").stat().st_mode & 0o777


async def test_where_somebody_has_decided_so_all_may_look(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    async with a_gateway(tmp_path, upstream.url, mode="external", host="0.0.0.0", access="open") as url:
        assert 503 == (await get(url, "/ui/api/runs", host="anything.example")).status
    async with a_gateway(
        tmp_path,
        upstream.url,
        mode="external",
        host="0.0.0.0",
        access="open",
        hosts=["traces.example.com"],
    ) as url:
        assert 503 == (await get(url, "/ui/api/runs", host="Traces.example.com:80")).status
        assert 403 == (await get(url, "/ui/api/runs", host="anything.example")).status


@pytest.mark.parametrize("without", [{"enabled": False, "mode": "thread"}, {"mode": "none"}])
async def test_there_may_be_no_viewer(upstream: ScriptedUpstream, tmp_path: Path, without: dict[str, Any]) -> None:
    async with a_gateway(tmp_path, upstream.url, **without) as url:
        for path in ("/", "/login", "/runs/a", "/ui/api/runs", "/static/app.css", "/api/v1/push/trace"):
            assert 404 == (await get(url, path)).status
        assert 200 == (await exchange(url, post(BODY))).status


async def test_calls_go_on_while_the_recorder_is_not_there(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    async with a_gateway(tmp_path, upstream.url, mode="external") as url:
        page = await get(url, "/", "Accept: text/html\r\n")
        assert (503, "1") == (page.status, page.field("Refresh"))
        assert 200 == (await exchange(url, post(BODY))).status


async def test_what_is_looked_at_is_not_counted_among_the_calls(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    async with a_gateway(tmp_path, upstream.url) as url:
        for path in ("/", "/ui/api/runs", "/runs/nobody"):
            await get(url, path)
        assert 200 == (await exchange(url, post(BODY))).status
        counted = msgspec.json.decode((await get(url, f"{PREFIX}/health")).body)["relay"]["exchanges"]
    assert {"anthropic": {"200": {"completed": 1}}} == counted


async def test_a_trace_of_a_size_that_nobody_takes_is_refused_before_all_of_it_has_come(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    head = (
        "POST /api/v1/push/trace HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer key\r\nContent-Length: {}\r\n\r\n"
    )
    async with a_gateway(tmp_path, upstream.url) as url, connect(url) as client:
        await client.send(head.format(1 << 40).encode())
        for _ in range(LARGEST_BODY >> 20):
            await client.send(bytes(1 << 20))
        client.writer.write(bytes(1 << 20))
        assert (await client.head()).startswith(b"HTTP/1.1 413")


async def test_who_listens_does_not_hold_up_the_end(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    async with a_gateway(tmp_path, upstream.url) as url:
        async with connect(url) as listener:
            await listener.send(b"GET /ui/api/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await listener.until(b"\n\n")
    await eventually(lambda: not Directory(tmp_path / "data").socket.exists())
