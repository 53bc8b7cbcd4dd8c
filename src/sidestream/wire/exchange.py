"""One request with its response, and those who listen to it.

An `Exchange` carries what is known about a call while it is relayed. Observers are its passive, synchronous listeners:
they are told on the event loop's *next* turn, so a byte is on its way before anybody looks at it, and whatever an
observer does, it cannot await, change, or end anything. `Observer.on_end` comes exactly once per exchange, last.

What belongs here is bookkeeping; no I/O, no bodies kept, no provider's format.
"""

from __future__ import annotations

import asyncio
import enum
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import structlog
from aiohttp import web

from sidestream.ids import new_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from multidict import CIMultiDict

    from sidestream.wire.live import Live

log = structlog.get_logger()


class Outcome(enum.StrEnum):
    """How the transport of an exchange ended. Whether the *message* was whole is the assembler's word, not this one."""

    COMPLETED = "completed"
    """The upstream's whole response was handed to the client."""
    CLIENT_DISCONNECTED = "client_disconnected"
    """The client left before that."""
    UPSTREAM_FAILED = "upstream_failed"
    """The upstream could not be reached, or broke."""
    TIMED_OUT = "timed_out"
    """One of the idle limits passed."""
    REJECTED = "rejected"
    """Answered by the gateway itself, or by a middleware, and not by the upstream."""
    CANCELLED = "cancelled"
    """Cut by the gateway: at shutdown, or by a middleware."""


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """The upstream's status line and the end-to-end headers, as relayed."""

    status: int
    reason: str
    headers: CIMultiDict[str]


class Observer:
    """A passive listener of one exchange. Override what is of interest.

    An exception detaches it: it is logged once and counted, and only `on_end` is still called.
    """

    def on_request_chunk(self, data: bytes) -> None:
        """These bytes of the request's body are on their way upstream, or were when it could not be reached."""

    def on_response_head(self, head: ResponseHead) -> None:
        """The response has begun."""

    def on_response_chunk(self, data: bytes) -> None:
        """These bytes of the response's body were written downstream, or would have been had the client not left."""

    def on_end(self, outcome: Outcome, error: BaseException | None) -> None:
        """The exchange is over; called exactly once, after everything else."""


class Provider(Protocol):
    """What the wire must know of a provider; injected, so that the wire itself knows none."""

    @property
    def name(self) -> str:
        """Its name in routes."""

    @property
    def missing_credential(self) -> str:
        """What a client is told that sent no provider key where one is needed."""

    def error_body(self, status: int, message: str) -> bytes:
        """An error of the gateway's own, in the provider's shape."""

    def traces(self, method: str, path: str) -> bool:
        """Whether an exchange with this path can be read into a trace."""

    def needs_credential(self, method: str, path: str) -> bool:
        """Whether such a call is refused without a provider key."""


_REQUEST_CHUNK, _RESPONSE_HEAD, _RESPONSE_CHUNK = range(3)
_METHODS = ("on_request_chunk", "on_response_head", "on_response_chunk")


class Exchange:
    """One request with its response. Times are seconds; `started_at` is Unix time, the others monotonic.

    `request_headers` is the head that will be sent upstream; a middleware changes what is forwarded by changing it.
    """

    def __init__(
        self,
        *,
        provider: Provider,
        dataset: str | None,
        method: str,
        target: str,
        request_headers: CIMultiDict[str],
        live: Live,
    ) -> None:
        self.id = new_id()
        self.provider = provider
        self.dataset = dataset
        self.method = method
        self.target = target
        """The provider's own path and query, percent-encoded as they came."""
        self.path = target.partition("?")[0]
        self.request_headers = request_headers
        self.traced = dataset is not None and provider.traces(method, self.path)
        """Whether this exchange is to become a trace; the captures ask."""
        self.started_at = time.time()
        self.started = time.monotonic()
        self.first_byte: float | None = None
        self.ended: float | None = None
        self.before_end: list[Callable[[], Awaitable[None]]] = []
        """Awaited before the last byte of the response (before the head of one without a body), when the observers have
        been told of all the others; no limit of ours bounds it. If one raises, the transfer is broken off. Usually
        empty."""
        self.response: web.StreamResponse | None = None
        """The relayed response, once it has begun."""
        self.head: ResponseHead | None = None
        self.outcome: Outcome | None = None
        self.error: BaseException | None = None
        self.error_code: str | None = None
        """The ``x-sidestream-error`` of an answer of our own."""
        self.request_complete = True
        self.end_verifiable = True
        self.exact = True
        self._observers: list[Observer] = []
        self._listeners: tuple[list[tuple[Observer, Callable[[Any], None]]], ...] = ([], [], [])
        self._pending: list[tuple[int, object]] = []
        self._scheduled = False
        self._detached: list[Observer] = []
        self._finished = False
        self._live = live
        self._loop = asyncio.get_running_loop()

    def observe(self, observer: Observer) -> None:
        """Attach a listener, before the request is forwarded."""
        self._observers.append(observer)
        for listeners, name in zip(self._listeners, _METHODS, strict=True):
            if getattr(type(observer), name) is not getattr(Observer, name):
                listeners.append((observer, getattr(observer, name)))

    def request_chunk(self, data: bytes) -> None:
        """Tell the observers of request bytes on their way upstream."""
        if self._listeners[_REQUEST_CHUNK]:
            self._tell(_REQUEST_CHUNK, data)

    def response_head(self, head: ResponseHead) -> None:
        """Tell the observers that the response has begun."""
        self.first_byte = time.monotonic()
        self.head = head
        if self._listeners[_RESPONSE_HEAD]:
            self._tell(_RESPONSE_HEAD, head)

    def response_chunk(self, data: bytes) -> None:
        """Tell the observers of response bytes that were written downstream."""
        if self._listeners[_RESPONSE_CHUNK]:
            self._tell(_RESPONSE_CHUNK, data)

    def settle(self, outcome: Outcome, error: BaseException | None = None) -> None:
        """Say how the transport ended. The first word counts: what happens afterwards is a consequence."""
        if self.outcome is None:
            self.outcome = outcome
            self.error = error

    def end(self) -> None:
        """The exchange is over: tell the observers, on the loop's next turn. Further calls change nothing."""
        if self.ended is None:
            self.ended = time.monotonic()
            self._schedule()

    async def hold_the_end(self) -> None:
        """Tell the observers what there is to tell, and await what `before_end` holds."""
        self._flush()
        for held in self.before_end:
            await held()

    def _tell(self, kind: int, what: object) -> None:
        if self.ended is not None:  # a relay that its middleware abandoned
            return
        self._pending.append((kind, what))
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        pending, self._pending = self._pending, []
        for kind, what in pending:
            for observer, listen in self._listeners[kind]:
                try:
                    listen(what)
                except BaseException as error:  # noqa: BLE001  # not even a sys.exit() in an observer may reach the relay
                    self._detach(observer, _METHODS[kind], error)
        if self.ended is not None and not self._finished:
            self._finish()

    def _finish(self) -> None:
        self._finished = True
        for observer in self._observers:
            try:
                observer.on_end(self.outcome or Outcome.CANCELLED, self.error)
            except BaseException as error:  # noqa: BLE001  # as above
                self._detach(observer, "on_end", error)
        self._observers.clear()  # they know the request, which knows this exchange
        self._listeners = ([], [], [])
        self.before_end.clear()
        self._live.finished(self)

    def _detach(self, observer: Observer, name: str, error: BaseException) -> None:
        if observer in self._detached:
            return
        self._detached.append(observer)
        self._listeners = tuple([one for one in listeners if one[0] is not observer] for listeners in self._listeners)
        self._live.counters.observer_failures += 1
        log.error(
            "observer_detached",
            exchange=self.id,
            observer=type(observer).__qualname__,
            method=name,
            error=type(error).__name__,
        )


EXCHANGE: web.RequestKey[Exchange] = web.RequestKey("exchange", Exchange)
"""Where a middleware finds the exchange of its request."""
