"""The recorder's socket: an aiohttp application on a unix socket in the data directory, for this user only.

The viewer is under ``/viewer``: relays pass on to it what browsers and those who push traces ask. Relays also connect
to ``/link`` (a WebSocket) and send the Explorer keys they see, and the command line asks for changes. A request body of
theirs is JSON; an answer is JSON, or JSON lines where it comes bit by bit.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import structlog
from aiohttp import WSMsgType, web

from sidestream.errors import SidestreamError
from sidestream.options import Secret
from sidestream.providers import PROVIDERS
from sidestream.recorder import chores
from sidestream.recorder.requests import PATHS, Delete, Import, Keys, Prune, Redeliver, Reprocess
from sidestream.store.directory import private_parent, vacate
from sidestream.tasks import spawn, where
from sidestream.viewer.app import viewer_app
from sidestream.viewer.envelope import MOUNT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from sidestream.recorder.plane import Plane
    from sidestream.recorder.stage import Stage

T = TypeVar("T")

log = structlog.get_logger()

_LARGEST_MESSAGE = 4 << 20
_LARGEST_IMPORT = 512 << 20
_HEARTBEAT = 10.0
_RETRY = 1.0
_PARSING: dict[str, Any] = {"max_field_size": 1 << 17, "max_headers": 300, "max_line_size": 1 << 17}
"""More than a relay lets through: what it refuses has been refused there, with an answer that fits."""

_PLANE: web.AppKey[Plane] = web.AppKey("plane")
_STAGE: web.AppKey[Stage] = web.AppKey("stage")


@contextlib.asynccontextmanager
async def listening(plane: Plane, path: Path, stage: Stage) -> AsyncIterator[None]:
    """Answer on the socket at `path`, whose recorder this is (its lock is held); the viewer stands on `stage`."""
    app = web.Application(client_max_size=_LARGEST_MESSAGE, middlewares=[_say_why])
    app[_PLANE] = plane
    app[_STAGE] = stage
    app.router.add_get("/link", _link)
    app.router.add_get("/status", _status)
    app.router.add_post(PATHS[Redeliver], _redeliver)
    app.router.add_post(PATHS[Prune], _prune)
    app.router.add_post(PATHS[Import], _import)
    app.router.add_post(PATHS[Delete], _delete)
    app.router.add_post(PATHS[Reprocess], _reprocess)
    app.add_subapp(MOUNT, viewer_app(stage))
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1, **_PARSING)
    await runner.setup()
    await _bound(runner, path)
    keeping = spawn(_keep(runner, path), name="recorder socket")
    try:
        yield
    finally:
        keeping.cancel()
        await asyncio.wait([keeping])
        await runner.cleanup()
        vacate(path)


@web.middleware
async def _say_why(request: web.Request, handler: Callable[[web.Request], Awaitable[T]]) -> T | web.Response:
    try:
        return await handler(request)
    except SidestreamError as error:
        log.warning("request_failed", path=request.path, error=type(error).__name__, where=where(error))
        return web.Response(status=503, text=str(error))


async def _keep(runner: web.AppRunner, path: Path) -> None:
    """Listen again where the socket has gone, or could not be made.

    A full disk, a directory of somebody else's, or a cleaner of temporary files keep the recorder from being asked, not
    from recording.
    """
    while True:
        await asyncio.sleep(_RETRY)
        if not path.is_socket():  # noqa: ASYNC240  # one look a second
            for site in list(runner.sites):
                await site.stop()
            await _bound(runner, path, quietly=True)


async def _bound(runner: web.AppRunner, path: Path, *, quietly: bool = False) -> bool:
    """Whether the socket is there now; what a killed recorder left is replaced."""
    try:
        private_parent(path)  # so that whatever is there is this user's
        path.unlink(missing_ok=True)  # noqa: ASYNC240  # at the start, once
        await web.UnixSite(runner, str(path)).start()
        path.chmod(0o600)  # noqa: ASYNC240  # as above
    except (OSError, SidestreamError) as error:
        if not quietly:
            log.error("recorder_socket_unavailable", error=type(error).__name__, where=where(error))
        return False
    return True


async def _link(request: web.Request) -> web.StreamResponse:
    """Take keys, as long as the relay lives."""
    plane = request.app[_PLANE]
    socket = web.WebSocketResponse(heartbeat=_HEARTBEAT, max_msg_size=_LARGEST_MESSAGE)
    await socket.prepare(request)
    async for message in socket:
        if message.type is not WSMsgType.BINARY:
            continue
        try:
            keys = msgspec.json.decode(message.data, type=Keys).keys
        except (msgspec.MsgspecError, UnicodeDecodeError):
            log.warning("link_message_refused")
            continue
        for fingerprint, key in keys.items():
            plane.keys.add(fingerprint, Secret(key))
            plane.key_seen(fingerprint)
    return socket


async def _status(request: web.Request) -> web.StreamResponse:
    plane = request.app[_PLANE]
    await plane.refresh()
    return _json({"pid": os.getpid(), **plane.snapshot()})


async def _redeliver(request: web.Request) -> web.StreamResponse:
    plane = request.app[_PLANE]
    asked = _decoded(await request.read(), Redeliver)
    redelivered = await plane.shelf.call(plane.shelf.store.redeliver, **msgspec.structs.asdict(asked))
    for name, lane in redelivered.lanes:
        plane.wake(name, lane)
    return _json({"count": redelivered.count})


async def _prune(request: web.Request) -> web.StreamResponse:
    plane = request.app[_PLANE]
    asked = _decoded(await request.read(), Prune)
    pruned = await chores.prune(plane.shelf, asked.age, asked.max_bytes)
    plane.pruned += pruned.exchanges
    return _json({"exchanges": pruned.exchanges, "bytes": pruned.bytes})


async def _delete(request: web.Request) -> web.StreamResponse:
    asked = _decoded(await request.read(), Delete)
    turns = await request.app[_STAGE].delete(run=asked.run, dataset=asked.dataset)
    return _json({"turns": turns, "purged": not turns})


async def _import(request: web.Request) -> web.StreamResponse:
    plane = request.app[_PLANE]
    asked = _decoded(await request.clone(client_max_size=_LARGEST_IMPORT).read(), Import)
    return _json(await plane.shelf.call(plane.shelf.store.take_in, asked.turns))


async def _reprocess(request: web.Request) -> web.StreamResponse:
    plane = request.app[_PLANE]
    asked = _decoded(await request.read(), Reprocess)
    answer = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    await answer.prepare(request)
    try:
        async for progress in chores.reprocess(
            plane.shelf, PROVIDERS, plane.sinks, wake=plane.wake, **msgspec.structs.asdict(asked)
        ):
            await answer.write(msgspec.json.encode(progress) + b"\n")
    except SidestreamError as error:  # the answer has begun, so this is its last line
        log.warning("request_failed", path=request.path, error=type(error).__name__, where=where(error))
        await answer.write(msgspec.json.encode({"error": str(error)}) + b"\n")
    await answer.write_eof()
    return answer


def _decoded(body: bytes, kind: type[Any]) -> Any:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise web.HTTPBadRequest(text="not a request of this kind") from None


def _json(answer: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(answer), content_type="application/json")
