"""The official SDK comes back when a busy gateway has told it to; it waits for a second at least."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import anthropic

from rawhttp import connect, post
from sidestream.testing import gateway
from sidestream.testing.upstream import STREAM_HEAD, Connection, Received, chunk, response

if TYPE_CHECKING:
    from sidestream.testing import ScriptedUpstream


async def test_the_sdk_tries_again_and_gets_its_answer(upstream: ScriptedUpstream) -> None:
    """The stream that is in its way ends when the first attempt has been refused."""
    refused = asyncio.Event()

    async def script(received: Received, connection: Connection) -> None:
        if json.loads(received.body)["stream"]:
            await connection.send(STREAM_HEAD + chunk(b": here\n\n"))
            await refused.wait()
            await connection.send(chunk(b""))
        else:
            await connection.send(response(b'{"answer": 1}'))

    upstream.script = script
    statuses = []

    async def note(answer: Any) -> None:
        statuses.append(answer.status_code)
        refused.set()

    async with (
        gateway(upstream.url, caps={"exchanges": 1}) as url,
        connect(url) as client,
        anthropic.DefaultAsyncHttpxClient(event_hooks={"response": [note]}) as http,
    ):
        await client.send(post(b'{"stream": true}'))
        await client.until(b": here\n\n")
        sdk = anthropic.AsyncAnthropic(
            api_key="k", base_url=f"{url}/my-agent/anthropic", max_retries=2, http_client=http
        )
        answer = await sdk.post("/v1/messages", body={"stream": False}, cast_to=object)
    assert ({"answer": 1}, [503, 200]) == (answer, statuses)
