"""One relay process: the gateway's application on sockets that the supervisor listens on, and obedience to its orders.

It stops in one of two ways. Told to *stop*, it takes no more connections, gives streams ``server.drain`` to end, cuts
the rest, and is gone. Told to *retire*, because a newer generation has taken over, it serves the connections it has
until the last one ends, for ``server.reload_drain`` at most.
"""

from __future__ import annotations

import asyncio
import gc
import socket
from typing import TYPE_CHECKING

import uvloop

from sidestream import logs
from sidestream.app import FRONT, create_app
from sidestream.operations import LIVE
from sidestream.processes import listening
from sidestream.processes.checking import for_relay
from sidestream.server import open_doors
from sidestream.tasks import spawn

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence
    from typing import Any

    from sidestream.config import Config
    from sidestream.processes.control import Control
    from sidestream.server import Doors
    from sidestream.viewer.front import Front
    from sidestream.wire.live import Live

_COLLECTING = (20_000, 20, 20)
"""An exchange leaves nothing behind that only a collection finds; with Python's own thresholds collections take
a tenth of the time."""
_LAST_LINES = 1.0
"""Seconds that the last log lines have at the end."""


def main(config: Config, control: Control, descriptors: Sequence[int]) -> int:
    """Relay on the inherited sockets until told otherwise; returns the exit status.

    `ConfigError` if the configuration cannot work, another `SidestreamError` if a relay cannot run here.
    """
    writer = logs.configure(process="relay")
    listening.raise_descriptor_limit()
    sockets = [socket.socket(fileno=number) for number in descriptors]
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_relay(config, control, sockets))
    finally:
        writer.flush(_LAST_LINES)
    return 0


async def _relay(config: Config, control: Control, sockets: Sequence[socket.socket]) -> None:
    app = create_app(for_relay(config), raw_request_bodies=True, control=control)
    async with control.attached(), open_doors(app, sockets) as doors:
        control.ready()
        gc.freeze()  # what is here now stays, and need not be looked through again and again
        gc.set_threshold(*_COLLECTING)
        telling = spawn(_tell(control, app[LIVE]), name="not ready")
        await _until_told(control, doors, app.get(FRONT), float(config.server.reload_drain))
        telling.cancel()


async def _tell(control: Control, live: Live) -> None:
    """Have load balancers know that nobody should come here any more."""
    await control.unready.wait()
    live.ready = False


async def _until_told(control: Control, doors: Doors, viewer: Front | None, reload_drain: float) -> None:
    await _first(control.stopping.wait(), control.retiring.wait())
    if not control.stopping.is_set():
        doors.retire()
        control.retired()
        if viewer is not None:  # a page that somebody leaves open would keep this process for nothing
            viewer.end_streams()
        await _first(control.stopping.wait(), doors.empty.wait(), seconds=reload_drain)


async def _first(*several: Coroutine[Any, Any, object], seconds: float | None = None) -> None:
    """Wait until one of several has come true, so many seconds at most."""
    tasks = [spawn(one, name="waiting") for one in several]
    try:
        await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
