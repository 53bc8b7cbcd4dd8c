"""What is left in a store after a run."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections import Counter
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sidestream.store.store import Store

if TYPE_CHECKING:
    from pathlib import Path

    from gateway_process import GatewayProcess


@dataclass
class Left:
    """The exchanges by the marker of their request, their outcomes, and the deliveries by state."""

    markers: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    deliveries: dict[str, int] = field(default_factory=dict)
    sound: bool = False
    """Whether SQLite finds the file in order."""

    @property
    def undelivered(self) -> int:
        """Deliveries in any state but delivered."""
        return sum(count for state, count in self.deliveries.items() if state != "delivered")


def left_in(data: Path, sink: str = "explorer") -> Left:
    """Read the store in a data directory."""
    left = Left()
    with closing(Store.open_reader(data / "store.db")) as store:
        for _, record in store.exchanges():
            left.outcomes[record.outcome] += 1
            with suppress(ValueError, LookupError):
                left.markers[json.loads(b"".join(record.request_chunks))["messages"][0]["content"]] += 1
        left.deliveries = store.counts().get(sink, {})
    with closing(sqlite3.connect(data / "store.db")) as connection:
        left.sound = connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    return left


async def all_delivered(gateway: GatewayProcess, seconds: float, sink: str = "explorer") -> bool:
    """Wait until nothing is unread and nothing is left to deliver."""
    try:
        async with asyncio.timeout(seconds):
            while True:
                recorder = (await gateway.health()).get("recorder", {})
                gauges = recorder.get("gauges", {})
                states = gauges.get("deliveries", {}).get(sink, {})
                waiting = sum(states.get(state, 0) for state in ("pending", "sending", "retry_at"))
                if gauges.get("backlog_bytes") == 0 and not waiting:
                    return True
                await asyncio.sleep(0.1)
    except TimeoutError:
        return False
