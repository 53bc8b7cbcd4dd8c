"""Puts the pieces together: an aiohttp application out of a configuration, to run or to mount.

`create_app` gives a whole application, `mount` adds the gateway to somebody's own. Both build every plugin at once, so
a configuration that cannot work is refused here, with every problem, before anything listens.
"""

from __future__ import annotations

import collections
import contextlib
import functools
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from aiohttp import web
from aiohttp.http import HttpRequestParser
from yarl import URL

from sidestream import config as configuration
from sidestream import logs, registry
from sidestream.errors import ConfigError, GatewayError, Problem, SidestreamError
from sidestream.middlewares.auth_split import TRACE_KEY_NEEDED
from sidestream.operations import BESIDE, LIVE, MAY_LOOK, RECORDER_SEEN, TOTALS, add_operations, relay_stats
from sidestream.options import Secret
from sidestream.providers import PROVIDERS
from sidestream.recorder.beside import beside
from sidestream.store.directory import Directory
from sidestream.traces.recording import INTAKE, KEYS, STRICT, TRUNCATED
from sidestream.viewer.access import Access, is_loopback
from sidestream.viewer.front import Front
from sidestream.wire import routes
from sidestream.wire.chain import Gateway, compose, refusal
from sidestream.wire.limits import Caps
from sidestream.wire.live import Live
from sidestream.wire.passthrough import PassThrough, only_upstream_head
from sidestream.wire.trust import trusting
from sidestream.wire.upstream import CleanConnector, Limits, Upstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from sidestream.config import Config
    from sidestream.processes.control import Control

log = structlog.get_logger()

# Shorter than a provider's own, so that a pooled connection is hardly ever one the other side has just closed.
_KEEPALIVE = 15.0

FRONT: web.AppKey[Front] = web.AppKey("front", Front)
"""The viewer, as this process shows it, where there is one."""

_ANY_PATH = "/{tail:(?s:.*)}"  # an encoded line end, too
_GATEWAY: web.AppKey[Gateway] = web.AppKey("gateway", Gateway)


def create_app(
    config: Config | Mapping[str, Any] | Path | None = None,
    *,
    raw_request_bodies: bool = False,
    control: Control | None = None,
) -> web.Application:
    """An application with the gateway at ``server.prefix``.

    `config` is a loaded configuration, the same as a mapping, a YAML file, or None for the defaults; `ConfigError`
    lists every problem. Say `raw_request_bodies` if the server that runs it has ``auto_decompress=False``; otherwise
    request bodies with a content-encoding are refused (415), because aiohttp would hand them on decoded.
    """
    loaded = _loaded(config)
    app = web.Application(client_max_size=loaded.limits.middleware_body)  # of what a middleware reads; 0 is any
    gateway = _gateway_app(loaded, raw_request_bodies, float(loaded.server.drain))
    app[LIVE] = gateway[LIVE]
    if control is not None:  # one process of several, under a supervisor
        control.stats = lambda: relay_stats(gateway) if BESIDE in gateway else {}
        gateway[TOTALS] = control.totals
    app.add_subapp(loaded.server.prefix, gateway)
    access = _access(loaded)

    def may_look(request: web.Request) -> bool:
        try:
            return access().may_see_numbers(request)
        except GatewayError:
            return False

    gateway[MAY_LOOK] = may_look
    if has_viewer(loaded):
        app[FRONT] = Front(_socket(loaded), access, raw_bodies=raw_request_bodies)
        app[FRONT].add_routes(app)
    app.router.add_route("*", _ANY_PATH, _no_such_route, expect_handler=_expect_later)
    return app


def mount(
    app: web.Application,
    prefix: str,
    config: Config | Mapping[str, Any] | Path | None = None,
    *,
    raw_request_bodies: bool = False,
) -> None:
    """Add the gateway to `app` under `prefix`; to be called before the application starts.

    `config` and `raw_request_bodies` are as for `create_app`. The host decides what concerns its server: ``server.*``
    is ignored, with a warning. Its middlewares and its ``on_response_prepare`` signals see the gateway's requests as
    any others. Where it has not configured structlog, events go to its `logging`.
    """
    logs.fit_in()
    loaded = _loaded(config)
    if loaded.server != configuration.Server():
        log.warning("server_options_ignored", reason="the embedding application runs the server")
    app.add_subapp(prefix, _gateway_app(loaded, raw_request_bodies, None))


def mount_viewer(
    app: web.Application,
    prefix: str,
    config: Config | Mapping[str, Any] | Path | None = None,
    *,
    raw_request_bodies: bool = False,
) -> None:
    """Add the viewer to `app` under `prefix`, beside a gateway with the same `config`; before the application starts.

    `prefix` is the path as browsers have it, and `raw_request_bodies` as for `create_app`. Who may look is the
    configuration's ``viewer.access``: nobody knows here who reaches the host, so ``auto`` asks for the token.
    `SidestreamError` for a configuration whose recorder has no store to look into.
    """
    logs.fit_in()
    loaded = _loaded(config)
    if not has_viewer(loaded):
        raise SidestreamError("there is no viewer: viewer.enabled is false, or recorder.mode is 'none'")
    base = prefix.rstrip("/")
    inner = web.Application() if base else app
    Front(_socket(loaded), _access(loaded, embedded=True), base=base, raw_bodies=raw_request_bodies).add_routes(inner)
    if base:
        app.add_subapp(base, inner)


def has_viewer(config: Config) -> bool:
    """Whether there is something to look into, and somebody may."""
    return config.viewer.enabled and config.recorder.mode != "none"


def is_open(config: Config, *, embedded: bool = False) -> bool:
    """Whether no token is needed: nobody but this machine reaches it, or somebody has decided so."""
    viewer = config.viewer
    if viewer.access == "auto":
        return not embedded and viewer.token is None and is_loopback(config.server.host)
    return viewer.access == "open"


def _socket(config: Config) -> Path:
    """Where the recorder listens."""
    return Directory(Path(config.recorder.dir)).socket


def _access(config: Config, *, embedded: bool = False) -> Callable[[], Access]:
    """Who may look; found out once. `GatewayError` (503) while there is neither a token nor a place for one."""
    viewer = config.viewer

    @functools.cache
    def access() -> Access:
        if is_open(config, embedded=embedded):
            hosts = (*viewer.hosts, config.server.host.lower())
            return Access(None, hosts, any_host=viewer.access == "open" and not viewer.hosts)
        if viewer.token is not None:
            return Access(viewer.token)
        try:
            return Access(Secret(Directory(Path(config.recorder.dir)).viewer_token()))
        except OSError:
            raise GatewayError(503, "token_unavailable", "the token can be neither read nor made") from None

    return access


def _loaded(config: Config | Mapping[str, Any] | Path | None) -> Config:
    return config if isinstance(config, configuration.Config) else configuration.load(config)


def _gateway_app(config: Config, raw_bodies: bool, drain: float | None) -> web.Application:
    if HttpRequestParser.__module__ != "aiohttp._http_parser":
        raise SidestreamError("aiohttp's C extension is missing; its pure-Python parser is too lax for a gateway")
    config = _in_this_process(config)
    middlewares, sinks = registry.build_all(config.middlewares, config.sinks)
    strict = float(config.recorder.commit_timeout) if config.recorder.durability == "strict" else None
    upstreams = {name: _upstream(name, upstream) for name, upstream in config.upstreams.items()}
    app = web.Application()
    app[LIVE] = live = Live(caps=_caps(config.limits))
    app[TRACE_KEY_NEEDED] = any(sink.needs_trace_key for sink in sinks)
    app[TRUNCATED] = collections.Counter()
    app[STRICT] = strict
    app[RECORDER_SEEN] = config.recorder.mode != "external"

    async def lifetime(app: web.Application) -> AsyncIterator[None]:
        connector = CleanConnector(limit=0, keepalive_timeout=_KEEPALIVE)
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(connector)
            plane = await stack.enter_async_context(beside(config, sinks))
            await stack.enter_async_context(live.sweeping(_sweep_interval(upstreams)))
            app[BESIDE] = plane
            app[INTAKE] = plane.intake
            app[KEYS] = plane.keys
            app[_GATEWAY] = Gateway(
                compose(middlewares, PassThrough(connector, upstreams, live)),
                providers=PROVIDERS,
                live=live,
                raw_bodies=raw_bodies,
            )
            yield
            await live.drain(0)

    async def drain_streams(app: web.Application) -> None:
        app[LIVE].ready = False
        app[LIVE].closing = True
        if drain is not None:
            cut = await app[LIVE].drain(drain)
            if cut:
                log.warning("streams_cut", count=cut)

    app.cleanup_ctx.append(lifetime)
    app.on_shutdown.append(drain_streams)
    app.on_response_prepare.append(only_upstream_head)
    add_operations(app)
    app.router.add_route("*", _ANY_PATH, _relay, expect_handler=_expect_later)
    return app


def _in_this_process(config: Config) -> Config:
    """`config` with a recorder as an application can have it: it starts no processes."""
    mode = config.recorder.mode
    if mode == "process":
        message = "'process' is for 'sidestream serve'; an application has 'thread', 'external' or 'none'"
        raise ConfigError([Problem("recorder.mode", message)])
    return replace(config, recorder=replace(config.recorder, mode="thread")) if mode == "auto" else config


def _caps(limits: configuration.Limits) -> Caps:
    return Caps(exchanges=limits.exchanges, exchanges_per_key=limits.exchanges_per_key, retry_after=limits.retry_after)


def _upstream(name: str, upstream: configuration.Upstream) -> Upstream:
    url = URL(upstream.url)
    limits = Limits(connect=upstream.connect, first_byte=upstream.first_byte, idle=upstream.idle, write=upstream.write)
    try:
        trusted = True if upstream.ca_bundle is None else trusting(upstream.ca_bundle)
    except ValueError as error:  # the file was there when the configuration was read
        raise ConfigError([Problem(f"upstreams.{name}.ca_bundle", str(error))]) from None
    return Upstream(
        origin=url.origin(),
        base_path=url.raw_path.rstrip("/"),
        limits=limits,
        ssl=trusted,
        proxy=None if upstream.proxy is None else URL(upstream.proxy.reveal()),
    )


def _sweep_interval(upstreams: Mapping[str, Upstream]) -> float:
    """A second; less where a limit is so short that a second would be long."""
    shortest = min(min(u.limits.first_byte, u.limits.idle, u.limits.write) for u in upstreams.values())
    return min(1.0, max(0.02, shortest / 4))


async def _relay(request: web.Request) -> web.StreamResponse:
    return await request.app[_GATEWAY](request)


async def _expect_later(_request: web.Request) -> None:
    """Leave ``Expect: 100-continue`` unanswered until the body is really wanted; a refused request never sends it."""


async def _no_such_route(request: web.Request) -> web.StreamResponse:
    error = GatewayError(404, "unknown_route", "no such route")
    try:
        routes.check(request, raw_bodies=True)
    except GatewayError as worse:
        error = worse
    response = refuse(request.app, error)
    response.force_close()
    return response


def refuse(app: web.Application, error: GatewayError) -> web.Response:
    """An answer of our own to what no provider's route took; `app` is one that `create_app` made."""
    return refusal(error, next(iter(PROVIDERS.values())), app[LIVE].counters)
