"""One place, filled by one process after the other."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from structlog.testing import capture_logs

from sidestream.processes.channel import Document
from sidestream.processes.hub import Hub
from sidestream.processes.keeper import Backoff, Keeper

SCRIPT = Path(__file__).with_name("scripted_child.py")


def keeper(hub: Hub, backoff: Backoff, word: str = "") -> Keeper:
    document = Document(None, json.dumps({"recorder": word}).encode())
    return Keeper("recorder", (sys.executable, str(SCRIPT), "recorder"), document, (), hub, backoff)


async def test_one_that_has_lived_is_started_again_without_delay() -> None:
    hub = Hub()
    keeping = keeper(hub, Backoff(first=0.0, longest=3600.0, healthy=0.0))
    assert await keeping.start()
    keeping.keep()
    for _ in range(3):
        child = keeping.child
        assert child is not None
        child.kill()
        async with asyncio.timeout(10):
            await child.ended.wait()
            while keeping.child in {None, child} or not hub.children():  # noqa: ASYNC110  # no event says so
                await asyncio.sleep(0.005)
    assert 3 == hub.restarts["recorder"]
    for child in hub.children():
        keeping.release()
        child.kill()
    await hub.none_left()


async def test_one_that_is_released_while_it_waits_is_never_started() -> None:
    hub = Hub()
    keeping = keeper(hub, Backoff(first=3600.0))
    assert await keeping.start()
    keeping.keep()
    child = keeping.child
    assert child is not None
    child.kill()
    await child.ended.wait()
    assert keeping.release() is None
    assert [] == hub.children()


async def test_one_that_does_not_end_to_be_renewed_is_killed() -> None:
    hub = Hub()
    keeping = keeper(hub, Backoff(), "deaf")
    assert await keeping.start()
    before = keeping.child
    with capture_logs() as logs:
        await keeping.renew(0.1)
    assert before is not keeping.child
    assert ["process_ended"] == [entry["event"] for entry in logs if entry.get("signal") == "SIGKILL"]
    child = keeping.release()
    assert child is not None
    child.kill()
    await hub.none_left()
    assert 0 == hub.restarts["recorder"]
