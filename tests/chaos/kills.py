"""SIGKILL at random moments: strict durability loses nothing whose clean end was seen, async what its window allows."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from chaos.agents import Calls, agents, provider
from chaos.left import Left, all_delivered, left_in
from gateway_process import GatewayProcess
from sidestream.testing import FakeExplorer, ScriptedUpstream

if TYPE_CHECKING:
    from pathlib import Path

TARGETS = ("relay", "recorder", "supervisor", "all")
WINDOW = 0.15
"""Seconds before the death of a relay within which an exchange that ended may be lost under async: 50 ms for the
window, and as long again for the write, and for what is noticed late on a busy machine."""


@dataclass
class Findings:
    """What one run showed."""

    calls: Calls = field(default_factory=Calls)
    killed_at: list[float] = field(default_factory=list)
    """When (monotonic seconds) relays were killed: nothing else excuses a loss."""
    left: Left = field(default_factory=Left)
    pushed: Counter[str] = field(default_factory=Counter)
    delivered: bool = False

    @property
    def lost(self) -> list[str]:
        """Clean ends of which no trace is left."""
        return [marker for marker in self.calls.clean if marker not in self.left.markers]

    @property
    def unexplained(self) -> list[str]:
        """Those of them that no kill within the window explains."""
        clean = self.calls.clean
        return [
            marker for marker in self.lost if not any(-0.05 <= at - clean[marker] <= WINDOW for at in self.killed_at)
        ]

    @property
    def stored_twice(self) -> int:
        """Records beyond the first of an exchange."""
        return sum(self.left.markers.values()) - len(self.left.markers)

    @property
    def pushed_twice(self) -> int:
        """Pushes beyond the first of an exchange."""
        return sum(self.pushed.values()) - len(self.pushed)


async def kills(folder: Path, durability: str, count: int, *, clients: int = 8) -> Findings:
    """Kill one thing after the other at random moments under load, and see what is left."""
    findings = Findings()
    async with ScriptedUpstream(provider) as upstream, FakeExplorer() as explorer:
        gateway = GatewayProcess(
            folder,
            upstream.url,
            server={"workers": 2},
            recorder={"durability": durability},
            sinks=[{"explorer": {"url": explorer.url, "settle": "100ms", "timeout": "5s"}}],
        )
        async with gateway:
            stop = asyncio.Event()
            loading = asyncio.create_task(agents(gateway, findings.calls, clients, stop))
            for number in range(count):
                await asyncio.sleep(random.uniform(0.2, 1.0))
                target = TARGETS[number % len(TARGETS)]
                if target in {"relay", "all"}:
                    findings.killed_at.append(time.monotonic())
                await gateway.kill(target)
                if target in {"supervisor", "all"}:
                    await gateway.start()
            await asyncio.sleep(0.2)
            stop.set()
            await loading
            findings.delivered = await all_delivered(gateway, 60)
            await gateway.end()
        findings.left = left_in(gateway.data)
        findings.pushed.update(explorer.exchanges())
    return findings
