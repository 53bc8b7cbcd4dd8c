"""The gateway on loopback that tests of one's own middleware use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rawhttp import exchange, post
from sidestream.testing import gateway

if TYPE_CHECKING:
    from sidestream.testing import ScriptedUpstream


async def test_it_relays_to_the_upstream_with_the_default_chain(upstream: ScriptedUpstream) -> None:
    async with gateway(upstream.url) as url:
        assert url.endswith("/api/v1/gateway")
        assert 400 == (await exchange(url, post(headers=""))).status
        assert 200 == (await exchange(url, post())).status
    assert 1 == len(upstream.requests)
