"""A relay under its supervisor, as ``sidestream serve`` starts them: signals, reloads, and what is never printed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from typing import TYPE_CHECKING

import pytest
import yaml

from rawhttp import connect, exchange, post
from serving import serving
from sidestream.testing.upstream import STREAM_HEAD, Connection, Received, chunk, response

if TYPE_CHECKING:
    from pathlib import Path

    from sidestream.testing import ScriptedUpstream

EVENT = b'event: ping\ndata: {"type": "ping"}\n\n'


async def refused(url: str) -> None:
    """Connect again and again until nobody listens any more."""
    async with asyncio.timeout(10):
        with contextlib.suppress(OSError):
            while True:
                async with connect(url) as client:
                    await client.closed()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_lets_a_stream_finish_and_its_trace_arrive(
    tmp_path: Path, upstream: ScriptedUpstream, number: signal.Signals
) -> None:
    go_on = asyncio.Event()

    async def script(_received: Received, connection: Connection) -> None:
        await connection.send(STREAM_HEAD + chunk(EVENT))
        await go_on.wait()
        await connection.send(chunk(EVENT) + chunk(b""))

    upstream.script = script
    async with serving(tmp_path, upstream.url) as running, connect(running.url) as client:
        await client.send(post())
        await client.until(EVENT)
        ending = asyncio.create_task(running.end(number))
        await refused(running.url)
        go_on.set()
        rest = await client.rest()
        assert rest is not None
        assert rest.endswith(b"0\r\n\r\n")
        status, log = await ending
    assert 0 == status
    assert {"gateway_started", "draining_started", "gateway_stopped"} <= {
        json.loads(line)["event"] for line in log.splitlines()
    }
    (trace,) = map(json.loads, (tmp_path / "traces.jsonl").read_text().splitlines())
    assert "completed" == trace["metadata"]["outcome"]


async def test_a_second_signal_stops_at_once(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    async def script(_received: Received, connection: Connection) -> None:
        await connection.send(STREAM_HEAD + chunk(EVENT))
        await connection.closed_by_peer()

    upstream.script = script
    async with serving(tmp_path, upstream.url, server={"drain": "1h"}) as running, connect(running.url) as client:
        await client.send(post())
        await client.until(EVENT)
        status, _log = await running.end(signal.SIGTERM, signal.SIGTERM)
    assert 128 + signal.SIGTERM == status


async def test_a_stream_that_outlasts_the_drain_is_cut_and_traced(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    async def script(_received: Received, connection: Connection) -> None:
        await connection.send(STREAM_HEAD + chunk(EVENT))
        await connection.closed_by_peer()

    upstream.script = script
    async with serving(tmp_path, upstream.url, server={"drain": "200ms"}) as running, connect(running.url) as client:
        await client.send(post())
        await client.until(EVENT)
        status, log = await running.end(signal.SIGTERM)
        assert not (await client.rest() or b"").endswith(b"0\r\n\r\n")
    assert 0 == status
    assert "streams_cut" in log
    (trace,) = map(json.loads, (tmp_path / "traces.jsonl").read_text().splitlines())
    assert "cancelled" == trace["metadata"]["outcome"]


async def test_no_key_reaches_a_log_a_trace_or_an_error(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    """Canaries in headers, query strings, bodies' heads and malformed requests."""
    canary = "canary-7f3a"

    async def script(received: Received, connection: Connection) -> None:
        if b"cut" in received.body:
            await connection.send(STREAM_HEAD + chunk(EVENT))
            await connection.reset()
        await connection.send(b"HTTP/1.1 500 Oops\r\nContent-Length: 2\r\n\r\n{}")

    upstream.script = script
    keys = f"x-api-key: sk-{canary};invariant-auth=inv-{canary}\r\nAuthorization: Bearer tok-{canary}\r\n"
    path = f"/api/v1/gateway/my-agent/anthropic/v1/messages?key={canary}"
    requests = [
        post(path=path, headers=keys),
        post(b'"cut"', path=path, headers=keys),
        post(path=path, headers=f"invariant-authorization: {canary}\r\n{keys}"),
        post(path=f"/api/v1/gateway/{canary}.x/anthropic/v1", headers=keys),
        f"POST {path} HTTP/1.1\r\nHost: g\r\nx-api-key: {canary}\x01\r\n\r\n".encode(),
        f"{canary} {path}\r\n\r\n".encode(),
    ]
    async with serving(tmp_path, upstream.url) as running:
        answers = [await exchange(running.url, request) for request in requests]
        health = await exchange(running.url, b"GET /api/v1/gateway/health HTTP/1.1\r\nHost: g\r\n\r\n", method="GET")
        status, log = await running.end(signal.SIGTERM)
    assert 0 == status
    traces = (tmp_path / "traces.jsonl").read_text()
    assert 2 == len(traces.splitlines())
    assert canary not in log + traces + health.body.decode()
    assert not any(canary.encode() in answer.head + answer.body for answer in answers)


async def test_a_port_that_is_taken_is_a_clear_error(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    port = upstream.url.rpartition(":")[2]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sidestream", "serve", "--port", port),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "XDG_DATA_HOME": str(tmp_path)},
    )
    _out, err = await process.communicate()
    assert 1 == process.returncode
    assert f"cannot listen on 127.0.0.1:{port}" in err.decode()
    assert "Traceback" not in err.decode()


async def test_a_log_that_cannot_be_written_is_nobody_elses_trouble(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    """Standard error is a pipe that nobody reads, and then one whose reader has gone."""
    file = tmp_path / "sidestream.yaml"
    config = {"upstreams": {"anthropic": {"url": upstream.url}}, "recorder": {"mode": "none"}, "sinks": []}
    file.write_text(yaml.safe_dump(config))
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, bytes(1 << 16))
    os.set_blocking(writing, True)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sidestream", "serve", "-c", str(file), "--port", "0"),
        stdout=asyncio.subprocess.PIPE,
        stderr=writing,
    )
    os.close(writing)
    try:
        assert process.stdout is not None
        async with asyncio.timeout(30):
            url = (await process.stdout.readline()).decode().split()[-1]
            for _ in range(5):
                assert 200 == (await exchange(url, post())).status
            os.close(reading)
            for _ in range(5):
                assert 200 == (await exchange(url, post())).status
            process.send_signal(signal.SIGTERM)
            assert 0 == await process.wait()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()


async def test_without_aiohttps_c_extension_it_does_not_start(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sidestream", "serve", "--port", "0"),
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "XDG_DATA_HOME": str(tmp_path), "AIOHTTP_NO_EXTENSIONS": "1"},
    )
    _out, err = await process.communicate()
    assert 1 == process.returncode
    assert "C extension" in err.decode()


async def test_a_configuration_that_cannot_work_is_refused_with_every_problem(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("middlewares: [trace_export, {stream_tee: {limt: 1MiB}}]\nsinks: [{jsnl: {}}]\n")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sidestream", "serve", "-c", str(file)), stderr=asyncio.subprocess.PIPE
    )
    _out, err = await process.communicate()
    assert 2 == process.returncode
    assert "middlewares[1].stream_tee.limt: unknown option, did you mean 'limit'?" in err.decode()
    assert "jsonl" in err.decode()


async def ok(_received: Received, connection: Connection) -> None:
    await connection.send(response(b"{}"))


async def test_a_relay_that_is_killed_is_replaced_and_what_was_counted_stays(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    upstream.script = ok
    async with serving(tmp_path, upstream.url) as running:
        assert 200 == (await exchange(running.url, post())).status
        victim = (await running.until("process_started", kind="relay"))["pid"]
        os.kill(victim, signal.SIGKILL)
        died = await running.until("process_died")
        assert ("relay", victim, "SIGKILL") == (died["kind"], died["pid"], died["signal"])
        assert 200 == (await exchange(running.url, post())).status
        assert 0 == (await running.end(signal.SIGTERM))[0]


async def test_when_the_supervisor_is_killed_relays_let_go_of_the_port_and_streams_finish(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    go_on = asyncio.Event()

    async def script(_received: Received, connection: Connection) -> None:
        await connection.send(STREAM_HEAD + chunk(EVENT))
        await go_on.wait()
        await connection.send(chunk(EVENT) + chunk(b""))

    upstream.script = script
    async with serving(tmp_path, upstream.url) as running, connect(running.url) as client:
        await client.send(post())
        await client.until(EVENT)
        running.process.kill()
        await refused(running.url)
        go_on.set()
        assert (await client.rest() or b"").endswith(b"0\r\n\r\n")
        async with asyncio.timeout(20):
            _out, rest = await running.process.communicate()  # ends when the last process that has the pipe does
    assert b"supervisor_lost" in rest


async def test_a_reload_takes_effect_and_a_stream_of_before_it_finishes(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    go_on = asyncio.Event()

    async def script(_received: Received, connection: Connection) -> None:
        await connection.send(STREAM_HEAD + chunk(EVENT))
        await go_on.wait()
        await connection.send(chunk(EVENT) + chunk(b""))

    upstream.script = script
    async with serving(tmp_path, upstream.url) as running, connect(running.url) as client:
        await client.send(post())
        await client.until(EVENT)
        health = running.base.rsplit("/", 1)[0] + "/other/health"
        path = health.partition("//")[2].partition("/")[2]
        refused = await running.reload("reload_refused", server={"port": 7, "prot": 1})
        assert "server.prot" == refused["problems"][0]["path"]
        refused = await running.reload("reload_refused", server={"host": "::1"}, recorder={"mode": "thread"})
        assert ["recorder.dir", "recorder.mode"] == [problem["path"] for problem in refused["problems"]]
        config = {"mode": "none", "dir": str(tmp_path / "data")}
        await running.reload(server={"prefix": "/api/v1/other"}, recorder=config)
        answer = await exchange(running.url, f"GET /{path} HTTP/1.1\r\nHost: g\r\n\r\n".encode(), method="GET")
        assert 200 == answer.status
        go_on.set()
        assert await client.until(chunk(b""))
        await client.send(post())
        assert b"connection: close" in (await client.until(b"\r\n\r\n")).lower()
        await client.closed()
        await running.until("process_ended", kind="relay")
        assert 0 == (await running.end(signal.SIGTERM))[0]


async def test_a_page_that_is_left_open_keeps_no_relay_after_a_reload(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    recorder = {"dir": str(tmp_path / "data"), "flush": "300ms"}
    async with serving(tmp_path, upstream.url, recorder=recorder) as running, connect(running.url) as page:
        await running.until("recorder_started")
        await page.send(b"GET /ui/api/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"text/event-stream" in await page.until(b"retry: ")
        await running.reload(server={"drain": "10s"})
        await page.closed()
        await running.until("process_ended", kind="relay")
        assert 0 == (await running.end(signal.SIGTERM))[0]


async def test_reloads_under_load_fail_no_request(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    """Clients that keep their connections, as long as the gateway does, and open new ones."""
    upstream.script = ok
    statuses: list[int] = []
    enough = asyncio.Event()

    async def load(url: str) -> None:
        while not enough.is_set():
            async with connect(url) as client:
                kept = True
                while kept and not enough.is_set():
                    await client.send(post())
                    answer = await client.answer()
                    assert answer.complete
                    statuses.append(answer.status)
                    kept = answer.field("Connection") != "close"

    async with serving(tmp_path, upstream.url, sinks=[]) as running:
        clients = [asyncio.ensure_future(load(running.url)) for _ in range(3)]
        running.process.send_signal(signal.SIGHUP)
        await running.until("process_started", 2)
        running.process.send_signal(signal.SIGHUP)  # heard while the first is being heeded
        await running.until("reload_finished", 2)
        enough.set()
        await asyncio.gather(*clients)
        assert 0 == (await running.end(signal.SIGTERM))[0]
    assert {200} == set(statuses)
    assert not running.logged("process_died")


async def test_it_listens_on_every_address_of_a_name(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    upstream.script = ok
    async with serving(tmp_path, upstream.url, host="localhost") as running:
        assert running.base.startswith("http://localhost:")
        assert 200 == (await exchange(running.url, post())).status
