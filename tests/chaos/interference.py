"""How old relayed events are while a response of many megabytes is being understood, by where that happens."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from statistics import quantiles
from typing import TYPE_CHECKING

from chaos.agents import MESSAGE
from gateway_process import GatewayProcess
from rawhttp import connect, exchange, post
from sidestream.testing import ScriptedUpstream
from sidestream.testing.upstream import STREAM_HEAD, Connection, Received, chunk, response

if TYPE_CHECKING:
    from pathlib import Path

_EVERY = 0.002
_SECONDS = 3.0


@dataclass(frozen=True)
class Ages:
    """Of events on their way through the gateway, in milliseconds."""

    p50: float
    p99: float
    longest: float


async def interference(folder: Path, mode: str, megabytes: int) -> tuple[Ages, Ages]:
    """The ages of a stream's events while nothing else happens, and while `megabytes` are being understood."""
    parts = [{"type": "text", "text": "x" * 200, "citations": [{"n": n}]} for n in range(megabytes * 4000)]
    large = json.dumps({**MESSAGE, "content": parts}).encode()

    async def script(received: Received, connection: Connection) -> None:
        if b"large" in received.body:
            await connection.send(response(large))
            return
        await connection.send(STREAM_HEAD)
        until = time.monotonic() + _SECONDS
        while time.monotonic() < until:
            await connection.send(chunk(f"event: ping\ndata: {time.monotonic_ns()}\n\n".encode()))
            await asyncio.sleep(_EVERY)
        await connection.send(chunk(b""))

    async with ScriptedUpstream(script) as upstream:
        recorder = {"mode": mode}
        capture = [{"body_capture": {}}, {"stream_tee": {"limit": "64MiB"}}]
        gateway = GatewayProcess(
            folder, upstream.url, recorder=recorder, middlewares=["trace_export", "auth_split", *capture]
        )
        async with gateway:
            alone = await _ages(gateway)
            assert (await exchange(gateway.url, post(b'"large"'))).complete
            beside = await _ages(gateway)
            return alone, beside


async def _ages(gateway: GatewayProcess) -> Ages:
    ages: list[float] = []
    path = "/api/v1/gateway/anthropic/v1/messages"  # no dataset: this stream is not itself recorded
    async with connect(gateway.url) as client:
        await client.send(post(path=path))
        await client.head()
        while not (line := await client.reader.readline()).startswith(b"0\r"):
            if line.startswith(b"data: "):
                ages.append((time.monotonic_ns() - int(line[6:])) / 1e6)
    cuts = quantiles(ages, n=100)
    return Ages(round(cuts[49], 2), round(cuts[98], 2), round(max(ages), 2))
