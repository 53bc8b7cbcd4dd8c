import asyncio
import dataclasses
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from delivering import SOON, STANDSTILL, Bench, a_turn
from recording import eventually
from sidestream.errors import Ambiguous, Retryable, SidestreamError, Unauthorized, Undeliverable
from sidestream.options import Secret
from sidestream.sinks.attempts import Attempts
from sidestream.sinks.base import Found, Sink
from sidestream.sinks.choosing import Choosing
from sidestream.sinks.delivery import Deliverer
from sidestream.sinks.policy import KEYLESS, NO_KEY, REFUSED_KEY, REFUSED_OWN_KEY, UNCLEAR
from sidestream.sinks.visits import Visit
from sidestream.store.rows import Delivery, Lane, State
from sidestream.testing import ListSink
from sidestream.traces.model import Turn, Unit

HOUR = 3600.0


class Gate(Sink):
    """Delivers when `gate` is opened; `entered` has the ids of what waits before it."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.entered: asyncio.Queue[str] = asyncio.Queue()
        self.done: list[str] = []

    async def deliver(self, turn: Turn, credential: Secret | None, attempt: int) -> str | None:  # noqa: ARG002
        self.entered.put_nowait(turn.id)
        await self.gate.wait()
        self.done.append(turn.id)
        return f"remote-{turn.id}"

    async def next(self) -> str:
        return await asyncio.wait_for(self.entered.get(), 5)


class Keyed(ListSink):
    """Takes only the keys in `valid`, and nothing without one; `tried` has every key it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.valid: set[str] = set()
        self.tried: list[str | None] = []

    @property
    def needs_trace_key(self) -> bool:
        return True

    async def deliver(self, turn: Turn, credential: Secret | None, attempt: int) -> str | None:
        key = credential.reveal() if credential else None
        self.tried.append(key)
        if key not in self.valid:
            raise Unauthorized("no")
        return await super().deliver(turn, credential, attempt)


class Lossy(ListSink):
    """What `lost` holds is raised after the trace was kept; what `looks` holds, when it is asked for one."""

    def __init__(self) -> None:
        super().__init__()
        self.lost: list[Exception] = []
        self.looks: list[Exception] = []

    async def deliver(self, turn: Turn, credential: Secret | None, attempt: int) -> str | None:
        await super().deliver(turn, credential, attempt)
        if self.lost:
            raise self.lost.pop(0)
        return None

    async def find(self, turn: Turn, credential: Secret | None) -> Found | None:
        if self.looks:
            raise self.looks.pop(0)
        return await super().find(turn, credential)


class Unknowing(ListSink):
    """Cannot tell what has arrived."""

    async def find(self, turn: Turn, credential: Secret | None) -> Found | None:
        return await Sink.find(self, turn, credential)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    yield bench
    await bench.close()


def ids(traces: list[Turn]) -> list[str]:
    return [trace.id for trace in traces]


def events(logs: list[Any], name: str) -> list[Any]:
    return [log for log in logs if log["event"] == name]


def failing(sink: ListSink, *failures: BaseException) -> ListSink:
    sink.failures += failures
    return sink


# Order


async def test_what_was_stored_before_the_start_is_delivered_in_order(bench: Bench) -> None:
    sink = ListSink()
    await bench.add(sink, a_turn("x1"), a_turn("x2"), a_turn("x3"))

    async with bench.delivering(sink) as engine:
        await bench.until({"x1": "delivered", "x2": "delivered", "x3": "delivered"})

    assert ids(sink.turns) == ["x1", "x2", "x3"]
    assert sink.attempts == [1, 1, 1]
    assert engine.counters.delivered == 3


async def test_what_is_stored_later_is_delivered_when_the_engine_is_woken(bench: Bench) -> None:
    sink = ListSink()
    async with bench.delivering(sink) as engine:
        for name in ("x1", "x2"):
            engine.wake(await bench.add(sink, a_turn(name)))
            await sink.wait_for(int(name[1]))

    assert ids(sink.turns) == ["x1", "x2"]


async def test_only_the_oldest_of_a_lane_is_under_way_and_other_lanes_are_beside_it(bench: Bench) -> None:
    sink = Gate()
    sink.concurrency = 3
    await bench.add(sink, a_turn("a1"), a_turn("a2"), a_turn("b1", dataset="other"), a_turn("b2", dataset="other"))

    async with bench.delivering(sink, stop=5):
        assert {await sink.next(), await sink.next()} == {"a1", "b1"}
        assert dict(await bench.states()) == {"a1": "sending", "a2": "pending", "b1": "sending", "b2": "pending"}
        sink.gate.set()

    assert sorted(sink.done) == ["a1", "a2", "b1", "b2"]


async def test_no_more_than_concurrency_are_under_way(bench: Bench) -> None:
    sink = Gate()
    sink.concurrency = 2
    await bench.add(sink, *(a_turn(f"x{n}", dataset=f"d{n}") for n in range(5)))

    async with bench.delivering(sink, stop=5):
        await sink.next()
        await sink.next()
        assert sorted(state for _, state in await bench.states()) == ["pending"] * 3 + ["sending"] * 2
        sink.gate.set()

    assert len(sink.done) == 5


async def test_a_row_that_waits_holds_back_its_own_lane_and_no_other(bench: Bench) -> None:
    sink = failing(ListSink(), Ambiguous("x", server_error=True))
    await bench.add(sink, a_turn("a1"), a_turn("a2"), a_turn("b1", dataset="other"))

    async with bench.delivering(sink, STANDSTILL):
        await bench.until({"a1": "retry_at", "a2": "pending", "b1": "delivered"})

    assert ids(sink.turns) == ["b1"]


async def test_a_dead_or_parked_row_does_not_hold_back_the_next_one(bench: Bench) -> None:
    sink = failing(Unknowing(), Undeliverable("refused"), Ambiguous("lost"))
    await bench.add(sink, a_turn("x1"), a_turn("x2"), a_turn("x3"))

    async with bench.delivering(sink) as engine:
        rows = await bench.until({"x1": "dead", "x2": "parked", "x3": "delivered"})

    assert [row.reason for row in rows] == ["refused", UNCLEAR, None]
    assert (engine.counters.dead, engine.counters.parked, engine.counters.delivered) == (1, 1, 1)


async def test_thousands_of_rows_of_one_lane_drain_with_one_visit_each(bench: Bench) -> None:
    number = 2_000
    sink = ListSink()
    await bench.add(sink, *(a_turn(f"x{n:05}") for n in range(number)))

    async with bench.delivering(sink):
        await sink.wait_for(number, timeout=30)

    assert ids(sink.turns) == [f"x{n:05}" for n in range(number)]
    assert bench.visits <= number + 10


async def test_lanes_that_end_together_are_saved_together(bench: Bench) -> None:
    sink = Gate()
    sink.concurrency = 100
    await bench.add(sink, *(a_turn(f"x{n}", dataset=f"d{n}") for n in range(100)))

    async with bench.delivering(sink, stop=5):
        for _ in range(100):
            await sink.next()
        before = bench.visits
        sink.gate.set()
        await bench.until({f"x{n}": "delivered" for n in range(100)})

    assert bench.visits - before < 20


# Durability


async def test_a_row_is_saved_as_being_sent_before_it_is_sent_and_its_end_before_the_next_one(bench: Bench) -> None:
    class Looking(Gate):
        seen: list[list[tuple[str, str]]] = []  # noqa: RUF012 (one instance)

        async def deliver(self, turn: Turn, credential: Secret | None, attempt: int) -> str | None:  # noqa: ARG002
            self.seen.append(await bench.states())
            return f"remote-{turn.id}"

    sink = Looking()
    await bench.add(sink, a_turn("x1"), a_turn("x2"))
    async with bench.delivering(sink):
        rows = await bench.until({"x1": "delivered", "x2": "delivered"})

    assert sink.seen == [[("x1", "sending"), ("x2", "pending")], [("x1", "delivered"), ("x2", "sending")]]
    assert [row.remote for row in rows] == ["remote-x1", "remote-x2"]


@pytest.mark.parametrize("error", [sqlite3.OperationalError("disk I/O error"), OSError(28, "full"), SidestreamError()])
async def test_nothing_is_sent_while_the_store_fails_and_all_is_when_it_works(bench: Bench, error: Exception) -> None:
    sink = ListSink()
    with capture_logs() as logs:
        async with bench.delivering(sink) as engine:
            engine.wake(await bench.add(sink, a_turn("x1")))
            await sink.wait_for(1)
            bench.failing = error
            engine.wake(await bench.add(sink, a_turn("x2")))
            await bench.visited(3)
            assert ids(sink.turns) == ["x1"]
            bench.failing = None
            await sink.wait_for(2)
            await bench.until({"x1": "delivered", "x2": "delivered"})

    assert engine.counters.store_failures >= 3
    assert len(events(logs, "sink_store_failed")) == len(events(logs, "sink_store_recovered")) == 1


async def test_a_result_that_cannot_be_saved_is_kept_until_it_can_be(bench: Bench) -> None:
    sink = Gate()
    await bench.add(sink, a_turn("x1"))
    async with bench.delivering(sink):
        await sink.next()
        bench.failing = sqlite3.OperationalError("disk I/O error")
        sink.gate.set()
        await bench.visited(3)
        assert await bench.states() == [("x1", "sending")]
        bench.failing = None
        await bench.until({"x1": "delivered"})

    assert sink.done == ["x1"]


async def test_a_store_that_fails_at_the_start_is_waited_for(bench: Bench) -> None:
    sink = ListSink()
    await bench.add(sink, a_turn("x1"))
    bench.failing = OSError(5, "I/O error")
    async with bench.delivering(sink):
        await bench.visited(3)
        bench.failing = None
        await sink.wait_for(1)


async def test_what_was_being_sent_at_a_crash_is_looked_for_and_not_sent_twice(tmp_path: Path) -> None:
    path, sink = tmp_path / "store.db", Lossy()
    bench = Bench(path)
    await bench.add(sink, a_turn("x1"), a_turn("x2"))
    rows = await bench.rows()
    for row in rows:
        row.state, row.attempts, row.tried_at = State.SENDING, 1, 1.0
    await bench.call(bench.store.save, rows)
    await bench.close()
    sink.turns.append(a_turn("x1"))

    bench = Bench(path)
    with capture_logs() as logs:
        async with bench.delivering(sink) as engine:
            rows = await bench.until({"x1": "delivered", "x2": "delivered"})
    await bench.close()

    assert ids(sink.turns) == ["x1", "x2"]
    assert [row.attempts for row in rows] == [1, 2]
    assert (engine.counters.looked_up, engine.counters.found) == (2, 1)
    assert [log["deliveries"] for log in events(logs, "sink_deliveries_interrupted")] == [2]


async def test_what_was_being_sent_at_a_crash_is_not_looked_for_before_the_destination_has_settled(
    bench: Bench,
) -> None:
    sink = Lossy()
    await bench.add(sink, a_turn("x1"), a_turn("x2", dataset="other"))
    [row, _] = await bench.rows()
    row.state, row.attempts = State.SENDING, 1
    await bench.call(bench.store.save, [row])

    async with bench.delivering(sink, dataclasses.replace(SOON, settle=HOUR)) as engine:
        await bench.until({"x1": "retry_at", "x2": "delivered"})

    assert engine.counters.looked_up == 0


# Failures


async def test_a_retryable_failure_is_tried_again_and_each_attempt_knows_its_number(bench: Bench) -> None:
    sink = failing(ListSink(), Retryable("not now"), Retryable("not now"))
    await bench.add(sink, a_turn("x1"))

    with capture_logs() as logs:
        async with bench.delivering(sink) as engine:
            [row] = await bench.until({"x1": "delivered"})

    assert sink.attempts == [3]
    assert (row.attempts, engine.counters.retried, engine.counters.looked_up) == (3, 2, 0)
    retried = events(logs, "sink_delivery_retried")
    assert [(log["exchange"], log["attempt"], log["error"]) for log in retried] == [
        ("x1", 1, "not now"),
        ("x1", 2, "not now"),
    ]


async def test_a_failure_that_may_have_arrived_is_looked_for_and_found(bench: Bench) -> None:
    sink = Lossy()
    sink.lost = [Ambiguous("lost")]
    await bench.add(sink, a_turn("x1"))

    async with bench.delivering(sink) as engine:
        [row] = await bench.until({"x1": "delivered"})

    assert (ids(sink.turns), row.attempts, row.ambiguous) == (["x1"], 1, False)
    assert (engine.counters.looked_up, engine.counters.found, engine.counters.delivered) == (1, 1, 1)


async def test_a_failure_that_did_not_arrive_is_sent_again_after_a_look(bench: Bench) -> None:
    sink = failing(Lossy(), Ambiguous("lost"))
    await bench.add(sink, a_turn("x1"))

    async with bench.delivering(sink) as engine:
        [row] = await bench.until({"x1": "delivered"})

    assert (ids(sink.turns), row.attempts) == (["x1"], 2)
    assert (engine.counters.looked_up, engine.counters.found) == (1, 0)


async def test_a_look_that_cannot_be_taken_now_is_taken_later(bench: Bench) -> None:
    sink = Lossy()
    sink.lost, sink.looks = [Ambiguous("lost")], [Retryable("not now"), Retryable("not now")]
    await bench.add(sink, a_turn("x1"))

    async with bench.delivering(sink) as engine:
        await bench.until({"x1": "delivered"})

    assert (ids(sink.turns), engine.counters.looked_up) == (["x1"], 3)


async def test_a_turn_that_answers_500_gets_its_number_of_attempts_and_does_not_hold_up_other_lanes(
    bench: Bench,
) -> None:
    sink = failing(ListSink(), *(Ambiguous("500", server_error=True) for _ in range(12)))
    await bench.add(sink, a_turn("x1"), a_turn("x2"))

    with capture_logs() as logs:
        async with bench.delivering(sink):
            [row, _] = await bench.until({"x1": "dead", "x2": "delivered"})

    assert (row.attempts, row.server_errors) == (12, 12)
    assert row.reason == "given up after 12 server errors: 500"
    assert not events(logs, "sink_breaker_opened")
    assert [log["exchange"] for log in events(logs, "sink_trace_dead")] == ["x1"]


@pytest.mark.parametrize("bug", [KeyError("inv-canary"), asyncio.CancelledError("inv-canary")])
async def test_a_defect_of_a_sink_counts_like_a_500_and_its_text_is_not_logged(
    bench: Bench, bug: BaseException
) -> None:
    sink = failing(ListSink(), bug)
    await bench.add(sink, a_turn("x1"), a_turn("x2"))

    with capture_logs() as logs:
        async with bench.delivering(sink) as engine:
            [row, _] = await bench.until({"x1": "delivered", "x2": "delivered"})

    assert (row.server_errors, engine.counters.broken) == (1, 1)
    [failure] = events(logs, "sink_delivery_failed")
    assert (failure["exchange"], failure["error"]) == ("x1", type(bug).__name__)
    assert "deliver" in failure["where"]
    assert "canary" not in str(logs)


async def test_a_defect_of_a_sink_that_cannot_look_is_tried_again_twelve_times(bench: Bench) -> None:
    class Broken(Sink):
        async def deliver(self, turn: Turn, credential: Secret | None, attempt: int) -> str | None:  # noqa: ARG002
            raise KeyError(turn.id)

    sink = Broken()
    await bench.add(sink, a_turn("x1"))
    async with bench.delivering(sink) as engine:
        [row] = await bench.until({"x1": "dead"})

    assert (row.attempts, engine.counters.broken) == (12, 12)


@pytest.mark.parametrize("answer", [True, "remote", 7])
async def test_a_find_that_returns_nonsense_is_a_defect_and_not_a_find(bench: Bench, answer: Any) -> None:
    class Mistaken(Lossy):
        async def find(self, turn: Turn, credential: Secret | None) -> Found | None:
            answers.append(answer)
            return answer if len(answers) == 1 else await super().find(turn, credential)

    answers: list[Any] = []
    sink = Mistaken()
    sink.lost = [Ambiguous("lost")]
    await bench.add(sink, a_turn("x1"))
    async with bench.delivering(sink) as engine:
        await bench.until({"x1": "delivered"})

    assert (engine.counters.broken, engine.counters.found, ids(sink.turns)) == (1, 1, ["x1"])


async def test_a_send_without_end_is_cancelled_and_counts_as_unclear(bench: Bench) -> None:
    sink = Gate()
    await bench.add(sink, a_turn("x1"))
    async with bench.delivering(sink, dataclasses.replace(SOON, longest_send=0.01)):
        [row] = await bench.until({"x1": "parked"})

    assert row.reason == UNCLEAR


async def test_a_turn_that_cannot_be_read_is_dead_and_the_next_one_goes_on(bench: Bench) -> None:
    sink = ListSink()
    await bench.add(sink, a_turn("x1"), a_turn("x2"))
    broken = bench.engine(sink)
    whole = bench.store.turn

    def turn(delivery: Delivery, unit: Unit) -> Turn:
        if delivery.sequence == 1:
            raise LookupError(delivery.sequence)
        return whole(delivery, unit)

    bench.store.turn = turn  # type: ignore[method-assign]
    await broken.start()
    [row, _] = await bench.until({"x1": "dead", "x2": "delivered"})
    await broken.stop(0)

    assert row.reason == "the turn cannot be read: LookupError"


# Time


async def test_a_row_is_given_up_after_three_days_of_trying(bench: Bench) -> None:
    times = iter([1000.0])
    sink = failing(ListSink(), Retryable("not now"))
    await bench.add(sink, a_turn("x1"))

    async with bench.delivering(sink, clock=lambda: next(times, 1000.0 + 72 * HOUR)):
        [row] = await bench.until({"x1": "dead"})

    assert row.reason == "given up after 72 hours: not now"


async def test_a_look_that_cannot_be_taken_for_three_days_parks_the_row(bench: Bench) -> None:
    sink = Lossy()
    sink.looks = [Retryable("not now")]
    await bench.add(sink, a_turn("x1"))
    [row] = await bench.rows()
    row.state, row.ambiguous, row.tried_at, row.attempts = State.RETRY_AT, True, 1000.0, 1
    await bench.call(bench.store.save, [row])

    async with bench.delivering(sink, clock=lambda: 1000.0 + 73 * HOUR):
        [row] = await bench.until({"x1": "parked"})

    assert (row.reason, row.ambiguous) == (UNCLEAR, True)


async def test_a_clock_that_was_set_back_does_not_make_a_row_wait_longer(bench: Bench) -> None:
    sink = ListSink()
    await bench.add(sink, a_turn("x1"))
    [row] = await bench.rows()
    row.state, row.due_at, row.tried_at, row.attempts = State.RETRY_AT, 10 * HOUR, 9 * HOUR, 1
    await bench.call(bench.store.save, [row])

    async with bench.delivering(sink, clock=lambda: 1.0):
        [row] = await bench.until({"x1": "delivered"})

    assert row.tried_at == 1.0


# Breakers


async def test_a_dead_destination_is_tried_by_one_lane_at_a_time_and_all_go_on_when_it_is_back(bench: Bench) -> None:
    class Down(ListSink):
        tries = 0

        async def deliver(self, turn: Turn, credential: Secret | None, attempt: int) -> str | None:
            self.tries += 1
            if self.tries <= 30:
                raise Retryable("down")
            return await super().deliver(turn, credential, attempt)

    sink = Down()
    await bench.add(sink, *(a_turn(f"x{n}", dataset=f"d{n}") for n in range(200)))
    with capture_logs() as logs:
        async with bench.delivering(sink) as engine:
            await sink.wait_for(200)
            await bench.until({f"x{n}": "delivered" for n in range(200)})

    assert sink.tries == 230
    assert engine.breakers_open == 0
    assert len(events(logs, "sink_breaker_opened")) == len(events(logs, "sink_breaker_closed")) == 1


async def test_while_a_breaker_is_open_no_other_lane_of_the_key_is_tried_and_other_keys_are(bench: Bench) -> None:
    sink = failing(ListSink(), Retryable("down"))
    bench.keys["a"] = Secret("a")
    await bench.add(sink, *(a_turn(f"x{n}", dataset=f"d{n}") for n in range(3)))

    async with bench.delivering(sink, STANDSTILL) as engine:
        await bench.until({"x0": "retry_at", "x1": "pending", "x2": "pending"})
        assert engine.breakers_open == 1
        engine.wake(await bench.add(sink, a_turn("y1"), fingerprint="a"))
        await bench.until({"x0": "retry_at", "x1": "pending", "x2": "pending", "y1": "delivered"})


async def test_a_sink_that_does_not_go_by_keys_has_one_breaker_for_all(bench: Bench) -> None:
    class File(ListSink):
        per_key = False

    sink = failing(File(), Retryable("disk full"))
    bench.keys.update(a=Secret("a"), b=Secret("b"))
    await bench.add(sink, a_turn("x1"), fingerprint="a")
    lanes = await bench.add(sink, a_turn("x2"), fingerprint="b")

    async with bench.delivering(sink, STANDSTILL) as engine:
        await bench.until({"x1": "retry_at", "x2": "pending"})
        engine.wake(lanes)
        assert engine.breakers_open == 1
        await engine.stop(5)

    assert await bench.states() == [("x1", "retry_at"), ("x2", "pending")]


async def test_a_destinations_wish_for_a_pause_is_honoured_up_to_an_hour(bench: Bench) -> None:
    sink = failing(ListSink(), Retryable("later", after=1e300))
    await bench.add(sink, a_turn("x1"))
    async with bench.delivering(sink, dataclasses.replace(SOON, longest_asked=HOUR), clock=lambda: 0.0):
        [row] = await bench.until({"x1": "retry_at"})

    assert row.due_at == pytest.approx(HOUR)


# Keys


async def test_a_call_is_delivered_with_its_own_key(bench: Bench) -> None:
    sink = Keyed()
    sink.valid = {"key-a"}
    bench.keys["a"] = Secret("key-a")
    await bench.add(sink, a_turn("x1"), fingerprint="a")
    async with bench.delivering(sink):
        await bench.until({"x1": "delivered"})

    assert sink.credentials == [Secret("key-a")]


async def test_rows_whose_key_is_not_known_wait_until_it_is_seen(bench: Bench) -> None:
    sink = Keyed()
    sink.valid = {"key-a"}
    await bench.add(sink, a_turn("x1"), a_turn("x2", dataset="other"), fingerprint="a")
    await bench.add(sink, a_turn("x3"))

    with capture_logs() as logs:
        async with bench.delivering(sink) as engine:
            rows = await bench.until({"x1": "parked", "x2": "parked", "x3": "parked"})
            assert [row.reason for row in rows] == [NO_KEY, NO_KEY, KEYLESS]
            bench.keys["a"] = Secret("key-a")
            engine.key_seen("a")
            await bench.until({"x1": "delivered", "x2": "delivered", "x3": "parked"})

    assert sink.tried == ["key-a", "key-a"]
    parked = events(logs, "sink_traces_parked")
    assert {(log["fingerprint"], log["reason"], log["traces"]) for log in parked} == {
        ("a", NO_KEY, 2),
        ("", KEYLESS, 1),
    }


async def test_a_key_that_is_known_at_the_start_frees_what_is_parked_for_it(bench: Bench) -> None:
    sink = Keyed()
    sink.valid = {"key-a"}
    await bench.add(sink, a_turn("x1"), fingerprint="a")
    async with bench.delivering(sink):
        await bench.until({"x1": "parked"})

    bench.keys["a"] = Secret("key-a")
    async with bench.delivering(sink):
        await bench.until({"x1": "delivered"})


async def test_what_is_parked_for_want_of_a_key_is_delivered_once_one_is_configured(bench: Bench) -> None:
    without, configured = Keyed(), ListSink()
    configured.name = without.name
    await bench.add(without, a_turn("x1"), fingerprint="a")
    await bench.add(without, a_turn("x2"))
    async with bench.delivering(without):
        await bench.until({"x1": "parked", "x2": "parked"})

    async with bench.delivering(configured):
        await bench.until({"x1": "delivered", "x2": "delivered"})

    assert configured.credentials == [None, None]


async def test_a_refused_key_parks_all_its_rows_and_is_not_tried_again_until_it_has_rested(bench: Bench) -> None:
    sink = Keyed()
    sink.valid = {"key-b"}
    bench.keys.update(a=Secret("key-a"), b=Secret("key-b"))
    await bench.add(sink, a_turn("x1"), a_turn("x2"), a_turn("x3", dataset="other"), fingerprint="a")
    await bench.add(sink, a_turn("y1"), fingerprint="b")

    async with bench.delivering(sink) as engine:
        rows = await bench.until({"x1": "parked", "x2": "parked", "x3": "parked", "y1": "delivered"})
        assert {row.reason for row in rows if row.state is State.PARKED} == {REFUSED_KEY}
        tried = list(sink.tried)
        engine.key_seen("a")
        engine.wake(await bench.add(sink, a_turn("x4"), fingerprint="a"))
        await bench.until({"x1": "parked", "x2": "parked", "x3": "parked", "y1": "delivered", "x4": "parked"})

    assert sink.tried == tried


async def test_a_key_that_became_valid_is_tried_when_its_rest_is_over(bench: Bench) -> None:
    sink = Keyed()
    bench.keys["a"] = Secret("key-a")
    await bench.add(sink, a_turn("x1"), a_turn("x2", dataset="other"), fingerprint="a")

    async with bench.delivering(sink, dataclasses.replace(SOON, refused_rest=0.01)) as engine:
        await bench.until({"x1": "parked", "x2": "parked"})
        sink.valid = {"key-a"}
        engine.key_seen("a")
        await bench.until({"x1": "delivered", "x2": "delivered"})


async def test_a_new_row_of_a_key_that_has_rested_brings_the_parked_ones_with_it_in_order(bench: Bench) -> None:
    sink = Keyed()
    bench.keys["a"] = Secret("key-a")
    await bench.add(sink, a_turn("x1"), fingerprint="a")

    async with bench.delivering(sink) as engine:
        await bench.until({"x1": "parked"})
        sink.valid = {"key-a"}
        engine._choosing.breakers["a"].until = 0.0  # noqa: SLF001 (an hour goes by)
        engine.wake(await bench.add(sink, a_turn("x2"), fingerprint="a"))
        await bench.until({"x1": "delivered", "x2": "delivered"})

    assert ids(sink.turns) == ["x1", "x2"]


async def test_a_configured_key_that_was_refused_is_tried_again_by_itself(bench: Bench) -> None:
    sink = failing(ListSink(), Unauthorized("no"))
    await bench.add(sink, a_turn("x1"), a_turn("x2"))

    async with bench.delivering(sink, dataclasses.replace(SOON, refused_rest=0.02)):
        rows = await bench.until({"x1": "delivered", "x2": "delivered"})

    assert [row.attempts for row in rows] == [2, 1]


async def test_a_configured_key_that_is_refused_parks_every_row_that_needs_it(bench: Bench) -> None:
    sink = failing(ListSink(), Unauthorized("no"))
    await bench.add(sink, a_turn("x1"), a_turn("x2"))
    await bench.add(sink, a_turn("x3"), fingerprint="unknown")

    async with bench.delivering(sink):
        rows = await bench.until({"x1": "parked", "x2": "parked", "x3": "parked"})

    assert {row.reason for row in rows} == {REFUSED_OWN_KEY}


async def test_a_key_refused_at_a_look_parks_the_row_and_keeps_it_unclear(bench: Bench) -> None:
    sink = Lossy()
    sink.lost, sink.looks = [Ambiguous("lost")], [Unauthorized("no")]
    await bench.add(sink, a_turn("x1"))
    async with bench.delivering(sink):
        [row] = await bench.until({"x1": "parked"})

    assert (row.ambiguous, row.reason) == (True, REFUSED_OWN_KEY)


async def test_a_key_refused_to_one_of_two_at_a_time_rests_and_then_has_another_chance(bench: Bench) -> None:
    class Half(Gate):
        async def deliver(self, turn: Turn, credential: Secret | None, attempt: int) -> str | None:
            if turn.id == "x1" and attempt == 1:
                raise Unauthorized("no")
            return await super().deliver(turn, credential, attempt)

    sink = Half()
    sink.concurrency = 2
    await bench.add(sink, a_turn("x1"), a_turn("x2", dataset="other"))
    async with bench.delivering(sink, dataclasses.replace(SOON, refused_rest=0.1)):
        await sink.next()
        await bench.until({"x1": "parked", "x2": "sending"})
        sink.gate.set()
        await bench.until({"x1": "delivered", "x2": "delivered"})


# Begin and end


async def test_a_sink_that_cannot_be_opened_is_opened_later(bench: Bench) -> None:
    class Late(ListSink):
        opened = 0

        async def open(self) -> None:
            self.opened += 1
            if self.opened < 3:
                raise OSError(2, "not yet")

    sink = Late()
    await bench.add(sink, a_turn("x1"))
    with capture_logs() as logs:
        async with bench.delivering(sink):
            await sink.wait_for(1)

    assert sink.opened == 3
    assert len(events(logs, "sink_open_failed")) == 1


async def test_a_sink_is_closed_after_its_last_delivery_and_only_if_it_was_opened(bench: Bench) -> None:
    class Diary(ListSink):
        def __init__(self) -> None:
            super().__init__()
            self.steps: list[str] = []

        async def open(self) -> None:
            self.steps.append("open")

        async def deliver(self, turn: Turn, credential: Secret | None, attempt: int) -> str | None:  # noqa: ARG002
            self.steps.append(turn.id)
            return None

        async def close(self) -> None:
            self.steps.append("close")

    sink, never = Diary(), Diary()
    await bench.add(sink, a_turn("x1"))
    async with bench.delivering(sink, stop=5):
        pass
    bench.failing = OSError(5, "I/O error")
    async with bench.delivering(never):
        pass

    assert sink.steps == ["open", "x1", "close"]
    assert never.steps == []


async def test_a_stop_delivers_what_is_there_and_leaves_what_waits(bench: Bench) -> None:
    sink = failing(ListSink(), Ambiguous("500", server_error=True))
    await bench.add(sink, a_turn("x1"), *(a_turn(f"y{n}", dataset="other") for n in range(50)))
    engine = bench.engine(sink, STANDSTILL)
    await engine.start()

    await asyncio.wait_for(engine.stop(60), 5)

    assert dict(await bench.states()) == {"x1": "retry_at"} | {f"y{n}": "delivered" for n in range(50)}


async def test_a_stop_leaves_what_was_under_way_to_be_looked_for(bench: Bench) -> None:
    sink = Gate()
    await bench.add(sink, a_turn("x1"), a_turn("x2"))
    engine = bench.engine(sink)
    await engine.start()
    await sink.next()

    await engine.stop(0)

    [first, second] = await bench.rows()
    assert (first.state, first.ambiguous, first.attempts) == (State.RETRY_AT, True, 1)
    assert (second.state, second.attempts) == (State.PENDING, 0)


async def test_a_sink_that_does_not_let_itself_be_cancelled_does_not_hold_up_the_stop(bench: Bench) -> None:
    class Stubborn(Gate):
        async def deliver(self, turn: Turn, credential: Secret | None, attempt: int) -> str | None:
            while True:
                try:
                    return await super().deliver(turn, credential, attempt)
                except asyncio.CancelledError:
                    pass

    sink = Stubborn()
    await bench.add(sink, a_turn("x1"))
    engine = bench.engine(sink, dataclasses.replace(SOON, grace=0.05))
    await engine.start()
    await sink.next()
    await asyncio.wait_for(engine.stop(0), 5)
    [row] = await bench.rows()
    sink.gate.set()

    assert (row.state, row.ambiguous) == (State.RETRY_AT, True)


async def test_a_store_that_fails_at_the_stop_leaves_the_row_as_being_sent(bench: Bench) -> None:
    sink = Gate()
    await bench.add(sink, a_turn("x1"))
    engine = bench.engine(sink)
    await engine.start()
    await sink.next()
    bench.failing = OSError(28, "full")

    await asyncio.wait_for(engine.stop(0), 5)

    assert await bench.states() == [("x1", "sending")]


async def test_a_close_that_hangs_does_not_hold_up_the_stop(bench: Bench) -> None:
    class Leaving(ListSink):
        async def close(self) -> None:
            await asyncio.Event().wait()

    sink = Leaving()
    await bench.add(sink, a_turn("x1"))
    with capture_logs() as logs:
        async with bench.delivering(sink, dataclasses.replace(SOON, grace=0.01)):
            await sink.wait_for(1)

    assert events(logs, "sink_close_timed_out")


async def test_a_row_opened_again_is_delivered_before_the_one_its_lane_waits_for(bench: Bench) -> None:
    sink = failing(ListSink(), Undeliverable("refused"), Ambiguous("500", server_error=True))
    await bench.add(sink, a_turn("x1"), a_turn("x2"))
    async with bench.delivering(sink, STANDSTILL) as engine:
        rows = await bench.until({"x1": "dead", "x2": "retry_at"})
        rows[0].state = State.PENDING
        await bench.call(bench.store.save, rows[:1])
        engine.wake([Lane("", "demo")], reopened=True)
        await bench.until({"x1": "delivered", "x2": "retry_at"})


# Defects of ours


@pytest.fixture
def failing_turns(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """Each of these is raised by one turn of an engine."""
    failures: list[BaseException] = []
    whole = Choosing.choose

    def choose(self: Choosing, visit: Visit, free: int, now: float) -> None:
        whole(self, visit, free, now)
        if failures:
            raise failures.pop(0)

    monkeypatch.setattr(Choosing, "choose", choose)
    return failures


@pytest.mark.parametrize("failure", [KeyError("inv-canary"), MemoryError(), asyncio.CancelledError()])
async def test_an_engine_that_fails_begins_anew_and_tells_once(
    bench: Bench, failing_turns: list[BaseException], failure: BaseException
) -> None:
    sink = ListSink()
    await bench.add(sink, a_turn("x1"), a_turn("x2"), a_turn("y1", dataset="other"))
    with capture_logs() as logs:
        async with bench.delivering(sink) as engine:
            await sink.wait_for(3)
            failing_turns.append(failure)
            engine.wake(await bench.add(sink, a_turn("x3")))
            await bench.until(dict.fromkeys(("x1", "x2", "x3", "y1"), "delivered"))

    assert sorted(ids(sink.turns)) == ["x1", "x2", "x3", "y1"]
    assert engine.counters.restarts == 1
    assert [log["error"] for log in events(logs, "sink_engine_failed")] == [type(failure).__name__]
    assert "canary" not in str(logs)


async def test_what_is_under_way_when_the_engine_fails_ends_and_is_not_sent_again(
    bench: Bench, failing_turns: list[BaseException]
) -> None:
    sink = Gate()
    sink.concurrency = 2
    await bench.add(sink, a_turn("x1"), a_turn("x2"))
    with capture_logs() as logs:
        async with bench.delivering(sink, dataclasses.replace(SOON, settle=5)) as engine:
            await sink.next()
            failing_turns.append(KeyError())
            engine.wake(await bench.add(sink, a_turn("y1", dataset="other")))
            await eventually(lambda: engine.counters.restarts)
            sink.gate.set()
            await bench.until({"x1": "delivered", "x2": "delivered", "y1": "delivered"})

    assert sorted(sink.done) == ["x1", "x2", "y1"]
    assert not events(logs, "sink_deliveries_interrupted")


async def test_what_hangs_when_the_engine_fails_is_looked_for(bench: Bench, failing_turns: list[BaseException]) -> None:
    class Hanging(Lossy):
        async def deliver(self, turn: Turn, credential: Secret | None, attempt: int) -> str | None:
            await super().deliver(turn, credential, attempt)
            await asyncio.Event().wait()
            return None

    sink = Hanging()
    await bench.add(sink, a_turn("x1"))
    async with bench.delivering(sink) as engine:
        await sink.wait_for(1)
        failing_turns.append(KeyError())
        engine.wake([Lane("", "other")])
        await bench.until({"x1": "delivered"})

    assert (ids(sink.turns), engine.counters.found) == (["x1"], 1)


async def test_what_a_failed_turn_had_claimed_is_looked_for(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def begin(*_args: object) -> None:
        monkeypatch.undo()
        raise KeyError

    monkeypatch.setattr(Attempts, "begin", begin)
    sink = Lossy()
    await bench.add(sink, a_turn("x1"), a_turn("x2"))
    async with bench.delivering(sink) as engine:
        rows = await bench.until({"x1": "delivered", "x2": "delivered"})

    assert (ids(sink.turns), [row.attempts for row in rows]) == (["x1", "x2"], [2, 1])
    assert (engine.counters.restarts, engine.counters.looked_up, engine.counters.found) == (1, 1, 0)


async def test_an_engine_that_fails_again_and_again_stops_all_the_same(
    bench: Bench, failing_turns: list[BaseException]
) -> None:
    sink = ListSink()
    failing_turns += [KeyError() for _ in range(100_000)]
    await bench.add(sink, a_turn("x1"))
    with capture_logs():
        async with bench.delivering(sink) as engine:
            await bench.visited(6)
            await asyncio.wait_for(engine.stop(0.1), 5)

    assert engine.counters.restarts > 2
    assert await bench.states() == [("x1", "pending")]


async def test_a_sink_that_is_open_is_not_opened_again_when_the_engine_begins_anew(
    bench: Bench, failing_turns: list[BaseException]
) -> None:
    class Once(ListSink):
        opened = 0

        async def open(self) -> None:
            self.opened += 1

    sink = Once()
    failing_turns.append(KeyError())
    await bench.add(sink, a_turn("x1"))
    async with bench.delivering(sink) as engine:
        await sink.wait_for(1)

    assert (sink.opened, engine.counters.restarts) == (1, 1)


@pytest.mark.parametrize("concurrency", [0, -1, None, "4"])
def test_a_sink_whose_concurrency_cannot_work_is_refused(concurrency: Any) -> None:
    sink = ListSink()
    sink.concurrency = concurrency
    with pytest.raises(ValueError, match="concurrency must be 1 or more"):
        Deliverer(sink, None, None, None)  # type: ignore[arg-type]


async def test_what_a_sink_says_is_kept_whatever_it_is(bench: Bench) -> None:
    class Odd(ListSink):
        async def deliver(self, turn: Turn, credential: Secret | None, attempt: int) -> Any:
            await super().deliver(turn, credential, attempt)
            return {"x1": "\ud83d" * 2000, "x2": {"id": 1}}[turn.id]

    sink = failing(Odd(), Retryable("\ud83d", after="soon"))  # type: ignore[arg-type]
    await bench.add(sink, a_turn("x1"), a_turn("x2"))
    async with bench.delivering(sink):
        rows = await bench.until({"x1": "delivered", "x2": "delivered"})

    assert [row.remote for row in rows] == ["?" * 1000, None]


async def test_a_key_that_comes_a_moment_later_than_its_trace_is_waited_for(bench: Bench) -> None:
    """Else a trace would be parked, or delivered with a configured key that is not its own."""
    sink = Keyed()
    sink.valid = {"key-a", "configured"}
    await bench.add(sink, a_turn("x1"), fingerprint="a")
    lanes = await bench.add(sink, a_turn("y1", dataset="other"), fingerprint="b")
    bench.keys["b"] = Secret("configured")
    with capture_logs() as logs:
        async with bench.delivering(sink, dataclasses.replace(SOON, key_wait=3600)) as engine:
            await bench.until({"x1": "pending", "y1": "delivered"})
            engine.wake(lanes)
            bench.keys["a"] = Secret("key-a")
            engine.key_seen("a")
            await bench.until({"x1": "delivered", "y1": "delivered"})
    assert ["configured", "key-a"] == sink.tried
    assert [] == events(logs, "sink_traces_parked")


async def test_a_refused_key_is_tried_at_once_where_somebody_wishes_it(bench: Bench) -> None:
    sink = Keyed()
    bench.keys["a"] = Secret("key-a")
    lanes = await bench.add(sink, a_turn("x1"), fingerprint="a")
    async with bench.delivering(sink) as engine:
        await bench.until({"x1": "parked"})
        sink.valid = {"key-a"}
        await bench.call(lambda: bench.store.redeliver(states=[State.PARKED]))
        engine.reopen(lanes)
        await bench.until({"x1": "delivered"})
