"""What is under way can be looked at as it comes, and seems to be where it will be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from journaling import begin
from recording import a_call, eventually, told
from sidestream.providers import PROVIDERS
from sidestream.recorder.underway import MOST, UnderWay
from sidestream.store.library import Library
from sidestream.store.shapes import Tokens, TurnState
from sidestream.traces.entries import Kind
from watching import BEGAN, Watched, found, streamed, watched

if TYPE_CHECKING:
    from pathlib import Path

    from sidestream.store.shapes import Running, TurnMessages


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was read is not good enough for any time."""
    monkeypatch.setattr("sidestream.recorder.underway._PAUSE", 0.0)
    monkeypatch.setattr("sidestream.recorder.underway._PATIENCE", 0)


async def running(watched: Watched, count: int = 1) -> list[Running]:
    """What is under way, as soon as it is so many."""
    return await found(watched.under_way.running, lambda lines: len(lines) == count)


async def with_text(watched: Watched, exchange: str, words: str) -> TurnMessages:
    """A turn under way, as soon as its answer says this."""
    return await found(
        lambda: watched.under_way.turn(exchange),
        lambda turn: turn.answered and turn.messages[-1]["content"] == words,
    )


async def test_an_answer_can_be_read_while_it_streams(tmp_path: Path) -> None:
    first, second, third = streamed("It ", "is ", "1.")
    async with watched(tmp_path) as recorder:
        number = recorder.begin(1, first)
        await running(recorder)
        assert 1 == (await with_text(recorder, "call-1", "It ")).answered
        recorder.more(number, second)
        await with_text(recorder, "call-1", "It is ")
        recorder.more(number, third, at=1.5)
        turn = await with_text(recorder, "call-1", "It is 1.")
    assert [("user", "What is 1?"), ("assistant", "It is 1.")] == [
        (each["role"], each["content"]) for each in turn.messages
    ]
    about = turn.turn
    assert (TurnState.RUNNING, 200, "m-1", 0.5, 1.5) == (
        about.state,
        about.status,
        about.model,
        about.time_to_first_byte,
        about.duration,
    )
    assert (Tokens(input=7), None, None) == (about.tokens, about.cost, about.stop_reason)
    assert ("running", False) == (turn.facts["outcome"], turn.facts["message_complete"])
    assert "request_complete" not in turn.facts


async def test_a_following_turn_is_shown_where_it_is_stored_then(tmp_path: Path) -> None:
    async with watched(tmp_path) as recorder:
        await recorder.call(1)
        await recorder.call(2)
        number = recorder.begin(3, a_call(3)[1])
        (line,) = await running(recorder)
        before = await recorder.under_way.turn("call-3")
        recorder.end(number)
        await recorder.until(3)
        after = await recorder.desk.look(Library.turn, "call-3")
    assert ("call-1", "") == (line.run, line.title)
    assert ("call-1", 3, "extends_tip", "call-2") == (
        before.turn.run,
        before.turn.number,
        before.turn.rule,
        before.turn.parent,
    )
    assert (after.turn.run, after.turn.number, after.turn.rule, after.turn.parent) == (
        before.turn.run,
        before.turn.number,
        before.turn.rule,
        before.turn.parent,
    )
    assert (after.messages, after.answered, after.system) == (before.messages, before.answered, before.system)


async def test_a_new_run_has_its_own_id_and_a_title(tmp_path: Path) -> None:
    async with watched(tmp_path) as recorder:
        recorder.begin(1, b"")
        (line,) = await running(recorder)
    assert ("call-1", "call-1", "What is 1?", "m", BEGAN + 10, 0, True) == (
        line.id,
        line.run,
        line.title,
        line.model,
        line.started_at,
        line.response_bytes,
        line.answering,
    )
    assert len(a_call(1)[0]) == line.request_bytes


async def test_what_it_follows_may_come_into_the_store_a_little_later(tmp_path: Path) -> None:
    async with watched(tmp_path) as recorder:
        first = recorder.begin(1, a_call(1)[1])
        recorder.begin(2)
        assert ["call-1", "call-2"] == [line.run for line in await running(recorder, 2)]
        recorder.end(first)
        await recorder.until(1)
        assert ["call-1"] == [line.run for line in await running(recorder)]


async def test_of_a_request_that_is_still_arriving_nothing_is_shown_yet(tmp_path: Path) -> None:
    request, _ = a_call(1)
    async with watched(tmp_path) as recorder:
        number = recorder.journal.open()
        assert number is not None
        recorder.journal.put(Kind.BEGIN, number, 0.0, begin("a"))
        recorder.journal.put(Kind.REQUEST, number, 0.0, request[:-5])
        (line,) = await running(recorder)
        turn = await recorder.under_way.turn("a")
        recorder.journal.put(Kind.REQUEST, number, 0.0, request[-5:])
        whole = await found(lambda: recorder.under_way.turn("a"), lambda turn: turn.messages)
    assert ("a", False, []) == (line.run, line.answering, turn.messages)
    assert ["What is 1?"] == [message["content"] for message in whole.messages]


async def test_what_is_not_under_way_is_not_there(tmp_path: Path) -> None:
    async with watched(tmp_path) as recorder:
        await recorder.call(1)
        for exchange in ("call-1", "other"):
            with pytest.raises(LookupError):
                await recorder.under_way.turn(exchange)
        assert [] == await recorder.under_way.running()


async def test_only_the_latest_are_listed_and_that_is_said_once(tmp_path: Path) -> None:
    async with watched(tmp_path) as recorder:
        for number in range(MOST + 5):
            told(recorder.journal, f"x{number}", outcome=None, started_at=float(number))
        await eventually(lambda: len(recorder.source.glimpses()) == MOST + 5)
        with capture_logs() as logs:
            await running(recorder, MOST)
            lines = await running(recorder, MOST)
    assert [f"x{number}" for number in range(5, MOST + 5)] == [line.id for line in lines]
    assert ["turns_under_way_cut"] == [entry["event"] for entry in logs]


async def test_what_was_read_serves_until_more_has_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidestream.recorder.underway._PAUSE", 3600.0)
    first, second = streamed("It ", "is")
    async with watched(tmp_path) as recorder:
        number = recorder.begin(1, first)
        await running(recorder)
        once = await recorder.under_way.turn("call-1")
        assert once is await recorder.under_way.turn("call-1")
        recorder.more(number, second)
        await eventually(lambda: recorder.source.glimpses()[0].response_bytes > len(first))
        assert once is await recorder.under_way.turn("call-1")  # not so soon
        fresh = UnderWay(recorder.source, recorder.plane._ingestion, recorder.desk, PROVIDERS)  # noqa: SLF001
        assert "It is" == (await fresh.turn("call-1")).messages[-1]["content"]
