"""What operators ask the gateway: health, ready and metrics, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from typing import TYPE_CHECKING, Any, get_type_hints

from prometheus_client.parser import text_string_to_metric_families

from rawhttp import Answer, connect, exchange, post
from recording import eventually, in_store
from sidestream import create_app
from sidestream.operations import LIVE, RECORDER_SEEN, TOTALS, relay_stats
from sidestream.stats import RelayStats
from sidestream.testing import gateway, running
from sidestream.testing.upstream import STREAM_HEAD, Connection, Received, chunk

if TYPE_CHECKING:
    from pathlib import Path

    import pytest
    from aiohttp import web

    from sidestream.testing import ScriptedUpstream

PREFIX = "/api/v1/gateway"


async def get(url: str, name: str) -> Answer:
    return await exchange(url, f"GET {PREFIX}/{name} HTTP/1.1\r\nHost: g\r\n\r\n".encode(), method="GET")


async def asked(url: str, name: str) -> tuple[int, dict[str, Any]]:
    answer = await get(url, name)
    return answer.status, json.loads(answer.body)


async def metrics(url: str) -> dict[tuple[str, ...], float]:
    """Samples by name, and by the values of their labels in the order of their names."""
    answer = await get(url, "metrics")
    assert (200, "text/plain; version=0.0.4; charset=utf-8") == (answer.status, answer.field("Content-Type"))
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.body.decode())
        for sample in family.samples
    }


async def test_health_tells_of_the_relay_and_of_the_recorder(upstream: ScriptedUpstream) -> None:
    async with gateway(upstream.url) as url:
        await exchange(url, post())
        status, report = await asked(url, "health")
    assert (200, "ok") == (status, report["status"])
    assert {"status", "version", "relay", "recorder"} == set(report)
    assert {"anthropic": {"200": {"completed": 1}}} == report["relay"]["exchanges"]
    assert 1 == report["relay"]["captured"]


async def test_health_counts_rejected_calls(upstream: ScriptedUpstream) -> None:
    async with gateway(upstream.url) as url:
        await exchange(url, post(headers=""))
        _, report = await asked(url, "health")
    assert ({"missing_provider_key": 1}, 0) == (report["relay"]["rejected"], report["relay"]["captured"])


async def test_the_numbers_of_a_relay_have_the_documented_shape(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    app = create_app({"recorder": {"mode": "external", "dir": str(tmp_path), "min_free": 0}, "sinks": []})
    async with running(app):
        numbers = relay_stats(_gateway(app))
    assert get_type_hints(RelayStats).keys() == numbers.keys()
    assert upstream.requests == []


def _gateway(app: web.Application) -> web.Application:
    """The gateway's own application, within the one that `create_app` made."""
    (found,) = [part for part in app._subapps if LIVE in part]  # noqa: SLF001  # aiohttp has no other way
    return found


async def test_live_exchanges_are_seen_while_they_last(upstream: ScriptedUpstream) -> None:
    go_on = asyncio.Event()

    async def script(_received: Received, connection: Connection) -> None:
        await connection.send(STREAM_HEAD + chunk(b"one"))
        await go_on.wait()
        await connection.send(chunk(b""))

    upstream.script = script
    async with gateway(upstream.url) as url, connect(url) as client:
        await client.send(post())
        await client.until(b"one\r\n")
        _, report = await asked(url, "health")
        assert 1 == report["relay"]["gauges"]["live"]
        go_on.set()
        await client.until(b"0\r\n\r\n")


async def test_metrics_can_be_parsed_and_say_the_same(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    async with gateway(upstream.url, recorder={"mode": "thread", "dir": str(tmp_path / "data"), "min_free": 0}) as url:
        await exchange(url, post())
        await eventually(lambda: in_store(tmp_path))
        found = await metrics(url)
    assert 1 == found["sidestream_exchanges_total", "completed", "anthropic", "200"]
    assert 1 == found["sidestream_captured_total",]
    assert 1 == found["sidestream_records_received_total",]
    assert 1 == found["sidestream_recorder_up",]
    assert 1 == found["sidestream_time_to_first_byte_seconds_count", "anthropic"]


async def test_a_recorder_that_somebody_else_runs_is_not_missed(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    settings = {"mode": "external", "dir": str(tmp_path / "data"), "min_free": 0}
    async with gateway(upstream.url, recorder=settings) as url:
        found = await metrics(url)
        _, report = await asked(url, "health")
    assert ("sidestream_recorder_up",) not in found
    assert "recorder" not in report


async def test_without_prometheus_client_metrics_are_not_implemented(
    upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    async with gateway(upstream.url) as url:
        answer = await get(url, "metrics")
    assert (501, True) == (answer.status, b"sidestream[metrics]" in answer.body)


async def test_where_it_is_one_of_several_processes_the_sums_of_all_are_told(upstream: ScriptedUpstream) -> None:
    async def totals() -> dict[str, Any]:
        return {"relay": {"captured": 7}, "supervisor": {"gauges": {"workers": 2}}}

    app = create_app({"recorder": {"mode": "none"}, "sinks": []})
    own = _gateway(app)
    own[TOTALS] = totals
    own[RECORDER_SEEN] = False
    async with running(app) as origin:
        _, report = await asked(origin, "health")
        found = await metrics(origin)
    assert (7, 2) == (report["relay"]["captured"], report["supervisor"]["gauges"]["workers"])
    assert (7, 2) == (found["sidestream_captured_total",], found["sidestream_workers",])
    assert upstream.requests == []


async def test_ready_until_it_stops(upstream: ScriptedUpstream) -> None:
    app = create_app({"recorder": {"mode": "none"}, "sinks": []})
    async with running(app) as origin:
        assert (200, {"ready": True}) == await asked(origin, "ready")
        app[LIVE].ready = False
        assert (503, {"ready": False, "reason": "stopping"}) == await asked(origin, "ready")
    assert upstream.requests == []


async def test_not_ready_while_strict_durability_cannot_be_given(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file in the way")
    settings = {"mode": "external", "dir": str(tmp_path / "data"), "durability": "strict", "min_free": 0}
    async with gateway(upstream.url, recorder=settings) as url:
        for _ in range(2):
            with contextlib.suppress(asyncio.IncompleteReadError):  # one that began before the journal failed is cut
                await exchange(url, post())
        refused = (503, {"ready": False, "reason": "recording_unavailable"})
        assert refused == await asked(url, "ready")
        assert 200 == (await get(url, "health")).status
