"""The destination of traces: what every sink does alike, so that a new one has only `Sink.deliver` to write.

A sink takes traces on the event loop without ever blocking it (`Sink.offer`), holds them in a queue that is bounded in
number and in memory, and delivers them with a few workers of its own. Each trace ends in exactly one of the `Counters`.

A worker stays with its trace through all retries. During an outage the other traces therefore wait in the queue,
untried, instead of using up their attempts one after the other; they are delivered when the destination is back.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
from abc import ABC, abstractmethod
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import structlog

from sidestream.errors import Retryable, SidestreamError, Undeliverable
from sidestream.options import Duration, Secret, Size
from sidestream.tasks import spawn, where

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sidestream.traces.model import Message, Trace

QUEUE = 10_000
QUEUE_BYTES = Size(256 << 20)
ATTEMPTS = 8
BACKOFF = Duration(5)

_GIVE_UP_SECONDS = 600.0
_GRACE_SECONDS = 1.0
_MEASURED_PER_LEVEL = 2_000

_log = structlog.get_logger()
_attempt: ContextVar[int] = ContextVar("attempt", default=1)


@dataclass(slots=True)
class Counters:
    """What became of the traces a sink was offered."""

    accepted: int = 0
    """Taken into the queue."""
    delivered: int = 0
    retried: int = 0
    """Attempts that failed and were followed by another one."""
    undeliverable: int = 0
    """Refused by the destination for good."""
    exhausted: int = 0
    """Given up after the last attempt."""
    failed: int = 0
    """Lost to an unexpected exception: a bug in the sink."""
    dropped_queue_full: int = 0
    dropped_shutdown: int = 0
    """Not delivered by the deadline of the shutdown, or offered after it."""
    unwanted: int = 0
    """Not meant for this sink (`Sink.accepts`); never queued."""
    skipped: int = 0
    """Wanted, but without a credential to deliver it with; never queued."""


class _Item(NamedTuple):
    trace: Trace
    credential: Secret | None
    size: int


class Sink(ABC):
    """One destination of traces. A subclass writes `deliver`, and its options as keyword-only constructor parameters.

    `workers` deliveries run at the same time. At most `queue` traces and `queue_bytes` of memory are held, those in
    delivery included; a trace larger than that by itself is taken when nothing else is held. A delivery is tried
    `attempts` times, for ten minutes at most. The waits between double from `backoff` seconds on, with full jitter.
    """

    def __init__(
        self,
        *,
        workers: int = 1,
        queue: int = QUEUE,
        queue_bytes: Size = QUEUE_BYTES,
        attempts: int = ATTEMPTS,
        backoff: Duration = BACKOFF,
    ) -> None:
        for option, value in (("workers", workers), ("queue", queue), ("attempts", attempts)):
            if value < 1:
                raise ValueError(f"{option} must be 1 or more")
        self.name = type(self).__name__.lower()
        self.counters = Counters()
        self._worker_count = workers
        self._queue_limit = queue
        self._bytes_limit = queue_bytes
        self._attempts = attempts
        self._backoff = backoff
        self._queue: asyncio.Queue[_Item] = asyncio.Queue()
        self._held = 0
        self._held_bytes = 0
        self._dropping = 0
        self._workers: list[asyncio.Task[None]] = []
        self._stopping = asyncio.Event()
        self._stop_at = float("inf")
        self._closed = False

    @property
    def needs_trace_key(self) -> bool:
        """Whether calls must bring a trace credential of their own for this sink to deliver anything."""
        return False

    @property
    def queued(self) -> int:
        """Traces held now, those in delivery included."""
        return self._held

    @property
    def queued_bytes(self) -> int:
        """Memory held by these traces, in bytes, as estimated by `memory_of`."""
        return self._held_bytes

    @property
    def attempt(self) -> int:
        """Inside `deliver`: the number of this attempt at this trace, from 1."""
        return _attempt.get()

    def accepts(self, trace: Trace) -> bool:  # noqa: ARG002 (for subclasses)
        """Whether this sink wants `trace` at all."""
        return True

    @abstractmethod
    async def deliver(self, trace: Trace, credential: Secret | None) -> None:
        """Deliver `trace`, or raise `Retryable` or `Undeliverable` with a message free of secrets and raw input.

        `credential` is the one the call brought along. Nothing of `trace` may be changed: other sinks share it.
        """

    async def open(self) -> None:  # noqa: B027 (optional)
        """Acquire what `deliver` needs; called once, before the first delivery."""

    async def close(self) -> None:  # noqa: B027 (optional)
        """Release it; called once, after the last delivery, and given a second."""

    async def start(self) -> None:
        """Begin to deliver; `SidestreamError` if `open` fails."""
        try:
            await self.open()
        except Exception as error:
            raise SidestreamError(f"the sink {self.name} cannot start: {type(error).__name__}") from error
        self._workers = [spawn(self._work(), name=f"{self.name}-{n}") for n in range(self._worker_count)]

    def offer(self, trace: Trace, credential: Secret | None) -> None:
        """Take `trace` for delivery, or drop and count it. Never raises, never blocks; call it on the event loop."""
        try:
            wanted = self.accepts(trace)
        except Exception as error:  # noqa: BLE001 (the caller must not suffer from a plugin's bug)
            self._failed(trace, error)
            return
        if not wanted:
            self.counters.unwanted += 1
            return
        if self._closed:
            self.counters.dropped_shutdown += 1
            self._warn("sink_trace_dropped", trace, reason="stopped")
            return
        size = memory_of(trace)
        if self._held >= self._queue_limit or (self._held and self._held_bytes + size > self._bytes_limit):
            self._overflow(trace)
            return
        self.counters.accepted += 1
        self._held += 1
        self._held_bytes += size
        self._queue.put_nowait(_Item(trace, credential, size))

    async def stop(self, deadline_seconds: float) -> None:
        """Deliver what is held, for `deadline_seconds` at most; then cancel, and count and log what is left.

        A delivery that waits for its next attempt makes it now, whatever the destination asked for: the alternative
        is to lose the trace. Further waits must fit into the deadline.
        """
        if self._closed:
            return
        self._stop_at = asyncio.get_running_loop().time() + deadline_seconds
        self._stopping.set()
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(deadline_seconds if self._workers else 0):
                    await self._queue.join()
        finally:
            self._closed = True
            for worker in self._workers:
                worker.cancel()
        if self._workers:
            await asyncio.wait(self._workers, timeout=_GRACE_SECONDS)
        while not self._queue.empty():
            self._release(self._queue.get_nowait())
            self.counters.dropped_shutdown += 1
        self._end_of_overflow()
        if dropped := self.counters.dropped_shutdown:
            _log.warning("sink_traces_dropped", sink=self.name, reason="shutdown", dropped=dropped)
        if self._workers:
            await self._close()
        _log.info("sink_stopped", sink=self.name, **asdict(self.counters))

    async def _close(self) -> None:
        try:
            async with asyncio.timeout(_GRACE_SECONDS):
                await self.close()
        except TimeoutError:
            _log.warning("sink_close_timed_out", sink=self.name, seconds=_GRACE_SECONDS)
        except Exception as error:  # noqa: BLE001 (the other sinks are to be stopped, too)
            _log.warning("sink_close_failed", sink=self.name, error=type(error).__name__, where=where(error))

    async def _work(self) -> None:
        while True:
            item = await self._queue.get()
            try:
                await self._carry(item)
            except asyncio.CancelledError as error:
                task = asyncio.current_task()
                if task and task.cancelling():
                    self.counters.dropped_shutdown += 1
                    raise
                self._failed(item.trace, error)  # something within `deliver` was cancelled, not this worker
            except Exception as error:  # noqa: BLE001 (the top of a background worker)
                self._failed(item.trace, error)
            finally:
                self._release(item)

    async def _carry(self, item: _Item) -> None:
        """Bring one trace to one of the counters."""
        now = asyncio.get_running_loop().time
        give_up_at = now() + _GIVE_UP_SECONDS
        for attempt in range(1, self._attempts + 1):
            _attempt.set(attempt)
            try:
                await self.deliver(item.trace, item.credential)
            except Undeliverable as error:
                self.counters.undeliverable += 1
                self._warn("sink_trace_dropped", item.trace, reason="undeliverable", error=str(error))
                return
            except Retryable as error:
                ceiling = self._backoff * 2 ** min(attempt - 1, 16)
                wait = max(random.uniform(0, ceiling), error.after or 0.0)  # noqa: S311 (jitter, not a secret)
                if attempt == self._attempts or now() + wait > give_up_at:
                    self.counters.exhausted += 1
                    self._warn("sink_trace_dropped", item.trace, reason="exhausted", attempts=attempt, error=str(error))
                    return
                if now() + wait > self._stop_at:
                    self.counters.dropped_shutdown += 1
                    return
                self.counters.retried += 1
                self._warn(
                    "sink_delivery_retried", item.trace, attempt=attempt, wait_seconds=round(wait, 3), error=str(error)
                )
                await self._pause(wait)
            else:
                self.counters.delivered += 1
                _log.debug("sink_delivered", sink=self.name, exchange=item.trace.id, attempt=attempt)
                return

    async def _pause(self, seconds: float) -> None:
        """Wait, or until the shutdown begins; within a shutdown, just wait."""
        if self._stopping.is_set():
            await asyncio.sleep(seconds)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    def _release(self, item: _Item) -> None:
        self._held -= 1
        self._held_bytes -= item.size
        self._queue.task_done()
        if self._held <= self._queue_limit // 2 and self._held_bytes <= self._bytes_limit // 2:
            self._end_of_overflow()

    def _overflow(self, trace: Trace) -> None:
        self.counters.dropped_queue_full += 1
        self._dropping += 1
        if self._dropping == 1:
            self._warn("sink_queue_filled", trace, queued=self._held, queued_bytes=self._held_bytes)

    def _end_of_overflow(self) -> None:
        """A burst of drops is over when the queue is half empty; with the first free place it would end at once."""
        if self._dropping:
            _log.warning("sink_traces_dropped", sink=self.name, reason="queue_full", dropped=self._dropping)
            self._dropping = 0

    def _failed(self, trace: Trace, error: BaseException) -> None:
        self.counters.failed += 1
        name = type(error).__name__
        _log.error("sink_delivery_failed", sink=self.name, exchange=trace.id, error=name, where=where(error))

    def _warn(self, event: str, trace: Trace, **facts: object) -> None:
        _log.warning(event, sink=self.name, exchange=trace.id, **facts)


def memory_of(trace: Trace) -> int:
    """About how many bytes of memory `trace` holds.

    Strings are not looked into, so megabytes of base64 cost nothing to measure. As this runs on the event loop,
    at most 2,000 values of each level of nesting are looked at, evenly spaced; each then stands for its neighbours.
    """
    level: list[Any] = [trace.messages, trace.metadata]
    total = weight = 1.0
    while level:
        if len(level) > _MEASURED_PER_LEVEL:
            step = len(level) // _MEASURED_PER_LEVEL + 1
            weight *= step
            level = level[random.randrange(step) :: step]  # noqa: S311 (so that nobody can hide behind the steps)
        total += weight * sum(map(sys.getsizeof, level))
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                below += value
                below += value.values()
            elif isinstance(value, list):
                below += value
        level = below
    return int(total)


def encoded(messages: Iterable[Message]) -> bytes:
    """The messages as a JSON array.

    They are encoded one by one, because an encoder in C holds the GIL for as long as one call takes: with tens of
    megabytes in a single call, the event loop would stall although this runs in a thread. Joining bytes releases it.
    """
    items = [msgspec.json.encode(message) for message in messages]
    return b"".join((b"[", b",".join(items), b"]"))
