"""Putting it together; what the whole does is told in tests/behaviours."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from rawhttp import exchange, post
from sidestream import ConfigError, create_app, mount_viewer
from sidestream.testing import gateway

if TYPE_CHECKING:
    from pathlib import Path

    from sidestream.testing import ScriptedUpstream

HEALTH = b"GET /api/v1/gateway/health HTTP/1.1\r\nHost: g\r\n\r\n"


def test_a_configuration_that_cannot_work_is_refused_before_anything_listens() -> None:
    with pytest.raises(ConfigError) as caught:
        create_app({"middlewares": ["trace_exprt"], "sinks": [{"explorer": {}}]})
    paths = [problem.path for problem in caught.value.problems]
    assert ["middlewares[0].trace_exprt", "sinks[0].explorer.url"] == paths


async def test_health_tells_what_was_counted(upstream: ScriptedUpstream) -> None:
    async with gateway(upstream.url) as url:
        before = json.loads((await exchange(url, HEALTH, method="GET")).body)
        await exchange(url, post())
        await exchange(url, post(headers=""))
        after = json.loads((await exchange(url, HEALTH, method="GET")).body)
    assert ("ok", {}, 0) == (before["status"], before["relay"]["exchanges"], before["relay"]["gauges"]["live"])
    relay = after["relay"]
    assert {"anthropic": {"200": {"completed": 1}, "none": {"rejected": 1}}} == relay["exchanges"]
    assert 1 == sum(relay["time_to_first_byte"]["anthropic"]["buckets"].values())
    assert {"missing_provider_key": 1} == relay["rejected"]
    assert (0, 0, 0) == tuple(relay[name] for name in ("observer_failures", "middleware_failures", "inexact"))


async def test_what_no_route_took_is_counted_too(upstream: ScriptedUpstream) -> None:
    async with gateway(upstream.url) as url:
        await exchange(url, post(path="/elsewhere"))
        await exchange(url, post(path="/api/v1/gateway/nowhere"))
        await exchange(url, b"not http\r\n\r\n")
        report = json.loads((await exchange(url, HEALTH, method="GET")).body)
    assert {"unknown_route": 2, "bad_request": 1} == report["relay"]["rejected"]


async def test_a_middleware_may_read_a_body_of_any_size(upstream: ScriptedUpstream) -> None:
    async with gateway(upstream.url, middlewares=["doubles:reads_the_body"]) as url:
        assert 200 == (await exchange(url, post(bytes(3 << 20)))).status
    assert 3 << 20 == len(upstream.requests[0].body)


async def test_a_failing_middleware_and_observer_are_counted(upstream: ScriptedUpstream) -> None:
    async with gateway(upstream.url, middlewares=["doubles:with_raising_observer", "doubles:raises_after"]) as url:
        await exchange(url, post())
        report = json.loads((await exchange(url, HEALTH, method="GET")).body)["relay"]
    assert (1, 1) == (report["observer_failures"], report["middleware_failures"])


async def test_a_dataset_may_be_called_health(upstream: ScriptedUpstream) -> None:
    async with gateway(upstream.url) as url:
        assert 200 == (await exchange(url, post(path="/api/v1/gateway/health/anthropic/v1/messages"))).status


def test_the_viewer_can_be_mounted_at_the_root_of_a_host(tmp_path: Path) -> None:
    app = web.Application()
    mount_viewer(app, "/", {"recorder": {"dir": str(tmp_path)}})
    assert {"/", "/overview", "/ui/{tail}"} <= {resource.canonical for resource in app.router.resources()}
