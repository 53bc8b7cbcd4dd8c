"""The gateway as a user starts it: ``sidestream serve`` with a configuration file, in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import yaml

from sidestream.demo import DemoFailed

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator
    from pathlib import Path

DATASET: Final = "moss-garden"

_READY: Final = (re.compile(rb"(http://\S+)/my-agent/anthropic\s"), re.compile(rb"(http://\S+)/\s"))
"""In the lines that it prints when it is ready: where agents find it, and its viewer."""
_SECONDS_TO_START: Final = 20
_SECONDS_TO_STOP: Final = 15


@dataclass(frozen=True, slots=True)
class Gateway:
    """Where a running gateway is found."""

    base_url: str
    """For an SDK."""
    viewer: str
    """For a browser; without a slash at its end."""


@contextlib.asynccontextmanager
async def gateway(provider: str, *, folder: Path) -> AsyncIterator[Gateway]:
    """Run the gateway in front of the provider at this URL. Its log is ``folder/gateway.log``, its data are beside it.

    `DemoFailed` if it does not start, or does not end in order. Whatever happens, no process is left.
    """
    file = folder / "sidestream.yaml"
    config = {
        "server": {"drain": "2s"},
        "recorder": {"dir": str(folder / "data"), "flush": "2s"},
        "upstreams": {"anthropic": {"url": provider}},
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
        prefix, viewer = await _ready(process)
        yield Gateway(f"{prefix}/{DATASET}/anthropic", viewer)
    finally:
        status = await _end(process)
    if status != 0:
        raise DemoFailed(f"the gateway ended with status {status}")


async def _ready(process: Process) -> list[str]:
    """The URLs of the gateway's prefix and of its viewer, from what it prints."""
    assert process.stdout is not None  # noqa: S101  # it is a pipe
    try:
        async with asyncio.timeout(_SECONDS_TO_START):
            found = [pattern.search(await process.stdout.readline()) for pattern in _READY]
    except TimeoutError:
        raise DemoFailed(f"the gateway was not ready within {_SECONDS_TO_START} s") from None
    urls = [match[1].decode() for match in found if match]
    if len(urls) < len(_READY):
        raise DemoFailed("the gateway did not start")
    return urls


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
