"""All exchanges under way: their time limits, their count, and how they end at shutdown.

One sweep looks at every relay now and then; a relay only says what it is waiting for and counts its steps. So a chunk
costs no timer and no look at the clock (a timeout per chunk is a timer per chunk: measured). A limit is therefore exact
to within one sweep, a second at most.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import structlog

from sidestream.stats import Histogram, status_name
from sidestream.tasks import spawn, where
from sidestream.wire.exchange import Outcome
from sidestream.wire.limits import Caps

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aiohttp import web

    from sidestream.wire.exchange import Exchange

log = structlog.get_logger()

_KEY = re.compile(r"(?<![A-Za-z0-9])(?:sk|inv)(?:-|%2d)[^/]{6,}", re.IGNORECASE)
"""What looks like a key where a path has no place for one."""


class Swept(Protocol):
    """Something the sweep looks at: a relay under way."""

    def check(self, now: float) -> None:
        """Interrupt yourself if a limit has passed or your client has gone; `now` is monotonic seconds."""

    def cancel(self) -> None:
        """Interrupt yourself: the gateway is shutting down, or a middleware has abandoned you."""


class Waiting:
    """What a relay waits for, for the sweep to see.

    It is a `limit`, "" for what is under none of ours, and the number of `steps` made so far: a limit has passed when
    neither has changed for that long.
    """

    __slots__ = ("limit", "steps")

    def __init__(self) -> None:
        self.limit = "first_byte"
        self.steps = 0

    def on(self, limit: str) -> None:
        """From now on it waits for this."""
        self.limit = limit
        self.steps += 1


@dataclass(slots=True)
class Counters:
    """What the data plane counts; since the start, never reset."""

    exchanges: collections.Counter[tuple[str, str, str]] = field(default_factory=collections.Counter)
    """Ended exchanges by provider, status and outcome."""
    time_to_first_byte: dict[str, Histogram] = field(default_factory=lambda: collections.defaultdict(Histogram))
    """By provider."""
    rejected: collections.Counter[str] = field(default_factory=collections.Counter)
    """Answers of our own by ``x-sidestream-error`` code."""
    observer_failures: int = 0
    middleware_failures: int = 0
    inexact: int = 0
    """Responses with a header field that could not be carried."""


class Live:
    """The exchanges and relays under way, and the `caps` on them. The log says nothing of those of a `quiet` one."""

    def __init__(self, *, caps: Caps | None = None, quiet: bool = False) -> None:
        self.caps = caps or Caps()
        self._quiet = quiet
        self.counters = Counters()
        self.closing = False
        """Whether the server is shutting down: then a cancellation is its doing and not the client's."""
        self.ready = True
        """Whether new clients should come here, as a load balancer asks; it stops before anything else does."""
        self._exchanges: set[Exchange] = set()
        self._relays: dict[Exchange, Swept] = {}
        self._idle = asyncio.Event()
        self._idle.set()

    def __len__(self) -> int:
        return len(self._exchanges)

    def begun(self, exchange: Exchange) -> None:
        """An exchange has come in."""
        self._exchanges.add(exchange)
        self._idle.clear()

    def finished(self, exchange: Exchange) -> None:
        """Its observers have been told of its end."""
        self._exchanges.discard(exchange)
        if not exchange.exact:
            self.counters.inexact += 1
        outcome = exchange.outcome or Outcome.CANCELLED
        provider, status = exchange.provider.name, exchange.head.status if exchange.head else None
        self.counters.exchanges[provider, status_name(status), outcome] += 1
        if exchange.first_byte is not None:
            self.counters.time_to_first_byte[provider].add(exchange.first_byte - exchange.started)
        if not self._exchanges:
            self._idle.set()
        if self._quiet:
            return
        log.info(
            "exchange_ended",
            exchange=exchange.id,
            dataset=exchange.dataset,
            provider=provider,
            method=exchange.method,
            path=_KEY.sub("[key]", exchange.path),
            status=status or exchange.error_code,
            outcome=outcome.value,
            seconds=round((exchange.ended or exchange.started) - exchange.started, 4),
        )

    def meaning_of_cancellation(self, request: web.Request) -> Outcome:
        """Who cancelled a handler, where it was not the sweep: the client by leaving, or the server."""
        gone = request.transport is None or request.transport.is_closing()
        return Outcome.CLIENT_DISCONNECTED if gone and not self.closing else Outcome.CANCELLED

    def watch(self, exchange: Exchange, relay: Swept) -> None:
        """Have the sweep look after the relay of an exchange, until `unwatch`."""
        self._relays[exchange] = relay

    def unwatch(self, exchange: Exchange) -> None:
        """Its relay has ended."""
        self._relays.pop(exchange, None)

    def interrupt(self, exchange: Exchange) -> bool:
        """End an exchange's relay, if a middleware has left it running; whether it had."""
        relay = self._relays.get(exchange)
        if relay is not None:
            relay.cancel()
        return relay is not None

    @contextlib.asynccontextmanager
    async def sweeping(self, interval: float) -> AsyncIterator[None]:
        """Sweep every `interval` seconds as long as this context lasts."""
        task = spawn(self._sweep(interval), name="sweep")
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def drain(self, seconds: float) -> int:
        """Wait until every exchange has ended, `seconds` at most; then cut the rest. Returns how many were cut."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        cut = self.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                await self._idle.wait()
        return cut

    def cancel(self, path: str | None = None) -> int:
        """Cut every relay under way, or those of one path; how many."""
        cut = [relay for exchange, relay in self._relays.items() if path is None or exchange.path == path]
        for relay in cut:
            relay.cancel()
        return len(cut)

    async def _sweep(self, interval: float) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(interval)
            now = loop.time()
            for exchange, relay in list(self._relays.items()):
                try:
                    relay.check(now)
                except Exception as error:  # noqa: BLE001  # the top of a worker: all other limits hang on it
                    log.error("sweep_failed", exchange=exchange.id, error=type(error).__name__, where=where(error))
            self.caps.check(now)
