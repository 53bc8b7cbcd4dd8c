"""Middlewares and observers that tests name in a configuration, as ``doubles:Name``."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, ClassVar

from aiohttp import web
from multidict import CIMultiDict

from sidestream import EXCHANGE, Exchange, Observer, Outcome, ResponseHead
from sidestream.middlewares.body_capture import REQUEST_BODY
from sidestream.middlewares.stream_tee import RESPONSE_BODY
from sidestream.providers import PROVIDERS

if TYPE_CHECKING:
    import threading

    from sidestream.wire.capture import Capture
    from sidestream.wire.chain import Handler
    from sidestream.wire.live import Live


class Seen(Observer):
    """All that one exchange told its observer."""

    def __init__(self) -> None:
        self.request = b""
        self.heads: list[ResponseHead] = []
        self.response = b""
        self.ends: list[tuple[Outcome, BaseException | None]] = []
        self.ended = asyncio.Event()

    def on_request_chunk(self, data: bytes) -> None:
        self.request += data

    def on_response_head(self, head: ResponseHead) -> None:
        self.heads.append(head)

    def on_response_chunk(self, data: bytes) -> None:
        self.response += data

    def on_end(self, outcome: Outcome, error: BaseException | None) -> None:
        self.ends.append((outcome, error))
        self.ended.set()


class Witness:
    """Keeps a `Seen` for every exchange."""

    seen: ClassVar[list[Seen]] = []

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        seen = Seen()
        self.seen.append(seen)
        request[EXCHANGE].observe(seen)
        return await handler(request)

    @classmethod
    async def ending(cls, number: int = -1) -> Outcome:
        """Wait for an exchange's end; fails if it ended more than once."""
        seen = cls.seen[number]
        async with asyncio.timeout(10):
            await seen.ended.wait()
        (outcome, _error) = seen.ends[0]
        assert [outcome] == [outcome for outcome, _ in seen.ends]
        return outcome


class RaisingObserver(Observer):
    """Fails whenever it is told anything."""

    def on_request_chunk(self, _data: bytes) -> None:
        raise RuntimeError("request")

    def on_response_head(self, _head: ResponseHead) -> None:
        raise SystemExit(3)

    def on_response_chunk(self, _data: bytes) -> None:
        raise RuntimeError("response")

    def on_end(self, _outcome: Outcome, _error: BaseException | None) -> None:
        raise asyncio.CancelledError


class BlockingObserver(Observer):
    """Blocks the whole event loop at a chunk until somebody else has seen that chunk."""

    seen_elsewhere: ClassVar[threading.Event]
    in_time: ClassVar[list[bool]] = []

    def on_response_chunk(self, _data: bytes) -> None:
        self.in_time.append(self.seen_elsewhere.wait(5))


async def with_raising_observer(request: web.Request, handler: Handler) -> web.StreamResponse:
    request[EXCHANGE].observe(RaisingObserver())
    return await handler(request)


async def with_blocking_observer(request: web.Request, handler: Handler) -> web.StreamResponse:
    request[EXCHANGE].observe(BlockingObserver())
    return await handler(request)


async def raises_before(_request: web.Request, handler: Handler) -> web.StreamResponse:  # noqa: ARG001
    raise ValueError("sk-canary-in-an-exception")


async def raises_after(request: web.Request, handler: Handler) -> web.StreamResponse:
    await handler(request)
    raise ValueError("sk-canary-in-an-exception")


async def answers_again(request: web.Request, handler: Handler) -> web.StreamResponse:
    await handler(request)
    return web.Response(text="second")


async def swallows_failures(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except Exception:  # noqa: BLE001  # what a careless middleware does
        return web.Response(text="all is well")


async def gives_up_soon(request: web.Request, handler: Handler) -> web.StreamResponse:
    async with asyncio.timeout(0.05):
        return await handler(request)


async def returns_nothing(request: web.Request, handler: Handler) -> web.StreamResponse:
    await handler(request)
    return None  # type: ignore[return-value]  # what a forgotten return does


async def forgets_to_relay(request: web.Request, handler: Handler) -> web.StreamResponse:  # noqa: ARG001
    return None  # type: ignore[return-value]


async def answers_itself(_request: web.Request, handler: Handler) -> web.StreamResponse:  # noqa: ARG001
    return web.Response(status=403, text="not today")


async def streams_itself(request: web.Request, handler: Handler) -> web.StreamResponse:  # noqa: ARG001
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"from a cache")
    return response


async def holds_the_end(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Keeps what the client has not seen when the end is held; then waits for `let_go`, or raises what it holds."""
    exchange = request[EXCHANGE]

    async def held() -> None:
        holding.set()
        await let_go.wait()
        if hold_failures:
            raise hold_failures.pop()

    if "x-do-not-hold" not in request.headers:
        exchange.before_end.append(held)
    return await handler(request)


holding = asyncio.Event()
let_go = asyncio.Event()
hold_failures: list[Exception] = []


async def streams_then_relays(request: web.Request, handler: Handler) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"from a cache")
    return await handler(request)


async def breaks_its_own_stream(request: web.Request, handler: Handler) -> web.StreamResponse:  # noqa: ARG001
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"from a cache")
    raise ValueError


async def notes_cancelling(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Keeps how many cancellations of its task are unaccounted for once the relay is over."""
    try:
        return await handler(request)
    finally:
        task = asyncio.current_task()
        cancellations.append(task.cancelling() if task else -1)


cancellations: list[int] = []


async def abandons_the_relay(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Runs the relay in a task, does not wait for its end, and answers by itself."""
    relay = asyncio.ensure_future(handler(request))
    orphans.append(relay)
    await abandon.wait()
    return web.Response(text="something else")


abandon = asyncio.Event()
"""Made anew by the test, in its own event loop."""
orphans: list[asyncio.Future[web.StreamResponse]] = []


async def exits(request: web.Request, handler: Handler) -> web.StreamResponse:  # noqa: ARG001
    raise SystemExit(3)


async def nibbles_at_the_body(request: web.Request, handler: Handler) -> web.StreamResponse:
    await request.content.read(3)
    return await handler(request)


async def hesitates(request: web.Request, handler: Handler) -> web.StreamResponse:
    """What comes meanwhile waits."""
    for _ in range(100):
        await asyncio.sleep(0)
    return await handler(request)


async def reads_the_body(request: web.Request, handler: Handler) -> web.StreamResponse:
    await request.read()
    return await handler(request)


async def eats_the_body(request: web.Request, handler: Handler) -> web.StreamResponse:
    await request.content.read()
    return await handler(request)


async def shows_captures(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Keeps what the two captures have at the end of each exchange."""
    request[EXCHANGE].observe(_AtTheEnd(request))
    return await handler(request)


class _AtTheEnd(Observer):
    def __init__(self, request: web.Request) -> None:
        self._request = request

    def on_end(self, outcome: Outcome, error: BaseException | None) -> None:  # noqa: ARG002
        captures.append((self._request.get(REQUEST_BODY), self._request.get(RESPONSE_BODY)))


captures: list[tuple[Capture | None, Capture | None]] = []


def new_exchange(live: Live) -> Exchange:
    """An exchange as the gateway would make it."""
    exchange = Exchange(
        provider=PROVIDERS["anthropic"],
        dataset="d",
        method="POST",
        target="/v1/messages?beta=true",
        request_headers=CIMultiDict(),
        live=live,
    )
    live.begun(exchange)
    return exchange


@web.middleware
async def ordinary(request: web.Request, handler: Handler) -> web.StreamResponse:
    """An aiohttp middleware that knows nothing of sidestream."""
    response = await handler(request)
    ordinary_statuses.append(response.status)
    return response


ordinary_statuses: list[int] = []
