"""What operators ask the gateway: whether it is alive, whether it takes clients, and what it has counted."""

from __future__ import annotations

import asyncio
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web

from sidestream import logs, metrics
from sidestream.errors import SidestreamError
from sidestream.recorder.beside import Beside
from sidestream.stats import merge
from sidestream.traces.recording import INTAKE, STRICT, TRUNCATED
from sidestream.wire.live import Live

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sidestream.stats import RelayStats

LIVE: web.AppKey[Live] = web.AppKey("live", Live)
BESIDE: web.AppKey[Beside] = web.AppKey("beside", Beside)

TOTALS: web.AppKey[Callable[[], Awaitable[dict[str, Any]]]] = web.AppKey("totals")
"""Where this is one of several processes: asks for the sums of all, as `sidestream.stats.Totals`."""

RECORDER_SEEN: web.AppKey[bool] = web.AppKey("recorder_seen", bool)
"""Whether the totals should have the recorder in them; one that somebody else runs is not among them."""

MAY_LOOK: web.AppKey[Callable[[web.Request], bool]] = web.AppKey("may_look")
"""Whether somebody may see what is counted. Without it everybody may."""

_VERSION = version("sidestream")


def add_operations(app: web.Application) -> None:
    """Add the routes ``health``, ``ready`` and ``metrics``."""
    app.router.add_get("/health", _health)
    app.router.add_get("/ready", _ready)
    app.router.add_get("/metrics", show_metrics)


def relay_stats(app: web.Application) -> RelayStats:
    """What this relay has counted; `app` is a gateway's."""
    live = app[LIVE]
    counters = live.counters
    exchanges: dict[str, dict[str, dict[str, int]]] = {}
    for (provider, status, outcome), count in counters.exchanges.items():
        exchanges.setdefault(provider, {}).setdefault(status, {})[outcome] = count
    return {
        "exchanges": exchanges,
        "time_to_first_byte": {name: times.snapshot() for name, times in counters.time_to_first_byte.items()},
        "rejected": dict(counters.rejected),
        **app[BESIDE].captured(),  # type: ignore[typeddict-item]  # the rest of the shape
        "truncated": {"request": app[TRUNCATED]["request"], "response": app[TRUNCATED]["response"]},
        "observer_failures": counters.observer_failures,
        "middleware_failures": counters.middleware_failures,
        "inexact": counters.inexact,
        "log_lines_dropped": logs.lines_dropped(),
        "gauges": {"live": len(live), "most_live": live.caps.exchanges, "waiting_bytes": app[INTAKE].waiting},
    }


async def _totals(app: web.Application) -> dict[str, Any]:
    """All that is known of the gateway's processes."""
    ask = app.get(TOTALS)
    totals = await ask() if ask else {"relay": merge(relay_stats(app))}
    recorder = await app[BESIDE].recorder()
    return totals if recorder is None else {**totals, "recorder": merge(recorder)}


async def _health(request: web.Request) -> web.Response:
    """That the gateway is alive, and, for those who may know, what has been counted."""
    if not _may_look(request):
        return _json({"status": "ok"})
    totals = await _totals(request.app)
    return _json({"status": "ok", "version": _VERSION, **totals})


async def _ready(request: web.Request) -> web.Response:
    """Whether clients should come here: not while it stops, nor while strict durability cannot be given."""
    app = request.app
    if not app[LIVE].ready:
        return _json({"ready": False, "reason": "stopping"}, status=503)
    if app[STRICT] is not None and not app[INTAKE].ready:
        return _json({"ready": False, "reason": "recording_unavailable"}, status=503)
    return _json({"ready": True})


async def show_metrics(request: web.Request) -> web.Response:
    """The same counters as ``health``, in Prometheus' text format."""
    if not _may_look(request):
        text = "This needs the viewer's token, as a bearer token; `sidestream token` prints it.\n"
        return web.Response(status=401, text=text, headers={"WWW-Authenticate": "Bearer"})
    try:
        recorder = request.app[RECORDER_SEEN]
        body = await asyncio.to_thread(metrics.render, await _totals(request.app), recorder=recorder)
    except SidestreamError as error:  # the extra is not installed
        return web.Response(status=501, text=f"{error}\n")
    return web.Response(body=body, headers={"Content-Type": metrics.CONTENT_TYPE})


def _may_look(request: web.Request) -> bool:
    may_look = request.app.get(MAY_LOOK)
    return may_look is None or may_look(request)


def _json(answer: object, status: int = 200) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(answer), content_type="application/json")
