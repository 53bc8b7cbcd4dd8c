"""What a relay leaves behind: nothing. How it relays is told in tests/behaviours."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING

from rawhttp import connect, post
from sidestream.testing import gateway
from sidestream.testing.upstream import STREAM_HEAD, Connection, Received, chunk
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
