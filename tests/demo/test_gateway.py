"""The gateway's process starts, relays, ends, and its log has no key."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest

from sidestream.demo import DemoFailed
from sidestream.demo.agent import Agent
from sidestream.demo.gateway import gateway
from sidestream.demo.provider import KEY, ScriptedProvider
from sidestream.demo.screen import Screen
from sidestream.testing import FakeExplorer

if TYPE_CHECKING:
    from pathlib import Path

TRACE_KEY = f"inv-{'0123456789abcdef' * 4}"


async def test_a_run_through_it_is_traced_and_no_key_is_in_its_log(tmp_path: Path) -> None:
    async with ScriptedProvider(pace=0) as provider, FakeExplorer() as explorer:
        async with gateway(provider.url, explorer.url, folder=tmp_path) as base_url:
            screen = Screen(io.StringIO(), width=80, styled=False)
            await Agent(base_url, f"{KEY};invariant-auth={TRACE_KEY}", screen).run()
            await explorer.wait_for_requests(4)
    assert [TRACE_KEY] == [trace.key for trace in explorer.traces]
    log = (tmp_path / "gateway.log").read_text()
    assert "gateway_stopped" in log
    assert KEY not in log
    assert TRACE_KEY not in log


async def test_one_that_does_not_start_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(DemoFailed, match="did not start"):
        async with gateway("not a URL", "http://127.0.0.1:1", folder=tmp_path):
            pass
    assert "upstreams.anthropic.url" in (tmp_path / "gateway.log").read_text()
