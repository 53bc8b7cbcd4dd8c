"""Bodies that expand to gigabytes: relayed as they are, traced as far as the limit goes, in bounded memory."""

from __future__ import annotations

import asyncio
import gzip
import json
import sys
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import brotli
import pytest
import zstandard

from gateway_process import GatewayProcess
from rawhttp import KEYS, exchange, post
from sidestream.testing.upstream import Connection, Received, response

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidestream.testing import ScriptedUpstream

BLOCK = bytes(16 << 20)
BLOCKS = 640
"""Ten gigabytes."""
PEAK = 700
"""Megabytes: both bodies at 64 MiB, several times over, and what the process is made of."""


def _deflate(blocks: int) -> bytes:
    compressor = zlib.compressobj(1)
    return b"".join(compressor.compress(BLOCK) for _ in range(blocks)) + compressor.flush()


def _brotli(blocks: int) -> bytes:
    compressor = brotli.Compressor(quality=1, lgwin=24)
    return b"".join(compressor.process(BLOCK) for _ in range(blocks)) + bytes(compressor.finish())


BOMBS: dict[str, Callable[[], bytes]] = {
    "gzip": lambda: gzip.compress(BLOCK) * BLOCKS,
    "deflate": lambda: _deflate(64),  # cannot be made of parts; a gigabyte
    "br": lambda: _brotli(BLOCKS),
    "zstd": lambda: zstandard.compress(BLOCK) * BLOCKS,
    "gzip, gzip": lambda: gzip.compress(gzip.compress(BLOCK) * BLOCKS),
    "br, br": lambda: brotli.compress(_brotli(BLOCKS), quality=1),
    "zstd, br, gzip": lambda: gzip.compress(brotli.compress(zstandard.compress(BLOCK) * BLOCKS, quality=1)),
}


def _traces(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line)["metadata"] for line in file.read_text().splitlines()] if file.exists() else []


def _peak(pid: int) -> int:
    """The most memory that a process has had, in megabytes."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(fields["VmHWM"].split()[0]) >> 10


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.timeout(180)
async def test_bombs_in_both_directions_are_relayed_and_cost_the_recorder_little(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    bombs = {coding: make() for coding, make in BOMBS.items()}

    async def script(received: Received, connection: Connection) -> None:
        (coding,) = received.header("Content-Encoding")
        fields = [("Content-Type", "application/json"), ("Content-Encoding", coding)]
        await connection.send(response(bytes(received.body), headers=fields))

    upstream.script = script
    file = tmp_path / "traces.jsonl"
    async with GatewayProcess(tmp_path, upstream.url, sinks=[{"jsonl": {"path": str(file)}}]) as gateway:
        (recorder,) = gateway.children("recorder")
        for coding, bomb in bombs.items():
            answer = await exchange(gateway.url, post(bomb, headers=f"{KEYS}Content-Encoding: {coding}\r\n"))
            assert (200, bomb, True) == (answer.status, answer.body, answer.complete)
            assert bomb == upstream.requests[-1].body
        async with asyncio.timeout(120):
            while len(traces := _traces(file)) < len(bombs):  # noqa: ASYNC110  # another process
                await asyncio.sleep(0.1)
        assert [recorder] == gateway.children("recorder")
        assert _peak(recorder) < PEAK
    assert [{"request": "too_large", "response": "too_large"}] * len(bombs) == [trace["undecoded"] for trace in traces]
    assert [["request", "response"]] * len(bombs) == [trace["truncated"] for trace in traces]
