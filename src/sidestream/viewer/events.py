"""The live feed over HTTP, as server-sent events: https://html.spec.whatwg.org/multipage/server-sent-events.html.

``GET /ui/api/events``, with ``dataset=``, ``run=`` and ``kinds=began,ended`` for those that are wanted. Who comes back
says ``Last-Event-ID`` (or ``after=``) and is given what it has missed. An event's data is one JSON object:

- ``began`` {`sidestream.store.shapes.Running`}: a turn is under way; again where it turns out to belong to another run;
- ``progress`` {id, run, response_bytes}: more of its answer has come; a few times a second at most;
- ``ended`` {run: `RunSummary`, turn: `TurnSummary`}: it is over, and stored;
- ``gone`` {id}: it will not be stored;
- ``removed`` {run} or {dataset}: somebody has removed it;
- ``reset`` {}: something was missed, so everything is to be looked up anew.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from aiohttp import web

from sidestream.viewer.backstage import BACKSTAGE
from sidestream.viewer.feed import Wanted
from sidestream.viewer.rendering import PAGE_HEADERS

if TYPE_CHECKING:
    from sidestream.viewer.feed import Event, Listener

routes = web.RouteTableDef()

_HEADERS: Final = {**PAGE_HEADERS, "Content-Type": "text/event-stream", "X-Accel-Buffering": "no"}
_KEEP_ALIVE = 10.0
"""Seconds of silence after which a comment is sent."""
_STALLED = 60.0
"""Seconds for which a client may not read; it is disconnected then."""
_RECONNECT: Final = 1000
"""Milliseconds that a client waits before it comes back."""


async def let_go(app: web.Application) -> None:
    """End all listening, in good order: for the application's ``on_shutdown``."""
    app[BACKSTAGE].feed.close()


@routes.get("/ui/api/events", allow_head=False)
async def events(request: web.Request) -> web.StreamResponse:
    """Tell what happens, until the client leaves."""
    asked = request.query
    kinds = frozenset(asked["kinds"].split(",")) if asked.get("kinds") else None
    wanted = Wanted(dataset=asked.get("dataset") or None, run=asked.get("run") or None, kinds=kinds)
    after = request.headers.get("Last-Event-ID") or asked.get("after")
    feed = request.app[BACKSTAGE].feed
    with feed.listen(after, wanted) as listener:
        response = web.StreamResponse(headers=_HEADERS)
        await response.prepare(request)
        try:
            await _write(response, f"retry: {_RECONNECT}\nid: {listener.caught_up}\n\n".encode())
            while (piece := await _next(listener, feed.epoch)) is not None:
                await _write(response, piece)
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()
        except ConnectionResetError:
            pass  # it has left
    return response


async def _next(listener: Listener, epoch: str) -> bytes | None:
    """What to send next; None at the end. The id goes with every sign of life, also where nothing was wanted."""
    try:
        async with asyncio.timeout(_KEEP_ALIVE):
            return _framed(await anext(listener), epoch)
    except StopAsyncIteration:
        return None
    except TimeoutError:
        return f": nothing new\nid: {listener.caught_up}\n\n".encode()


def _framed(event: Event, epoch: str) -> bytes:
    """The event as the format has it; JSON has no line ends of its own."""
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (event.id(epoch).encode(), event.kind.encode(), event.data)


async def _write(response: web.StreamResponse, data: bytes) -> None:
    async with asyncio.timeout(_STALLED):
        await response.write(data)
