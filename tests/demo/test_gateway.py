"""The gateway's process starts, relays, shows, ends, and its log has no key."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest

from sidestream.demo import DemoFailed
from sidestream.demo.agent import Agent
from sidestream.demo.gateway import gateway
from sidestream.demo.provider import KEY, ScriptedProvider
from sidestream.demo.screen import Screen
from sidestream.demo.viewer import run_of

if TYPE_CHECKING:
    from pathlib import Path


async def test_a_run_through_it_is_shown_and_no_key_is_in_its_log(tmp_path: Path) -> None:
    async with ScriptedProvider(pace=0) as provider, gateway(provider.url, folder=tmp_path) as running:
        answer = await Agent(running.base_url, KEY, Screen(io.StringIO(), width=80, styled=False)).run()
        shown = await run_of(running.viewer, 4)
    assert [1, 2, 3, 4] == [turn["number"] for turn in shown.turns]
    assert answer == shown.messages[-1]["content"]
    assert shown.url.startswith(f"{running.viewer}/runs/")
    log = (tmp_path / "gateway.log").read_text()
    assert "gateway_stopped" in log
    assert KEY not in log


async def test_one_that_does_not_start_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(DemoFailed, match="did not start"):
        async with gateway("not a URL", folder=tmp_path):
            pass
    assert "upstreams.anthropic.url" in (tmp_path / "gateway.log").read_text()
