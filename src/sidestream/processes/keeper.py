"""Keeps one process running: when it dies it is started again, after a pause that grows while it keeps dying."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from sidestream.processes.child import Child
from sidestream.tasks import spawn

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from sidestream.processes.channel import Document
    from sidestream.processes.child import Kind
    from sidestream.processes.hub import Hub

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Backoff:
    """Seconds between a death and the next start, doubled each time; forgotten after `healthy` seconds of life."""

    first: float = 0.1
    longest: float = 30.0
    healthy: float = 60.0
    start: float = 60.0
    """Seconds that a start may take."""


class Keeper:
    """One place to be filled, by one process after the other."""

    def __init__(
        self,
        kind: Kind,
        command: Sequence[str],
        document: Document,
        sockets: Sequence[socket.socket],
        hub: Hub,
        backoff: Backoff,
    ) -> None:
        self.document = document
        """What the next process gets."""
        self.child: Child | None = None
        self._kind: Kind = kind
        self._command = command
        self._sockets = sockets
        self._hub = hub
        self._backoff = backoff
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> bool:
        """Start the first process, and wait until it is ready; False if that fails, and nothing is running then."""
        try:
            self.child = await self._launch()
        except OSError as error:
            log.error("process_not_started", kind=self._kind, reason=error.strerror)
            return False
        return await self.child.started(self._backoff.start)

    def keep(self) -> None:
        """From now on, start it again whenever it dies."""
        self._task = spawn(self._keep(), name=f"{self._kind} keeper")

    def release(self) -> Child | None:
        """Leave it alone from now on; the process that is running, if one is."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        return self.child if self.child is not None and not self.child.ended.is_set() else None

    async def renew(self, seconds: float) -> None:
        """Have the process come to its end, within so many seconds, and start another one."""
        if child := self.release():
            child.stop()
            try:
                async with asyncio.timeout(seconds):
                    await child.ended.wait()
            except TimeoutError:
                child.kill()
                await child.ended.wait()
        await self.start()
        self.keep()

    async def _launch(self) -> Child:
        return await Child.start(self._kind, self._command, self.document, self._sockets, self._hub)

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        delay = self._backoff.first
        began = loop.time()
        while True:
            if self.child is not None:
                await self.child.ended.wait()
            if loop.time() - began > self._backoff.healthy:
                delay = self._backoff.first
            await asyncio.sleep(delay)
            delay = min(delay * 2, self._backoff.longest)
            began = loop.time()
            self._hub.restarts[self._kind] += 1
            self.child = None
            await self.start()
