"""Recorded exchanges, replayed by an upstream that splits at hostile places, come through untouched and understood.

``SIDESTREAM_STREAMS`` names the folder that holds them; without it these tests are skipped, and say so.
"""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from typing import Any

import pytest

from rawhttp import KEYS, connect
from sidestream.testing import ScriptedUpstream, gateway
from sidestream.testing.upstream import STREAM_HEAD, Connection, Received, chunk, response

STREAMS = os.environ.get("SIDESTREAM_STREAMS", "")
EXCHANGES = sorted(Path(STREAMS, "anthropic").iterdir()) if STREAMS else []


def hostile_pieces(body: bytes) -> list[bytes]:
    """Cuts inside UTF-8 sequences and escapes, around line ends and colons, and at every odd place in between."""
    cuts = {i for i, byte in enumerate(body) if byte in b'\n:\\"}' or byte >= 0x80}
    edges = [0, *sorted(cuts)[:: max(1, len(cuts) // 400)], len(body)]
    return [body[a:b] for a, b in itertools.pairwise(edges) if a < b]


@pytest.mark.skipif(not STREAMS, reason="SIDESTREAM_STREAMS names no folder of recorded exchanges")
@pytest.mark.parametrize("folder", EXCHANGES, ids=lambda folder: folder.name)
async def test_a_recorded_exchange_comes_through_untouched_and_understood(
    folder: Path, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    streamed = (folder / "response.sse").exists()
    body = (folder / ("response.sse" if streamed else "response.json")).read_bytes()
    recorded = folder / "request.json"
    request = recorded.read_bytes() if recorded.exists() else b'{"messages":[{"role":"user","content":"?"}]}'

    async def script(_received: Received, connection: Connection) -> None:
        if not streamed:
            await connection.send(response(body))
            return
        await connection.send(STREAM_HEAD)
        for piece in hostile_pieces(body):
            await connection.send(chunk(piece))
        await connection.send(chunk(b""))

    upstream.script = script
    file = tmp_path / "traces.jsonl"
    async with gateway(upstream.url, sinks=[{"jsonl": {"path": str(file)}}]) as url, connect(url) as client:
        path = "/api/v1/gateway/recorded/anthropic/v1/messages?beta=true"
        await client.send(f"POST {path} HTTP/1.1\r\nHost: g\r\n{KEYS}Transfer-Encoding: chunked\r\n\r\n".encode())
        for piece in hostile_pieces(request):
            await client.send(chunk(piece))
        await client.send(chunk(b""))
        answer = await client.answer()
    assert request == bytes(upstream.requests[0].body)
    assert (body, True) == (answer.body, answer.complete)
    (trace,) = map(json.loads, file.read_text().splitlines())
    expected = json.loads((folder / "expected.json").read_text())
    facts: dict[str, Any] = trace["metadata"]
    assert "completed" == facts["outcome"]
    if "sdk_error" in expected:
        assert facts["error"]
        return
    assert facts["message_complete"]
    assert expected["model"] == facts["model"]
    assert expected["stop_reason"] == facts["stop_reason"]
    assert without_nulls(expected["usage"]) == without_nulls(facts["usage"])
    assert expected["id"] == trace["messages"][-1]["metadata"]["id"]


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    return value
