"""The recorder's own process: under a supervisor, or started by hand for a directory that other processes relay to."""

from __future__ import annotations

import asyncio
import gc
import os
from typing import TYPE_CHECKING, Any

import structlog
import uvloop

from sidestream import logs
from sidestream.errors import SidestreamError
from sidestream.recorder.program import run
from sidestream.tasks import spawn, where

if TYPE_CHECKING:
    from sidestream.config import Config
    from sidestream.processes.control import Control
    from sidestream.recorder.plane import Plane

log = structlog.get_logger()

_LAST_LINES = 1.0
"""Seconds that the last log lines have at the end."""
_REFRESH = 1.0
_NICE = 10
"""Where there are too few processors for all, relays go first: what is recorded later is not lost, and nobody waits for
it. On one that both share, calls take less than half the time for it while somebody looks through the store."""


def main(config: Config, control: Control) -> int:
    """Record until told to stop; the exit status."""
    writer = logs.configure(process="recorder")
    os.nice(_NICE)
    gc.freeze()  # what is here now stays; a page would wait while it is looked through for what could go
    gc.set_threshold(20_000, 20, 20)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_main(config, control))
    except SidestreamError:
        raise
    except Exception as error:  # noqa: BLE001  # a traceback could quote what was recorded
        log.error("recorder_failed", error=type(error).__name__, where=where(error))
        return 1
    else:
        return 0
    finally:
        writer.flush(_LAST_LINES)


async def _main(config: Config, control: Control) -> None:
    planes: list[Plane] = []

    def started(plane: Plane) -> None:
        planes.append(plane)

    def stats() -> dict[str, Any]:
        return planes[0].snapshot() if planes else {}

    control.stats = stats
    async with control.attached():
        refreshing = spawn(_refresh(planes), name="refresh")
        control.ready()
        try:
            await run(config, control.stopping, started)
        finally:
            refreshing.cancel()
            await asyncio.wait([refreshing])


async def _refresh(planes: list[Plane]) -> None:
    """Have the gauges follow."""
    failing = False
    while True:
        await asyncio.sleep(_REFRESH)
        try:
            for plane in planes:
                await plane.refresh()
        except Exception as error:  # noqa: BLE001  # the top of a background worker
            if not failing:
                log.error("stats_failed", error=type(error).__name__, where=where(error))
            failing = True
        else:
            failing = False
