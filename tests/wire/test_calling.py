"""What goes out to an upstream is what was given, and over which connections."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import pytest
from multidict import CIMultiDict
from yarl import URL

from sidestream.errors import UpstreamFailed
from sidestream.testing.upstream import Connection, Received, response
from sidestream.wire.calling import Calls
from sidestream.wire.upstream import CleanConnector, Limits, Upstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sidestream.testing import ScriptedUpstream

LIMITS = Limits(connect=5, first_byte=5, idle=5, write=5)


@contextlib.asynccontextmanager
async def calls(url: str, base_path: str = "") -> AsyncIterator[Calls]:
    async with CleanConnector(limit=0) as connector:
        yield Calls(Upstream(URL(url), base_path, LIMITS), connector)


async def call(
    to: Calls,
    method: str = "POST",
    target: str = "/",
    headers: tuple[tuple[str, str], ...] = (),
    body: bytes | AsyncIterator[bytes] | None = None,
) -> bytes:
    sent: list[bool] = []
    answer = await to.call(method, target, CIMultiDict(headers), body, lambda: sent.append(True))
    try:
        data = await answer.content.read()
    finally:
        answer.close()
    assert ([True] if body is not None else []) == sent
    return data


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def pieces(*several: bytes) -> AsyncIterator[bytes]:
    for piece in several:
        yield piece


@pytest.mark.parametrize(
    "target", ["/v1/messages", "/v1/messages?", "/%7E?x=%7e#", "//evil.test/", "/@evil.test", "/\\evil", "/v1/%zz?[]|"]
)
async def test_no_target_leaves_the_upstreams_origin_or_is_rewritten(upstream: ScriptedUpstream, target: str) -> None:
    async with calls(upstream.url, "/base") as to:
        await call(to, target=target)
    (received,) = upstream.requests
    assert (f"/base{target}", [upstream.url.removeprefix("http://")]) == (received.target, received.header("Host"))


async def test_a_head_goes_out_as_it_is_given(upstream: ScriptedUpstream) -> None:
    given = (("X-Key", "1"), ("x-KEY", "2"), ("a", ""), ("Content-Length", "2"))
    async with calls(upstream.url) as to:
        await call(to, headers=given, body=b"{}")
    (received,) = upstream.requests
    assert list(given) == [field for field in received.headers if field[0] != "Host"]


@pytest.mark.parametrize(
    ("body", "framing"),
    [(None, []), (b"", [("Content-Length", "0")]), (b"abc", [("Content-Length", "3")])],
    ids=["none", "empty", "whole"],
)
async def test_framing_is_added_where_a_body_has_none(
    upstream: ScriptedUpstream, body: bytes | None, framing: list[tuple[str, str]]
) -> None:
    async with calls(upstream.url) as to:
        await call(to, body=body)
    (received,) = upstream.requests
    assert (framing, body or b"") == ([field for field in received.headers if field[0] != "Host"], bytes(received.body))


async def test_a_body_in_pieces_of_unknown_length_goes_out_chunked(upstream: ScriptedUpstream) -> None:
    async with calls(upstream.url) as to:
        await call(to, body=pieces(b"ab", b"c"))
    (received,) = upstream.requests
    assert (["chunked"], b"abc") == (received.header("Transfer-Encoding"), bytes(received.body))


async def test_connections_are_used_again(upstream: ScriptedUpstream) -> None:
    connections: set[Connection] = set()

    async def script(_received: Received, connection: Connection) -> None:
        connections.add(connection)
        await connection.send(response(b"{}"))

    upstream.script = script
    async with calls(upstream.url) as to:
        assert [b"{}"] * 3 == [await call(to, body=b"x") for _ in range(3)]
    assert 1 == len(connections)


@pytest.mark.parametrize(("method", "attempts"), [("GET", 2), ("POST", 1)])
async def test_only_what_may_be_sent_twice_is_sent_again_when_its_connection_ends(
    upstream: ScriptedUpstream, method: str, attempts: int
) -> None:
    async def script(_received: Received, connection: Connection) -> None:
        await connection.close()

    upstream.script = script
    async with calls(upstream.url) as to:
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await call(to, method)
    assert attempts == len(upstream.requests)


async def test_interim_answers_are_passed_over(upstream: ScriptedUpstream) -> None:
    async def script(_received: Received, connection: Connection) -> None:
        await connection.send(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n")
        await connection.send(response(b"{}"))

    upstream.script = script
    async with calls(upstream.url) as to:
        assert b"{}" == await call(to)


async def test_what_is_not_http_is_told(upstream: ScriptedUpstream) -> None:
    async def script(_received: Received, connection: Connection) -> None:
        await connection.send(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")

    upstream.script = script
    async with calls(upstream.url) as to:
        with pytest.raises(UpstreamFailed):
            await call(to)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="descriptors are counted by way of /proc")
async def test_a_call_that_is_given_up_leaves_no_connection_to_an_upstream_that_does_not_read() -> None:
    blocked = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield bytes(1 << 24)
        blocked.set()  # never: nobody takes so much

    with socket.create_server(("127.0.0.1", 0)) as deaf:
        async with calls(f"http://127.0.0.1:{deaf.getsockname()[1]}") as to:
            before = descriptors()
            calling = asyncio.ensure_future(call(to, body=endless()))
            async with asyncio.timeout(10):
                while descriptors() == before:  # noqa: ASYNC110  # until it has connected
                    await asyncio.sleep(0)
                for _ in range(100):
                    await asyncio.sleep(0)
                calling.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await calling
                while descriptors() > before:  # noqa: ASYNC110  # until it has closed
                    await asyncio.sleep(0)
    assert not blocked.is_set()


@pytest.mark.parametrize("head", [b"Content-Length : 2\r\n\r\nok", b"Transfer-Encoding: gzip\r\n\r\n"])
async def test_a_connection_on_which_nobody_knows_where_a_body_ends_is_not_used_again(
    upstream: ScriptedUpstream, head: bytes
) -> None:
    connections: set[Connection] = set()

    async def script(_received: Received, connection: Connection) -> None:
        connections.add(connection)
        await connection.send(b"HTTP/1.1 200 OK\r\n" + head)

    upstream.script = script
    async with calls(upstream.url) as to:
        for _ in range(3):
            with pytest.raises(UpstreamFailed):
                await call(to)
    assert 3 == len(connections)
