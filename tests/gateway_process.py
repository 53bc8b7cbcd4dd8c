"""``sidestream serve`` as a process tree: started as a user would, looked at, and killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import yaml

from rawhttp import Answer, exchange

if TYPE_CHECKING:
    from types import TracebackType

_READY = re.compile(rb"(http://127\.0\.0\.1:(\d+))(/api/v1/gateway)/my-agent/anthropic")
_KINDS = ("relay", "recorder")


class GatewayProcess:
    """One ``sidestream serve`` in `folder`, with the data directory ``folder/data``; its log is ``folder/log``.

    `config` are sections of its configuration, and `descriptors` is how many each process may have open. `start` may
    be called again after `kill`, and takes the same port.
    """

    def __init__(self, folder: Path, upstream: str, *, descriptors: int | None = None, **config: Any) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.log = folder / "log"
        self.url = ""
        self.file = folder / "sidestream.yaml"
        self.process: asyncio.subprocess.Process | None = None
        recorder = {"dir": str(self.data), "min_free": 0, **config.pop("recorder", {})}
        self.config = {"upstreams": {"anthropic": {"url": upstream}}, "sinks": [], "recorder": recorder, **config}
        self._port = 0
        self._launcher = ("sh", "-c", f'ulimit -n {descriptors}; exec "$@"', "sh") if descriptors else ()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.kill("all")

    def write_config(self) -> None:
        """Write the configuration down as it is now."""
        self.file.write_text(yaml.safe_dump(self.config))

    async def start(self) -> None:
        """Start it, and wait until it is ready."""
        self.write_config()
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(
                    *self._launcher,
                    sys.executable,
                    "-m",
                    "sidestream",
                    "serve",
                    "-c",
                    str(self.file),
                    "--port",
                    str(self._port),
                ),
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )
        assert self.process.stdout is not None
        async with asyncio.timeout(30):
            line = await self.process.stdout.readline()
        match = _READY.search(line)
        assert match, self.log.read_text()[-3000:]
        self._port = int(match[2])
        self.url = match[0].decode()

    def children(self, kind: str) -> list[int]:
        """The pids of the children whose command line has this word."""
        assert self.process is not None
        return [pid for pid, parent, line in _processes() if parent == self.process.pid and kind in line]

    async def kill(self, what: str) -> int:
        """SIGKILL ``relay``, ``recorder`` (all of them), ``supervisor`` or ``all``, without a word; how many."""
        if self.process is None:
            return 0
        pids = (
            []
            if what == "supervisor"
            else [pid for kind in _KINDS for pid in self.children(kind) if what in {kind, "all"}]
        )
        if what in {"supervisor", "all"}:
            pids.insert(0, self.process.pid)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if what in {"supervisor", "all"}:
            await self.process.wait()
        return len(pids)

    async def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to end; its exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        async with asyncio.timeout(40):
            return await self.process.wait()

    async def until(self, event: str, *, times: int = 1) -> None:
        """Wait until this event stands in the log so many times."""
        async with asyncio.timeout(30):
            while sum(line.get("event") == event for line in self.events()) < times:  # noqa: ASYNC110  # another process
                await asyncio.sleep(0.05)

    def events(self) -> list[dict[str, Any]]:
        """The log so far."""
        lines = []
        for line in self.log.read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                lines.append(json.loads(line))
        return lines

    def command_lines(self) -> list[str]:
        """Those of the supervisor and its children."""
        assert self.process is not None
        family = {self.process.pid}
        return [line for pid, parent, line in _processes() if pid in family or parent in family]

    def memory(self) -> dict[str, float]:
        """Resident memory in MB, by kind of process."""
        assert self.process is not None
        kinds = {"supervisor": [self.process.pid], **{kind: self.children(kind) for kind in _KINDS}}
        return {kind: round(sum(map(_resident, pids)), 1) for kind, pids in kinds.items()}

    async def get(self, path: str) -> Answer:
        """GET a path below the prefix."""
        request = f"GET /api/v1/gateway/{path} HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n"
        return await exchange(self.url, request.encode(), method="GET")

    async def health(self) -> dict[str, Any]:
        """What ``health`` says."""
        found: dict[str, Any] = json.loads((await self.get("health")).body)
        return found


def _resident(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def _processes() -> list[tuple[int, int, str]]:
    """Pid, parent and command line of every process."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found.append((int(entry.name), parent, line))
    return found
