"""A gateway on loopback, in the test's own event loop: real sockets, the real server."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from aiohttp import web

from sidestream.app import create_app
from sidestream.server import serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

PREFIX = "/api/v1/gateway"


@contextlib.asynccontextmanager
async def running(app: web.Application, **server: Any) -> AsyncIterator[str]:
    """Run any application as aiohttp would; yields its origin. `server` are options of `web.AppRunner`."""
    runner = web.AppRunner(app, access_log=None, **server)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def gateway(
    upstream: str,
    *,
    limits: Mapping[str, Any] | None = None,
    caps: Mapping[str, Any] | None = None,
    handler_cancellation: bool = True,
    shutdown_timeout: float = 1.0,
    **config: Any,
) -> AsyncIterator[str]:
    """Run a gateway in front of `upstream`, as the daemon would; yields the URL of its prefix.

    `config` are sections of the configuration (``middlewares=[…]``, ``sinks=[…]``). Unless given, there are no sinks,
    and exchanges go through memory. `limits` are further options of the upstream, `caps` the section ``limits``.
    """
    upstreams = {"anthropic": {"url": upstream, **(limits or {})}}
    sections = {"sinks": [], "recorder": {"mode": "none"}, **config, "limits": caps or {}, "upstreams": upstreams}
    app = create_app(sections, raw_request_bodies=True)
    async with serving(
        app,
        "127.0.0.1",
        0,
        handler_cancellation=handler_cancellation,
        shutdown_timeout=shutdown_timeout,
        pause=0,
    ) as port:
        yield f"http://127.0.0.1:{port}{PREFIX}"
