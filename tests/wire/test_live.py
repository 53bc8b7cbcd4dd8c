"""The sweep and the drain."""

from __future__ import annotations

import asyncio

from doubles import new_exchange
from sidestream.wire.live import Live


class Relay:
    """Counts how often it was looked at."""

    def __init__(self) -> None:
        self.checked = asyncio.Event()
        self.cancelled = asyncio.Event()

    def check(self, now: float) -> None:
        assert now <= asyncio.get_running_loop().time()
        self.checked.set()

    def cancel(self) -> None:
        self.cancelled.set()


async def test_a_watched_relay_is_swept_and_one_that_is_done_is_not() -> None:
    live, relay, other = Live(), Relay(), Relay()
    async with live.sweeping(0.01):
        done = new_exchange(live)
        live.watch(done, other)
        live.unwatch(done)
        live.watch(new_exchange(live), relay)
        async with asyncio.timeout(5):
            await relay.checked.wait()
    assert not other.checked.is_set()


async def test_a_relay_that_cannot_be_checked_does_not_end_the_sweep_for_the_others() -> None:
    class Broken(Relay):
        def check(self, now: float) -> None:
            super().check(now)
            raise OSError

    live, broken, other = Live(), Broken(), Relay()
    async with live.sweeping(0.01):
        live.watch(new_exchange(live), broken)
        async with asyncio.timeout(5):
            await broken.checked.wait()
        live.watch(new_exchange(live), other)
        async with asyncio.timeout(5):
            await other.checked.wait()


async def test_a_drain_ends_when_the_last_exchange_does() -> None:
    live = Live()
    exchange = new_exchange(live)
    draining = asyncio.ensure_future(live.drain(60))
    await asyncio.sleep(0)
    assert not draining.done()
    exchange.end()
    assert 0 == await draining


async def test_a_drain_cuts_what_outlasts_it() -> None:
    live, relay = Live(), Relay()
    exchange = new_exchange(live)
    live.watch(exchange, relay)
    draining = asyncio.ensure_future(live.drain(0.01))
    async with asyncio.timeout(5):
        await relay.cancelled.wait()
    exchange.end()
    assert 1 == await draining
