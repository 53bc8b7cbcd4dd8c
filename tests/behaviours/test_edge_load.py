"""More than a process can take: connections without number, no descriptors left, thousands of requests at once."""

from __future__ import annotations

import asyncio
import contextlib
import resource
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gateway_process import GatewayProcess
from raw_requests import length
from rawhttp import connect, exchange
from sidestream.testing.upstream import STREAM_HEAD, chunk

if TYPE_CHECKING:
    from sidestream.testing import ScriptedUpstream
    from sidestream.testing.upstream import Connection, Received

ALONE: dict[str, Any] = {"recorder": {"mode": "none"}, "server": {"workers": 1}, "viewer": {"enabled": False}}


def unrecorded(body: bytes) -> bytes:
    return length(f"{len(body)}", body).replace(b"/my-agent", b"", 1)


async def test_ten_thousand_pipelined_requests_are_answered_in_order_and_little_is_kept(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """While nobody reads the answers, requests are left in the network."""

    async def repeat(received: Received, connection: Connection) -> None:
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(received.body), received.body))

    upstream.script = repeat
    numbers = [b"%d" % number for number in range(10_000)]
    async with GatewayProcess(tmp_path, upstream.url, **ALONE) as gateway, connect(gateway.url) as client:
        await exchange(gateway.url, unrecorded(b"{}"))
        before = gateway.memory()["relay"]
        sending = asyncio.ensure_future(client.send(b"".join(map(unrecorded, numbers))))
        assert numbers[:100] == [(await client.answer()).body for _ in numbers[:100]]
        assert gateway.memory()["relay"] < before + 20
        assert numbers[100:] == [(await client.answer()).body for _ in numbers[100:]]
        await sending
        assert gateway.memory()["relay"] < before + 20


async def test_connections_that_there_are_no_descriptors_for_are_turned_away(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """With one line in the log; streams go on, each with an upstream of its own, and room is used again."""
    go_on = asyncio.Event()

    async def stream(_received: Received, connection: Connection) -> None:
        await connection.send(STREAM_HEAD + chunk(b"one"))
        await go_on.wait()
        await connection.send(chunk(b"two") + chunk(b""))

    upstream.script = stream
    async with (
        GatewayProcess(tmp_path, upstream.url, descriptors=96, **ALONE) as gateway,
        contextlib.AsyncExitStack() as stack,
    ):
        clients = [await stack.enter_async_context(connect(gateway.url)) for _ in range(40)]
        for client in clients:
            await client.send(length("2"))
        heads = [(await client.head())[9:12] for client in clients]
        assert {b"200", b"503"} == set(heads)
        for _ in range(160):
            late = await stack.enter_async_context(connect(gateway.url))
            with contextlib.suppress(ConnectionError):  # one of so many is not waited for until it has read
                await late.send(length("2"))
        inside = [client for client, status in zip(clients, heads, strict=True) if status == b"200"]
        assert len(inside) > 10
        go_on.set()
        for client in inside:
            assert b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n" == await client.until(b"0\r\n\r\n")
            client.writer.close()
        await gateway.until("connections_welcomed")
        assert b"onetwo" == (await exchange(gateway.url, length("2"))).body
        assert 1 == [event["event"] for event in gateway.events()].count("connections_refused")


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs Linux")
async def test_a_process_without_descriptors_goes_on_and_recovers(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    go_on = asyncio.Event()

    async def stream(_received: Received, connection: Connection) -> None:
        await connection.send(STREAM_HEAD + chunk(b"one"))
        await go_on.wait()
        await connection.send(chunk(b"two") + chunk(b""))

    upstream.script = stream
    async with GatewayProcess(tmp_path, upstream.url, **ALONE) as gateway, connect(gateway.url) as client:
        (relay,) = gateway.children("relay")
        await client.send(length("2"))
        await client.until(b"one\r\n")
        limits = resource.prlimit(relay, resource.RLIMIT_NOFILE)
        resource.prlimit(relay, resource.RLIMIT_NOFILE, (len(list(Path(f"/proc/{relay}/fd").iterdir())), limits[1]))
        for _ in range(20):
            async with connect(gateway.url) as late:
                await late.closed()
        go_on.set()
        assert b"3\r\ntwo\r\n0\r\n\r\n" == await client.until(b"0\r\n\r\n")
        resource.prlimit(relay, resource.RLIMIT_NOFILE, limits)
        assert b"onetwo" == (await exchange(gateway.url, length("2"))).body
        assert [relay] == gateway.children("relay")
