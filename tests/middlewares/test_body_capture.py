"""body_capture: a bounded copy of what went upstream."""

from __future__ import annotations

from typing import TYPE_CHECKING

from doubles import captures
from rawhttp import exchange, post
from sidestream.testing import gateway

if TYPE_CHECKING:
    from sidestream.testing import ScriptedUpstream


async def test_a_body_is_captured_up_to_the_limit_and_forwarded_whole(upstream: ScriptedUpstream) -> None:
    async with gateway(upstream.url, middlewares=["doubles:shows_captures", {"body_capture": {"limit": 4}}]) as url:
        await exchange(url, post(b"0123456789"))
        await exchange(url, post(b"0123"))
    assert [b"0123456789", b"0123"] == [bytes(request.body) for request in upstream.requests]
    kept = [capture for capture, _ in captures if capture is not None]
    assert [(b"0123", 10, True), (b"0123", 4, False)] == [(c.join(), c.size, c.truncated) for c in kept]


async def test_nothing_is_captured_of_a_call_that_will_not_be_traced(upstream: ScriptedUpstream) -> None:
    async with gateway(upstream.url, middlewares=["doubles:shows_captures", "body_capture", "stream_tee"]) as url:
        await exchange(url, post(b"{}", path="/api/v1/gateway/anthropic/v1/messages"))
        await exchange(url, post(b"{}", path="/api/v1/gateway/d/anthropic/v1/messages/count_tokens"))
    assert [(None, None)] * 2 == captures
