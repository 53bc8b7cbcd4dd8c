"""Canary keys, everywhere a client can put one: none of them reaches a disk, a log, a metric, or a push."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from chaos.left import all_delivered
from gateway_process import GatewayProcess
from rawhttp import connect, exchange, post
from sidestream.testing import FakeExplorer
from sidestream.testing.upstream import STREAM_HEAD, Connection, Received, chunk, response

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

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
            sinks=[
                {"explorer": {"url": explorer.url, "settle": "0.5s"}},
                {"jsonl": {"path": str(tmp_path / "data" / "traces.jsonl")}},
            ],
        )
        async with gateway:
            said = [await exchange(gateway.url, request) for request in requests]
            await gateway.kill("recorder")
            said += [await exchange(gateway.url, requests[0])]
            assert await all_delivered(gateway, 30)
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
            assert await all_delivered(gateway, 30)
            lines = gateway.command_lines()
            await gateway.end()
        assert [CONFIGURED] == [trace.key for trace in explorer.traces]
    files = [file.read_bytes() for file in (tmp_path / "data").rglob("*") if file.is_file()]
    assert not any(CONFIGURED.encode() in data for data in [*files, gateway.log.read_bytes()])
    assert 3 == len(lines)
    assert not any(CONFIGURED in line for line in lines)


KEY = f"sk-ant-{CANARY}"
GOOD = f"x-api-key: {KEY};invariant-auth={TRACE_KEY}\r\n"
OTHER = "x-api-key: sk-ant-another\r\n"
MESSAGES = "/api/v1/gateway/my-agent/anthropic/v1/messages"
CHUNKED = "Transfer-Encoding: chunked\r\n"


def raw(line: str = f"POST {MESSAGES} HTTP/1.1", fields: str = GOOD, body: str = "") -> bytes:
    framing = "" if "Transfer-Encoding" in fields else "Content-Length: 2\r\n"
    return f"{line}\r\nHost: g\r\n{fields}{framing}\r\n{body or '{}'}".encode("latin-1")


PLACES = {
    # Where they belong.
    "x-api-key": raw(),
    "bearer": raw(fields=f"Authorization: Bearer {KEY}\r\nInvariant-Authorization: Bearer {TRACE_KEY}\r\n"),
    "both": raw(fields=f"{GOOD}Authorization: Bearer {KEY}\r\n"),
    "in the older form": raw(fields=f"x-api-key: {KEY}|invariant-auth: {TRACE_KEY}\r\n"),
    "spaces around": raw(fields=f"X-API-KEY:  \t{KEY}  \r\n"),
    # Where they do not.
    "cookie": raw(fields=f"{OTHER}Cookie: session={KEY}; trace={TRACE_KEY}\r\n"),
    "proxy": raw(fields=f"{OTHER}Proxy-Authorization: Basic {KEY}\r\n"),
    "basic": raw(fields=f"Authorization: Basic {KEY}\r\n"),
    "bare": raw(fields=f"Authorization: {KEY}\r\n"),
    "referer": raw(fields=f"{OTHER}Referer: https://e.test/?key={KEY}\r\n"),
    "another field": raw(fields=f"{OTHER}X-My-Key: {KEY}\r\napi-key: {TRACE_KEY}\r\n"),
    "named in Connection": raw(fields=f"{OTHER}Connection: X-Key, Invariant-Authorization\r\nX-Key: {KEY}\r\n"),
    "agent and beta": raw(fields=f"{GOOD}User-Agent: curl {KEY}\r\nanthropic-beta: {KEY}\r\nx-session-id: {KEY}\r\n"),
    "query": raw(f"POST {MESSAGES}?key={KEY}&trace={TRACE_KEY} HTTP/1.1"),
    "query of health": raw(f"GET /api/v1/gateway/health?key={KEY} HTTP/1.1"),
    "query of the viewer": raw(f"GET /?token={KEY} HTTP/1.1"),
    "query of no route": raw(f"GET /nowhere?key={KEY} HTTP/1.1"),
    "dataset": raw(f"POST /api/v1/gateway/{KEY}/anthropic/v1/messages HTTP/1.1"),
    "dataset, trace key": raw(f"POST /api/v1/gateway/{TRACE_KEY}/anthropic/v1/messages HTTP/1.1"),
    "no provider": raw(f"POST /api/v1/gateway/my-agent/{KEY}/v1/messages HTTP/1.1"),
    "path": raw(f"POST /api/v1/gateway/my-agent/anthropic/v1/messages/{KEY}/{TRACE_KEY} HTTP/1.1"),
    "path, encoded": raw(f"GET /api/v1/gateway/anthropic/v1/files/sk%2Dant-{CANARY} HTTP/1.1"),
    "no route": raw(f"POST /{KEY} HTTP/1.1"),
    "chunk extension": raw(fields=GOOD + CHUNKED, body=f'2;key="{KEY}"\r\n{{}}\r\n0;{TRACE_KEY}\r\n\r\n'),
    "trailer": raw(fields=GOOD + CHUNKED, body=f"2\r\n{{}}\r\n0\r\nx-api-key: {KEY}\r\nX: {TRACE_KEY}\r\n\r\n"),
    # Where nothing can be understood.
    "half a pair": raw(fields=f"x-api-key: {KEY};invariant-auth=\r\n"),
    "two trace keys": raw(fields=f"{GOOD}Invariant-Authorization: Bearer {'inv-' + '0' * 64}\r\n"),
    "a bad trace key": raw(fields=f"{OTHER}Invariant-Authorization: {TRACE_KEY} {KEY}\r\n"),
    "line": raw(f"POST {KEY}"),
    "method": raw(f"{KEY} / HTTP/1.1"),
    "version": raw(f"POST {MESSAGES} {KEY}"),
    "space before the colon": raw(fields=f"x-api-key : {KEY}\r\n"),
    "control character": raw(fields=f"x-api-key: {KEY}\x01{TRACE_KEY}\r\n"),
    "NUL": raw(fields=f"x-api-key: {KEY}\0\r\n"),
    "not UTF-8": raw(fields=f"x-api-key: {KEY}\xff\r\n"),
    "folded": raw(fields=f"x-api-key: a\r\n {KEY}\r\n"),
    "no colon": raw(fields=f"{KEY}\r\n"),
    "no name": raw(fields=f": {KEY}\r\n"),
    "bad name": raw(fields=f"{KEY}@: x\r\n"),
    "too long": raw(fields=f"x-api-key: {KEY * 5000}\r\n"),
    "too many": raw(fields=f"X: {KEY}\r\n" * 400),
    "host": raw(fields=f"{GOOD}Host: {KEY}\r\n"),
    "length": raw(fields=f"{GOOD}Content-Length: {KEY}\r\n"),
    "coding": raw(fields=f"{GOOD}Transfer-Encoding: {KEY}\r\n"),
    "expectation": raw(fields=f"{GOOD}Expect: {KEY}\r\n"),
    "chunk size": raw(fields=GOOD + CHUNKED, body=f"2\r\n{{}}\r\n{KEY}\r\n"),
    "a long chunk extension": raw(fields=GOOD + CHUNKED, body=f"2;{KEY * 5000}\r\n{{}}\r\n0\r\n\r\n"),
    "a bad trailer": raw(fields=GOOD + CHUNKED, body=f"2\r\n{{}}\r\n0\r\n{KEY} \0\r\n\r\n"),
}


async def test_no_place_for_a_key_leads_to_a_file_the_log_or_an_answer(
    tmp_path: Path, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the relay hands over is looked at itself: the journal, which nobody reads here, as plain bytes."""

    async def script(received: Received, connection: Connection) -> None:
        keys = b" ".join(re.findall(rb"sk-ant-\w+|inv-\w+", received.head))
        await connection.send(
            b"HTTP/1.1 200 OK\r\nrequest-id: %s\r\nX-Echo: %s\r\nContent-Length: 2\r\n\r\n{}" % (keys, keys)
        )

    upstream.script = script
    monkeypatch.setenv("PYTHONASYNCIODEBUG", "1")  # asyncio's own log quotes whatever it can
    leaks: dict[str, list[str]] = {}
    async with GatewayProcess(tmp_path, upstream.url, recorder={"mode": "external"}) as gateway:
        for place, request in PLACES.items():
            async with connect(gateway.url) as client:
                await client.send(request)
                answer = await client.answer()
            said = answer.body if b"200" in answer.head[:12] else answer.head + answer.body
            if CANARY.encode() in said or TRACE_KEY.encode() in said:
                leaks.setdefault("the answer", []).append(place)
        shown = [(await gateway.get(page)).body for page in ("health", "ready", "metrics")]
        assert 200 == (await exchange(gateway.url, post(b"last words"))).status
        await gateway.end()
    files = {str(file.name): file.read_bytes() for file in (tmp_path / "data").rglob("*") if file.is_file()}
    assert any(b"last words" in data for data in files.values())
    places = {"the log": gateway.log.read_bytes(), "what is shown": b"".join(shown), **files}
    for name, data in places.items():
        for key in (CANARY.encode(), TRACE_KEY.encode()):
            at = data.find(key)
            if at >= 0:
                leaks.setdefault(name, []).append(repr(data[max(at - 200, 0) : at + 50]))
    assert {} == leaks
