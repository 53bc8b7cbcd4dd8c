"""Observers: told on the loop's next turn, in order, and exactly once of the end."""

from __future__ import annotations

import asyncio

from multidict import CIMultiDict

from doubles import RaisingObserver, Seen, new_exchange
from sidestream import Exchange, Observer, Outcome, ResponseHead
from sidestream.providers import PROVIDERS
from sidestream.wire.live import Live


async def test_an_observer_is_told_on_the_next_turn_and_not_at_once() -> None:
    exchange, seen = new_exchange(Live()), Seen()
    exchange.observe(seen)
    exchange.response_chunk(b"a")
    assert b"" == seen.response
    await asyncio.sleep(0)
    assert b"a" == seen.response


async def test_everything_is_told_in_order_and_the_end_last_and_once() -> None:
    told: list[object] = []

    class Order(Observer):
        def on_request_chunk(self, data: bytes) -> None:
            told.append(data)

        def on_response_head(self, head: ResponseHead) -> None:
            told.append(head.status)

        def on_response_chunk(self, data: bytes) -> None:
            told.append(data)

        def on_end(self, outcome: Outcome, error: BaseException | None) -> None:
            told.append((outcome, error))

    live = Live()
    exchange = new_exchange(live)
    exchange.observe(Order())
    exchange.request_chunk(b"q")
    exchange.response_head(ResponseHead(200, "OK", CIMultiDict()))
    exchange.response_chunk(b"1")
    exchange.response_chunk(b"2")
    exchange.settle(Outcome.COMPLETED)
    exchange.settle(Outcome.CANCELLED, ValueError())
    for _ in range(3):
        exchange.end()
        await asyncio.sleep(0)
    assert [b"q", 200, b"1", b"2", (Outcome.COMPLETED, None)] == told
    assert {("anthropic", "200", "completed"): 1} == live.counters.exchanges
    assert 0 == len(live)


async def test_an_exchange_that_nobody_settled_was_cancelled() -> None:
    exchange, seen = new_exchange(Live()), Seen()
    exchange.observe(seen)
    exchange.end()
    await asyncio.sleep(0)
    assert [(Outcome.CANCELLED, None)] == seen.ends


async def test_a_raising_observer_is_detached_and_counted_once_and_the_others_are_still_told() -> None:
    live = Live()
    exchange, seen = new_exchange(live), Seen()
    exchange.observe(RaisingObserver())
    exchange.observe(seen)
    for piece in (b"1", b"2"):
        exchange.response_chunk(piece)
    exchange.end()
    await asyncio.sleep(0)
    assert b"12" == seen.response
    assert 1 == len(seen.ends)
    assert 1 == live.counters.observer_failures


async def test_only_what_the_provider_can_read_under_a_dataset_is_traced() -> None:
    assert new_exchange(Live()).traced
    pure = Exchange(
        provider=PROVIDERS["anthropic"],
        dataset=None,
        method="POST",
        target="/v1/messages",
        request_headers=CIMultiDict(),
        live=Live(),
    )
    assert not pure.traced
