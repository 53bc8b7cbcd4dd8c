"""Canary keys, everywhere a client can put one: none of them reaches a disk, a log, a metric, or a push."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chaos.left import all_delivered
from gateway_process import GatewayProcess
from rawhttp import exchange, post
from sidestream.testing import FakeExplorer
from sidestream.testing.upstream import STREAM_HEAD, Connection, Received, chunk, response

if TYPE_CHECKING:
    from pathlib import Path

    from sidestream.testing import ScriptedUpstream

CANARY = "canary7f3a"
TRACE_KEY = "inv-" + "ca9a21e5" * 8
CONFIGURED = "inv-" + "c0f1964d" * 8


async def test_no_key_is_in_any_file_log_push_or_metric(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    async def script(received: Received, connection: Connection) -> None:
        if b"cut" in received.body:
            await connection.send(STREAM_HEAD + chunk(b'event: ping\ndata: {"type": "ping"}\n\n'))
            await connection.reset()
        answer = [
            ("Content-Type", "application/json"),
            ("Set-Cookie", f"__cf_bm={CANARY}"),
            ("request-id", f"req sk-{CANARY}"),
        ]
        await connection.send(response(b"{}", headers=answer))

    upstream.script = script
    path = f"/api/v1/gateway/my-agent/anthropic/v1/messages?key={CANARY}"
    keys = f"x-api-key: sk-{CANARY};invariant-auth={TRACE_KEY}\r\nCookie: {CANARY}\r\nProxy-Authorization: {CANARY}\r\n"
    bearer = f"Authorization: Bearer {CANARY}\r\nInvariant-Authorization: Bearer {TRACE_KEY}\r\n"
    requests = [
        post(b'{"messages": []}', path=path, headers=keys),
        post(b'{"messages": []}', path=path, headers=bearer),
        post(b'{"cut": 1}', path=path, headers=keys),
        post(path=path, headers=f"x-api-key: {CANARY};invariant-auth=\r\n"),
        f"POST {path} HTTP/1.1\r\nHost: g\r\nx-api-key: {CANARY}\x01\r\n\r\n".encode(),
    ]
    async with FakeExplorer() as explorer:
        gateway = GatewayProcess(
            tmp_path,
            upstream.url,
            server={"workers": 2},
            recorder={"durability": "strict"},
            sinks=[{"explorer": {"url": explorer.url}}, {"jsonl": {"path": str(tmp_path / "data" / "traces.jsonl")}}],
        )
        async with gateway:
            said = [await exchange(gateway.url, request) for request in requests]
            await gateway.kill("recorder")
            said += [await exchange(gateway.url, requests[0])]
            assert await all_delivered(gateway, 20)
            shown = [(await gateway.get(page)).body for page in ("health", "ready", "metrics")]
            files = {file: file.read_bytes() for file in (tmp_path / "data").rglob("*") if file.is_file()}
            await gateway.end()
        files |= {file: file.read_bytes() for file in (tmp_path / "data").rglob("*") if file.is_file()}
        pushed = [repr((trace.messages, trace.metadata)).encode() for trace in explorer.traces]
    assert len(pushed) >= 3
    assert len(files) >= 4
    written = [*files.values(), *shown, *pushed, gateway.log.read_bytes()]
    assert not any(CANARY.encode() in data for data in written)
    seen = [*written, *(answer.head + answer.body for answer in said)]
    echoed = (f"__cf_bm={CANARY}".encode(), f"req sk-{CANARY}".encode())  # to the client alone
    assert not any(CANARY.encode() in data.replace(echoed[0], b"").replace(echoed[1], b"") for data in seen)
    assert not any(TRACE_KEY.encode() in data for data in seen)


async def test_a_configured_key_is_on_no_command_line_and_in_no_file(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    async with FakeExplorer() as explorer:
        sinks = [{"explorer": {"url": explorer.url, "api_key": CONFIGURED}}]
        async with GatewayProcess(tmp_path, upstream.url, sinks=sinks) as gateway:
            await exchange(gateway.url, post(b'{"messages": []}'))
            assert await all_delivered(gateway, 20)
            lines = gateway.command_lines()
            await gateway.end()
        assert [CONFIGURED] == [trace.key for trace in explorer.traces]
    files = [file.read_bytes() for file in (tmp_path / "data").rglob("*") if file.is_file()]
    assert not any(CONFIGURED.encode() in data for data in [*files, gateway.log.read_bytes()])
    assert 3 == len(lines)
    assert not any(CONFIGURED in line for line in lines)
