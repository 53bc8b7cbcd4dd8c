"""The standalone server: idle connections end when a shutdown begins, running ones when they are done."""

from __future__ import annotations

import asyncio

from aiohttp import web

from rawhttp import connect
from sidestream import create_app
from sidestream.server import serving


async def test_a_shutdown_closes_idle_connections_at_once_and_busy_ones_after_their_answer() -> None:
    go_on, entered = asyncio.Event(), asyncio.Event()

    async def slow(_request: web.Request) -> web.Response:
        entered.set()
        await go_on.wait()
        return web.Response(text="done")

    async def quick(_request: web.Request) -> web.Response:
        return web.Response(text="quick")

    async def hold(_app: web.Application) -> None:
        await go_on.wait()

    app = create_app({"sinks": []}, raw_request_bodies=True)
    app.router.add_get("/slow", slow)
    app.router.add_get("/quick", quick)
    app.on_shutdown.append(hold)
    stop = asyncio.Event()
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def serve() -> None:
        async with serving(app, "127.0.0.1", 0, pause=0) as number:
            port.set_result(number)
            await stop.wait()

    server = asyncio.ensure_future(serve())
    url = f"http://127.0.0.1:{await port}"
    async with connect(url) as new, connect(url) as used, connect(url) as busy:
        await used.send(b"GET /quick HTTP/1.1\r\nHost: g\r\n\r\n")
        assert b"quick" == (await used.answer()).body
        await busy.send(b"GET /slow HTTP/1.1\r\nHost: g\r\n\r\n")
        await entered.wait()
        stop.set()
        await new.closed()
        await used.closed()
        go_on.set()
        assert b"done" == (await busy.answer()).body
        await busy.closed()
    await server
