"""Where requests go: an upstream's origin and limits, and the pool of connections to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiohttp

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
    next client. aiohttp looks at this only when a connection comes back to the pool.
    """

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
            if protocol is None or not protocol.should_close:
                return connection
            connection.close()
