"""The request's body on its way: in one write, in pieces, or as it arrives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from doubles import Witness
from rawhttp import KEYS, PATH, connect, exchange, post
from sidestream.testing import gateway

if TYPE_CHECKING:
    from sidestream.testing import ScriptedUpstream


@pytest.mark.parametrize("size", [1, 1 << 20, (1 << 20) + 1, 3 << 20])
async def test_a_body_that_a_middleware_has_read_is_sent_and_observed_once(
    upstream: ScriptedUpstream, size: int
) -> None:
    body = bytes(range(256)) * (size // 256) + bytes(size % 256)
    async with gateway(upstream.url, middlewares=["doubles:reads_the_body", "doubles:Witness"]) as url:
        assert 200 == (await exchange(url, post(body))).status
        await Witness.ending()
    assert body == bytes(upstream.requests[0].body)
    assert body == Witness.seen[0].request
    assert [str(size)] == upstream.requests[0].header("Content-Length")


async def test_an_http_1_0_client_is_not_told_to_continue(upstream: ScriptedUpstream) -> None:
    head = f"POST {PATH} HTTP/1.0\r\nHost: g\r\nExpect: 100-continue\r\n{KEYS}Content-Length: 3\r\n\r\n"
    async with gateway(upstream.url) as url, connect(url) as client:
        await client.send(head.encode())
        await client.send(b"abc")
        assert (await client.head()).startswith(b"HTTP/1.0 200 ")
    assert b"abc" == bytes(upstream.requests[0].body)
