"""A child process, from its start to its end."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from sidestream.processes import listening
from sidestream.processes.channel import Document
from sidestream.processes.child import Child
from sidestream.processes.hub import Hub

SCRIPT = Path(__file__).with_name("scripted_child.py")
COMMAND = (sys.executable, str(SCRIPT), "relay")


async def child(hub: Hub, word: str = "") -> Child:
    return await Child.start("relay", COMMAND, Document(None, json.dumps({"relay": word}).encode()), (), hub)


async def test_it_is_in_a_process_group_of_its_own() -> None:
    hub = Hub()
    one = await child(hub)
    assert await one.started(10)
    assert one.pid == os.getpgid(one.pid) != os.getpgid(0)
    one.stop()
    await hub.none_left()


@pytest.mark.parametrize("order", ["stop", "retire"])
async def test_it_ends_when_it_is_told_to(order: str) -> None:
    hub = Hub()
    one = await child(hub)
    with capture_logs() as logs:
        getattr(one, order)()
        await one.ended.wait()
    assert 0 == one.status
    assert [("process_ended", 0)] == [(entry["event"], entry["status"]) for entry in logs]


async def test_an_end_that_nobody_asked_for_is_a_death() -> None:
    hub = Hub()
    one = await child(hub)
    assert await one.started(10)
    with capture_logs() as logs:
        os.kill(one.pid, signal.SIGSEGV)
        await one.ended.wait()
    assert [("process_died", "SIGSEGV")] == [(entry["event"], entry["signal"]) for entry in logs]
    assert -signal.SIGSEGV == one.status


async def test_one_that_refuses_has_not_started() -> None:
    hub = Hub()
    one = await child(hub, "refuse")
    assert not await one.started(10)
    assert 2 == one.status


async def test_a_program_that_cannot_be_run_leaves_nothing_open() -> None:
    sockets = listening.bind("127.0.0.1", 0)
    before = len(list(Path("/dev/fd").iterdir()))
    with pytest.raises(OSError, match="No such file"):
        await Child.start("relay", ("/no/such/program",), Document(), sockets, Hub())
    assert before == len(list(Path("/dev/fd").iterdir()))
    for sock in sockets:
        sock.close()
