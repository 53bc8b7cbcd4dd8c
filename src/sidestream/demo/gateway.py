"""The gateway as a user starts it: ``sidestream serve`` with a configuration file, in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
from typing import TYPE_CHECKING, Final

import yaml

from sidestream.demo import DemoFailed

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator
    from pathlib import Path

DATASET: Final = "moss-garden"

_READY: Final = re.compile(rb"(http://\S+)/my-agent/anthropic\s")
_SECONDS_TO_START: Final = 20
_SECONDS_TO_STOP: Final = 15


@contextlib.asynccontextmanager
async def gateway(provider: str, explorer: str, *, folder: Path) -> AsyncIterator[str]:
    """Run the gateway between the two URLs; yields the base URL for an SDK. Its log is ``folder/gateway.log``.

    `DemoFailed` if it does not start, or does not end in order. Whatever happens, no process is left.
    """
    file = folder / "sidestream.yaml"
    config = {
        "server": {"drain": "2s"},
        "recorder": {"dir": str(folder / "data"), "flush": "2s"},
        "upstreams": {"anthropic": {"url": provider}},
        "sinks": [{"explorer": {"url": explorer}}],
    }
    file.write_text(yaml.safe_dump(config))
    with (folder / "gateway.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "sidestream", "serve", "-c", str(file), "--port", "0"),
            process_group=0,  # Ctrl-C is for the demo, which then ends this in order
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
        )
    try:
        yield f"{await _ready(process)}/{DATASET}/anthropic"
    finally:
        status = await _end(process)
    if status != 0:
        raise DemoFailed(f"the gateway ended with status {status}")


async def _ready(process: Process) -> str:
    """The URL of the gateway's prefix, from its ready line."""
    assert process.stdout is not None  # noqa: S101  # it is a pipe
    try:
        async with asyncio.timeout(_SECONDS_TO_START):
            line = await process.stdout.readline()
    except TimeoutError:
        raise DemoFailed(f"the gateway was not ready within {_SECONDS_TO_START} s") from None
    if match := _READY.search(line):
        return match[1].decode()
    raise DemoFailed("the gateway did not start")


async def _end(process: Process) -> int:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(_SECONDS_TO_STOP):
            return await process.wait()
    except TimeoutError:
        process.kill()
        return await process.wait()
    except asyncio.CancelledError:
        process.kill()
        raise
