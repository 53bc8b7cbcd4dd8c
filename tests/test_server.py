"""The standalone server: idle connections end when a shutdown begins, running ones when they are done."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web

from rawhttp import connect, exchange
from sidestream import create_app
from sidestream.processes import listening
from sidestream.server import open_doors, serving


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

    app = create_app({"sinks": [], "recorder": {"mode": "none"}}, raw_request_bodies=True)
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


async def test_retiring_doors_take_nobody_in_and_see_those_inside_out() -> None:
    """An idle connection may be used once more, and is told then that this was the last time."""
    go_on, entered = asyncio.Event(), asyncio.Event()

    async def slow(_request: web.Request) -> web.Response:
        entered.set()
        await go_on.wait()
        return web.Response(text="done")

    async def quick(_request: web.Request) -> web.Response:
        return web.Response(text="quick")

    app = create_app({"sinks": [], "recorder": {"mode": "none"}}, raw_request_bodies=True)
    app.router.add_get("/slow", slow)
    app.router.add_get("/quick", quick)
    async with open_doors(app, listening.bind("127.0.0.1", 0), pause=0) as doors:
        url = f"http://127.0.0.1:{doors.port}"
        async with connect(url) as idle, connect(url) as busy:
            await idle.send(b"GET /quick HTTP/1.1\r\nHost: g\r\n\r\n")
            assert (await idle.answer()).field("Connection") is None
            await busy.send(b"GET /slow HTTP/1.1\r\nHost: g\r\n\r\n")
            await entered.wait()
            doors.retire()
            with pytest.raises(ConnectionRefusedError):
                await exchange(url, b"GET /quick HTTP/1.1\r\nHost: g\r\n\r\n")
            go_on.set()
            assert b"done" == (await busy.answer()).body
            assert not doors.empty.is_set()
            for client in (idle, busy):
                await client.send(b"GET /quick HTTP/1.1\r\nHost: g\r\n\r\n")
                assert "close" == (await client.answer()).field("Connection")
                await client.closed()
            async with asyncio.timeout(10):
                await doors.empty.wait()


async def test_of_doors_that_share_a_socket_one_may_retire() -> None:
    """Everybody who comes finds the other one, on a socket that stays open."""
    sockets = listening.bind("127.0.0.1", 0)
    apps = [create_app({"sinks": [], "recorder": {"mode": "none"}}, raw_request_bodies=True) for _ in range(2)]
    request = b"GET /api/v1/gateway/ready HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n"
    async with open_doors(apps[0], [sock.dup() for sock in sockets], pause=0) as old:
        url = f"http://127.0.0.1:{old.port}"
        async with open_doors(apps[1], sockets, pause=0):
            old.retire()
            statuses = [(await exchange(url, request, method="GET")).status for _ in range(20)]
    assert [200] * 20 == statuses
