"""What a relay leaves behind, and how it holds the end. How it relays is told in tests/behaviours."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING

import pytest

import doubles
from doubles import Witness
from rawhttp import KEYS, connect, exchange, post
from sidestream.testing import gateway
from sidestream.testing.upstream import STREAM_HEAD, Connection, Received, chunk, response
from sidestream.wire.passthrough import _Relay

if TYPE_CHECKING:
    from sidestream.testing import ScriptedUpstream


def relays() -> set[int]:
    gc.collect()
    return {id(thing) for thing in gc.get_objects() if isinstance(thing, _Relay)}


async def test_a_finished_relay_is_not_kept_by_the_pooled_connection(upstream: ScriptedUpstream) -> None:
    begun = asyncio.Event()

    async def script(_received: Received, connection: Connection) -> None:
        await connection.send(STREAM_HEAD)
        await begun.wait()
        await connection.send(chunk(b"rest") + chunk(b""))

    upstream.script = script
    relays_of_others = relays()
    async with gateway(upstream.url) as url, connect(url) as client:
        for _ in range(5):
            begun.clear()
            await client.send(post())
            await client.head()
            begun.set()
            await client.until(b"0\r\n\r\n")
        assert relays() <= relays_of_others
    assert 1 == upstream.connections


HOLDING = ["doubles:holds_the_end", "doubles:Witness"]


@pytest.fixture
def _held(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events of this test's own loop."""
    monkeypatch.setattr(doubles, "holding", asyncio.Event())
    monkeypatch.setattr(doubles, "let_go", asyncio.Event())


@pytest.mark.usefixtures("_held")
async def test_no_limit_of_ours_bounds_how_long_the_end_is_held(upstream: ScriptedUpstream) -> None:
    """Another exchange runs into its limit meanwhile, so the sweep has looked at this one, too."""

    async def script(received: Received, connection: Connection) -> None:
        if received.body == b"answer":
            await connection.send(response(b"onetwo"))
        else:
            await asyncio.Event().wait()

    upstream.script = script
    limits = {"first_byte": "300ms", "idle": "150ms", "write": "150ms"}
    async with gateway(upstream.url, limits=limits, middlewares=HOLDING) as url, connect(url) as client:
        await client.send(post(b"answer"))
        await client.until(b"onetw")
        async with asyncio.timeout(5):
            await doubles.holding.wait()
        assert 504 == (await exchange(url, post(b"never", headers=f"{KEYS}x-do-not-hold: 1\r\n"))).status
        doubles.let_go.set()
        assert b"o" == await client.until(b"o")
    assert "completed" == Witness.seen[0].ends[0][0]


@pytest.mark.usefixtures("_held")
@pytest.mark.parametrize("answer", [response(b""), b"HTTP/1.1 204 No Content\r\n\r\n"], ids=["empty", "204"])
async def test_the_head_of_a_response_without_a_body_is_told_before_it_is_held(
    upstream: ScriptedUpstream, answer: bytes
) -> None:
    async def script(_received: Received, connection: Connection) -> None:
        await connection.send(answer)

    upstream.script = script
    async with gateway(upstream.url, middlewares=HOLDING) as url, connect(url) as client:
        await client.send(post())
        async with asyncio.timeout(5):
            await doubles.holding.wait()
        (seen,) = Witness.seen
        assert ([int(answer[9:12])], []) == ([head.status for head in seen.heads], seen.ends)
        doubles.let_go.set()
        assert (await client.answer()).complete
        assert "completed" == await Witness.ending()
    assert 1 == len(seen.heads)
