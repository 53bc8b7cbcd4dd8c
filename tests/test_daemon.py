"""The standalone gateway as a process: its ready line, its end, and what it never prints."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from rawhttp import connect, exchange, post
from sidestream.testing.upstream import STREAM_HEAD, Connection, Received, chunk

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from sidestream.testing import ScriptedUpstream

EVENT = b'event: ping\ndata: {"type": "ping"}\n\n'


class Daemon:
    """A running ``sidestream serve``."""

    def __init__(self, process: asyncio.subprocess.Process, url: str) -> None:
        self.process = process
        self.url = url

    async def end(self, *signals: signal.Signals) -> tuple[int, str]:
        """Send signals, the second once the first was heard; returns the exit status and the log."""
        assert self.process.stderr is not None
        log = b""
        async with asyncio.timeout(20):
            for number in signals:
                self.process.send_signal(number)
                while b"draining_started" not in log and (line := await self.process.stderr.readline()):
                    log += line
            _out, err = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, (log + err).decode()


@contextlib.asynccontextmanager
async def daemon(folder: Path, upstream: str, **sections: Any) -> AsyncIterator[Daemon]:
    """Start the gateway as a user would, with a configuration file."""
    config = {
        "upstreams": {"anthropic": {"url": upstream}},
        "sinks": [{"jsonl": {"path": str(folder / "traces.jsonl")}}],
        **sections,
    }
    file = folder / "sidestream.yaml"
    file.write_text(yaml.safe_dump(config))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sidestream", "serve", "-c", str(file), "--port", "0"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(20):
            ready = (await process.stdout.readline()).decode()
        match = re.search(r"http://127\.0\.0\.1:\d+/api/v1/gateway/my-agent/anthropic", ready)
        assert match, ready
        yield Daemon(process, match[0])
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


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
    async with daemon(tmp_path, upstream.url) as running, connect(running.url) as client:
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
    async with daemon(tmp_path, upstream.url, server={"drain": "1h"}) as running, connect(running.url) as client:
        await client.send(post())
        await client.until(EVENT)
        status, _log = await running.end(signal.SIGTERM, signal.SIGTERM)
    assert 128 + signal.SIGTERM == status


async def test_a_stream_that_outlasts_the_drain_is_cut_and_traced(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    async def script(_received: Received, connection: Connection) -> None:
        await connection.send(STREAM_HEAD + chunk(EVENT))
        await connection.closed_by_peer()

    upstream.script = script
    async with daemon(tmp_path, upstream.url, server={"drain": "200ms"}) as running, connect(running.url) as client:
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
    async with daemon(tmp_path, upstream.url) as running:
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
    file.write_text(yaml.safe_dump({"upstreams": {"anthropic": {"url": upstream.url}}, "sinks": []}))
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
