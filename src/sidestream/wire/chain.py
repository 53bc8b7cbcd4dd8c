"""The chain: middlewares around the pass-through, and the promise around the chain.

A middleware has aiohttp's own signature: ``async (request, handler) -> response``. The chain is composed here and not
through ``Application(middlewares=…)``, so that nothing else on the same port is wrapped, and embedding never leaks into
a host.

The promise: whatever a middleware does, an exchange ends exactly once, and a client never gets a second response inside
the body of the first.
"""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Protocol, cast

import structlog
from aiohttp import ClientError, web

from sidestream.errors import ClientDisconnected, GatewayError, RelayError
from sidestream.tasks import where
from sidestream.wire import routes
from sidestream.wire.exchange import EXCHANGE, Exchange, Outcome, Provider
from sidestream.wire.headers import request_headers
from sidestream.wire.sockets import reset

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from sidestream.wire.live import Counters, Live

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

log = structlog.get_logger()


class Middleware(Protocol):
    """A link of the chain; aiohttp's own signature, so that its middlewares fit."""

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Do something before and after ``await handler(request)``, which relays the whole exchange."""


def compose(middlewares: Sequence[Middleware], innermost: Handler) -> Handler:
    """One handler out of many, the first middleware outermost."""
    handler = innermost
    for middleware in reversed(middlewares):
        handler = functools.partial(middleware, handler=handler)
    return handler


def refusal(error: GatewayError, provider: Provider, counters: Counters) -> web.Response:
    """An answer of our own, in the provider's error shape; counted by its code."""
    counters.rejected[error.code] += 1
    headers = {"x-sidestream-error": error.code, "Server": "sidestream"}
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    body = provider.error_body(error.status, error.message)
    return web.Response(status=error.status, body=body, content_type="application/json", headers=headers)


class Gateway:
    """The aiohttp handler of every gateway route."""

    def __init__(
        self,
        handler: Handler,
        *,
        providers: Mapping[str, Provider],
        live: Live,
        raw_bodies: bool,
        parse: Callable[[str, str, Mapping[str, Provider]], routes.Route] = routes.parse,
    ) -> None:
        self._handler = handler
        self._parse = parse
        self._providers = providers
        self._live = live
        self._raw_bodies = raw_bodies
        self._default = next(iter(providers.values()))

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        """Relay one request, or answer it ourselves in the provider's error shape."""
        resource = request.match_info.route.resource
        prefix = resource.canonical.removesuffix("/{tail}") if resource is not None else ""
        try:
            routes.check(request, raw_bodies=self._raw_bodies)
            route = self._parse(request.raw_path, prefix, self._providers)
        except GatewayError as error:
            return self._turned_away(error, self._default)
        provider = self._providers[route.provider]
        exchange = Exchange(
            provider=provider,
            dataset=route.dataset,
            method=request.method,
            target=route.target,
            request_headers=request_headers(request.headers),
            live=self._live,
        )
        try:
            keys = self._live.caps.admit(request.headers, len(self._live))
        except GatewayError as error:
            return self._turned_away(error, provider)
        request[EXCHANGE] = exchange
        self._live.begun(exchange)
        try:
            return await self._run(request, exchange)
        except asyncio.CancelledError as error:
            exchange.settle(self._live.meaning_of_cancellation(request), error)
            raise
        finally:
            self._live.interrupt(exchange)
            exchange.end()
            self._live.caps.release(keys)

    def _turned_away(self, error: GatewayError, provider: Provider) -> web.StreamResponse:
        """An answer to what never becomes an exchange. The connection ends with it: a body may be on its way."""
        response = refusal(error, provider, self._live.counters)
        response.force_close()
        return response

    async def _run(self, request: web.Request, exchange: Exchange) -> web.StreamResponse:
        try:
            response = await self._handler(request)
        except GatewayError as error:
            response = self._refused(exchange, error)
        except RelayError as error:  # settled, and the client's transport broken off, where it happened
            log.debug("relay_broken", exchange=exchange.id, error=type(error).__name__)
            return web.Response(status=499)
        except web.HTTPRequestEntityTooLarge:  # a middleware reads the body, beyond what the application allows
            refused = GatewayError(413, "body_too_large", "a middleware reads bodies here, and none as large as this")
            response = self._refused(exchange, refused)
        except web.HTTPException as error:  # a middleware's way to answer
            response = error
        except (Exception, SystemExit) as error:  # noqa: BLE001  # a middleware's bug must not become aiohttp's page
            response = self._failed(exchange, error)
        if not isinstance(cast("object", response), web.StreamResponse):  # a forgotten return
            response = self._failed(exchange, TypeError("a middleware returned no response"))
        if self._live.interrupt(exchange):
            exchange.settle(Outcome.CANCELLED)
        if response is exchange.response:
            return response
        written = request.writer.output_size > 0
        if written and (exchange.response is not None or not response.prepared):
            return self._second_response(request, exchange)
        return await self._answer(request, exchange, response)

    def _failed(self, exchange: Exchange, error: BaseException) -> web.StreamResponse:
        self._live.counters.middleware_failures += 1
        log.error("middleware_failed", exchange=exchange.id, error=type(error).__name__, where=where(error))
        return self._refused(exchange, GatewayError(500, "internal_error", "the gateway failed"))

    def _refused(self, exchange: Exchange, error: GatewayError) -> web.StreamResponse:
        exchange.error_code = error.code
        return refusal(error, exchange.provider, self._live.counters)

    def _second_response(self, request: web.Request, exchange: Exchange) -> web.StreamResponse:
        """A middleware came up with another response, or failed, after one had begun."""
        log.error("second_response_suppressed", exchange=exchange.id)
        response = exchange.response
        if exchange.outcome is Outcome.COMPLETED and response is not None:
            response.force_close()  # the client has all of it; only the connection ends
            return response
        exchange.settle(Outcome.CANCELLED)
        if request.transport is not None:
            reset(request.transport)
        return web.Response(status=499)

    @staticmethod
    async def _answer(request: web.Request, exchange: Exchange, response: web.StreamResponse) -> web.StreamResponse:
        """Write a response that is not the upstream's, inside the exchange.

        Where the upstream was called in vain, that is recorded, and its end is held like any other.
        """
        if exchange.outcome is not None and not response.prepared:
            try:
                await exchange.hold_the_end()
            except RelayError:
                if request.transport is not None:
                    reset(request.transport)
                return web.Response(status=499)
        try:
            await response.prepare(request)
            await response.write_eof()
        except (ConnectionError, ClientError) as error:
            exchange.settle(Outcome.CLIENT_DISCONNECTED, ClientDisconnected(str(type(error).__name__)))
            return response
        exchange.settle(Outcome.REJECTED)
        return response
