"""The trace plane as a whole: what it takes in it delivers, and it ends when it is told to."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, get_type_hints

import pytest
from structlog.testing import capture_logs

from recording import Blocked, eventually, in_memory, in_store, incompressible, journaled, offered, told, written
from sidestream.config import Retention
from sidestream.options import Duration, Secret, Size
from sidestream.recorder.memory import Memory
from sidestream.sinks.choosing import Choosing
from sidestream.stats import RecorderGauges, RecorderStats, merge
from sidestream.store.reading import Journals
from sidestream.tasks import spawn
from sidestream.testing import ListSink
from stored import an_item

if TYPE_CHECKING:
    from pathlib import Path

    from sidestream.traces.model import Turn


class Keyed(ListSink):
    """Takes only traces that a key came along with."""

    name = "keyed"

    @property
    def needs_trace_key(self) -> bool:
        return True


@pytest.fixture
def memory() -> Memory:
    return Memory(1 << 20, asyncio.Event())


async def test_what_comes_in_is_delivered_in_order(memory: Memory) -> None:
    sink = ListSink()
    plane = in_memory(memory, sink)
    await plane.start()
    for name in "abc":
        told(memory, name)
    assert ["a", "b", "c"] == [turn.id for turn in await sink.wait_for(3)]
    await plane.stop(5)


async def test_memory_is_given_back_after_delivery(memory: Memory) -> None:
    sink = ListSink()
    plane = in_memory(memory, sink)
    await plane.start()
    for number in range(4):  # more than there is room for at a time
        await eventually(lambda: memory.ready and memory.stored + memory.waiting == 0)
        told(memory, str(number), body=incompressible(900_000))
    await sink.wait_for(4)
    await eventually(lambda: (0, 0, 0) == (memory.waiting, memory.stored, memory.stored_exchanges))
    assert {} == dict(memory.dropped)
    assert await plane.shelf.call(plane.shelf.store.size) < 500_000
    await plane.stop(5)


async def test_what_no_sink_takes_counts_against_the_memory_there_is() -> None:
    memory = Memory(300_000, asyncio.Event())
    plane = in_memory(memory, Blocked())
    await plane.start()
    with capture_logs() as logs:
        for number in range(40):
            offered(memory, str(number), body=incompressible(20_000))
            await eventually(lambda: memory.waiting == 0)
        await eventually(lambda: 0 < memory.stored_exchanges < 40)
        assert not memory.ready
    assert {"memory"} == set(memory.dropped)
    assert 0 < memory.dropped["memory"] < 40
    assert 1 == sum(entry["event"] == "capture_dropped" for entry in logs)
    await plane.stop(0)


async def test_what_waits_for_somebody_makes_room_for_what_can_be_delivered() -> None:
    """Calls without a key would otherwise fill the memory for good."""
    memory = Memory(300_000, asyncio.Event())
    sink = Keyed()
    plane = in_memory(memory, sink)
    await plane.start()
    with capture_logs() as logs:
        for number in range(40):
            await eventually(lambda: memory.ready)
            offered(memory, str(number), body=incompressible(20_000))
            await eventually(lambda: memory.waiting == 0)
        await eventually(lambda: memory.dropped["parked"])
    await plane.stop(5)
    assert [] == sink.turns
    assert "parked" in {entry["reason"] for entry in logs if entry["event"] == "capture_dropped"}


async def test_it_stops_within_its_seconds_when_a_sink_hangs(tmp_path: Path) -> None:
    await written(tmp_path, "a")
    plane = journaled(tmp_path, Blocked())
    await plane.start()
    await eventually(lambda: plane.snapshot()["received"])
    async with asyncio.timeout(5):
        await plane.stop(0.1)
    assert ["a"] == in_store(tmp_path)


async def test_it_stops_within_its_seconds_when_the_store_is_not_there(tmp_path: Path) -> None:
    plane = journaled(tmp_path, ListSink())
    file = tmp_path / "data" / "store.db"

    def fail() -> None:
        plane.shelf._close()  # noqa: SLF001  # in its thread
        for companion in file.parent.glob("store.db*"):
            companion.unlink()
        file.mkdir()

    await plane.start()
    await plane.shelf.call(fail)
    await written(tmp_path, "a")
    with capture_logs() as logs:
        async with asyncio.timeout(10):
            await plane.stop(0.2)
    assert "ingestion_cut" in {entry["event"] for entry in logs}
    file.rmdir()
    sink = ListSink()
    again = journaled(tmp_path, sink)
    await again.start()
    assert ["a"] == [turn.id for turn in await sink.wait_for(1)]
    await again.stop(5)


async def test_at_its_end_it_takes_in_and_delivers_all_there_is(tmp_path: Path) -> None:
    await written(tmp_path, *"abc")
    sink = ListSink()
    plane = journaled(tmp_path, sink)
    await plane.start()
    await plane.stop(10)
    assert list("abc") == [turn.id for turn in sink.turns]


async def test_a_key_that_becomes_known_lets_go_what_waited_for_it(tmp_path: Path) -> None:
    sink = Keyed()
    plane = journaled(tmp_path, sink)
    await plane.shelf.call(plane.shelf.store.commit, [an_item("x1", ["keyed"], fingerprint="ff")])
    await plane.start()
    await eventually(lambda: plane.snapshot()["deliveries"]["keyed"]["parked"])
    plane.keys.add("ff", Secret("inv-clé"))
    plane.key_seen("ff")
    assert ["x1"] == [turn.id for turn in await sink.wait_for(1)]
    assert ["inv-clé"] == [key.reveal() for key in sink.credentials if key]
    await plane.stop(5)


async def test_what_was_for_a_sink_that_is_gone_waits_and_goes_on_when_it_is_back(tmp_path: Path) -> None:
    await written(tmp_path, "a")
    first = journaled(tmp_path, Blocked())
    await first.start()
    await eventually(lambda: first.snapshot()["received"])
    await first.stop(0)
    without = journaled(tmp_path)
    await without.start()
    (row,) = await without.shelf.call(without.shelf.store.deliveries)
    await without.stop(1)
    assert ("parked", "the sink is not configured") == (str(row.state), row.reason)


async def test_what_is_too_old_or_too_much_is_removed_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidestream.recorder.plane._KEEP_HOUSE_EVERY", 0.02)
    await written(tmp_path, *"abc")
    plane = journaled(tmp_path, retention=Retention(age=Duration(3600), bytes=Size(0)))
    await plane.start()
    await eventually(lambda: plane.pruned == 3)
    assert 3 == plane.snapshot()["pruned"]
    await plane.stop(5)


async def test_pruning_that_fails_is_one_line_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidestream.recorder.plane._KEEP_HOUSE_EVERY", 0.01)
    failures = []

    async def failing(*_args: object) -> None:
        failures.append(1)
        raise RuntimeError("sk-canary")

    plane = journaled(tmp_path, retention=Retention())
    with monkeypatch.context() as broken, capture_logs() as logs:
        broken.setattr("sidestream.recorder.chores.prune", failing)
        await plane.start()
        await eventually(lambda: len(failures) > 3)
    assert ["pruning_failed"] == [entry["event"] for entry in logs]
    assert "canary" not in str(logs)
    await plane.stop(1)


async def test_an_index_that_cannot_be_kept_is_one_line_and_holds_up_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidestream.recorder.plane.EVERY", 0.01)
    failures = []

    def failing(*_args: object) -> bool:
        failures.append(1)
        raise RuntimeError("sk-canary")

    monkeypatch.setattr("sidestream.store.store.Store.index", failing)
    sink = ListSink()
    plane = journaled(tmp_path, sink)
    with capture_logs() as logs:
        await plane.start()
        await eventually(lambda: len(failures) > 3)
        await written(tmp_path, "a")
        assert ["a"] == [turn.id for turn in await sink.wait_for(1)]
    assert ["indexing_failed", "sink_delivered"] == [entry["event"] for entry in logs]
    assert "canary" not in str(logs)
    await plane.stop(1)


async def test_a_failure_of_ingestion_that_nobody_thought_of_is_told_to_the_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_self: Journals, _most: int) -> Any:
        raise MemoryError

    monkeypatch.setattr(Journals, "read", broken)
    plane = journaled(tmp_path)
    with capture_logs():
        await plane.start()
        with pytest.raises(MemoryError):
            await plane.until(asyncio.Event())
    await plane.stop(1)


@pytest.mark.parametrize("through", ["journals", "memory"])
async def test_a_failure_in_delivering_that_nobody_thought_of_is_counted_and_delivering_goes_on(
    tmp_path: Path, memory: Memory, monkeypatch: pytest.MonkeyPatch, through: str
) -> None:
    def broken(*_args: Any) -> None:
        monkeypatch.undo()
        raise MemoryError

    sink = ListSink()
    plane = in_memory(memory, sink) if through == "memory" else journaled(tmp_path, sink)
    with capture_logs() as logs:
        await plane.start()
        monkeypatch.setattr(Choosing, "choose", broken)
        if through == "memory":
            told(memory, "a")
        else:
            await written(tmp_path, "a")
        assert ["a"] == [turn.id for turn in await sink.wait_for(1)]
    assert 1 == plane.snapshot()["deliveries"]["listsink"]["restarts"]
    assert ["sink_engine_failed"] == [entry["event"] for entry in logs if entry["log_level"] == "error"]
    await plane.stop(5)


async def test_until_it_is_stopped_it_is_not_over(tmp_path: Path) -> None:
    plane, stopping = journaled(tmp_path), asyncio.Event()
    await plane.start()
    waiting = spawn(plane.until(stopping), name="waiting")
    await plane.refresh()
    assert not waiting.done()
    stopping.set()
    await waiting
    await plane.stop(1)


@pytest.mark.parametrize("through", ["journals", "memory"])
async def test_its_numbers_have_the_documented_shape(tmp_path: Path, memory: Memory, through: str) -> None:
    sink = ListSink()
    plane = in_memory(memory, sink) if through == "memory" else journaled(tmp_path, sink)
    if through == "memory":
        told(memory, "a")
    else:
        await written(tmp_path, "a")
    await plane.start()
    await sink.wait_for(1)
    await plane.refresh()
    numbers = plane.snapshot()
    assert get_type_hints(RecorderStats).keys() == numbers.keys()
    assert get_type_hints(RecorderGauges).keys() == numbers["gauges"].keys()
    assert numbers == merge(numbers)
    assert (1, 1, 0) == (numbers["received"], numbers["understood"], numbers["failed"])
    await plane.stop(5)
    await plane.refresh()
    assert 1 == plane.snapshot()["deliveries"]["listsink"]["delivered"]


async def test_a_trace_that_a_sink_does_not_want_is_not_for_it(tmp_path: Path) -> None:
    class Nothing(ListSink):
        name = "nothing"

        def accepts(self, turn: Turn) -> bool:  # noqa: ARG002
            return False

    await written(tmp_path, "a")
    sink, nothing = ListSink(), Nothing()
    plane = journaled(tmp_path, sink, nothing)
    await plane.start()
    await sink.wait_for(1)
    await plane.stop(5)
    assert [] == nothing.turns
