"""From a source to the store: in order, all of it, whatever one exchange is like and whatever the store is doing."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from journaling import ROOMY
from recording import called, eventually, in_store, said_in, said_in_calls, stored_records, told, written
from sidestream.providers import PROVIDERS
from sidestream.providers.anthropic import Anthropic
from sidestream.recorder.ingestion import Ingestion, accepting, understood
from sidestream.sinks.base import Sink
from sidestream.store.directory import Directory
from sidestream.store.journal import Journal
from sidestream.store.reading import Journals
from sidestream.store.rows import Lane
from sidestream.store.shelf import Shelf
from sidestream.tasks import spawn
from sidestream.testing import ListSink
from stored import a_record

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from sidestream.providers.base import Provider, Understood
    from sidestream.store.rows import Item
    from sidestream.traces.model import Turn


class Choosy(Anthropic):
    """Fails for some requests, as a defect would."""

    def understand(self, *, request: bytes, **rest: Any) -> Understood:
        if b"exit" in request:
            raise SystemExit(3)
        if b"bad" in request:
            raise KeyError("sk-canary")
        return super().understand(request=request, **rest)


class Picky(Sink):
    """Whether it accepts a turn, it cannot tell."""

    def accepts(self, turn: Turn) -> bool:
        raise RuntimeError(turn.id)

    async def deliver(self, turn: Turn, credential: object, attempt: int) -> None:
        raise NotImplementedError


class Bench:
    """An ingestion of the journals in ``folder/data``, and what it told."""

    def __init__(self, folder: Path, providers: Mapping[str, Provider] = PROVIDERS, sinks: Sequence[Sink] = ()) -> None:
        self.directory = Directory(folder / "data")
        self.directory.prepare()
        self.shelf = Shelf(self.directory.store)
        self.journals = Journals(self.directory.journal)
        self.lanes: list[tuple[str, set[Lane]]] = []
        self.ingestion = Ingestion(
            self.journals, self.shelf, providers, sinks, lambda *new: self.lanes.append(new), asyncio.Event()
        )

    async def take_all(self) -> None:
        self.ingestion.finish()
        async with asyncio.timeout(15):
            await self.ingestion.run()

    async def close(self) -> None:
        self.ingestion.close()
        await self.shelf.close()

    @property
    def counted(self) -> tuple[int, int, int]:
        return self.ingestion.received, self.ingestion.understood, self.ingestion.failed


async def test_exchanges_come_into_the_store_in_order_and_the_sinks_lanes_are_told(tmp_path: Path) -> None:
    await written(tmp_path, *"abcde")
    bench = Bench(tmp_path, sinks=[ListSink()])
    await bench.take_all()
    await bench.close()
    assert list("abcde") == in_store(tmp_path)
    assert ((5, 5, 0), [("listsink", {Lane("", "d")})]) == (bench.counted, bench.lanes)


@pytest.mark.parametrize(("body", "error"), [(b"bad", "KeyError"), (b"exit", "SystemExit")])
async def test_an_exchange_that_cannot_be_understood_is_kept_and_marked_and_the_next_goes_on(
    tmp_path: Path, body: bytes, error: str
) -> None:
    directory = Directory(tmp_path / "data")
    directory.prepare()
    journal = Journal(directory.journal, strict=False, **ROOMY)
    journal.start()
    told(journal, "bad", body=body)
    told(journal, "good")
    await journal.stop(5)
    bench = Bench(tmp_path, {"anthropic": Choosy()}, [ListSink()])
    with capture_logs() as logs:
        await bench.take_all()
    rows = await bench.shelf.call(bench.shelf.store.deliveries)
    await bench.close()
    assert ["bad", "good"] == in_store(tmp_path)
    assert ((2, 1, 1), ["good"]) == (bench.counted, [row.exchange for row in rows])
    (entry,) = [entry for entry in logs if entry["event"] == "exchange_not_understood"]
    assert ("bad", error) == (entry["exchange"], entry["error"])
    assert "canary" not in str(logs)
    with closing(sqlite3.connect(tmp_path / "data" / "store.db")) as connection, connection:
        assert [("bad", error), ("good", None)] == connection.execute("SELECT id, error FROM exchanges").fetchall()
    connection.close()


def test_a_provider_that_is_not_known_makes_an_error_and_no_reading() -> None:
    with capture_logs():
        assert (None, "KeyError") == understood(a_record(provider="nobody"), PROVIDERS)


@pytest.mark.parametrize(
    "changes",
    [
        {"request_chunks": (b'{"messages": ' + b"[" * 100_000,)},
        {"request_chunks": (b"\xff\xfe\x00",), "request_headers": {"content-encoding": "zstd"}},
        {"response_chunks": (b"data: " + b'{"a":' * 5000 + b"\n\n",), "response_times": (0.0,)},
        {"started_at": 1e300},
        {"started_at": float("nan")},
        {"status": -1},
    ],
)
async def test_hostile_exchanges_come_into_the_store(tmp_path: Path, changes: dict[str, Any]) -> None:
    bench = Bench(tmp_path)
    with capture_logs():
        item, _ = bench.ingestion._item(a_record("hostile", **changes))  # noqa: SLF001  # no relay would write it
    assert [item] == await bench.shelf.call(bench.shelf.store.commit, [item])
    await bench.close()
    assert ["hostile"] == in_store(tmp_path)


def test_a_sink_that_fails_to_choose_does_not_get_the_turn_and_the_others_do() -> None:
    reading, _ = understood(a_record(), PROVIDERS)
    assert reading is not None
    with capture_logs() as logs:
        assert ["listsink"] == accepting([Picky(), ListSink()], reading.turn())
    assert [("sink_accepts_failed", "picky")] == [(entry["event"], entry["sink"]) for entry in logs]


async def test_a_store_that_is_unavailable_for_a_while_loses_nothing_and_is_one_line_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidestream.recorder.ingestion._RETRY", 0.01)
    await written(tmp_path, *"abc")
    bench = Bench(tmp_path)
    bench.directory.store.mkdir()
    with capture_logs() as logs:
        taking = spawn(bench.take_all(), name="taking")
        await eventually(lambda: bench.ingestion.store_failures >= 3)
        assert [3] == [len(found.records) for found in [Journals(bench.directory.journal).read(1 << 20)]]
        bench.directory.store.rmdir()
        await taking
    await bench.close()
    assert (list("abc"), (3, 3, 0)) == (in_store(tmp_path), bench.counted)
    assert ["store_write_failed", "store_write_recovered"] == [entry["event"] for entry in logs]
    assert [] == list(bench.directory.journal.iterdir())


async def test_an_exchange_that_no_commit_takes_is_left_out_and_all_others_are_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidestream.recorder.ingestion._RETRY", 0.001)
    await written(tmp_path, "a", "poison", "b")
    bench = Bench(tmp_path)
    await bench.shelf.call(bench.shelf.store.count)
    with closing(sqlite3.connect(bench.directory.store)) as connection, connection:
        connection.execute(
            "CREATE TRIGGER poison BEFORE INSERT ON exchanges WHEN new.id = 'poison'"
            " BEGIN SELECT raise(ABORT, 'a defect'); END"
        )
    connection.close()
    with capture_logs() as logs:
        await bench.take_all()
    assert {} == await bench.shelf.call(bench.shelf.store.positions)
    await bench.close()
    assert (["a", "b"], (2, 2, 1)) == (in_store(tmp_path), bench.counted)
    assert ["poison"] == [entry["exchange"] for entry in logs if entry["event"] == "exchange_not_stored"]
    assert "a defect" not in str(logs)


async def test_what_was_stored_before_a_crash_and_not_forgotten_is_not_stored_twice(tmp_path: Path) -> None:
    await written(tmp_path, "a", "b")
    first = Bench(tmp_path)
    batch = first.journals.read(1 << 20)
    items = [first.ingestion._item(record)[0] for record in batch.records]  # noqa: SLF001  # up to the commit
    await first.shelf.call(first.shelf.store.commit, items)
    await first.close()
    second = Bench(tmp_path)
    await second.take_all()
    await second.close()
    assert (["a", "b"], 0) == (in_store(tmp_path), second.ingestion.received)


async def test_interrupted_exchanges_become_traces_that_say_so(tmp_path: Path) -> None:
    await written(tmp_path, "cut", outcome=None)
    bench = Bench(tmp_path, sinks=[ListSink()])
    await bench.take_all()
    reading = await bench.shelf.call(bench.shelf.store.reading, 1)
    await bench.close()
    (record,) = stored_records(tmp_path)
    assert ("interrupted", "interrupted", "cut") == (record.outcome, reading.metadata["outcome"], reading.id)
    assert ((1, 1, 0), 1) == (bench.counted, bench.journals.counters.interrupted)


async def test_a_store_that_takes_the_place_of_a_damaged_one_is_told_the_positions_of_idle_relays(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path)
    idle, busy = (Journal(bench.directory.journal, strict=False, **ROOMY) for _ in range(2))
    for journal, name in ((idle, "idle"), (busy, "a")):
        journal.start()
        told(journal, name)
    await eventually(lambda: not idle.waiting and not busy.waiting)
    while await bench.ingestion.step() is not None:
        pass
    before = await bench.shelf.call(bench.shelf.store.positions)
    bench.directory.store.unlink()
    told(busy, "b")
    await eventually(lambda: not busy.waiting)
    with capture_logs():
        while await bench.ingestion.step() is not None:
            pass
    after = await bench.shelf.call(bench.shelf.store.positions)
    assert before.keys() == after.keys()
    assert 2 == len(after)
    await idle.stop(5)
    await busy.stop(5)
    await bench.close()
    assert ["b"] == in_store(tmp_path)


async def test_what_is_understood_goes_into_the_store_in_portions_and_the_positions_with_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidestream.recorder.ingestion._MOST_UNDERSTOOD", 1)
    await written(tmp_path, *"abcde")
    bench = Bench(tmp_path, sinks=[ListSink()])
    commits: list[tuple[int, bool]] = []
    commit = bench.shelf.store.commit

    def noted(items: list[Item], **about: Any) -> list[Item]:
        commits.append((len(items), any(about.values())))
        return commit(items, **about)

    monkeypatch.setattr(bench.shelf.store, "commit", noted)
    await bench.take_all()
    await bench.close()
    assert [(1, False)] * 4 + [(1, True)] == commits[:5]
    assert (list("abcde"), (5, 5, 0)) == (in_store(tmp_path), bench.counted)


async def test_tools_count_for_how_much_is_understood_at_a_time(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    tools = b'{"messages": [], "tools": [%s]}' % b", ".join([b'{"name": "a tool"}'] * 1000)
    (_, without), (_, with_tools) = [
        bench.ingestion._item(a_record(request_chunks=(body,)))  # noqa: SLF001
        for body in (b'{"messages": []}', tools)
    ]
    await bench.close()
    assert with_tools > without + 100_000


async def test_a_sink_chooses_by_the_whole_exchange(tmp_path: Path) -> None:
    class Second(ListSink):
        name = "second"

        def accepts(self, turn: Turn) -> bool:
            return said_in_calls(1, 2) == said_in([turn])

    directory = Directory(tmp_path / "data")
    directory.prepare()
    journal = Journal(directory.journal, strict=False, **ROOMY)
    journal.start()
    for number in (1, 2, 3):
        called(journal, number)
    await journal.stop(5)
    bench = Bench(tmp_path, sinks=[Second()])
    await bench.take_all()
    rows = await bench.shelf.call(bench.shelf.store.deliveries)
    await bench.close()
    assert ["call-2"] == [row.exchange for row in rows]
