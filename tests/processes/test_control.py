"""A child's end of the conversation: orders become events, counts are reported, and the totals are asked for."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from sidestream.errors import SidestreamError
from sidestream.processes.channel import Channel, Document
from sidestream.processes.control import Control

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Supervisor:
    """The other end, by hand."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.messages = channel.messages()

    async def hears(self, kind: str) -> dict[str, Any]:
        async with asyncio.timeout(10):
            async for message in self.messages:
                if message["kind"] == kind:
                    return message
        raise AssertionError(kind)


@contextlib.asynccontextmanager
async def supervised() -> AsyncIterator[tuple[Control, Supervisor]]:
    ours, theirs = socket.socketpair()
    channel = await Channel.over(ours)
    control = Control(theirs)
    async with control.attached():
        yield control, Supervisor(channel)
    await channel.close()


async def happens(event: asyncio.Event) -> None:
    async with asyncio.timeout(10):
        await event.wait()


async def test_the_document_comes_first_and_no_later_order_is_lost() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        control = Control(theirs)
        ours.sendall(Document("f", b"x").encode() + b'{"kind":"not_ready"}\n{"kind":"retire"}\n')
        assert Document("f", b"x") == control.document()
        async with control.attached():
            await happens(control.unready)
            await happens(control.retiring)
            assert not control.stopping.is_set()


def test_a_supervisor_that_is_gone_before_it_said_anything_is_a_plain_error() -> None:
    ours, theirs = socket.socketpair()
    ours.close()
    with theirs, pytest.raises(SidestreamError, match="supervisor is gone"):
        Control(theirs).document()


async def test_orders_become_events_and_unknown_ones_are_passed_over() -> None:
    async with supervised() as (control, supervisor):
        for kind in ("dance", "document", "totals", "stop"):
            supervisor.channel.send(kind)
        await happens(control.stopping)
        assert not control.unready.is_set()


async def test_the_end_of_the_supervisor_is_an_order_to_stop() -> None:
    with capture_logs() as logs:
        async with supervised() as (control, supervisor):
            await supervisor.channel.close()
            await happens(control.stopping)
    assert "supervisor_lost" in [entry["event"] for entry in logs]


async def test_it_says_that_it_is_ready_and_reports_when_asked_and_at_its_end() -> None:
    async with supervised() as (control, supervisor):
        counted = {"seen": 1, "gauges": {"now": 2.5}}
        control.stats = lambda: counted
        control.ready()
        await supervisor.hears("ready")
        supervisor.channel.send("report", number=7)
        assert {"kind": "stats", "number": 7, "stats": counted} == await supervisor.hears("stats")
        counted["seen"] = 3
    assert {"seen": 3, "gauges": {"now": 2.5}} == (await supervisor.hears("stats"))["stats"]


async def test_what_has_changed_is_reported_without_being_asked() -> None:
    async with supervised() as (control, supervisor):
        control.stats = lambda: {"seen": 1}
        assert {"kind": "stats", "stats": {"seen": 1}} == await supervisor.hears("stats")


async def test_one_that_cannot_count_still_obeys() -> None:
    with capture_logs() as logs:
        async with supervised() as (control, supervisor):
            control.stats = lambda: {"seen": 1}
            supervisor.channel.send("report", number=1)
            await supervisor.hears("stats")
            control.stats = lambda: dict[str, Any]()["sk-canary"]
            supervisor.channel.send("report", number=2)
            assert {"seen": 1} == (await supervisor.hears("stats"))["stats"]
            supervisor.channel.send("stop")
            await happens(control.stopping)
    failed = [entry for entry in logs if entry["event"] == "stats_failed"]
    assert ["KeyError"] == [entry["error"] for entry in failed]
    assert "canary" not in str(logs)


async def test_the_totals_are_the_supervisors() -> None:
    async with supervised() as (control, supervisor):
        asking = asyncio.ensure_future(control.totals())
        number = (await supervisor.hears("totals"))["number"]
        supervisor.channel.send("totals", number=number + 1, totals={"relay": {"seen": 1}})
        supervisor.channel.send("totals", number=number, totals={"relay": {"seen": 9}})
        assert {"relay": {"seen": 9}} == await asking


@pytest.mark.parametrize("answer", [None, {"totals": 7}])
async def test_without_a_usable_answer_the_totals_are_its_own(answer: dict[str, Any] | None) -> None:
    async with supervised() as (control, supervisor):
        control.stats = lambda: {"seen": 2}
        asking = asyncio.ensure_future(control.totals())
        number = (await supervisor.hears("totals"))["number"]
        if answer:
            supervisor.channel.send("totals", number=number, **answer)
        assert {"relay": {"seen": 2}} == await asking


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_without_a_supervisor_signals_give_the_order_to_stop(number: signal.Signals) -> None:
    control = Control()
    assert not control.supervised
    assert Document() == control.document()
    async with control.attached():
        control.ready()
        os.kill(os.getpid(), number)
        await happens(control.stopping)
        assert {"relay": {}} == await control.totals()


async def test_with_a_supervisor_a_hangup_is_not_its_business() -> None:
    before = signal.getsignal(signal.SIGHUP)
    try:
        async with supervised() as (control, supervisor):
            os.kill(os.getpid(), signal.SIGHUP)
            supervisor.channel.send("not_ready")
            await happens(control.unready)
            assert not control.stopping.is_set()
    finally:
        signal.signal(signal.SIGHUP, before)
