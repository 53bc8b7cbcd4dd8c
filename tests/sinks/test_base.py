import asyncio
import sys
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from sidestream.errors import Retryable, Undeliverable
from sidestream.options import Duration, Secret, Size
from sidestream.sinks.base import Sink, encoded, memory_of
from sidestream.testing import ListSink
from sidestream.traces.model import Trace

LONG = Duration(60)


def a_trace(number: int = 1, text: str = "Hello", **metadata: Any) -> Trace:
    return Trace(
        id=f"x{number}",
        dataset="demo",
        messages=[{"role": "user", "content": text}],
        metadata={"status": 200} | metadata,
    )


class Gate(Sink):
    """Delivers when `gate` is opened; `entered` has the ids of what waits before it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.gate = asyncio.Event()
        self.entered: asyncio.Queue[str] = asyncio.Queue()
        self.done: list[str] = []

    async def deliver(self, trace: Trace, credential: Secret | None) -> None:  # noqa: ARG002
        self.entered.put_nowait(trace.id)
        await self.gate.wait()
        self.done.append(trace.id)


class Stubborn(Sink):
    """Is never able to deliver right now; `attempts_made` has the number and the time of each attempt."""

    def __init__(self, after: float | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.after = after
        self.attempts_made: asyncio.Queue[tuple[int, float]] = asyncio.Queue()

    async def deliver(self, trace: Trace, credential: Secret | None) -> None:  # noqa: ARG002
        self.attempts_made.put_nowait((self.attempt, asyncio.get_running_loop().time()))
        raise Retryable("not now", after=self.after)


async def entered(sink: Gate) -> str:
    return await asyncio.wait_for(sink.entered.get(), 5)


def events(logs: list[Any], name: str) -> list[Any]:
    return [log for log in logs if log["event"] == name]


async def test_what_was_offered_before_the_start_is_delivered_in_order() -> None:
    sink = ListSink()
    sink.offer(a_trace(1), Secret("a"))
    sink.offer(a_trace(2), None)

    await sink.start()
    await sink.wait_for(2)
    await sink.stop(5)

    assert [trace.id for trace in sink.traces] == ["x1", "x2"]
    assert sink.credentials == [Secret("a"), None]
    assert (sink.counters.accepted, sink.counters.delivered) == (2, 2)
    assert (sink.queued, sink.queued_bytes) == (0, 0)


async def test_a_retryable_failure_is_tried_again_and_each_attempt_knows_its_number() -> None:
    attempts: list[int] = []

    class Third(Sink):
        async def deliver(self, trace: Trace, credential: Secret | None) -> None:  # noqa: ARG002
            attempts.append(self.attempt)
            if self.attempt < 3:
                raise Retryable("not now")

    sink = Third(backoff=Duration(0))
    await sink.start()
    with capture_logs() as logs:
        sink.offer(a_trace(), None)
        await sink.stop(5)

    assert attempts == [1, 2, 3]
    assert (sink.counters.retried, sink.counters.delivered) == (2, 1)
    assert [log["exchange"] for log in events(logs, "sink_delivery_retried")] == ["x1", "x1"]


async def test_a_trace_that_stays_undelivered_is_given_up_after_the_last_attempt() -> None:
    sink = ListSink(attempts=3)
    sink.failures = [Retryable("not now") for _ in range(3)]
    await sink.start()
    with capture_logs() as logs:
        sink.offer(a_trace(1), None)
        sink.offer(a_trace(2), None)
        await sink.wait_for(1)

    assert [trace.id for trace in sink.traces] == ["x2"]
    assert (sink.counters.retried, sink.counters.exhausted, sink.counters.delivered) == (2, 1, 1)
    assert [(log["exchange"], log["reason"]) for log in events(logs, "sink_trace_dropped")] == [("x1", "exhausted")]
    await sink.stop(5)


async def test_the_destinations_wish_for_a_pause_is_honoured() -> None:
    sink = Stubborn(after=0.05, attempts=2, backoff=Duration(0))
    await sink.start()
    sink.offer(a_trace(), None)

    _, first = await asyncio.wait_for(sink.attempts_made.get(), 5)
    _, second = await asyncio.wait_for(sink.attempts_made.get(), 5)
    await sink.stop(5)

    assert second - first >= 0.05


async def test_a_wish_for_a_longer_pause_than_ten_minutes_ends_the_attempts() -> None:
    sink = Stubborn(after=601)
    await sink.start()
    sink.offer(a_trace(), None)
    await sink.stop(5)

    assert (sink.counters.retried, sink.counters.exhausted) == (0, 1)


async def test_an_undeliverable_trace_is_dropped_at_once_and_the_next_one_delivered() -> None:
    sink = ListSink()
    sink.failures = [Undeliverable("refused")]
    await sink.start()
    with capture_logs() as logs:
        sink.offer(a_trace(1), None)
        sink.offer(a_trace(2), None)
        await sink.stop(5)

    assert [trace.id for trace in sink.traces] == ["x2"]
    assert (sink.counters.undeliverable, sink.counters.retried, sink.counters.delivered) == (1, 0, 1)
    dropped = events(logs, "sink_trace_dropped")
    assert [(log["exchange"], log["reason"], log["error"]) for log in dropped] == [("x1", "undeliverable", "refused")]


@pytest.mark.parametrize("bug", [KeyError("inv-canary"), asyncio.CancelledError("inv-canary")])
async def test_a_bug_in_deliver_costs_one_trace_and_its_text_is_not_logged(bug: Exception) -> None:
    sink = ListSink()
    sink.failures = [bug]
    await sink.start()
    with capture_logs() as logs:
        sink.offer(a_trace(1), None)
        sink.offer(a_trace(2), None)
        await sink.stop(5)

    assert [trace.id for trace in sink.traces] == ["x2"]
    assert (sink.counters.failed, sink.counters.delivered) == (1, 1)
    (failure,) = events(logs, "sink_delivery_failed")
    assert (failure["exchange"], failure["error"]) == ("x1", type(bug).__name__)
    assert "deliver" in failure["where"]
    assert "canary" not in str(logs)


async def test_as_many_traces_are_delivered_at_a_time_as_there_are_workers() -> None:
    sink = Gate(workers=3)
    await sink.start()
    for number in range(4):
        sink.offer(a_trace(number), None)

    assert {await entered(sink), await entered(sink), await entered(sink)} == {"x0", "x1", "x2"}
    assert sink.entered.empty()

    sink.gate.set()
    await sink.stop(5)
    assert len(sink.done) == 4


async def test_a_full_queue_drops_and_a_burst_of_drops_is_two_log_lines() -> None:
    sink = Gate(queue=2)
    await sink.start()
    with capture_logs() as logs:
        for number in range(5):
            sink.offer(a_trace(number), None)

        assert (sink.counters.accepted, sink.counters.dropped_queue_full) == (2, 3)
        assert [log["exchange"] for log in logs] == ["x2"]
        assert [log["event"] for log in logs] == ["sink_queue_filled"]

        sink.gate.set()
        await entered(sink)
        await entered(sink)
        sink.offer(a_trace(5), None)
        await entered(sink)

    drops = events(logs, "sink_traces_dropped")
    assert [(log["reason"], log["dropped"]) for log in drops] == [("queue_full", 3)]
    await sink.stop(5)
    assert sink.done == ["x0", "x1", "x5"]


async def test_a_burst_of_drops_that_lasts_to_the_end_is_summed_up_there() -> None:
    sink = Gate(queue=1)
    with capture_logs() as logs:
        for number in range(3):
            sink.offer(a_trace(number), None)
        await sink.stop(0)

    assert sorted((log["reason"], log["dropped"]) for log in events(logs, "sink_traces_dropped")) == [
        ("queue_full", 2),
        ("shutdown", 1),
    ]


async def test_the_queue_is_bounded_in_memory_too() -> None:
    sink = Gate(queue_bytes=Size(100_000))
    await sink.start()
    for number in range(3):
        sink.offer(a_trace(number, "x" * 45_000), None)

    assert (sink.counters.accepted, sink.counters.dropped_queue_full) == (2, 1)
    assert 90_000 < sink.queued_bytes < 100_000
    sink.gate.set()
    await sink.stop(5)


async def test_a_trace_larger_than_the_bound_is_taken_when_nothing_else_is_held() -> None:
    sink = Gate(queue_bytes=Size(1000))
    sink.offer(a_trace(1, "x" * 50_000), None)
    sink.offer(a_trace(2), None)

    assert (sink.counters.accepted, sink.counters.dropped_queue_full) == (1, 1)
    await sink.stop(0)


async def test_a_stop_delivers_what_is_queued() -> None:
    sink = Gate(workers=2)
    await sink.start()
    for number in range(10):
        sink.offer(a_trace(number), None)
    sink.gate.set()

    await sink.stop(5)

    assert len(sink.done) == 10
    assert sink.counters.dropped_shutdown == 0


async def test_what_a_stop_cannot_deliver_in_time_is_counted_and_logged_once() -> None:
    sink = Gate(workers=2)
    await sink.start()
    for number in range(5):
        sink.offer(a_trace(number), None)
    await entered(sink)

    with capture_logs() as logs:
        await sink.stop(0.02)

    drops = events(logs, "sink_traces_dropped")
    assert [(log["reason"], log["dropped"]) for log in drops] == [("shutdown", 5)]
    assert sink.counters.dropped_shutdown == 5
    assert sink.queued == 0


async def test_a_stop_makes_the_attempt_that_is_being_waited_for_and_no_wait_longer_than_it_lasts() -> None:
    sink = Stubborn(after=300)
    await sink.start()
    sink.offer(a_trace(), None)
    await asyncio.wait_for(sink.attempts_made.get(), 5)

    await asyncio.wait_for(sink.stop(5), 4)

    assert sink.attempts_made.get_nowait()[0] == 2
    assert (sink.counters.dropped_shutdown, sink.counters.exhausted) == (1, 0)


async def test_a_stop_leaves_time_for_short_waits() -> None:
    sink = ListSink(backoff=Duration(0.01))
    sink.failures = [Retryable("not now") for _ in range(3)]
    await sink.start()
    sink.offer(a_trace(), None)

    await sink.stop(5)

    assert (sink.counters.retried, sink.counters.delivered) == (3, 1)


async def test_a_trace_offered_after_the_stop_is_dropped_and_counted() -> None:
    sink = ListSink()
    await sink.start()
    await sink.stop(5)
    await sink.stop(5)

    with capture_logs() as logs:
        sink.offer(a_trace(), None)

    assert sink.counters.dropped_shutdown == 1
    assert [(log["event"], log["exchange"]) for log in logs] == [("sink_trace_dropped", "x1")]


async def test_a_trace_the_sink_does_not_want_is_not_queued() -> None:
    class Picky(ListSink):
        def accepts(self, trace: Trace) -> bool:
            return bool(trace.metadata["status"] == 200)

    sink = Picky()
    sink.offer(a_trace(1, status=500), None)
    sink.offer(a_trace(2, status=200), None)

    assert (sink.counters.unwanted, sink.counters.accepted) == (1, 1)
    await sink.stop(0)


async def test_a_bug_in_accepts_does_not_reach_the_caller() -> None:
    class Broken(ListSink):
        def accepts(self, trace: Trace) -> bool:
            raise RuntimeError(trace.dataset)

    sink = Broken()
    with capture_logs() as logs:
        sink.offer(a_trace(), None)

    assert sink.counters.failed == 1
    assert [log["event"] for log in logs] == ["sink_delivery_failed"]


async def test_a_close_that_hangs_does_not_hold_up_the_shutdown() -> None:
    class Leaving(ListSink):
        async def close(self) -> None:
            await asyncio.Event().wait()

    sink = Leaving()
    await sink.start()
    with capture_logs() as logs:
        await asyncio.wait_for(sink.stop(5), 4)

    assert events(logs, "sink_close_timed_out")


async def test_a_sink_is_opened_before_and_closed_after_its_deliveries() -> None:
    steps: list[str] = []

    class Diary(Sink):
        async def open(self) -> None:
            steps.append("open")

        async def deliver(self, trace: Trace, credential: Secret | None) -> None:  # noqa: ARG002
            steps.append(trace.id)

        async def close(self) -> None:
            steps.append("close")

    sink = Diary()
    sink.offer(a_trace(), None)
    await sink.start()
    await sink.stop(5)

    assert steps == ["open", "x1", "close"]


@pytest.mark.parametrize("option", ["workers", "queue", "attempts"])
def test_an_option_that_must_be_positive_says_so(option: str) -> None:
    with pytest.raises(ValueError, match=f"{option} must be 1 or more"):
        Gate(**{option: 0})


def test_a_sink_needs_no_trace_key_unless_it_says_so() -> None:
    assert not ListSink().needs_trace_key


def test_the_memory_of_a_trace_is_that_of_its_values() -> None:
    small, large = a_trace(1, ""), a_trace(2, "x" * 1_000_000)

    assert memory_of(large) - memory_of(small) == 1_000_000


def test_the_memory_of_a_trace_of_very_many_values_is_estimated() -> None:
    texts = [f"{number:090}" for number in range(100_000)]
    real = sum(map(sys.getsizeof, texts)) + sys.getsizeof(texts)
    trace = Trace(id="x", dataset="demo", messages=[{"role": "user", "content": texts}], metadata={})

    assert 0.95 < memory_of(trace) / real < 1.05


@pytest.mark.parametrize("messages", [[], [{"role": "user"}], [{"a": 1}, {"b": "ü"}]])
def test_messages_are_encoded_as_one_array(messages: list[dict[str, Any]]) -> None:
    assert msgspec.json.decode(encoded(messages)) == messages
