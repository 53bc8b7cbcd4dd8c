"""The recorder: bounded, off the loop, and never in the way."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from sidestream.options import Secret
from sidestream.providers import PROVIDERS
from sidestream.providers.anthropic import Anthropic
from sidestream.testing import ListSink
from sidestream.traces.record import Record
from sidestream.traces.recorder import Recorder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def record(number: int, body: bytes = b"{}") -> Record:
    return Record(
        id=str(number),
        dataset="d",
        provider="anthropic",
        method="POST",
        path="/v1/messages",
        request_headers={},
        request_chunks=(body,),
        outcome="completed",
        started_at=0.0,
        duration=1.0,
    )


@pytest.fixture
async def sink() -> AsyncIterator[ListSink]:
    sink = ListSink()
    await sink.start()
    yield sink
    await sink.stop(1)


class Held(Anthropic):
    """Understands nothing until it is let."""

    def __init__(self) -> None:
        self.let = threading.Event()
        self.asked = threading.Event()

    def understand(self, **bodies: Any) -> Any:
        self.asked.set()
        assert self.let.wait(10)
        return super().understand(**bodies)


class Broken(Anthropic):
    def understand(self, **bodies: Any) -> Any:
        if bodies["request"] == b"bad":
            raise KeyError("sk-canary")
        return super().understand(**bodies)


async def test_records_become_traces_in_order_with_their_credentials(sink: ListSink) -> None:
    recorder = Recorder(PROVIDERS, [sink])
    recorder.start()
    for number in range(5):
        recorder.submit(record(number), Secret(f"inv-{number}"))
    await recorder.stop(5)
    traces = await sink.wait_for(5)
    assert list("01234") == [trace.id for trace in traces]
    assert [f"inv-{number}" for number in range(5)] == [key.reveal() for key in sink.credentials if key]


async def test_a_record_that_cannot_be_understood_is_counted_and_does_not_stop_the_next(sink: ListSink) -> None:
    recorder = Recorder({"anthropic": Broken()}, [sink])
    recorder.start()
    with capture_logs() as logs:
        recorder.submit(record(0, b"bad"), None)
        recorder.submit(record(1), None)
        await recorder.stop(5)
    assert ["1"] == [trace.id for trace in await sink.wait_for(1)]
    assert (1, 1) == (recorder.counters.failed, recorder.counters.understood)
    (entry,) = [entry for entry in logs if entry["event"] == "exchange_not_understood"]
    assert "0" == entry["exchange"]
    assert "canary" not in str(logs)


async def test_beyond_the_memory_bound_records_are_dropped_counted_and_logged_once_per_burst(sink: ListSink) -> None:
    held = Held()
    recorder = Recorder({"anthropic": held}, [sink], memory=100)
    recorder.start()
    with capture_logs() as logs:
        for number in range(10):
            recorder.submit(record(number, bytes(40)), None)
        assert (10, 8) == (recorder.counters.received, recorder.counters.dropped)
        held.let.set()
        await recorder.stop(5)
    assert ["0", "1"] == [trace.id for trace in await sink.wait_for(2)]
    assert ["record_dropped", "records_dropped"] == [e["event"] for e in logs if e["event"].startswith("record")]


async def test_a_record_larger_than_the_bound_is_taken_when_nothing_else_waits(sink: ListSink) -> None:
    recorder = Recorder(PROVIDERS, [sink], memory=10)
    recorder.start()
    recorder.submit(record(0, bytes(1000)), None)
    await recorder.stop(5)
    assert 0 == recorder.counters.dropped


async def test_what_is_not_understood_by_the_deadline_is_dropped_and_counted_once(sink: ListSink) -> None:
    held = Held()
    recorder = Recorder({"anthropic": held}, [sink])
    recorder.start()
    for number in range(3):
        recorder.submit(record(number), None)
    await asyncio.to_thread(held.asked.wait, 10)
    await recorder.stop(0.01)
    held.let.set()
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "sidestream recorder"]
    await asyncio.to_thread(thread.join, 10)
    await asyncio.sleep(0)
    assert (3, 3, 0) == (recorder.counters.received, recorder.counters.dropped, recorder.counters.understood)
    assert [] == sink.traces


async def test_a_record_that_comes_after_the_stop_is_counted_and_logged(sink: ListSink) -> None:
    recorder = Recorder(PROVIDERS, [sink])
    recorder.start()
    await recorder.stop(1)
    with capture_logs() as logs:
        recorder.submit(record(0), None)
    assert (1, 1) == (recorder.counters.received, recorder.counters.dropped)
    assert [("record_dropped", "stopped")] == [(entry["event"], entry["reason"]) for entry in logs]
