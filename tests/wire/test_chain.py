"""Composition."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from sidestream.wire.chain import compose

if TYPE_CHECKING:
    from sidestream.wire.chain import Handler, Middleware


async def test_the_first_middleware_is_the_outermost() -> None:
    order: list[str] = []

    def named(name: str) -> Middleware:
        async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
            order.append(f"{name} in")
            response = await handler(request)
            order.append(f"{name} out")
            return response

        return middleware

    async def innermost(_request: web.Request) -> web.StreamResponse:
        order.append("relay")
        return web.Response()

    await compose([named("a"), named("b")], innermost)(make_mocked_request("GET", "/"))
    assert ["a in", "b in", "relay", "b out", "a out"] == order
