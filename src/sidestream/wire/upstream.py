"""Where requests go: an upstream's origin and limits, and the pool of connections to it."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp

from sidestream.wire.sockets import readable

if TYPE_CHECKING:
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

    def url(self, target: str) -> URL:
        """The URL of a raw target (path and query as they came). Nothing in a target can change the origin."""
        return self.origin.with_path(self.base_path + target, encoded=True)


class CleanConnector(aiohttp.TCPConnector):
    """aiohttp's connection pool, which hands no connection out on which something arrived while it was idle.

    An unsolicited response there would be taken for the answer to the next request, and each answer would go to the
    next client. aiohttp looks at this only when a connection comes back to the pool. What arrives after the look here
    cannot be told from an answer.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109  # aiohttp's signature
    ) -> Connection:
        """A connection for a request: pooled and clean, or new."""
        while True:
            connection = await super().connect(req, traces, timeout)
            protocol = connection.protocol
            if protocol not in self._known:  # new, not pooled: TLS may have something to say after its handshake
                self._known.add(protocol)
                return connection
            if _is_clean(connection):
                return connection
            connection.close()


def _is_clean(connection: Connection) -> bool:
    """Whether nothing has arrived: neither read already, nor in the kernel's buffer (an end counts as something)."""
    protocol, transport = connection.protocol, connection.transport
    if protocol is None or transport is None:
        return True
    sock = transport.get_extra_info("socket")
    return not protocol.should_close and (sock is None or not readable(sock.fileno()))
