from __future__ import annotations

import asyncio
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

import sidestream.store.journal
from journaling import ROOMY, Memory, begin, drained, end, until
from sidestream.store import segments
from sidestream.store.journal import Journal
from sidestream.traces.entries import Kind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

NOBODY_WAITS = 3600.0
"""A window so long that only a commit or a stop makes the thread write."""


class Started:
    """Starts journals below `root`, and stops them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.journals: list[Journal] = []

    def __call__(self, *, strict: bool = False, **options: Any) -> Journal:
        journal = Journal(self.root, strict=strict, **{**ROOMY, **options})
        journal.start()
        self.journals.append(journal)
        return journal


@pytest.fixture
async def started(tmp_path: Path) -> AsyncIterator[Started]:
    started = Started(tmp_path / "journal")
    yield started
    for journal in started.journals:
        await journal.stop(5)


@pytest.fixture
def limit_files() -> Iterator[Callable[[int], None]]:
    """Let no file grow beyond so many bytes: what a full disk is like."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def happens(condition: Callable[[], object]) -> None:
    """Wait for something the thread does."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  # a thread sets no asyncio.Event
            await asyncio.sleep(0.002)


def exchange(journal: Journal, name: str, *chunks: bytes, ended: bool = True) -> int:
    number = journal.open()
    assert number is not None
    journal.put(Kind.BEGIN, number, 0.0, begin(name))
    for chunk in chunks:
        journal.put(Kind.RESPONSE, number, 0.0, chunk)
    if ended:
        journal.put(Kind.END, number, 1.0, end())
    return number


async def test_what_is_put_is_written_without_anything_else_happening(started: Started) -> None:
    journal = started()
    exchange(journal, "a", b"12", b"345")
    await happens(lambda: not journal.waiting)
    await journal.stop(5)
    assert (b"12", b"345") == drained(started.root)["a"].response_chunks


async def test_an_idle_journal_is_woken_again(started: Started) -> None:
    journal = started()
    for name in "abc":
        exchange(journal, name)
        await happens(lambda: not journal.waiting)
    await journal.stop(5)
    assert {"a", "b", "c"} == drained(started.root).keys()


async def test_stopping_writes_what_is_there_at_once(started: Started) -> None:
    journal = started(window=NOBODY_WAITS)
    exchange(journal, "a", b"1")
    await journal.stop(5)
    assert {"a"} == drained(started.root).keys()
    assert not journal.counters.dropped


async def test_a_stopped_journal_takes_nothing(started: Started) -> None:
    journal = started()
    number = exchange(journal, "a", ended=False)
    await journal.stop(5)
    assert not journal.ready
    assert journal.open() is None
    assert not journal.put(Kind.END, number, 1.0, end())
    assert {"stopped": 1} == journal.counters.dropped


async def test_a_journal_that_was_never_started_can_be_stopped(tmp_path: Path) -> None:
    journal = Journal(tmp_path, strict=False, **ROOMY)
    await journal.stop(5)
    assert not journal.ready


async def test_an_exchange_that_has_ended_takes_nothing_more(started: Started) -> None:
    journal = started()
    number = exchange(journal, "a")
    assert not journal.put(Kind.RESPONSE, number, 0.0, b"late")
    assert not journal.counters.dropped


async def test_what_is_written_is_counted(started: Started) -> None:
    journal = started()
    exchange(journal, "a", b"x" * 1000)
    await happens(lambda: not journal.waiting)
    assert 1 == journal.counters.captured
    assert 1000 + len(begin("a")) + len(end()) == journal.counters.bytes


async def test_large_exchanges_fill_several_segments_and_come_back_whole(started: Started) -> None:
    journal = started(segment=10_000)
    chunks = [os.urandom(3000) for _ in range(30)]
    exchange(journal, "a", *chunks)
    await journal.stop(5)
    assert len(list(started.root.glob("*/*.seg"))) > 3
    assert tuple(chunks) == drained(started.root)["a"].response_chunks


async def test_an_exchange_without_room_in_memory_is_given_up_and_counted_once(started: Started) -> None:
    journal = started(memory=5000, window=NOBODY_WAITS)
    exchange(journal, "whole")
    number = exchange(journal, "a", ended=False)
    with capture_logs() as logs:
        assert not journal.put(Kind.RESPONSE, number, 0.0, b"x" * 5000)
        assert not journal.put(Kind.RESPONSE, number, 0.0, b"x")
    assert [{"event": "capture_dropped", "log_level": "error", "reason": "memory"}] == logs
    assert {"memory": 1} == journal.counters.dropped
    await journal.stop(5)
    assert {"whole"} == drained(started.root).keys()


async def test_with_the_memory_full_no_new_exchange_is_taken_until_it_is_written(
    started: Started, limit_files: Callable[[int], None]
) -> None:
    limit_files(0)
    with capture_logs():  # where they go to cannot be written to either
        journal = started(memory=5000)
        number = exchange(journal, "a", b"x" * 2000, ended=False)
        while journal.waiting < 5000:
            journal.put(Kind.REQUEST, number, 0.0, b"x")
            number = journal.open() or number
        assert journal.open() is None
    limit_files(resource.RLIM_INFINITY)
    await happens(lambda: journal.ready)
    assert {"memory"} == journal.counters.dropped.keys()


async def test_a_burst_of_drops_is_reported_when_it_is_over(started: Started) -> None:
    journal = started(memory=1000)
    with capture_logs() as logs:
        for _ in range(7):
            number = journal.open()
            assert number is not None
            journal.put(Kind.BEGIN, number, 0.0, bytes(1000))
        await happens(lambda: len(logs) == 2)
    assert {"event": "captures_dropped", "log_level": "warning", "reason": "memory", "count": 7} == logs[1]


async def test_beyond_its_share_of_the_disk_new_exchanges_are_refused_and_those_under_way_go_on(
    started: Started,
) -> None:
    journal = started(disk=10_000)
    number = exchange(journal, "a", ended=False)
    journal.put(Kind.RESPONSE, number, 0.0, b"x" * 20_000)
    await happens(lambda: not journal.ready)
    assert journal.open() is None
    assert journal.put(Kind.END, number, 1.0, end())
    assert {"disk": 1} == journal.counters.dropped
    await journal.stop(5)
    assert {"a"} == drained(started.root).keys()


@pytest.mark.parametrize("name", ["store.db", "store.db-wal", "corrupt/x.seg", "journal/other/00000001.seg"])
async def test_everything_that_belongs_to_the_traces_counts_for_the_disk(
    started: Started, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sidestream.store.journal, "_SURVEY", 0.05)
    other = started.root.parent / name
    other.parent.mkdir(parents=True, exist_ok=True)
    other.write_bytes(bytes(10_000))
    journal = started(disk=10_000)
    await happens(lambda: not journal.ready)
    other.unlink()
    await happens(lambda: journal.ready)


async def test_files_of_others_do_not_count_for_the_disk(started: Started) -> None:
    (started.root.parent / "traces.jsonl").write_bytes(bytes(10_000))
    journal = started(disk=10_000)
    exchange(journal, "a")
    await happens(lambda: not journal.waiting)
    assert journal.ready


async def test_what_must_stay_free_stays_free(started: Started) -> None:
    journal = started(min_free=1 << 60)
    await happens(lambda: not journal.ready)
    assert journal.open() is None
    assert {"min_free": 1} == journal.counters.dropped


async def test_a_full_disk_loses_nothing_that_was_taken_and_mends_itself(
    started: Started, limit_files: Callable[[int], None]
) -> None:
    chunks = [os.urandom(700) for _ in range(10)]
    with capture_logs() as logs:
        limit_files(2000)
        journal = started()
        exchange(journal, "a", *chunks)
        await happens(lambda: journal.counters.write_failures)
        limit_files(resource.RLIM_INFINITY)
        await happens(lambda: not journal.waiting)
        await journal.stop(5)
    assert ["journal_write_failed", "journal_write_recovered"] == [line["event"] for line in logs]
    assert "EFBIG" == logs[0]["error"]
    assert tuple(chunks) == drained(started.root)["a"].response_chunks


async def test_after_a_second_without_writing_new_exchanges_are_refused_until_it_works(started: Started) -> None:
    started.root.touch()
    journal = started()
    await happens(lambda: not journal.ready)
    assert journal.open() is None
    assert {"unwritable": 1} == journal.counters.dropped
    started.root.unlink()
    await happens(lambda: journal.ready)
    exchange(journal, "a")
    await journal.stop(5)
    assert {"a"} == drained(started.root).keys()


async def test_what_cannot_be_written_until_the_stop_is_counted(started: Started) -> None:
    started.root.touch()
    journal = started()
    exchange(journal, "a")
    exchange(journal, "b", ended=False)
    with capture_logs() as logs:
        await journal.stop(5)
    assert {"stopped": 2} == journal.counters.dropped
    assert {"event": "captures_dropped", "log_level": "warning", "reason": "stopped", "count": 2} in logs


async def test_a_deleted_directory_is_made_again_and_what_was_under_way_is_given_up(started: Started) -> None:
    journal = started()
    number = exchange(journal, "a", ended=False)
    await happens(lambda: not journal.waiting)
    shutil.rmtree(started.root)
    journal.put(Kind.RESPONSE, number, 0.0, b"x")
    await happens(lambda: journal.counters.dropped)
    assert {"deleted": 1} == journal.counters.dropped
    assert not journal.put(Kind.END, number, 1.0, end())
    exchange(journal, "b")
    await journal.stop(5)
    assert {"b"} == drained(started.root).keys()


async def test_an_entry_that_cannot_be_written_at_all_does_not_stop_the_others(started: Started) -> None:
    journal = started()
    number = exchange(journal, "a", ended=False)
    with capture_logs() as logs:
        journal.put(Kind.RESPONSE, number, None, b"")  # type: ignore[arg-type]
        await happens(lambda: journal.counters.dropped)
    assert "journal_failed" in {line["event"] for line in logs}
    assert {"failed": 1} == journal.counters.dropped
    exchange(journal, "b")
    await journal.stop(5)
    assert {"b"} == drained(started.root).keys()


async def test_a_commit_is_answered_when_everything_is_written_and_synced(
    started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    monkeypatch.setattr(segments, "_sync", lambda file: sizes.append(os.fstat(file).st_size))
    journal = started(strict=True, window=NOBODY_WAITS)
    number = exchange(journal, "a", b"x" * 1000, ended=False)
    await journal.committed(number)
    assert 1 == len(sizes)
    assert sizes[0] > 1000


async def test_commits_that_wait_together_share_a_sync(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    syncs: list[int] = []
    monkeypatch.setattr(segments, "_sync", syncs.append)
    journal = started(strict=True, window=NOBODY_WAITS)
    numbers = [exchange(journal, f"x{n}") for n in range(200)]
    await asyncio.gather(*map(journal.committed, numbers))
    assert len(syncs) < 20


async def test_a_closed_segment_is_synced_before_a_commit_is_answered(
    started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = set()
    monkeypatch.setattr(segments, "_sync", lambda file: synced.add(os.fstat(file).st_ino))
    journal = started(strict=True, segment=1000)
    number = exchange(journal, "a", *[b"x" * 400] * 10, ended=False)
    await journal.committed(number)
    assert {path.stat().st_ino for path in started.root.glob("*/*.seg")} == synced


async def test_a_commit_fails_at_once_when_it_cannot_be_written(
    started: Started, limit_files: Callable[[int], None]
) -> None:
    journal = started(strict=True)
    numbers = [exchange(journal, f"x{n}") for n in range(20)]
    limit_files(0)
    results = await asyncio.gather(*map(journal.committed, numbers), return_exceptions=True)
    assert {OSError} == set(map(type, results))
    assert not journal.ready
    with pytest.raises(OSError):
        await journal.committed(numbers[0])
    limit_files(resource.RLIM_INFINITY)
    await happens(lambda: journal.ready)
    await journal.committed(exchange(journal, "later"))


async def test_a_commit_in_vain_can_be_given_up(started: Started, limit_files: Callable[[int], None]) -> None:
    journal = started(strict=True)
    waiting = asyncio.ensure_future(journal.committed(exchange(journal, "a")))
    limit_files(0)
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    limit_files(resource.RLIM_INFINITY)
    await happens(lambda: not journal.waiting)


async def test_after_a_failed_sync_what_was_under_way_cannot_be_committed_and_what_follows_can(
    started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_file: int) -> None:
        raise OSError(5, "broken")

    journal = started(strict=True)
    early = exchange(journal, "early", ended=False)
    monkeypatch.setattr(segments, "_sync", broken)
    with pytest.raises(OSError):
        await journal.committed(early)
    monkeypatch.undo()
    await happens(lambda: journal.ready)
    late = exchange(journal, "late", ended=False)
    await journal.committed(late)
    with pytest.raises(OSError):
        await journal.committed(early)


async def test_a_disk_that_takes_writes_and_no_syncs_has_not_recovered(
    started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_file: int) -> None:
        raise OSError(5, "broken")

    monkeypatch.setattr(sidestream.store.journal, "_RETRY", 0.01)
    with capture_logs() as logs:
        journal = started(strict=True)
        early = exchange(journal, "early", ended=False)
        monkeypatch.setattr(segments, "_sync", broken)
        with pytest.raises(OSError):
            await journal.committed(early)
        failures = journal.counters.write_failures
        await happens(lambda: journal.counters.write_failures > failures + 5)
        assert not journal.ready
        assert len(list(started.root.glob("*/*.seg"))) <= 3
        monkeypatch.undo()
        await happens(lambda: journal.ready)
        await journal.committed(exchange(journal, "late"))
    assert ["journal_write_failed", "journal_write_recovered"] == [line["event"] for line in logs]


async def test_an_exchange_with_a_part_that_was_left_unsynced_cannot_be_committed(
    started: Started, limit_files: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError(5, "broken")

    journal = started(strict=True)
    early = exchange(journal, "early", b"x" * 500, ended=False)
    await happens(lambda: not journal.waiting)
    with monkeypatch.context() as patch, capture_logs():
        patch.setattr(os, "ftruncate", broken)
        patch.setattr(segments, "_sync", broken)
        limit_files(1000)
        journal.put(Kind.RESPONSE, early, 0.0, b"x" * 2000)
        await happens(lambda: not journal.ready)
    limit_files(resource.RLIM_INFINITY)
    await happens(lambda: journal.ready)
    with pytest.raises(OSError):
        await journal.committed(early)
    await journal.committed(exchange(journal, "late"))


async def test_what_was_read_does_not_lie_there_until_more_follows(started: Started) -> None:
    journal = started(age=0.05)
    exchange(journal, "a", b"secret")
    await happens(lambda: any(path.name == "00000002.seg" for path in started.root.glob("*/*")))
    memory = Memory()
    memory.take_all(memory.journals(started.root))
    assert {"a"} == memory.records.keys()
    assert ["00000002.seg"] == [path.name for path in started.root.glob("*/*.seg")]
    exchange(journal, "b")
    await journal.stop(5)
    memory.take_all(memory.journals(started.root))
    assert {"a", "b"} == memory.records.keys()


async def test_only_a_strict_journal_commits(started: Started) -> None:
    journal = started()
    with pytest.raises(OSError):
        await journal.committed(exchange(journal, "a"))


async def test_a_commit_after_the_stop_fails(started: Started) -> None:
    journal = started(strict=True)
    number = exchange(journal, "a")
    await journal.stop(5)
    with pytest.raises(OSError):
        await journal.committed(number)


def test_a_loop_that_was_closed_without_a_stop_leaves_no_error_behind(tmp_path: Path) -> None:
    async def forget() -> Journal:
        journal = Started(tmp_path / "journal")(strict=True)
        exchange(journal, "a")
        return journal

    journal = asyncio.run(forget())
    until(lambda: not journal.waiting)
    asyncio.run(journal.stop(0.01))
    assert {"a"} == drained(tmp_path / "journal").keys()


WRITES = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from journaling import ROOMY, begin, end
from sidestream.store.journal import Journal
from sidestream.traces.entries import Kind

async def one(journal, name):
    number = journal.open()
    journal.put(Kind.BEGIN, number, 0.0, begin(name))
    for part in range(20):
        journal.put(Kind.RESPONSE, number, 0.0, f"{{name}}.{{part}};".encode() * 10)
        await asyncio.sleep(0)
    journal.put(Kind.END, number, 1.0, end())
    if {strict}:
        await journal.committed(number)
    print(name, flush=True)

async def main():
    journal = Journal(Path({root!r}), strict={strict}, segment=20_000, **ROOMY)
    journal.start()
    for turn in range(1_000_000):
        await asyncio.gather(*(one(journal, f"{{turn}}-{{beside}}") for beside in range(5)))
        await asyncio.sleep(0.001)

asyncio.run(main())
"""


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("lines", [1, 17, 60, 123, 321])
def test_what_a_killed_relay_said_is_written_is_there(tmp_path: Path, lines: int, *, strict: bool) -> None:
    """Nothing that is read is wrong; of what was not committed, the last moment may be missing."""
    tests = str(next(path for path in sys.path if path.endswith("tests")))
    code = WRITES.format(root=str(tmp_path / "journal"), strict=strict, tests=tests)
    told: dict[str, float] = {}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as relay:
        assert relay.stdout is not None
        for line in relay.stdout:
            if not line.endswith("\n"):
                break
            told[line.strip()] = time.monotonic()
            if len(told) == lines:
                relay.send_signal(signal.SIGKILL)
                killed = time.monotonic()
    records = drained(tmp_path / "journal")
    whole = {name for name, record in records.items() if record.outcome == "completed"}
    due = {name for name, at in told.items() if strict or killed - at > 0.5}
    assert due <= whole
    for name, record in records.items():
        parts = tuple(f"{name}.{part};".encode() * 10 for part in range(20))
        assert parts[: len(record.response_chunks)] == record.response_chunks
        assert (name in whole) <= (len(record.response_chunks) == 20)


async def test_after_a_commit_that_came_too_late_nothing_is_taken_until_it_has_come(
    started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_go = threading.Event()
    sync = segments._sync  # noqa: SLF001  # the disk
    monkeypatch.setattr(segments, "_sync", lambda file: (let_go.wait(10), sync(file))[1])
    journal = started(strict=True)
    waiting = asyncio.ensure_future(journal.committed(exchange(journal, "a")))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert (False, None) == (journal.ready, journal.open())
    let_go.set()
    await happens(lambda: journal.ready)
    await journal.committed(exchange(journal, "b"))
