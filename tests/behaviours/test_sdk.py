"""The official SDK, sync and async, stream and not, gets through the gateway what it gets directly."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anthropic
import pytest

from sidestream.testing import ScriptedUpstream, gateway
from sidestream.testing.upstream import STREAM_HEAD, Connection, Received, chunk, response

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

FIXTURES = Path(__file__).parent.parent / "fixtures" / "anthropic"
ASK: dict[str, Any] = {
    "model": "claude-test-1",
    "max_tokens": 64,
    "messages": [{"role": "user", "content": "Wie spät ist es in 東京?"}],
}
MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-test-1",
    "content": [{"type": "text", "text": "Zeit für Tee ☕"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 3, "output_tokens": 5},
}


@pytest.fixture(params=["text.sse", "parallel_tools.sse", "thinking_with_signature.sse"])
def stream(request: pytest.FixtureRequest) -> bytes:
    return (FIXTURES / str(request.param)).read_bytes()


@pytest.fixture
async def provider(stream: bytes, upstream: ScriptedUpstream) -> ScriptedUpstream:
    """Streams a fixture in awkward pieces where a stream is asked for, and answers in JSON otherwise."""

    async def script(received: Received, connection: Connection) -> None:
        if not json.loads(received.body).get("stream"):
            await connection.send(response(json.dumps(MESSAGE).encode()))
            return
        await connection.send(STREAM_HEAD)
        for start in range(0, len(stream), 37):
            await connection.send(chunk(stream[start : start + 37]))
        await connection.send(chunk(b""))

    upstream.script = script
    return upstream


@pytest.fixture
async def bases(provider: ScriptedUpstream) -> AsyncIterator[list[str]]:
    """Base URLs: the provider's own, and the gateway's with and without a dataset."""
    async with gateway(provider.url) as url:
        yield [provider.url, f"{url}/anthropic", f"{url}/my-agent/anthropic"]


async def test_the_async_client_gets_the_same_messages(bases: list[str]) -> None:
    plain, streamed, events = [], [], []
    for base in bases:
        async with anthropic.AsyncAnthropic(api_key="sk-ant-x", base_url=base, max_retries=0) as client:
            plain.append((await client.messages.create(**ASK)).to_dict())
            async with client.messages.stream(**ASK) as stream:
                events.append([event.type async for event in stream])
                streamed.append((await stream.get_final_message()).to_dict())
    for results in (plain, streamed, events):
        assert [results[0]] * 3 == results
    assert MESSAGE == plain[0]
    assert events[0]


async def test_the_sync_client_gets_the_same_messages(bases: list[str]) -> None:
    def ask(base: str) -> list[Any]:
        with anthropic.Anthropic(api_key="sk-ant-x", base_url=base, max_retries=0) as client:
            with client.messages.stream(**ASK) as stream:
                events = [event.type for event in stream]
                final = stream.get_final_message().to_dict()
            return [client.messages.create(**ASK).to_dict(), final, events]

    results = [await asyncio.to_thread(ask, base) for base in bases]
    assert [results[0]] * 3 == results


async def test_a_provider_error_is_the_same_exception(upstream: ScriptedUpstream) -> None:
    body = b'{"type":"error","error":{"type":"rate_limit_error","message":"slow down"},"request_id":"req_7"}'

    async def script(_received: Received, connection: Connection) -> None:
        fields = [("content-type", "application/json"), ("retry-after", "7"), ("request-id", "req_7")]
        await connection.send(response(body, status="429 Too Many Requests", headers=fields))

    upstream.script = script
    async with gateway(upstream.url) as url:
        for base in (upstream.url, f"{url}/my-agent/anthropic"):
            async with anthropic.AsyncAnthropic(api_key="sk-ant-x", base_url=base, max_retries=0) as client:
                with pytest.raises(anthropic.RateLimitError) as caught:
                    await client.messages.create(**ASK)
                assert ("req_7", "7") == (caught.value.request_id, caught.value.response.headers["retry-after"])


async def test_an_error_of_the_gateways_own_is_an_exception_the_sdk_knows(unused_tcp_port: int) -> None:
    async with gateway(f"http://127.0.0.1:{unused_tcp_port}") as url:
        async with anthropic.AsyncAnthropic(api_key="k", base_url=f"{url}/my-agent/anthropic", max_retries=0) as client:
            with pytest.raises(anthropic.InternalServerError, match="could not be reached"):
                await client.messages.create(**ASK)


async def test_a_combined_key_works_in_the_sdk(provider: ScriptedUpstream) -> None:
    async with gateway(provider.url) as url:
        key = "sk-ant-x;invariant-auth=inv-0"
        async with anthropic.AsyncAnthropic(api_key=key, base_url=f"{url}/my-agent/anthropic", max_retries=0) as client:
            await client.messages.create(**ASK)
    sent = provider.requests[-1]
    keys = sent.header("x-api-key") + sent.header("Authorization")
    assert ["sk-ant-x"] == [value.removeprefix("Bearer ") for value in keys]
    assert b"inv-0" not in sent.head
