"""The viewer's application: its routes, its files, and how it says what is wrong.

It runs in the recorder, on the recorder's socket, under `sidestream.viewer.envelope.MOUNT`. Relays check who asks
(`sidestream.viewer.access`), and pass requests on (`sidestream.viewer.front`).
"""

from __future__ import annotations

import mimetypes
from typing import TYPE_CHECKING, Final

import structlog
from aiohttp import web

from sidestream.errors import SidestreamError
from sidestream.store.shapes import Unclear
from sidestream.tasks import where
from sidestream.viewer import (
    api,
    deliveries_page,
    events,
    explorer,
    exports,
    overview_page,
    run_page,
    runs_page,
    turn_page,
)
from sidestream.viewer.backstage import BACKSTAGE
from sidestream.viewer.feed import FeedFull
from sidestream.viewer.rendering import PAGE_HEADERS, STATIC, page, path_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sidestream.viewer.backstage import Backstage

log = structlog.get_logger()

LARGEST_BODY: Final = 64 << 20
"""Bytes of a pushed trace."""
_FOR_EVER: Final = {"Cache-Control": "public, max-age=31536000, immutable", "X-Content-Type-Options": "nosniff"}
_TITLES: Final = {400: "That cannot be asked", 404: "Not there", 503: "Not now"}


def viewer_app(backstage: Backstage) -> web.Application:
    """The application, standing on `backstage`."""
    app = web.Application(client_max_size=LARGEST_BODY, middlewares=[_say_why])
    app[BACKSTAGE] = backstage
    app.router.add_get("/static/{name:[a-z_]+[.](?:css|js|svg)}", _static)
    app.router.add_get("/login", _login)
    app.on_shutdown.append(events.let_go)
    for module in (runs_page, run_page, turn_page, overview_page, deliveries_page, exports, api, events, explorer):
        app.add_routes(module.routes)
    return app


async def _static(request: web.Request) -> web.Response:
    name = request.match_info["name"]
    file = STATIC.joinpath(name)
    if not file.is_file():
        raise web.HTTPNotFound
    kind, _ = mimetypes.guess_type(name)
    return web.Response(body=file.read_bytes(), content_type=kind or "application/octet-stream", headers=_FOR_EVER)


async def _login(request: web.Request) -> web.Response:
    """Ask for the token; whether it is right is for the relay to say."""
    return page(request, "login.html", wrong="wrong" in request.query)


@web.middleware
async def _say_why(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Answer what went wrong as a page, or, below ``/ui/api`` and ``/api``, as JSON. Our own words only."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return _problem(request, error.status, error.text or error.reason)
    except LookupError:
        return _problem(request, 404, "There is nothing of this name here, or it has been removed.")
    except Unclear as error:
        return _problem(request, 400, str(error))
    except FeedFull as error:  # clients come back for it; nothing has failed
        return _problem(request, 503, str(error))
    except SidestreamError as error:
        log.warning("request_failed", path=request.path, error=type(error).__name__, where=where(error))
        return _problem(request, 503, str(error))


def _problem(request: web.Request, status: int, message: str) -> web.Response:
    if path_of(request).startswith(("/ui/", "/api/")):
        return web.json_response({"error": message, "detail": message}, status=status, headers=PAGE_HEADERS)
    return page(request, "error.html", status=status, title=_TITLES.get(status, "It failed"), message=message)
