"""A sink that keeps what it is given."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sidestream.options import Duration, Secret
from sidestream.sinks.base import Sink

if TYPE_CHECKING:
    from sidestream.traces.model import Trace

_NO_WAIT = Duration(0)


class ListSink(Sink):
    """Keeps every trace in `traces`, in order of arrival, and what each came with in `credentials`.

    What `failures` holds is raised first, one per attempt: ``sink.failures.append(Retryable("not now"))``.
    """

    def __init__(self, *, attempts: int = 8, backoff: Duration = _NO_WAIT) -> None:
        super().__init__(attempts=attempts, backoff=backoff)
        self.traces: list[Trace] = []
        self.credentials: list[Secret | None] = []
        self.failures: list[Exception] = []
        self._arrived = asyncio.Condition()

    async def deliver(self, trace: Trace, credential: Secret | None) -> None:
        """Keep it."""
        if self.failures:
            raise self.failures.pop(0)
        async with self._arrived:
            self.traces.append(trace)
            self.credentials.append(credential)
            self._arrived.notify_all()

    async def wait_for(self, n: int, timeout: float = 5.0) -> list[Trace]:  # noqa: ASYNC109 (reads best in a test)
        """The traces, once there are `n` of them; `TimeoutError` after `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout), self._arrived:
                await self._arrived.wait_for(lambda: len(self.traces) >= n)
        except TimeoutError:
            raise TimeoutError(f"{len(self.traces)} of {n} traces after {timeout:g} s") from None
        return self.traces
