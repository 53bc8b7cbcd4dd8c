"""Sums over processes that come and go."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sidestream.processes.channel import Document
from sidestream.processes.child import Child
from sidestream.processes.hub import Hub

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sidestream.processes.child import Kind

SCRIPT = Path(__file__).with_name("scripted_child.py")


@contextlib.asynccontextmanager
async def ending(hub: Hub) -> AsyncIterator[None]:
    try:
        yield
    finally:
        for child in hub.children():
            child.kill()
        await hub.none_left()


async def born(hub: Hub, kind: Kind, word: str = "") -> Child:
    document = Document(None, json.dumps({kind: word}).encode())
    child = await Child.start(kind, (sys.executable, str(SCRIPT), kind), document, (), hub)
    assert await child.started(10)
    return child


async def test_nothing_is_counted_before_there_is_anybody() -> None:
    assert {
        "relay": {},
        "supervisor": {"restarts": {"relay": 0, "recorder": 0}, "gauges": {"workers": 0}},
    } == await Hub().totals()


async def test_what_the_dead_have_counted_stays_and_what_they_were_ends() -> None:
    hub = Hub()
    async with ending(hub):
        first, second = await born(hub, "relay"), await born(hub, "relay")
        await born(hub, "recorder")
        hub.restarts["relay"] += 1
        hub.workers = 2
        totals = await hub.totals()
        assert {"count": 2, "gauges": {"now": 2}} == totals["relay"]
        assert {"count": 1, "gauges": {"now": 1}} == totals["recorder"]
        assert {"restarts": {"relay": 1, "recorder": 0}, "gauges": {"workers": 2}} == totals["supervisor"]
        first.kill()
        await first.ended.wait()
        assert {"count": 2, "gauges": {"now": 1}} == (await hub.totals())["relay"]
        second.stop()
        await second.ended.wait()
        assert {"count": 2} == (await hub.totals())["relay"]
        await born(hub, "relay")
        assert 3 == (await hub.totals())["relay"]["count"]


async def test_many_who_ask_at_once_get_one_answer_and_a_busy_child_holds_nobody_up() -> None:
    hub = Hub()
    async with ending(hub):
        await born(hub, "relay")
        busy = await born(hub, "relay", "busy")
        async with asyncio.timeout(5):
            answers = await asyncio.gather(*(hub.totals() for _ in range(100)))
        assert [1] * 100 == [totals["relay"]["count"] for totals in answers]
        assert busy in hub.children("relay")
