"""The recorder: drives understanding, in a thread of its own, and passes traces on to the sinks.

Exchanges go through memory. What waits is bounded in bytes; beyond the bound an exchange is dropped, counted, and the
burst logged once. The relay only ever appends to a queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog
from aiohttp import web

from sidestream.traces.understanding import understand

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Protocol

    from sidestream.options import Secret
    from sidestream.providers.base import Provider
    from sidestream.traces.model import Trace
    from sidestream.traces.record import Record

    class Destination(Protocol):
        """What the recorder must know of a sink."""

        def offer(self, trace: Trace, credential: Secret | None) -> None:
            """Take a trace, at once and without raising."""


log = structlog.get_logger()


@dataclass(slots=True)
class RecorderCounters:
    """What the recorder counts; since the start, never reset."""

    received: int = 0
    understood: int = 0
    dropped: int = 0
    """Exchanges for which there was no room, or which were still waiting when the time to stop was up."""
    failed: int = 0
    """Exchanges that could not be understood: a defect of ours."""


class Recorder:
    """Turns records into traces.

    `submit` is for the event loop that ran `start`; `memory` bounds what waits, in bytes.
    """

    def __init__(
        self, providers: Mapping[str, Provider], sinks: Sequence[Destination], *, memory: int = 256 << 20
    ) -> None:
        self.counters = RecorderCounters()
        self._providers = providers
        self._sinks = sinks
        self._memory = memory
        self._queue: queue.SimpleQueue[tuple[Record, Secret | None] | None] = queue.SimpleQueue()
        self._waiting = 0
        self._waiting_bytes = 0
        self._dropping = 0
        self._closed = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._work, name="sidestream recorder", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def submit(self, record: Record, credential: Secret | None) -> None:
        """Take a record; at once, and without raising."""
        self.counters.received += 1
        if self._closed:
            self.counters.dropped += 1
            log.error("record_dropped", exchange=record.id, reason="stopped")
            return
        size = record.size
        if self._waiting and self._waiting_bytes + size > self._memory:
            self.counters.dropped += 1
            if not self._dropping:
                log.error("record_dropped", exchange=record.id, reason="memory", limit_bytes=self._memory)
            self._dropping += 1
            return
        self._waiting += 1
        self._waiting_bytes += size
        self._idle.clear()
        self._queue.put((record, credential))

    async def stop(self, seconds: float) -> None:
        """Understand what waits, for `seconds` at most; the rest is dropped, counted and logged."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        self._closed = True
        if self._waiting:
            self.counters.dropped += self._waiting
            log.error("records_dropped", count=self._waiting, reason="shutdown")
        with contextlib.suppress(queue.Empty):
            while True:
                self._queue.get_nowait()
        self._queue.put(None)

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            record, credential = item
            trace: Trace | None = None
            try:
                trace = understand(record, self._providers[record.provider])
            except (Exception, SystemExit) as error:  # noqa: BLE001  # the top of a worker: the next one is due
                log.error("exchange_not_understood", exchange=record.id, error=type(error).__name__)
            try:
                self._loop.call_soon_threadsafe(self._done, record.size, trace, credential)
            except RuntimeError:  # the loop has been closed
                return

    def _done(self, size: int, trace: Trace | None, credential: Secret | None) -> None:
        if self._closed:  # counted as dropped
            return
        self._waiting -= 1
        self._waiting_bytes -= size
        if self._dropping and self._waiting_bytes < self._memory // 2:
            log.warning("records_dropped", count=self._dropping, reason="memory")
            self._dropping = 0
        if trace is None:
            self.counters.failed += 1
        else:
            self.counters.understood += 1
            for sink in self._sinks:
                sink.offer(trace, credential)
        if not self._waiting:
            self._idle.set()


RECORDER: web.AppKey[Recorder] = web.AppKey("recorder", Recorder)
"""Where `trace_export` finds the recorder of its application."""
