"""The standalone gateway's life: start, a line that says so, and an orderly end at a signal."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING

import structlog
import uvloop

from sidestream import logs
from sidestream.app import create_app
from sidestream.server import serving

if TYPE_CHECKING:
    from sidestream.config import Config, Server

log = structlog.get_logger()

_LAST_LINES = 1.0
"""Seconds that the last log lines have at the end."""


def serve(config: Config) -> int:
    """Run the gateway until SIGTERM or Ctrl-C; returns the exit status.

    The first signal stops accepting, lets streams finish and sinks deliver within ``server.drain``; a second one stops
    at once. `ConfigError` if the configuration cannot work, another `SidestreamError` if the gateway cannot start.
    """
    writer = logs.configure()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_serve(config))
    finally:
        writer.flush(_LAST_LINES)


async def _serve(config: Config) -> int:
    server = config.server
    stopping = _on_signals()
    app = create_app(config, raw_request_bodies=True)
    async with serving(app, server.host, server.port) as port:
        _say_ready(server, port)
        await stopping.wait()
        log.info("draining_started", limit_seconds=float(server.drain))
    log.info("gateway_stopped")
    return 0


def _on_signals() -> asyncio.Event:
    stopping = asyncio.Event()

    def received(number: int) -> None:
        if stopping.is_set():
            os._exit(128 + number)
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, received, number)
    return stopping


def _say_ready(server: Server, port: int) -> None:
    host = f"[{server.host}]" if ":" in server.host else server.host
    base = f"http://{host}:{port}{server.prefix}"
    print(f"sidestream is ready. Base URL for an SDK:  {base}/my-agent/anthropic", flush=True)  # noqa: T201
    log.info("gateway_started", base_url=base)
