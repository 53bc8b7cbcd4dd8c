"""trace_export: hands over what was captured, and nothing that is secret."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from rawhttp import exchange, post
from sidestream.errors import ConfigError
from sidestream.testing import gateway

if TYPE_CHECKING:
    from pathlib import Path

    from sidestream.testing import ScriptedUpstream


@pytest.mark.parametrize(
    ("chain", "message"),
    [
        (["trace_export", "auth_split"], "body_capture"),
        (["trace_export", "auth_split", "body_capture"], "stream_tee"),
        (["auth_split", "body_capture", "stream_tee", "trace_export"], "trace_export"),
        (["trace_export", "body_capture", "auth_split", "stream_tee"], "auth_split"),
    ],
)
async def test_an_order_that_cannot_work_is_refused(upstream: ScriptedUpstream, chain: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        async with gateway(upstream.url, middlewares=chain):
            pass


async def test_a_failing_handover_changes_nothing_for_the_client(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    """A sink that cannot write is the trace plane's trouble alone."""
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    sink = {"jsonl": {"path": str(in_the_way / "t.jsonl"), "attempts": 1}}
    async with gateway(upstream.url, sinks=[sink]) as url:
        for _ in range(3):
            assert 200 == (await exchange(url, post())).status
        health = await exchange(url, b"GET /api/v1/gateway/health HTTP/1.1\r\nHost: g\r\n\r\n", method="GET")
    assert 3 == json.loads(health.body)["recorder"]["received"]
