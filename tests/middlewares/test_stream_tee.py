"""stream_tee: a bounded copy of what went downstream."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from doubles import captures
from rawhttp import exchange, post
from sidestream.testing import gateway
from sidestream.testing.upstream import STREAM_HEAD, Connection, Received, chunk

if TYPE_CHECKING:
    from sidestream.testing import ScriptedUpstream


@pytest.mark.parametrize(("limit", "kept"), [(100, b"one two three"), (9, b"one two t"), (0, b"")])
async def test_a_response_is_captured_up_to_the_limit(upstream: ScriptedUpstream, limit: int, kept: bytes) -> None:
    async def script(_received: Received, connection: Connection) -> None:
        await connection.send(STREAM_HEAD)
        for piece in (b"one ", b"two ", b"three"):
            await connection.send(chunk(piece))
        await connection.send(chunk(b""))

    upstream.script = script
    async with gateway(upstream.url, middlewares=["doubles:shows_captures", {"stream_tee": {"limit": limit}}]) as url:
        answer = await exchange(url, post())
    assert b"one two three" == answer.body
    capture = captures[0][1]
    assert capture is not None
    assert (kept, len(kept) < 13) == (capture.join(), capture.truncated)
