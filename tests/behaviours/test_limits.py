"""Beyond the limits a call is refused at once, and those under way go on untouched."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from doubles import Witness
from rawhttp import PATH, Answer, RawClient, connect, exchange, post
from sidestream import mount
from sidestream.testing import gateway, running
from sidestream.testing.upstream import STREAM_HEAD, Connection, Received, chunk, response

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sidestream.testing import ScriptedUpstream

EVENT = b'event: ping\ndata: {"type": "ping"}\n\n'
STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
STREAMED = b'{"stream": true}'


@pytest.fixture
async def go_on(upstream: ScriptedUpstream) -> AsyncIterator[asyncio.Event]:
    """An upstream that streams one event, and the rest when told to; what is not to be streamed it answers at once."""
    event = asyncio.Event()

    async def script(received: Received, connection: Connection) -> None:
        if received.body != STREAMED:
            return await connection.send(response(b"{}"))
        await connection.send(STREAM_HEAD + chunk(EVENT))
        await event.wait()
        await connection.send(chunk(STOP) + chunk(b""))
        return None

    upstream.script = script
    yield event
    event.set()


def streamed(key: str = "sk-ann") -> bytes:
    return post(STREAMED, headers=f"x-api-key: {key}\r\n")


async def open_streams(stack: contextlib.AsyncExitStack, url: str, count: int, key: str = "sk-ann") -> list[RawClient]:
    """So many streams under way, the first event of each received."""
    clients = []
    for _ in range(count):
        client = await stack.enter_async_context(connect(url))
        await client.send(streamed(key))
        await client.until(EVENT)
        clients.append(client)
    return clients


async def until_served(url: str, request: bytes) -> Answer:
    """An exchange ends a moment after its client has its last byte."""
    async with asyncio.timeout(10):
        while (answer := await exchange(url, request)).status != 200:
            pass
    return answer


async def numbers(url: str) -> dict[str, Any]:
    answer = await exchange(url, b"GET /api/v1/gateway/health HTTP/1.1\r\nHost: g\r\n\r\n", method="GET")
    relay: dict[str, Any] = json.loads(answer.body)["relay"]
    return relay


async def test_beyond_the_cap_a_call_is_refused_at_once_and_the_others_go_on(
    upstream: ScriptedUpstream, go_on: asyncio.Event
) -> None:
    chain = ["trace_export", "auth_split", "body_capture", "stream_tee", "doubles:Witness"]
    limits = {"exchanges": 2, "retry_after": "3s"}
    async with gateway(upstream.url, caps=limits, middlewares=chain) as url:
        async with contextlib.AsyncExitStack() as stack:
            clients = await open_streams(stack, url, 2)
            answer = await exchange(url, post())
            assert (503, "too_busy", "3") == (
                answer.status,
                answer.field("x-sidestream-error"),
                answer.field("Retry-After"),
            )
            assert ("error", "api_error") == (json.loads(answer.body)["type"], json.loads(answer.body)["error"]["type"])
            relay = await numbers(url)
            assert (2, 2, {"too_busy": 1}) == (
                relay["gauges"]["live"],
                relay["gauges"]["most_live"],
                relay["rejected"],
            )
            go_on.set()
            assert [STOP] * 2 == [(await client.until(STOP))[-len(STOP) :] for client in clients]
        assert 200 == (await until_served(url, post())).status
        captured = (await numbers(url))["captured"]
    assert captured == len(Witness.seen) == len(upstream.requests) == 3


async def test_one_that_ends_makes_room_for_the_next(upstream: ScriptedUpstream, go_on: asyncio.Event) -> None:
    async with gateway(upstream.url, caps={"exchanges": 2}) as url:
        async with contextlib.AsyncExitStack() as stack:
            clients = await open_streams(stack, url, 2)
            assert 503 == (await exchange(url, post())).status
            clients[0].reset()
            assert 200 == (await until_served(url, post())).status
            go_on.set()
            await clients[1].until(STOP)


async def test_a_refused_call_is_not_asked_for_its_body_and_its_connection_ends(
    upstream: ScriptedUpstream,
    go_on: asyncio.Event,  # noqa: ARG001
) -> None:
    async with gateway(upstream.url, caps={"exchanges": 1}) as url:
        async with contextlib.AsyncExitStack() as stack:
            await open_streams(stack, url, 1)
            client = await stack.enter_async_context(connect(url))
            fields = "Host: g\r\nx-api-key: k\r\nExpect: 100-continue\r\nContent-Length: 100000000"
            await client.send(f"POST {PATH} HTTP/1.1\r\n{fields}\r\n\r\n".encode())
            head = await client.head()
            assert head.startswith(b"HTTP/1.1 503 ")
            assert b"\r\nConnection: close\r\n" in head


async def test_another_key_is_served_while_one_has_all_its_calls_under_way(
    upstream: ScriptedUpstream, go_on: asyncio.Event
) -> None:
    async with gateway(upstream.url, caps={"exchanges_per_key": 2}) as url:
        async with contextlib.AsyncExitStack() as stack:
            clients = await open_streams(stack, url, 2)
            for headers in ("x-api-key: sk-ann\r\n", "Authorization: Bearer sk-ann;invariant-auth=inv-1\r\n"):
                answer = await exchange(url, post(headers=headers))
                assert (429, "key_too_busy", "1") == (
                    answer.status,
                    answer.field("x-sidestream-error"),
                    answer.field("Retry-After"),
                )
                assert "rate_limit_error" == json.loads(answer.body)["error"]["type"]
            assert 200 == (await exchange(url, post(headers="x-api-key: sk-ben\r\n"))).status
            clients[0].reset()
            assert 200 == (await until_served(url, post(headers="x-api-key: sk-ann\r\n"))).status
            go_on.set()
            await clients[1].until(STOP)


async def test_a_mounted_gateway_has_limits_of_its_own(upstream: ScriptedUpstream, go_on: asyncio.Event) -> None:
    app = web.Application()
    for prefix in ("/a", "/b"):
        config = {"upstreams": {"anthropic": {"url": upstream.url}}, "recorder": {"mode": "none"}}
        mount(app, prefix, {**config, "limits": {"exchanges": 1}})
    async with running(app) as origin, connect(origin) as client:
        await client.send(post(STREAMED, path="/a/my-agent/anthropic/v1/messages"))
        await client.until(EVENT)
        statuses = [
            (await exchange(origin, post(path=f"/{prefix}/my-agent/anthropic/v1/messages"))).status for prefix in "ab"
        ]
        go_on.set()
        await client.until(STOP)
    assert [503, 200] == statuses


async def test_a_middleware_gets_no_body_beyond_its_limit(upstream: ScriptedUpstream) -> None:
    limits = {"middleware_body": "64KiB"}
    async with gateway(upstream.url, caps=limits, middlewares=["doubles:reads_the_body"]) as url:
        refused = await exchange(url, post(bytes((64 << 10) + 1)))
        assert 200 == (await exchange(url, post(bytes(64 << 10)))).status
    assert (413, "body_too_large") == (refused.status, refused.field("x-sidestream-error"))
    assert "request_too_large" == json.loads(refused.body)["error"]["type"]
    assert [64 << 10] == [len(request.body) for request in upstream.requests]


async def test_what_no_middleware_reads_is_under_no_limit(upstream: ScriptedUpstream) -> None:
    async with gateway(upstream.url, caps={"middleware_body": 1}) as url:
        assert 200 == (await exchange(url, post(bytes(3 << 20)))).status
