"""The engine that drives one sink: rows of the store in, attempts out, and what became of them back into the store.

The queue is the store. A row is saved as ``sending`` before anything goes out, and what came of it soon after, so a
crash at any instruction leaves a row that tells what to do: send it, or look for it first. One task
(`Deliverer._drive`) talks to the store, in visits: each visit saves what has ended and claims what is next, for all
lanes that have something, in one visit to the store's thread. The sends themselves are tasks of their own
(`sidestream.sinks.attempts`). A failure of that one task that nobody thought of is dealt with like a crash.

In memory there are the lanes with something open, and the turns that are being sent; never a queue of them.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import structlog

from sidestream.sinks import policy as rules
from sidestream.sinks.attempts import Attempts
from sidestream.sinks.choosing import Choosing
from sidestream.sinks.policy import Policy
from sidestream.sinks.telling import Counters, Telling
from sidestream.sinks.visits import Visit, Visits
from sidestream.tasks import spawn, where, within
from sidestream.traces.model import Unit

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from sidestream.sinks.base import Sink
    from sidestream.sinks.choosing import KnownKeys
    from sidestream.sinks.visits import Answer, Head, Pick, Store
    from sidestream.store.rows import Lane

__all__ = ["Counters", "Deliverer"]

T = TypeVar("T")

_LONG_LIFE = 60.0
"""Seconds without a failure of the engine after which the next one counts as the first."""

_log = structlog.get_logger()


class Run(Protocol):
    """Runs a function in the store's thread."""

    def __call__(self, function: Callable[..., T], /, *args: Any) -> Awaitable[T]:
        """Its result."""


class Deliverer:
    """Delivers what the store has for `sink`. All methods are for the event loop's thread.

    `run` runs a function in the store's thread, `keys` knows the keys of calls, `clock` gives Unix time in seconds.
    """

    def __init__(
        self,
        sink: Sink,
        store: Store,
        run: Run,
        keys: KnownKeys,
        *,
        clock: Callable[[], float] = time.time,
        policy: Policy | None = None,
    ) -> None:
        if not isinstance(sink.concurrency, int) or sink.concurrency < 1:
            raise ValueError(f"the sink {sink.name}: concurrency must be 1 or more")
        self.name = sink.name
        self._sink = sink
        self._store = store
        self._run = run
        self._policy = policy or Policy(settle=sink.settle)
        self._telling = Telling(sink.name)
        self._visits = Visits(sink.name, Unit(sink.unit), store, clock, self._policy)
        self._choosing = Choosing(sink, keys, self._policy)
        self._changed = asyncio.Event()
        self._halt = asyncio.Event()
        self._attempts = Attempts(sink, self._choosing, self._telling, self._policy, clock=clock, changed=self._changed)
        self._settling_until = 0.0
        self._opened = False
        self._stopping = False
        self._driver: asyncio.Task[None] | None = None

    @property
    def counters(self) -> Counters:
        """What was done since the start."""
        return self._telling.counters

    @property
    def breakers_open(self) -> int:
        """How many keys are held back after a failure of the destination."""
        return self._choosing.breakers.open

    async def start(self) -> None:
        """Begin to deliver. Neither a store nor a destination that is not there ends it, nor a defect of ours."""
        self._driver = spawn(self._live(), name=f"{self.name} delivery")

    def wake(self, lanes: Iterable[Lane], *, reopened: bool = False) -> None:
        """New rows were committed in these lanes; with `reopened`, or old ones opened again."""
        self._choosing.wake(lanes, reopened=reopened)
        self._changed.set()

    def reopen(self, lanes: Iterable[Lane]) -> None:
        """Somebody wishes rows of these lanes to be sent again, also where their key was refused."""
        self._choosing.reopen(lanes)
        self._changed.set()

    def key_seen(self, fingerprint: str) -> None:
        """A key became known, or was seen again: what is parked for it gets another chance."""
        self._choosing.key_seen(fingerprint)
        self._changed.set()

    async def stop(self, seconds: float) -> None:
        """Deliver what can be delivered within `seconds`; then cancel the rest, and leave it in the store.

        Rows that wait for their next attempt are left there at once. Takes three times `Policy.grace` more at most.
        """
        self._stopping = True
        self._changed.set()
        try:
            if self._driver:
                await asyncio.wait([self._driver], timeout=seconds)
        finally:
            self._halt.set()
            self._changed.set()
            self._attempts.cancel()
        if waited := [*self._attempts.tasks, *([self._driver] if self._driver else [])]:
            await asyncio.wait(waited, timeout=self._policy.grace)
        if self._driver:
            self._driver.cancel()
        self._attempts.give_up()
        await self._last_save()
        await self._close()
        _log.info("sink_stopped", sink=self.name, **asdict(self.counters))

    async def _live(self) -> None:
        """Drive to the end, and begin anew after a failure that nobody thought of."""
        failures = 0
        while not self._halt.is_set():
            began = _time()
            try:
                await self._drive()
            except (Exception, asyncio.CancelledError) as error:
                task = asyncio.current_task()
                if task and task.cancelling():
                    raise
                failures = failures + 1 if _time() - began < _LONG_LIFE else 1
                self.counters.restarts += 1
                _log.error("sink_engine_failed", sink=self.name, error=type(error).__name__, where=where(error))
            else:
                return
            await self._attempts.end(self._policy.settle)
            self._choosing.forget()
            await self._pause(self._policy.wait(failures))

    async def _drive(self) -> None:
        if not await self._begin():
            return
        while not self._halt.is_set():
            self._changed.clear()
            visit = self._visit()
            if visit:
                answer = await self._stored(self._visits.pay, visit)
                if answer is None:
                    return
                self._go_on(visit, answer)
            elif self._stopping and not self._attempts:
                return
            else:
                await self._wait()

    async def _begin(self) -> bool:
        if settled := list(self._attempts.settled):
            await self._stored(self._visits.save, settled)
            del self._attempts.settled[: len(settled)]
        self._settling_until = _time() + self._policy.settle  # of whatever was under way, here or in another life
        if interrupted := await self._stored(self._store.expire_leases, self.name):
            _log.info("sink_deliveries_interrupted", sink=self.name, deliveries=interrupted)
        self.wake(await self._stored(self._visits.first, self._choosing.first()) or ())
        return self._opened or await self._open()

    async def _open(self) -> bool:
        failures = 0
        while not self._halt.is_set():
            try:
                await self._sink.open()
            except Exception as error:  # noqa: BLE001 (a plugin's; the top of a background worker)
                failures += 1
                if failures == 1:
                    name = type(error).__name__
                    _log.warning("sink_open_failed", sink=self.name, error=name, where=where(error))
                await self._pause(self._policy.wait(failures))
            else:
                self._opened = True
                return True
        return False

    async def _stored(self, function: Callable[..., T], *args: object) -> T | None:
        """Run `function` in the store's thread until it succeeds; None if the engine is halted before."""
        failures = 0
        while not self._halt.is_set():
            try:
                result = await self._run(function, *args)
            except Exception as error:  # noqa: BLE001 (the top of a background worker: nothing is sent until it works)
                failures += 1
                self.counters.store_failures += 1
                if failures == 1:
                    name = type(error).__name__
                    _log.error("sink_store_failed", sink=self.name, error=name, where=where(error))
                await self._pause(self._policy.wait(failures))
            else:
                if failures:
                    _log.info("sink_store_recovered", sink=self.name, failures=failures)
                return result
        return None

    async def _pause(self, seconds: float) -> None:
        await within(seconds, self._halt.wait())

    async def _wait(self) -> None:
        """Until something has changed, or is due."""
        due = self._choosing.next_time(self._free)
        await within(None if due is None else max(due - _time(), 0.0), self._changed.wait())

    @property
    def _free(self) -> int:
        """How many more lanes may be under way."""
        return self._sink.concurrency - len(self._attempts)

    def _visit(self) -> Visit:
        now = _time()
        settling = max(self._settling_until - now, 0.0)
        visit = Visit(list(self._attempts.settled), settling, most=self._attempts.most)
        self._choosing.choose(visit, self._free, now)
        return visit

    def _go_on(self, visit: Visit, answer: Answer) -> None:
        lanes = self._choosing.lanes
        del self._attempts.settled[: len(visit.settled)]
        for lane in visit.passed:
            lanes.empty(lane)
        for pick, head in zip(visit.picks, answer.heads, strict=True):
            self._act(pick, head)
        lanes.looked()
        self.wake(answer.opened, reopened=True)
        self._telling.parked(visit, answer)

    def _act(self, pick: Pick, head: Head) -> None:
        lanes, delivery = self._choosing.lanes, head.delivery
        if delivery is not None and head.turn is not None and not self._halt.is_set():
            self._attempts.begin(pick, delivery, head.turn, head.following)
            return
        self._choosing.breakers.over(pick.lane, pick.key)
        if delivery is None:
            lanes.empty(pick.lane)
        elif head.turn is not None:  # too late
            claimed = [] if delivery.ambiguous else [delivery, *(each for each, _ in head.following)]
            for each in claimed:
                rules.release(each)
            self._attempts.settled += claimed
        elif head.wait > 0:
            lanes.wait(pick.lane, _time() + head.wait)
        else:
            self._telling.row(delivery)
            lanes.ready.append(pick.lane)

    async def _last_save(self) -> None:
        if not self._attempts.settled:
            return
        try:
            async with asyncio.timeout(self._policy.grace):
                await self._run(self._visits.save, self._attempts.settled)
        except Exception as error:  # noqa: BLE001 (they stay as they were saved: being sent, so to be looked for)
            self.counters.store_failures += 1
            name = type(error).__name__
            _log.error("sink_store_failed", sink=self.name, error=name, where=where(error))

    async def _close(self) -> None:
        if not self._opened:
            return
        self._opened = False
        try:
            async with asyncio.timeout(self._policy.grace):
                await self._sink.close()
        except TimeoutError:
            _log.warning("sink_close_timed_out", sink=self.name, seconds=self._policy.grace)
        except Exception as error:  # noqa: BLE001 (the other sinks are to be stopped, too)
            _log.warning("sink_close_failed", sink=self.name, error=type(error).__name__, where=where(error))


def _time() -> float:
    """Seconds that are not the clock's, so that nobody can set them back."""
    return asyncio.get_running_loop().time()
