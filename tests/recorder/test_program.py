"""One recorder per directory: the next takes over, whatever became of the one before."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from journaling import ROOMY
from recording import Running, a_config, eventually, in_store, stored_records, told, written
from sidestream.errors import SidestreamError
from sidestream.recorder.program import RecorderThread, run
from sidestream.store.directory import Directory
from sidestream.store.journal import Journal
from sidestream.store.reading import Journals

if TYPE_CHECKING:
    from pathlib import Path

    from sidestream.store.reading import Batch


SCRIPT = """
import asyncio, sys
from pathlib import Path
from recording import a_config
from sidestream.recorder.program import run

asyncio.run(run(a_config(Path(sys.argv[1])), asyncio.Event(), lambda plane: print("started", flush=True)))
"""


class Process:
    """A recorder in a process of its own."""

    def __init__(self, folder: Path) -> None:
        path = os.pathsep.join(filter(None, sys.path))
        self._process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(folder)],
            env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    async def started(self) -> None:
        assert self._process.stdout is not None
        async with asyncio.timeout(20):
            line = await asyncio.to_thread(self._process.stdout.readline)
            while b"started\n" != line:
                assert line
                line = await asyncio.to_thread(self._process.stdout.readline)

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.communicate()


async def test_the_second_recorder_waits_and_takes_over(tmp_path: Path) -> None:
    config = a_config(tmp_path)
    async with Running(config) as first:
        await first.plane()
        async with Running(config) as second:
            await written(tmp_path, "a")
            await eventually(lambda: ["a"] == in_store(tmp_path))
            assert not second.recording
            await first.end()
            await second.plane()
            await written(tmp_path, "b")
            await eventually(lambda: ["a", "b"] == in_store(tmp_path))


async def test_a_recorder_that_waits_can_be_stopped(tmp_path: Path) -> None:
    config = a_config(tmp_path)
    async with Running(config) as first, Running(config) as second:
        await first.plane()
        await second.end()
        assert not second.recording


async def test_killed_again_and_again_in_the_middle_nothing_is_lost_and_nothing_twice(tmp_path: Path) -> None:
    directory = Directory(tmp_path / "data")
    directory.prepare()
    journal = Journal(directory.journal, strict=False, **ROOMY)
    journal.start()
    names = [f"{number:04d}" for number in range(400)]
    waiting = iter(names)
    for killed in range(3):
        recorder = Process(tmp_path)
        await recorder.started()
        for name in [next(waiting) for _ in range(100)]:
            told(journal, name)
            await asyncio.sleep(0)
        await eventually(lambda: len(in_store(tmp_path)) > killed * 100)  # noqa: B023  # awaited here
        recorder.kill()
    for name in waiting:
        told(journal, name)
    await journal.stop(5)
    async with Running(a_config(tmp_path)) as last:
        await last.plane()
    assert names == in_store(tmp_path)


async def test_the_exchanges_of_a_killed_relay_are_interrupted(tmp_path: Path) -> None:
    await written(tmp_path, "cut", outcome=None)
    async with Running(a_config(tmp_path)) as running:
        await running.plane()
        await eventually(lambda: in_store(tmp_path))
    assert ["interrupted"] == [record.outcome for record in stored_records(tmp_path)]


async def test_a_store_of_a_newer_version_is_waited_for_until_it_is_time_to_stop(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o700)
    (tmp_path / "data" / "store.db").mkdir()
    with capture_logs() as logs:
        async with Running(a_config(tmp_path)) as running:
            await eventually(lambda: logs)
            await running.end()
            assert not running.recording
    assert ["store_unavailable"] == [entry["event"] for entry in logs]


async def test_a_directory_that_cannot_be_used_is_waited_for_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidestream.recorder.program._RETRY", 0.01)
    tries = []
    lock = Directory.lock

    def counting(self: Directory) -> int | None:
        tries.append(1)
        return lock(self)

    monkeypatch.setattr(Directory, "lock", counting)
    (tmp_path / "data").write_text("a file in the way")
    with capture_logs() as logs:
        async with Running(a_config(tmp_path)) as running:
            await eventually(lambda: len(tries) > 3)
            (tmp_path / "data").unlink()
            await running.plane()
    assert 1 == sum(entry["event"] == "recorder_directory_unusable" for entry in logs)


async def test_a_damaged_store_is_replaced_and_counted_and_recording_goes_on(tmp_path: Path) -> None:
    config = a_config(tmp_path)
    await written(tmp_path, "a")
    async with Running(config) as running:
        await running.plane()
        await eventually(lambda: ["a"] == in_store(tmp_path))
    file = tmp_path / "data" / "store.db"
    file.write_bytes(file.read_bytes()[:4096] + b"\xff" * (file.stat().st_size - 4096))
    with capture_logs() as logs:
        async with Running(config) as running:
            plane = await running.plane()
            await written(tmp_path, "b")
            await eventually(lambda: ["b"] == in_store(tmp_path))
            assert {"segments": 0, "stores": 1} == plane.snapshot()["set_aside"]
    assert "store_set_aside" in {entry["event"] for entry in logs}
    assert list((tmp_path / "data").glob("store.db.corrupt-*"))


class FailingJournals(Journals):
    """Fails twice in a way that nobody thought of."""

    failures = 0

    def read(self, most_bytes: int) -> Batch:
        if FailingJournals.failures < 2:
            FailingJournals.failures += 1
            raise MemoryError
        return super().read(most_bytes)


async def test_a_thread_begins_anew_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidestream.recorder.program._RETRY", 0.01)
    monkeypatch.setattr("sidestream.recorder.program.Journals", FailingJournals)
    await written(tmp_path, "a")
    thread = RecorderThread(a_config(tmp_path, mode="thread"))
    with capture_logs() as logs:
        thread.start()
        await eventually(lambda: in_store(tmp_path))
        await thread.stop()
    assert ["MemoryError"] * 2 == [entry["error"] for entry in logs if entry["event"] == "recorder_failed"]
    assert ["a"] == in_store(tmp_path)


async def test_a_thread_tells_what_it_has_counted_also_after_its_end(tmp_path: Path) -> None:
    await written(tmp_path, "a")
    thread = RecorderThread(a_config(tmp_path, mode="thread"))
    assert None is await thread.snapshot()
    thread.start()
    await eventually(lambda: in_store(tmp_path))
    await thread.stop()
    numbers = await thread.snapshot()
    assert numbers is not None
    assert 1 == numbers["received"]


def test_a_thread_ends_in_good_order_when_the_hosts_loop_is_closed_under_it(tmp_path: Path) -> None:
    async def host() -> RecorderThread:
        await written(tmp_path, *"abc")
        thread = RecorderThread(a_config(tmp_path, mode="thread"))
        thread.start()
        return thread

    async def later(thread: RecorderThread) -> Any:
        await thread.stop()
        return await thread.snapshot()

    thread = asyncio.run(host())
    numbers = asyncio.run(later(thread))
    assert list("abc") == in_store(tmp_path)
    assert numbers is None or 3 == numbers["received"]
    assert "sidestream recorder" not in {thread.name for thread in threading.enumerate()}


async def test_a_thread_beside_another_recorder_waits_for_it(tmp_path: Path) -> None:
    config = a_config(tmp_path, mode="thread")
    thread = RecorderThread(config)
    async with Running(config) as first:
        await first.plane()
        thread.start()
        await written(tmp_path, "a")
        await eventually(lambda: in_store(tmp_path))
        assert None is await thread.snapshot()
    await eventually(lambda: thread._plane)  # noqa: SLF001  # it has taken over
    await thread.stop()


async def test_a_recorder_whose_directory_is_moved_ends_to_begin_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one may have the directory by now, and what it writes would be nobody's."""
    monkeypatch.setattr("sidestream.recorder.program._LOOK", 0.01)
    started = asyncio.Event()
    with capture_logs() as logs:
        async with asyncio.timeout(10):
            running = asyncio.ensure_future(run(a_config(tmp_path), asyncio.Event(), lambda _plane: started.set()))
            await started.wait()
            (tmp_path / "data").rename(tmp_path / "elsewhere")
            with pytest.raises(SidestreamError, match="deleted or moved"):
                await running
    assert 1 == sum(entry["event"] == "recorder_directory_lost" for entry in logs)
