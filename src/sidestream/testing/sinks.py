"""A sink that keeps what it is given."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sidestream.sinks.base import Found, Sink
from sidestream.traces.model import Unit

if TYPE_CHECKING:
    from sidestream.options import Secret
    from sidestream.traces.model import Turn


class ListSink(Sink):
    """Keeps every turn in `turns`, in order of arrival, and what each came with in `credentials` and `attempts`.

    What `failures` holds is raised first, one per attempt: ``sink.failures.append(Retryable("not now"))``.
    """

    def __init__(self, unit: Unit = Unit.TURN) -> None:
        self.unit = unit
        self.turns: list[Turn] = []
        self.credentials: list[Secret | None] = []
        self.attempts: list[int] = []
        self.failures: list[BaseException] = []
        self._arrived = asyncio.Condition()

    async def deliver(self, turn: Turn, credential: Secret | None, attempt: int) -> str | None:
        """Keep it."""
        if self.failures:
            raise self.failures.pop(0)
        async with self._arrived:
            self.turns.append(turn)
            self.credentials.append(credential)
            self.attempts.append(attempt)
            self._arrived.notify_all()
        return None

    async def find(self, turn: Turn, credential: Secret | None) -> Found | None:  # noqa: ARG002 (it has no users)
        """Whether it is kept already."""
        return Found() if any(kept.id == turn.id for kept in self.turns) else None

    async def wait_for(self, n: int, timeout: float = 5.0) -> list[Turn]:  # noqa: ASYNC109 (reads best in a test)
        """The turns, once there are `n` of them; `TimeoutError` after `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout), self._arrived:
                await self._arrived.wait_for(lambda: len(self.turns) >= n)
        except TimeoutError:
            raise TimeoutError(f"{len(self.turns)} of {n} turns after {timeout:g} s") from None
        return self.turns
