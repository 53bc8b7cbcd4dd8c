"""The engine that drives one sink: rows of the store in, attempts out, and what became of them back into the store.

The queue is the store. A row is saved as ``sending`` before anything goes out, and what came of it before the next row
of its lane is looked at, so a crash at any instruction leaves a row that tells what to do: send it, or look for it
first. One task (`_drive`) talks to the store, in turns: each turn saves what has ended and claims what is next, for all
lanes that have something, in one visit to the store's thread. The sends themselves are tasks of their own.

In memory there are the lanes with something open, and the traces that are being sent; never a queue of traces.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import structlog

from sidestream.errors import Ambiguous, DeliveryError, Retryable, Unauthorized
from sidestream.sinks import policy as rules
from sidestream.sinks.base import Found, Sink
from sidestream.sinks.breakers import Breakers
from sidestream.sinks.lanes import Lanes
from sidestream.sinks.policy import KEYLESS, NO_KEY, REFUSED_KEY, REFUSED_OWN_KEY, Policy
from sidestream.sinks.visits import Pick, Turn, Visits
from sidestream.store.rows import State
from sidestream.tasks import spawn, where

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from sidestream.options import Secret
    from sidestream.sinks.visits import Answer, Head, Store
    from sidestream.store.rows import Delivery, Lane
    from sidestream.traces.model import Trace

T = TypeVar("T")

_MOST_TOLD = 10_000

_log = structlog.get_logger()

_MOST_AWAITED = 10_000


class Run(Protocol):
    """Runs a function in the store's thread."""

    def __call__(self, function: Callable[..., T], /, *args: Any) -> Awaitable[T]:
        """Its result."""


class KnownKeys(Protocol):
    """The keys that calls brought along, by fingerprint."""

    def get(self, fingerprint: str, /) -> Secret | None:
        """The key, if it is known."""

    def all(self) -> Mapping[str, Secret]:
        """All that are known."""


@dataclass(slots=True)
class Counters:
    """What one sink did since the start; never reset."""

    delivered: int = 0
    retried: int = 0
    """Attempts that failed and are followed by another one, or by a look whether they arrived."""
    looked_up: int = 0
    """Times the destination was asked whether a trace had arrived."""
    found: int = 0
    """... and it had. These are counted as delivered, too."""
    parked: int = 0
    dead: int = 0
    broken: int = 0
    """Attempts that ended in an unexpected exception: a defect of the sink."""
    store_failures: int = 0
    """Times the store could not be read or written."""


@dataclass(slots=True, eq=False)
class _Work:
    """A lane whose head is being sent, or looked for."""

    lane: Lane
    key: str
    credential: Secret | None
    delivery: Delivery
    trace: Trace
    looking: bool
    over: bool = False


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
        self.counters = Counters()
        self.name = sink.name
        self._sink = sink
        self._needs_key = sink.needs_trace_key
        self._findable = type(sink).find is not Sink.find
        self._store = store
        policy = policy or Policy(settle=sink.settle)
        self._visits = Visits(sink.name, store, clock, policy)
        self._run = run
        self._keys = keys
        self._clock = clock
        self._policy = policy
        self._breakers = Breakers()
        self._lanes = Lanes()
        self._works: dict[_Work, asyncio.Task[None]] = {}
        self._settled: list[Delivery] = []
        self._seen: set[str] = set()
        self._awaited: dict[str, float] = {}
        """Until when a key that is not known is waited for, by fingerprint."""
        self._told: set[tuple[str, str]] = set()
        self._settling_until = 0.0
        self._changed = asyncio.Event()
        self._halt = asyncio.Event()
        self._opened = False
        self._stopping = False
        self._driver: asyncio.Task[None] | None = None

    @property
    def breakers_open(self) -> int:
        """How many keys are held back after a failure of the destination."""
        return self._breakers.open

    async def start(self) -> None:
        """Begin to deliver. Neither a store nor a destination that is not there ends it."""
        self._driver = spawn(self._drive(), name=f"{self.name} delivery")

    def wake(self, lanes: Iterable[Lane], *, reopened: bool = False) -> None:
        """New rows were committed in these lanes; with `reopened`, or old ones opened again."""
        for lane in lanes:
            self._lanes.wake(lane, reopened=reopened)
        self._changed.set()

    def reopen(self, lanes: Iterable[Lane]) -> None:
        """Somebody wishes rows of these lanes to be sent again, also where their key was refused."""
        lanes = list(lanes)
        for key in ("", *(lane.fingerprint for lane in lanes)):
            self._breakers.forgive(key)
        self.wake(lanes, reopened=True)

    def key_seen(self, fingerprint: str) -> None:
        """A key became known, or was seen again: what is parked for it gets another chance."""
        self._seen.add(fingerprint)
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
            for task in self._works.values():
                task.cancel()
        if waited := [*self._works.values(), *([self._driver] if self._driver else [])]:
            await asyncio.wait(waited, timeout=self._policy.grace)
        if self._driver:
            self._driver.cancel()
        for work in list(self._works):  # whose sinks do not let themselves be cancelled
            self._interrupted(work)
        await self._last_save()
        await self._close()
        _log.info("sink_stopped", sink=self.name, **asdict(self.counters))

    async def _drive(self) -> None:
        if not await self._begin():
            return
        while not self._halt.is_set():
            self._changed.clear()
            turn = self._turn()
            if turn:
                answer = await self._stored(self._visits.turn, turn)
                if answer is None:
                    return
                self._go_on(turn, answer)
            elif self._stopping and not self._works:
                return
            else:
                await self._wait()

    async def _begin(self) -> bool:
        known = [(fingerprint, [NO_KEY, REFUSED_KEY]) for fingerprint in self._keys.all()]
        everybody = [REFUSED_OWN_KEY] if self._needs_key else [REFUSED_OWN_KEY, NO_KEY, KEYLESS]
        if interrupted := await self._stored(self._store.expire_leases, self.name):
            self._settling_until = self._time() + self._policy.settle
            _log.info("sink_deliveries_interrupted", sink=self.name, deliveries=interrupted)
        self.wake(await self._stored(self._visits.first, [(None, everybody), *known]) or ())
        return await self._open()

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
        await _within(seconds, self._halt.wait())

    async def _wait(self) -> None:
        """Until something has changed, or is due."""
        rests = [self._breakers.rest(key) for key in ("", *self._seen)]
        times = [when for when in (self._lanes.next_due, self._breakers.next_probe, *rests) if when is not None]
        await _within(max(min(times) - self._time(), 0.0) if times else None, self._changed.wait())

    def _time(self) -> float:
        """Seconds that are not the clock's, so that nobody can set them back."""
        return asyncio.get_running_loop().time()

    def _turn(self) -> Turn:
        now = self._time()
        turn = Turn(list(self._settled), max(self._settling_until - now, 0.0))
        self._second_chances(turn, now)
        self._lanes.fall_due(now)
        ready, free = self._lanes.ready, self._sink.concurrency - len(self._works)
        if free > 0:
            ready.extendleft(self._breakers.probes(now))
        while ready and len(turn.picks) < free:
            self._pick(ready.popleft(), turn, now)
        self._lanes.look_at((*turn.passed, *(pick.lane for pick in turn.picks)))
        return turn

    def _second_chances(self, turn: Turn, now: float) -> None:
        if self._breakers.rest("") is not None and self._breakers.rested("", now):
            turn.unparks.append((None, [REFUSED_OWN_KEY]))
        for fingerprint in list(self._seen):
            rested = self._breakers.rested(fingerprint, now)
            if rested:
                self._seen.discard(fingerprint)
            if self._awaited.pop(fingerprint, None) is not None:
                self._lanes.hasten(fingerprint)
            turn.unparks += [(fingerprint, [NO_KEY, REFUSED_OWN_KEY, REFUSED_KEY])] if rested else []

    def _pick(self, lane: Lane, turn: Turn, now: float) -> None:
        """Decide what is to be done with a lane, without a look at its rows."""
        credential = self._keys.get(lane.fingerprint) if lane.fingerprint else None
        unknown = credential is None and lane.fingerprint and self._sink.per_key
        if unknown and (until := self._await_key(lane.fingerprint, now)) > now:
            self._lanes.wait(lane, until)
            return
        if credential is None and self._needs_key:
            turn.parks[lane.fingerprint] = NO_KEY if lane.fingerprint else KEYLESS
            turn.passed.append(lane)
            return
        key = lane.fingerprint if credential is not None and self._sink.per_key else ""
        if self._breakers.rest(key) is not None:
            if not self._breakers.rested(key, now):
                turn.parks[lane.fingerprint] = _refusal(key)
                turn.passed.append(lane)
                return
            turn.unparks.append((lane.fingerprint, [REFUSED_KEY, REFUSED_OWN_KEY]))
        if self._breakers.lets(key, lane, now):
            turn.picks.append(Pick(lane, key, credential))

    def _await_key(self, fingerprint: str, now: float) -> float:
        """Until when a key is waited for: it may come a moment later than the call that brought it along."""
        if len(self._awaited) > _MOST_AWAITED:
            self._awaited.clear()
        return self._awaited.setdefault(fingerprint, now + self._policy.key_wait)

    def _go_on(self, turn: Turn, answer: Answer) -> None:
        del self._settled[: len(turn.settled)]
        self._lanes.looked()
        for lane in turn.passed:
            self._lanes.empty(lane)
        for pick, head in zip(turn.picks, answer.heads, strict=True):
            self._act(pick, head)
        self.wake(answer.opened, reopened=True)
        self._tell_parked(turn, answer)

    def _act(self, pick: Pick, head: Head) -> None:
        lane, delivery = pick.lane, head.delivery
        if delivery is not None and head.trace is not None and not self._halt.is_set():
            work = _Work(lane, pick.key, pick.credential, delivery, head.trace, looking=delivery.ambiguous)
            self._works[work] = spawn(self._carry(work), name=f"{self.name} {delivery.exchange}")
            return
        self._breakers.over(lane, pick.key)
        if delivery is None:
            self._lanes.empty(lane)
        elif head.trace is not None:  # too late
            if not delivery.ambiguous:
                rules.release(delivery)
                self._settled.append(delivery)
        elif head.wait > 0:
            self._lanes.wait(lane, self._time() + head.wait)
        else:
            self._tell(delivery)
            self._lanes.ready.append(lane)

    async def _carry(self, work: _Work) -> None:
        try:
            async with asyncio.timeout(self._policy.longest_send):
                if work.looking:
                    self._looked(work, await self._sink.find(work.trace, work.credential))
                else:
                    remote = await self._sink.deliver(work.trace, work.credential, work.delivery.attempts)
                    self._arrived(work, remote)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task and task.cancelling():
                self._interrupted(work)
                raise
            self._broke(work, error)  # something within the sink was cancelled, not this task
        except TimeoutError:
            message = "the sink did not finish in time"
            self._failed(work, Retryable(message) if work.looking else Ambiguous(message))
        except DeliveryError as error:
            self._failed(work, error)
        except Exception as error:  # noqa: BLE001 (the top of a background worker, above a plugin's code)
            self._broke(work, error)

    def _arrived(self, work: _Work, remote: str | None) -> None:
        if self._end(work):
            rules.arrived(work.delivery, remote)
            self._answered(work)
            self._tell(work.delivery)

    def _looked(self, work: _Work, found: Found | None) -> None:
        if not isinstance(found, Found | None):
            raise TypeError("find must return a Found or None")
        if not self._end(work):
            return
        self.counters.looked_up += 1
        self.counters.found += found is not None
        rules.looked(work.delivery, found, self._clock(), self._policy)
        self._answered(work)
        if work.delivery.state is not State.RETRY_AT:
            self._tell(work.delivery)

    def _failed(self, work: _Work, error: DeliveryError) -> None:
        if not self._end(work):
            return
        delivery, now = work.delivery, self._clock()
        self.counters.looked_up += work.looking
        wait = 0.0
        if isinstance(error, Unauthorized):
            rules.park(delivery, _refusal(work.key))
            self._lanes.ready.extend(self._breakers.refused(work.key, self._time(), self._policy.refused_rest))
        else:
            wait = self._wait_after(work, error)
            fail = rules.look_failed if work.looking else rules.failed
            fail(delivery, error, wait, now, self._policy)
        self._tell(delivery, error=str(error), wait_seconds=round(wait, 3))

    def _wait_after(self, work: _Work, error: DeliveryError) -> float:
        """How long the row waits; and its key, if that is what is in trouble."""
        if not isinstance(error, Retryable | Ambiguous):
            self._answered(work)
            return 0.0
        after = error.after if isinstance(error, Retryable) else None
        if isinstance(error, Ambiguous) and work.looking:
            self._breakers.over(work.lane, work.key)
            return 0.0
        if isinstance(error, Ambiguous) and error.server_error:
            self._answered(work)
            return self._policy.wait(work.delivery.server_errors + 1)
        failures, opened = self._breakers.failed(work.key, work.lane)
        wait = self._policy.wait(failures, after)
        self._breakers.hold(work.key, work.lane, self._time() + wait)
        if opened:
            _log.warning("sink_breaker_opened", sink=self.name, fingerprint=work.key, error=str(error))
        return max(wait, self._policy.wait(work.delivery.attempts)) if not work.looking else wait

    def _broke(self, work: _Work, error: BaseException) -> None:
        if not self._end(work):
            return
        delivery = work.delivery
        self.counters.broken += 1
        wait = self._policy.wait(delivery.server_errors + 1)
        rules.broke(delivery, wait, self._clock(), self._policy, findable=self._findable)
        self._breakers.hold(work.key, work.lane, self._time() + wait)
        name = type(error).__name__
        _log.error("sink_delivery_failed", sink=self.name, exchange=delivery.exchange, error=name, where=where(error))
        self._tell(delivery, error=delivery.reason, wait_seconds=round(wait, 3))

    def _interrupted(self, work: _Work) -> None:
        if self._end(work) and not work.looking:
            rules.interrupted(work.delivery, self._clock(), self._policy)

    def _end(self, work: _Work) -> bool:
        """An attempt is over: its row is saved with the next turn, and its lane goes on. False if it was before."""
        if work.over:
            return False
        work.over = True
        del self._works[work]
        self._settled.append(work.delivery)
        self._lanes.ready.append(work.lane)
        self._changed.set()
        return True

    def _answered(self, work: _Work) -> None:
        """The destination is there, and takes the key."""
        closed, blocked = self._breakers.close(work.key)
        self._lanes.ready.extend(blocked)
        if closed:
            _log.info("sink_breaker_closed", sink=self.name, fingerprint=work.key)

    async def _last_save(self) -> None:
        if not self._settled:
            return
        try:
            async with asyncio.timeout(self._policy.grace):
                await self._run(self._store.save, self._settled)
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

    def _tell(self, delivery: Delivery, **facts: object) -> None:
        """Count and log what became of a row."""
        about = {"sink": self.name, "exchange": delivery.exchange, "attempt": delivery.attempts}
        match delivery.state:
            case State.DELIVERED:
                self.counters.delivered += 1
                _log.debug("sink_delivered", **about)
            case State.RETRY_AT:
                self.counters.retried += 1
                _log.warning("sink_delivery_retried", **about, ambiguous=delivery.ambiguous, **facts)
            case State.PARKED:
                self.counters.parked += 1
                _log.warning("sink_trace_parked", **about, reason=delivery.reason)
            case State.DEAD:
                self.counters.dead += 1
                _log.error("sink_trace_dead", **about, reason=delivery.reason)

    def _tell_parked(self, turn: Turn, answer: Answer) -> None:
        """Rows parked at once; of each key and reason the first ones only, until it was given another chance."""
        for fingerprint, reasons in turn.unparks:
            self._told -= {(key, why) for key, why in self._told if key == fingerprint and why in reasons}
        for fingerprint, reason, traces in answer.parked:
            self.counters.parked += traces
            if len(self._told) >= _MOST_TOLD:
                self._told.clear()
            if traces and (fingerprint, reason) not in self._told:
                self._told.add((fingerprint, reason))
                _log.warning(
                    "sink_traces_parked", sink=self.name, fingerprint=fingerprint, reason=reason, traces=traces
                )


def _refusal(key: str) -> str:
    return REFUSED_KEY if key else REFUSED_OWN_KEY


async def _within(seconds: float | None, what: Awaitable[Any]) -> None:
    try:
        async with asyncio.timeout(seconds):
            await what
    except TimeoutError:
        pass
