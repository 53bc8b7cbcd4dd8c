"""A disk that becomes full in the middle of a run, and has room again later: a file system of a few megabytes.

It takes the right to mount one, so only root can run it.
"""

from __future__ import annotations

import asyncio
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from chaos.agents import Calls, agents, provider
from chaos.left import Left, all_delivered, left_in
from gateway_process import GatewayProcess
from sidestream.testing import FakeExplorer, ScriptedUpstream

if TYPE_CHECKING:
    from pathlib import Path


@dataclass
class Full:
    """What the full disk showed."""

    before: Calls = field(default_factory=Calls)
    during: Calls = field(default_factory=Calls)
    after: Calls = field(default_factory=Calls)
    dropped: int = 0
    restarts: int = 0
    left: Left = field(default_factory=Left)


def mount(folder: Path, megabytes: int) -> bool:
    """Mount a file system of so many megabytes; False if that is not allowed."""
    folder.mkdir(mode=0o700, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0700", "tmpfs", str(folder)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def resize(folder: Path, megabytes: int) -> None:
    """Give it another size."""
    subprocess.run(["mount", "-o", f"remount,size={megabytes}m", str(folder)], check=True, capture_output=True)


def unmount(folder: Path) -> None:
    """Let go of it."""
    subprocess.run(["umount", "-l", str(folder)], check=False, capture_output=True)


async def full_disk(folder: Path, count: int) -> Full | None:
    """Calls before, while and after the disk is full; None where nothing can be mounted."""
    data = folder / "data"
    if not mount(data, 64):
        return None
    found = Full()
    try:
        async with ScriptedUpstream(provider) as upstream, FakeExplorer() as explorer:
            sinks = [{"explorer": {"url": explorer.url, "settle": "100ms"}}]
            gateway = GatewayProcess(folder, upstream.url, sinks=sinks, recorder={"memory": "64KiB"})
            async with gateway:
                await agents(gateway, found.before, 4, asyncio.Event(), most=count)
                filler = data / "filler"
                with filler.open("wb", buffering=0) as stream:
                    try:
                        while True:
                            stream.write(bytes(1 << 12))
                    except OSError:
                        pass
                await agents(gateway, found.during, 4, asyncio.Event(), most=count)
                filler.unlink()
                await gateway.until("journal_write_recovered")
                await agents(gateway, found.after, 4, asyncio.Event(), most=count)
                await all_delivered(gateway, 30)
                health = await gateway.health()
                found.dropped = sum(health["relay"]["dropped"].values())
                found.restarts = sum(health["supervisor"]["restarts"].values())
                await gateway.end()
            found.left = left_in(data)
    finally:
        unmount(data)
    return found
