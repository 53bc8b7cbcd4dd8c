"""One SIGHUP after the other under load, without a failed request."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

from chaos.agents import Calls, agents, provider
from gateway_process import GatewayProcess
from sidestream.testing import ScriptedUpstream

if TYPE_CHECKING:
    from pathlib import Path


async def reloads(folder: Path, count: int, *, clients: int = 8) -> Calls:
    """What the agents saw of `count` reloads."""
    calls = Calls()
    async with ScriptedUpstream(provider) as upstream:
        async with GatewayProcess(folder, upstream.url, server={"workers": 2}) as gateway:
            stop = asyncio.Event()
            loading = asyncio.create_task(agents(gateway, calls, clients, stop))
            for number in range(1, count + 1):
                assert gateway.process is not None
                gateway.process.send_signal(signal.SIGHUP)
                await gateway.until("reload_finished", times=number)
            stop.set()
            await loading
            await gateway.end()
    return calls
