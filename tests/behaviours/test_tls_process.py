"""TLS through a proxy as a user starts it: the password of the proxy is nowhere but at the proxy."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from gateway_process import GatewayProcess
from proxying import TunnelProxy, bundle, serving_as
from rawhttp import exchange, post
from sidestream.testing import ScriptedUpstream

if TYPE_CHECKING:
    from pathlib import Path

PASSWORD = "canary-7f3a"  # of nobody


async def test_the_password_of_a_proxy_reaches_nobody_but_the_proxy(tmp_path: Path) -> None:
    credentials = base64.b64encode(f"me:{PASSWORD}".encode())
    async with TunnelProxy() as proxy, ScriptedUpstream(ssl=serving_as("127.0.0.1")) as upstream:
        options = {"url": upstream.url, "ca_bundle": bundle(tmp_path), "proxy": f"http://me:{PASSWORD}@{proxy.address}"}
        gateway = GatewayProcess(tmp_path, upstream.url, upstreams={"anthropic": options})
        async with gateway:
            answers = [await exchange(gateway.url, post(b'{"messages": []}')) for _ in range(3)]
            shown = [(await gateway.get(page)).body for page in ("health", "metrics")]
            lines = gateway.command_lines()
            await gateway.end()
    assert [200] * 3 == [answer.status for answer in answers]
    assert all(credentials in head for head in proxy.heads)
    assert 3 == len(upstream.requests)
    kept = [file.read_bytes() for file in (tmp_path / "data").rglob("*") if file.is_file()]
    assert len(kept) >= 3
    seen = [*kept, *shown, gateway.log.read_bytes(), "".join(lines).encode()]
    seen += [request.head for request in upstream.requests] + [answer.head + answer.body for answer in answers]
    assert not any(secret in data for data in seen for secret in (PASSWORD.encode(), credentials))
