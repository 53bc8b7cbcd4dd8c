"""The viewer as a relay shows it: checks who asks, and passes requests on to the recorder's socket.

They go through the very pass-through that calls to providers go through, but with counters and limits of their own: at
an end nobody waits for somebody who looks.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs

import aiohttp
import msgspec
import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from sidestream.errors import GatewayError
from sidestream.viewer.access import Access, Standing
from sidestream.viewer.envelope import ACCESS_HEADER, BASE_HEADER, MOUNT, PAGE_HEADERS
from sidestream.wire.chain import Gateway, compose, refusal
from sidestream.wire.exchange import EXCHANGE
from sidestream.wire.live import Live
from sidestream.wire.passthrough import PassThrough, only_upstream_head
from sidestream.wire.routes import Route
from sidestream.wire.upstream import Limits, Upstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path

    from sidestream.wire.chain import Handler
    from sidestream.wire.exchange import Provider

log = structlog.get_logger()

_NAME: Final = "viewer"
_PAGES: Final = ("/", "/login", "/overview", "/deliveries", "/runs/{tail:.+}", "/turns/{tail:.+}", "/static/{tail:.+}")
_APIS: Final = ("/ui/{tail:.+}", "/deliveries/{tail:.+}")
_EXPLORERS: Final = tuple(f"/api/v1/{name}/{{tail:.+}}" for name in ("push", "trace", "user", "dataset", "policy"))
_FOR_ALL: Final = ("/login", "/static/", "/api/")
"""What the relay lets through without a token; Explorer's API has keys of its own."""
_EVENTS: Final = "/ui/api/events"
_NOBODY_THERE: Final = frozenset({"upstream_unreachable", "upstream_failed"})
_STARTING: Final = """<!doctype html><html lang="en"><title>sidestream</title>
<meta name="color-scheme" content="light dark">
<p>The recorder does not answer; it may be starting. This page looks again in a moment.</p></html>"""
_LIMITS: Final = Limits(connect=2, first_byte=120, idle=60, write=30)
_OURS: Final = "x-sidestream-"
_MOST_LOGIN: Final = 4096
_PATIENCE: Final = 10.0
"""Seconds that a form may take to arrive."""
_REMEMBERED: Final = 30 * 86400


class _Viewer:
    """What the pass-through has to know of the recorder, as if it were a provider."""

    name = _NAME
    missing_credential = ""

    def error_body(self, _status: int, message: str) -> bytes:
        """An error of the gateway's own."""
        return msgspec.json.encode({"error": message, "detail": message})

    def traces(self, _method: str, _path: str) -> bool:
        """Nothing of it becomes a trace."""
        return False

    def needs_credential(self, _method: str, _path: str) -> bool:
        """It is asked for elsewhere."""
        return False


class Front:
    """The routes of the viewer whose recorder listens at `socket`; `base` is the path in front of them.

    `access` is asked when the application has started.
    """

    def __init__(self, socket: Path, access: Callable[[], Access], *, base: str = "", raw_bodies: bool) -> None:
        self._socket = socket
        self._access = access
        self._base = base
        self._raw_bodies = raw_bodies
        self._live = Live(quiet=True)
        self._gateway: Gateway | None = None
        self._ended = False

    def add_routes(self, app: web.Application) -> None:
        """Add them to an application."""
        for path in (*_PAGES, *_APIS, *_EXPLORERS):
            handler = self._login if path == "/login" else self._pass
            app.router.add_route("*", path, handler)
        app.cleanup_ctx.append(self._lifetime)
        app.on_response_prepare.append(only_upstream_head)

    def end_streams(self) -> None:
        """End what is listened to, for good: browsers come back, and reach whoever serves then."""
        self._ended = True
        self._live.cancel(_EVENTS)

    async def _lifetime(self, _app: web.Application) -> AsyncIterator[None]:
        # A new connection for each request: on a kept one a request could be lost to a recorder that just ended.
        connector = aiohttp.UnixConnector(str(self._socket), limit=0, force_close=True)
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(connector)
            await stack.enter_async_context(self._live.sweeping(1.0))
            upstream = Upstream(origin=URL("http://recorder"), base_path=MOUNT, limits=_LIMITS)
            self._gateway = Gateway(
                compose([self._admit], PassThrough(connector, {_NAME: upstream}, self._live)),
                providers={_NAME: _Viewer()},
                live=self._live,
                raw_bodies=self._raw_bodies,
                parse=functools.partial(_route, self._base),
            )
            try:
                await asyncio.to_thread(self._access)
            except GatewayError:  # whoever asks tries again
                log.error("viewer_token_unavailable")
            yield
            await self._live.drain(0)

    async def _pass(self, request: web.Request) -> web.StreamResponse:
        assert self._gateway is not None  # noqa: S101  # its context has begun
        if self._ended and request.path == f"{self._base}{_EVENTS}":
            answer = web.Response(status=503, headers=PAGE_HEADERS)
            answer.force_close()
            return answer
        return await self._gateway(request)

    async def _admit(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """A middleware: tell the recorder who asks, or ask for the token."""
        standing = self._access().standing(request)
        exchange = request[EXCHANGE]
        pushes = exchange.path.startswith("/api/")
        if standing is Standing.CLOSED and not exchange.path.startswith(_FOR_ALL):
            if _is_page(request):
                raise web.HTTPSeeOther(f"{self._base}/login", headers=PAGE_HEADERS)
            raise GatewayError(401, "token_needed", "this needs the viewer's token; `sidestream token` prints it")
        headers = exchange.request_headers
        for name in [name for name in headers if name.lower().startswith(_OURS)]:
            headers.popall(name, None)
        headers.popall("Cookie", None)
        if not pushes:
            headers.popall("Authorization", None)
        headers[BASE_HEADER] = self._base
        headers[ACCESS_HEADER] = standing.value
        try:
            return await handler(request)
        except GatewayError as error:
            if error.code not in _NOBODY_THERE:
                raise
            if _is_page(request):
                again = {**PAGE_HEADERS, "Refresh": "1"}
                return web.Response(status=503, text=_STARTING, content_type="text/html", headers=again)
            raise GatewayError(
                503, "recorder_unavailable", "the recorder does not answer; it may be starting"
            ) from None

    async def _login(self, request: web.Request) -> web.StreamResponse:
        """Have a browser remember the token, if it is the right one; else the recorder has a page that asks for it."""
        try:
            standing = self._access().standing(request)
        except GatewayError as error:
            return refusal(error, _Viewer(), self._live.counters)
        given = await _given(request)
        if standing is Standing.CLOSED and given is None:
            return await self._pass(request)
        if standing is Standing.CLOSED and not self._access().is_token(given or ""):
            return web.Response(status=303, headers={**PAGE_HEADERS, "Location": f"{self._base}/login?wrong"})
        answer = web.Response(status=303, headers={**PAGE_HEADERS, "Location": f"{self._base}/"})
        if self._access().token is not None:
            answer.set_cookie(
                self._access().cookie_name(),
                self._access().cookie(),
                path=f"{self._base}/",
                max_age=_REMEMBERED,
                httponly=True,
                samesite="Lax",
            )
        return answer


def _is_page(request: web.Request) -> bool:
    return request.method == "GET" and "text/html" in request.headers.get("Accept", "")


def _route(base: str, target: str, _prefix: str, _providers: Mapping[str, Provider]) -> Route:
    return Route(None, _NAME, target.removeprefix(base))


async def _given(request: web.Request) -> str | None:
    """The token that somebody typed, or followed a link with."""
    if request.method != "POST":
        return request.query.get("token")
    if (request.content_length or _MOST_LOGIN) > _MOST_LOGIN:
        return ""
    body = bytearray()
    try:
        async with asyncio.timeout(_PATIENCE):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > _MOST_LOGIN:
                    return ""
    except (
        TimeoutError,
        aiohttp.ClientError,
        HttpProcessingError,
        web.RequestPayloadError,
    ):  # it is malformed, or late
        return ""
    return parse_qs(body.decode("ascii", "replace")).get("token", [""])[0]
