import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from delivering import SOON, KnownKeys, a_turn
from sidestream.errors import Ambiguous, Gone, Retryable, Unauthorized, Undeliverable
from sidestream.options import Secret
from sidestream.sinks.attempts import Attempts
from sidestream.sinks.base import Found, Sink
from sidestream.sinks.choosing import Choosing
from sidestream.sinks.telling import Telling
from sidestream.sinks.visits import Pick
from sidestream.store.rows import Delivery, Lane, State
from sidestream.testing import ListSink
from sidestream.traces.model import Turn

LANE = Lane("", "demo")
NOW = 1000.0


class Hanging(ListSink):
    """Neither sends nor finds; does not even let itself be cancelled as long as `stubborn` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.stubborn = asyncio.Event()
        self.stubborn.set()
        self.entered = asyncio.Event()

    async def deliver(self, turn: Turn, credential: Secret | None, attempt: int) -> str | None:  # noqa: ARG002
        await self.hang()
        return None

    async def find(self, turn: Turn, credential: Secret | None) -> Found | None:  # noqa: ARG002
        await self.hang()
        return None

    async def hang(self) -> None:
        self.entered.set()
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if not self.stubborn.is_set():
                    raise


class Desk:
    """The attempts of one sink, and what they need."""

    def __init__(self, sink: ListSink) -> None:
        self.changed = asyncio.Event()
        self.choosing = Choosing(sink, KnownKeys(), SOON)
        self.telling = Telling(sink.name)
        self.attempts = Attempts(sink, self.choosing, self.telling, SOON, clock=lambda: NOW, changed=self.changed)

    def begin(self, *, looking: bool = False, remote: str | None = None) -> Delivery:
        row = Delivery(1, 1, "x1", "s", LANE, State.RETRY_AT if looking else State.SENDING, attempts=1)
        row.ambiguous, row.tried_at, row.remote = looking, NOW, remote
        self.attempts.begin(Pick(LANE, "", None), row, a_turn("x1"))
        return row

    def begin_several(self, number: int) -> list[Delivery]:
        rows = [Delivery(n, n, f"x{n}", "s", LANE, State.SENDING, 1, tried_at=NOW) for n in range(1, number + 1)]
        (first, turn), *others = [(row, a_turn(row.exchange)) for row in rows]
        self.attempts.begin(Pick(LANE, "", None), first, turn, others)
        return rows

    async def over(self) -> None:
        await asyncio.wait(self.attempts.tasks, timeout=5)


@pytest.fixture
async def hanging() -> AsyncIterator[Hanging]:
    sink = Hanging()
    sink.stubborn.clear()
    yield sink
    sink.stubborn.clear()


async def attempted(sink: ListSink, *, looking: bool = False) -> tuple[Desk, Delivery]:
    desk = Desk(sink)
    row = desk.begin(looking=looking)
    await desk.over()
    return desk, row


@pytest.mark.parametrize(
    ("failure", "state", "ambiguous"),
    [
        (None, State.DELIVERED, False),
        (Retryable("later"), State.RETRY_AT, False),
        (Ambiguous("lost"), State.RETRY_AT, True),
        (Ambiguous("500", server_error=True), State.RETRY_AT, True),
        (Unauthorized("no"), State.PARKED, False),
        (Undeliverable("never"), State.DEAD, False),
        (Gone("gone"), State.RETRY_AT, False),
        (TimeoutError(), State.RETRY_AT, True),
        (KeyError(), State.RETRY_AT, True),
        (asyncio.CancelledError(), State.RETRY_AT, True),
    ],
)
@pytest.mark.parametrize("looking", [False, True])
async def test_whatever_becomes_of_an_attempt_its_row_is_settled_once_and_its_lane_goes_on(
    failure: BaseException | None, state: State, ambiguous: bool, looking: bool
) -> None:
    class Failing(ListSink):
        async def find(self, turn: Turn, credential: Secret | None) -> Found | None:
            await self.deliver(turn, credential, 1)
            return Found()

    sink = Failing()
    sink.failures += [failure] if failure else []
    desk, row = await attempted(sink, looking=looking)
    assert ([row], 0, [LANE]) == (desk.attempts.settled, len(desk.attempts), list(desk.choosing.lanes.ready))
    if not looking:
        assert (state, ambiguous) == (row.state, row.ambiguous)
    assert (looking and failure is not None and not isinstance(failure, Gone)) <= row.ambiguous


async def test_after_a_trace_is_gone_the_row_goes_at_once_and_no_breaker_opens() -> None:
    sink = ListSink()
    sink.failures.append(Gone("gone"))
    desk = Desk(sink)
    row = desk.begin(remote="r")
    await desk.over()
    assert (State.RETRY_AT, NOW, 0, 0) == (row.state, row.due_at, row.attempts, desk.choosing.breakers.open)


@pytest.mark.parametrize("looking", [False, True])
async def test_one_that_is_cancelled_is_to_be_looked_for(hanging: Hanging, looking: bool) -> None:
    desk = Desk(hanging)
    row = desk.begin(looking=looking)
    await hanging.entered.wait()
    await desk.attempts.end(0)
    assert (State.RETRY_AT, True, NOW + SOON.settle) == (row.state, row.ambiguous, row.due_at)
    assert [row] == desk.attempts.settled


async def test_one_that_does_not_let_itself_be_cancelled_is_given_up_and_its_end_changes_nothing(
    hanging: Hanging, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(hanging)
    monkeypatch.setattr(desk.attempts, "_policy", SOON.__class__(grace=0.01))
    hanging.stubborn.set()
    row = desk.begin()
    [task] = desk.attempts.tasks
    await hanging.entered.wait()
    await desk.attempts.end(0)
    assert ([row], 0) == (desk.attempts.settled, len(desk.attempts))
    hanging.stubborn.clear()
    task.cancel()
    await asyncio.wait([task])
    assert [row] == desk.attempts.settled


async def test_those_that_end_within_their_seconds_are_not_cancelled() -> None:
    desk = Desk(ListSink())
    row = desk.begin()
    await desk.attempts.end(5)
    assert State.DELIVERED is row.state


@pytest.mark.parametrize("looking", [False, True])
async def test_a_defect_of_ours_leaves_a_row_to_be_looked_for_and_a_lane_that_goes_on(
    monkeypatch: pytest.MonkeyPatch, looking: bool
) -> None:
    def broken(*_args: Any) -> None:
        raise KeyError("inv-canary")

    monkeypatch.setattr("sidestream.sinks.policy.looked", broken)
    with capture_logs() as logs:
        desk, row = await attempted(ListSink(), looking=looking)
    assert (State.RETRY_AT, True, [row]) == (row.state, row.ambiguous, desk.attempts.settled)
    assert [LANE] == list(desk.choosing.lanes.ready)
    assert ["task_failed"] == [log["event"] for log in logs]
    assert "canary" not in str(logs)


async def test_an_attempt_that_failed_by_a_defect_of_ours_makes_room_for_another_probe(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_args: Any) -> None:
        raise KeyError

    monkeypatch.setattr("sidestream.sinks.policy.looked", broken)
    desk = Desk(ListSink())
    desk.choosing.breakers.failed("", LANE)
    assert desk.choosing.breakers.lets("", LANE, 0.0)
    with capture_logs():
        desk.begin()
        await desk.over()
    assert desk.choosing.breakers.lets("", Lane("", "other"), 0.0)


async def test_several_rows_are_sent_in_their_order_and_the_lane_goes_on_when_all_are_over() -> None:
    sink = ListSink()
    desk = Desk(sink)
    rows = desk.begin_several(3)
    await desk.over()
    assert ["x1", "x2", "x3"] == [turn.id for turn in sink.turns]
    assert [State.DELIVERED] * 3 == [row.state for row in rows]
    assert (rows, [LANE], 3) == (
        desk.attempts.settled,
        list(desk.choosing.lanes.ready),
        desk.telling.counters.delivered,
    )


@pytest.mark.parametrize("failure", [Retryable("later"), Ambiguous("lost"), Undeliverable("never"), KeyError()])
async def test_what_comes_after_a_row_that_did_not_arrive_is_as_it_was_before(failure: Exception) -> None:
    class Second(ListSink):
        async def deliver(self, turn: Turn, credential: Secret | None, attempt: int) -> str | None:
            if turn.id == "x2":
                raise failure
            return await super().deliver(turn, credential, attempt)

    sink = Second()
    desk = Desk(sink)
    first, second, third, fourth = desk.begin_several(4)
    await desk.over()
    assert ["x1"] == [turn.id for turn in sink.turns]
    assert (State.DELIVERED, 1) == (first.state, second.attempts)
    for row in (third, fourth):
        assert (State.PENDING, 0, None, False) == (row.state, row.attempts, row.tried_at, row.ambiguous)
    assert [first, second, third, fourth] == desk.attempts.settled


async def test_of_several_rows_only_the_one_under_way_is_in_doubt_when_all_are_cancelled(hanging: Hanging) -> None:
    desk = Desk(hanging)
    first, second = desk.begin_several(2)
    await hanging.entered.wait()
    await desk.attempts.end(0)
    assert (State.RETRY_AT, True) == (first.state, first.ambiguous)
    assert (State.PENDING, False, [first, second]) == (second.state, second.ambiguous, desk.attempts.settled)


async def test_what_was_given_up_does_not_go_on_to_the_next_row() -> None:
    class Stubborn(ListSink):
        def __init__(self) -> None:
            super().__init__()
            self.entered = asyncio.Event()
            self.gate = asyncio.Event()

        async def deliver(self, turn: Turn, credential: Secret | None, attempt: int) -> str | None:
            self.entered.set()
            await self.gate.wait()
            return await super().deliver(turn, credential, attempt)

    sink = Stubborn()
    desk = Desk(sink)
    rows = desk.begin_several(2)
    [task] = desk.attempts.tasks
    await sink.entered.wait()
    desk.attempts.give_up()
    sink.gate.set()
    await asyncio.wait([task], timeout=5)
    assert (["x1"], rows) == ([turn.id for turn in sink.turns], desk.attempts.settled)
    assert [State.RETRY_AT, State.PENDING] == [row.state for row in rows]


async def test_a_destination_that_is_quick_is_given_more_rows_at_once_until_one_fails() -> None:
    sink = ListSink()
    desk = Desk(sink)
    most = [desk.attempts.most]
    for _ in range(6):
        desk.begin()
        await desk.over()
        most.append(desk.attempts.most)
    sink.failures.append(Retryable("later"))
    desk.begin()
    await desk.over()
    assert ([1, 2, 4, 8, 16, 16, 16], 1) == (most, desk.attempts.most)


async def test_where_nothing_can_be_looked_for_one_row_is_claimed_at_a_time() -> None:
    class Blind(ListSink):
        find = Sink.find

    desk = Desk(Blind())
    desk.begin()
    await desk.over()
    assert 1 == desk.attempts.most
