"""Where requests go: an upstream's origin and limits, and the pool of connections to it."""

from __future__ import annotations

import functools
import select
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import aiohttp

if TYPE_CHECKING:
    import asyncio
    from ssl import SSLContext

    from aiohttp.client_proto import ResponseHandler
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace
    from yarl import URL


@dataclass(frozen=True, slots=True)
class Limits:
    """Idle limits of one upstream, in seconds: none of them bounds a whole exchange."""

    connect: float
    first_byte: float
    """From the request's last byte to the response's head."""
    idle: float
    """Between two pieces of a body, in either direction."""
    write: float
    """For the other side to take a piece of a body."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where a provider's requests go: a fixed origin, a base path (no trailing slash; may be empty), and its limits."""

    origin: URL
    base_path: str
    limits: Limits
    ssl: SSLContext | bool = True
    """Whom to trust; True: whom the system trusts."""
    proxy: URL | None = field(default=None, repr=False)  # with a password, perhaps
    """An HTTP proxy on the way there."""


class CleanConnector(aiohttp.TCPConnector):
    """aiohttp's connection pool, which hands no connection out on which something arrived while it was idle.

    An unsolicited response there would be taken for the answer to the next request, and each answer would go to the
    next client. aiohttp looks at this only when a connection comes back to the pool. What arrives after the look here
    cannot be told from an answer.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._known: dict[ResponseHandler, select.poll] = {}

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109  # aiohttp's signature
    ) -> Connection:
        """A connection for a request: pooled and clean, or new."""
        while True:
            connection = await super().connect(req, traces, timeout)
            protocol, transport = connection.protocol, connection.transport
            if protocol is None or transport is None:
                return connection
            poll = self._known.get(protocol)
            if poll is None:  # new, not pooled: TLS may have something to say after its handshake
                self._know(protocol, transport)
                return connection
            if not protocol.should_close and not poll.poll(0):
                return connection
            connection.close()

    def _know(self, protocol: ResponseHandler, transport: asyncio.Transport) -> None:
        """Be able to ask the kernel whether anything waits to be read there, the end included."""
        poll = select.poll()
        if (sock := transport.get_extra_info("socket")) is not None:
            poll.register(sock.fileno(), select.POLLIN)
        self._known[protocol] = poll
        if (closed := protocol.closed) is not None:
            closed.add_done_callback(functools.partial(self._forget, protocol))

    def _forget(self, protocol: ResponseHandler, closed: asyncio.Future[None]) -> None:
        self._known.pop(protocol, None)
        if not closed.cancelled():
            closed.exception()  # a reset is told to whom it concerns; nobody's, asyncio would log
