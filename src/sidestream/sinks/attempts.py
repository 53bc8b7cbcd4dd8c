"""The attempts of one sink that are under way: each is a task that sends, or looks, and ends with its row settled.

Where a destination is quick, a task is given several rows of its lane, and sends one after the other until one does not
arrive: what is left then goes back as it was. How many that may be follows the destination: one at first and after any
failure, twice as many after a quick success. Only what can be looked for is claimed before its turn, for a crash leaves
all that was claimed in doubt.

Whatever becomes of an attempt, its row is in `Attempts.settled` exactly once, and its lane goes on. The store is not
known here: who has started an attempt saves what is settled.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from sidestream.errors import Ambiguous, DeliveryError, Gone, Retryable, Unauthorized
from sidestream.sinks import policy as rules
from sidestream.sinks.base import Found, Sink
from sidestream.store.rows import State
from sidestream.tasks import spawn, where

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sidestream.sinks.choosing import Choosing
    from sidestream.sinks.policy import Policy
    from sidestream.sinks.telling import Telling
    from sidestream.sinks.visits import Claim, Pick
    from sidestream.store.rows import Delivery, Lane
    from sidestream.traces.model import Turn

_MOST = 16
"""Rows that one task is given: so many are looked for after a crash, where one would have been enough."""
_SPELL = 0.1
"""Seconds after which a task begins no other row, and what it has delivered is to be saved."""

_log = structlog.get_logger()


@dataclass(slots=True, eq=False)
class _Work:
    """The head of a lane, being sent or looked for, and what is to be sent after it."""

    pick: Pick
    delivery: Delivery
    turn: Turn
    looking: bool
    following: deque[Claim]
    began: float
    over: bool = False

    @property
    def lane(self) -> Lane:
        return self.pick.lane

    @property
    def key(self) -> str:
        return self.pick.key


class Attempts:
    """Those of `sink`. `changed` is set when one is over; `clock` gives Unix time in seconds."""

    def __init__(
        self,
        sink: Sink,
        choosing: Choosing,
        telling: Telling,
        policy: Policy,
        *,
        clock: Callable[[], float],
        changed: asyncio.Event,
    ) -> None:
        self.settled: list[Delivery] = []
        """Rows to be saved."""
        self.most = 1
        """How many rows of a lane are to be given to `begin` at once, at most."""
        self._sink = sink
        self._findable = type(sink).find is not Sink.find
        self._choosing = choosing
        self._telling = telling
        self._policy = policy
        self._clock = clock
        self._changed = changed
        self._works: dict[_Work, asyncio.Task[None]] = {}

    def __len__(self) -> int:
        return len(self._works)

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        """Those under way."""
        return list(self._works.values())

    def begin(self, pick: Pick, delivery: Delivery, turn: Turn, following: Sequence[Claim] = ()) -> None:
        """Send this row, and `following` after it until one does not arrive; or look for it, alone."""
        work = _Work(pick, delivery, turn, delivery.ambiguous, deque(following), _time())
        self._works[work] = spawn(self._carry(work), name=f"{self._sink.name} {delivery.exchange}")

    def cancel(self) -> None:
        """Have all of them end soon."""
        for task in self.tasks:
            task.cancel()

    def give_up(self) -> None:
        """Wait no longer for those whose sink does not let itself be cancelled."""
        for work in list(self._works):
            self._interrupted(work)

    async def end(self, seconds: float) -> None:
        """Give them `seconds` to end; then they are cancelled, and after `Policy.grace` more given up."""
        if self._works:
            await asyncio.wait(self.tasks, timeout=seconds)
        self.cancel()
        if self._works:
            await asyncio.wait(self.tasks, timeout=self._policy.grace)
        self.give_up()

    async def _carry(self, work: _Work) -> None:
        try:
            async with asyncio.timeout(self._policy.longest_send):
                found = await self._all_but_one(work)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task and task.cancelling():
                raise
            self._broke(work, error)  # something within the sink was cancelled, not this task
        except TimeoutError:
            message = "the sink did not finish in time"
            self._failed(work, Retryable(message) if work.looking else Ambiguous(message))
        except DeliveryError as error:
            self._failed(work, error)
        except Exception as error:  # noqa: BLE001 (the top of a background worker, above a plugin's code)
            self._broke(work, error)
        else:
            self._answer(work, found)
        finally:
            self._interrupted(work)  # if nothing of this has settled it, whyever

    async def _all_but_one(self, work: _Work) -> Found | None:
        """Send one after the other, and settle each but the last; what came of that one."""
        if not work.following:
            return await self._try(work)
        soon = asyncio.get_running_loop().call_later(_SPELL, self._changed.set)
        try:
            while True:
                found = await self._try(work)
                if work.over or not work.following or _time() - work.began > _SPELL:
                    return found
                self._settle(work, found)
                self.settled.append(work.delivery)
                self._telling.row(work.delivery)
                work.delivery, work.turn = work.following.popleft()
        finally:
            soon.cancel()

    async def _try(self, work: _Work) -> Found | None:
        """Where it is; None if it was looked for, and is not there."""
        if not work.looking:
            return Found(await self._sink.deliver(work.turn, work.pick.credential, work.delivery.attempts))
        found = await self._sink.find(work.turn, work.pick.credential)
        if not isinstance(found, Found | None):
            raise TypeError("find must return a Found or None")
        return found

    def _answer(self, work: _Work, found: Found | None) -> None:
        """It has arrived, now or (looking) before; or, looking, it has not."""
        if work.over:
            return
        if work.looking:
            self._telling.counters.looked_up += 1
            self._telling.counters.found += found is not None
        self._settle(work, found)
        quick = not work.looking and _time() - work.began <= _SPELL
        self.most = min(self.most * 2, _MOST) if quick and self._findable else max(self.most // 2, 1)
        self._end(work)
        if work.delivery.state is not State.RETRY_AT:
            self._telling.row(work.delivery)

    def _settle(self, work: _Work, found: Found | None) -> None:
        rules.looked(work.delivery, found, self._clock(), self._policy)
        self._answered(work)

    def _failed(self, work: _Work, error: DeliveryError) -> None:
        if work.over:
            return
        self.most = 1
        delivery, now = work.delivery, self._clock()
        self._telling.counters.looked_up += work.looking
        wait = 0.0
        if isinstance(error, Unauthorized):
            rules.park(delivery, rules.refusal(work.key))
            rest = self._policy.refused_rest
            self._choosing.lanes.ready.extend(self._choosing.breakers.refused(work.key, _time(), rest))
        elif isinstance(error, Gone):
            self._answered(work)
            wait = self._policy.wait(delivery.attempts)
            rules.gone(delivery, wait, now, self._policy, looked_for=work.looking)
        else:
            wait = self._wait_after(work, error)
            fail = rules.look_failed if work.looking else rules.failed
            fail(delivery, error, wait, now, self._policy)
        self._end(work)
        self._telling.row(delivery, error=str(error), wait_seconds=round(wait, 3))

    def _wait_after(self, work: _Work, error: DeliveryError) -> float:
        """How long the row waits; and its key, if that is what is in trouble."""
        if not isinstance(error, Retryable | Ambiguous):
            self._answered(work)
            return 0.0
        if isinstance(error, Ambiguous) and work.looking:
            self._choosing.breakers.over(work.lane, work.key)
            return 0.0
        if isinstance(error, Ambiguous) and error.server_error:
            self._answered(work)
            return self._policy.wait(work.delivery.server_errors + 1)
        failures, opened = self._choosing.breakers.failed(work.key, work.lane)
        wait = self._policy.wait(failures, error.after)
        self._choosing.breakers.hold(work.key, work.lane, _time() + wait)
        if opened:
            _log.warning("sink_breaker_opened", sink=self._sink.name, fingerprint=work.key, error=str(error))
        return wait if work.looking else max(wait, self._policy.wait(work.delivery.attempts))

    def _broke(self, work: _Work, error: BaseException) -> None:
        if work.over:
            return
        delivery, self.most = work.delivery, 1
        self._telling.counters.broken += 1
        wait = self._policy.wait(delivery.server_errors + 1)
        rules.broke(delivery, wait, self._clock(), self._policy, findable=self._findable)
        self._choosing.breakers.hold(work.key, work.lane, _time() + wait)
        self._end(work)
        name, exchange = type(error).__name__, delivery.exchange
        _log.error("sink_delivery_failed", sink=self._sink.name, exchange=exchange, error=name, where=where(error))
        self._telling.row(delivery, error=delivery.reason, wait_seconds=round(wait, 3))

    def _interrupted(self, work: _Work) -> None:
        if work.over:
            return
        rules.interrupted(work.delivery, self._clock(), self._policy)
        self._choosing.breakers.over(work.lane, work.key)
        self._end(work)

    def _end(self, work: _Work) -> None:
        """An attempt is over: its row is to be saved, those that were to follow are as before, and its lane goes on."""
        work.over = True
        del self._works[work]
        self.settled.append(work.delivery)
        for delivery, _ in work.following:
            rules.release(delivery)
            self.settled.append(delivery)
        self._choosing.lanes.ready.append(work.lane)
        self._changed.set()

    def _answered(self, work: _Work) -> None:
        """The destination is there, and takes the key."""
        closed, blocked = self._choosing.breakers.close(work.key)
        self._choosing.lanes.ready.extend(blocked)
        if closed:
            _log.info("sink_breaker_closed", sink=self._sink.name, fingerprint=work.key)


def _time() -> float:
    """Seconds that are not the clock's, so that nobody can set them back."""
    return asyncio.get_running_loop().time()
