"""A relayed stream, read by somebody else's reader: aiohttp-sse-client sees the events that were sent."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from aiohttp_sse_client.client import EventSource

from sidestream.providers.sse import Decoder
from sidestream.testing import gateway
from sidestream.testing.upstream import STREAM_HEAD, Connection, Received, chunk

if TYPE_CHECKING:
    from sidestream.testing import ScriptedUpstream

FIXTURES = Path(__file__).parent.parent / "fixtures" / "anthropic"


@pytest.mark.parametrize("name", ["text", "thinking_with_signature", "parallel_tools", "server_tool_web_search"])
async def test_an_independent_reader_sees_the_same_events(upstream: ScriptedUpstream, name: str) -> None:
    stream = (FIXTURES / f"{name}.sse").read_bytes()
    sent = [(event.name, event.data) for event in Decoder().feed(stream)]

    async def script(_received: Received, connection: Connection) -> None:
        await connection.send(STREAM_HEAD)
        for start in range(0, len(stream), 11):
            await connection.send(chunk(stream[start : start + 11]))
        await connection.send(chunk(b""))

    upstream.script = script
    read = []
    async with gateway(upstream.url) as url:
        target = f"{url}/my-agent/anthropic/v1/messages"
        options = {"method": "POST"}
        async with EventSource(target, option=options, headers={"x-api-key": "k"}, data=b"{}") as source:
            async for event in source:
                read.append((event.type, event.data))
                if len(read) == len(sent):  # it would reconnect at the end
                    break
    assert sent == read
