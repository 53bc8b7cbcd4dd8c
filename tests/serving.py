"""The gateway as a user starts it: ``sidestream serve`` with a configuration file, in processes of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import sys
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


class Serving:
    """A running ``sidestream serve``."""

    def __init__(self, process: asyncio.subprocess.Process, file: Path, url: str) -> None:
        self.process = process
        self.file = file
        self.url = url
        self.base = url.removesuffix("/my-agent/anthropic")
        self.log: list[dict[str, Any]] = []

    def logged(self, event: str, **fields: Any) -> list[dict[str, Any]]:
        """The entries of the log so far."""
        return [entry for entry in self.log if {"event": event, **fields}.items() <= entry.items()]

    async def until(self, event: str, count: int = 1, **fields: Any) -> dict[str, Any]:
        """Read the log until an event has been logged so often; the last of them."""
        assert self.process.stderr is not None
        async with asyncio.timeout(30):
            while len(self.logged(event, **fields)) < count:
                line = await self.process.stderr.readline()
                assert line, f"the log ended without {event}"
                self.log.append(json.loads(line))
        return self.logged(event, **fields)[-1]

    async def reload(self, outcome: str = "reload_finished", **sections: Any) -> dict[str, Any]:
        """Change sections of the configuration, have it read, and wait for an outcome."""
        config = yaml.safe_load(self.file.read_text())
        self.file.write_text(yaml.safe_dump({**config, **sections}))
        count = len(self.logged(outcome)) + 1
        self.process.send_signal(signal.SIGHUP)
        return await self.until(outcome, count)

    async def end(self, *signals: signal.Signals) -> tuple[int, str]:
        """Send signals, the second once the first was heard; returns the exit status and the log."""
        for number in signals:
            self.process.send_signal(number)
            await self.until("draining_started")
        async with asyncio.timeout(30):
            _out, rest = await self.process.communicate()
        assert self.process.returncode is not None
        self.log += map(json.loads, rest.splitlines())
        return self.process.returncode, "\n".join(map(json.dumps, self.log))


@contextlib.asynccontextmanager
async def serving(folder: Path, upstream: str, *, host: str = "127.0.0.1", **sections: Any) -> AsyncIterator[Serving]:
    """Start the gateway, and kill what is left of it at the end."""
    config = {
        "upstreams": {"anthropic": {"url": upstream}},
        "recorder": {"mode": "none", "dir": str(folder / "data"), "flush": "300ms"},
        "sinks": [{"jsonl": {"path": str(folder / "traces.jsonl")}}],
        **sections,
    }
    file = folder / "sidestream.yaml"
    file.write_text(yaml.safe_dump(config))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sidestream", "serve", "-c", str(file), "--host", host, "--port", "0"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(30):
            ready = (await process.stdout.readline()).decode()
        match = re.search(r"http://\S+:\d+/\S+/my-agent/anthropic", ready)
        assert match, ready
        yield Serving(process, file, match[0])
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
