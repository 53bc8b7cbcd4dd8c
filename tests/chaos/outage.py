"""An Explorer that is down for the whole of a load, and then comes back: everything arrives, once, and in order."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from chaos.agents import DATASETS, Calls, agents, provider
from chaos.left import Left, all_delivered, left_in
from gateway_process import GatewayProcess
from sidestream.store.store import Store
from sidestream.testing import FakeExplorer, ScriptedUpstream

if TYPE_CHECKING:
    from pathlib import Path


@dataclass
class Outage:
    """What the outage showed. Memory is in MB, by kind of process: before, when the load was over, and drained."""

    calls: Calls = field(default_factory=Calls)
    memory: list[dict[str, float]] = field(default_factory=list)
    tries: int = 0
    """Connections that were tried while it was down, at most one at a time by the breaker."""
    drain_seconds: float = 0.0
    delivered: bool = False
    pushed: Counter[str] = field(default_factory=Counter)
    in_order: bool = False
    left: Left = field(default_factory=Left)


async def outage(folder: Path, count: int, *, clients: int = 16) -> Outage:
    """`count` exchanges while the Explorer is down."""
    found = Outage()
    async with ScriptedUpstream(provider) as upstream, FakeExplorer() as explorer:
        await explorer.go_down()
        gateway = GatewayProcess(
            folder, upstream.url, sinks=[{"explorer": {"url": explorer.url, "concurrency": DATASETS}}]
        )
        async with gateway:
            await agents(gateway, found.calls, clients, asyncio.Event(), most=count // 10)
            found.memory.append(gateway.memory())
            await agents(gateway, found.calls, clients, asyncio.Event(), most=count)
            found.memory.append(gateway.memory())
            await explorer.come_back()
            began = time.monotonic()
            found.delivered = await all_delivered(gateway, 1800)
            found.drain_seconds = time.monotonic() - began
            found.memory.append(gateway.memory())
            found.tries = sum("sink_delivery_retried" == line.get("event") for line in gateway.events())
            await gateway.end()
        found.left = left_in(gateway.data)
        found.pushed.update(explorer.exchanges())
        found.in_order = all(
            explorer.exchanges(dataset) == _stored_order(gateway.data, dataset)
            for dataset in (f"agent-{number}" for number in range(DATASETS))
        )
    return found


def _stored_order(data: Path, dataset: str) -> list[str]:
    with closing(Store.open_reader(data / "store.db")) as store:
        return [record.id for _, record in store.exchanges(dataset=dataset)]
