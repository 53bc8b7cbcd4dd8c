"""The recorder's own process: by hand here, under a supervisor in tests/test_supervisor.py."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

import aiohttp

from recording import eventually, in_store, written
from sidestream.store.directory import Directory

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

SCRIPT = """
import sys
from pathlib import Path
from recording import a_config
from sidestream.processes.control import Control
from sidestream.recorder import process

raise SystemExit(process.main(a_config(Path(sys.argv[1])), Control()))
"""


@contextlib.asynccontextmanager
async def recorder(folder: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    path = os.pathsep.join(filter(None, sys.path))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SCRIPT, str(folder)),
        env={**os.environ, "PYTHONPATH": path},
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def ended(process: asyncio.subprocess.Process) -> tuple[int | None, list[dict[str, Any]]]:
    """The exit status and the log."""
    async with asyncio.timeout(20):
        _out, log = await process.communicate()
    return process.returncode, [json.loads(line) for line in log.splitlines()]


async def test_it_records_until_a_signal_ends_it(tmp_path: Path) -> None:
    await written(tmp_path, "a", "b")
    async with recorder(tmp_path) as process:
        await eventually(lambda: in_store(tmp_path), 20)
        await eventually(Directory(tmp_path / "data").socket.is_socket)
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(Directory(tmp_path / "data").socket))) as session,
            session.get("http://recorder/status") as answer,
        ):
            assert process.pid == (await answer.json())["pid"]
        process.send_signal(signal.SIGTERM)
        status, log = await ended(process)
    assert (0, ["a", "b"]) == (status, in_store(tmp_path))
    assert ["recorder_started", "recorder_stopped"] == [entry["event"] for entry in log]
    assert {"recorder"} == {entry["process"] for entry in log}


async def test_it_lets_others_go_first(tmp_path: Path) -> None:
    async with recorder(tmp_path) as process:
        await eventually(Directory(tmp_path / "data").socket.is_socket, 20)
        assert os.getpriority(os.PRIO_PROCESS, 0) < os.getpriority(os.PRIO_PROCESS, process.pid)


async def test_it_can_be_ended_while_another_one_records(tmp_path: Path) -> None:
    lock = Directory(tmp_path / "data").lock()
    assert lock is not None
    async with recorder(tmp_path) as process:
        await eventually(lambda: _heeds_sigterm(process.pid), 20)
        process.send_signal(signal.SIGTERM)
        assert (0, []) == await ended(process)
    os.close(lock)


def _heeds_sigterm(pid: int) -> bool:
    """Whether the process has a handler for it, as the kernel says."""
    with open(f"/proc/{pid}/status") as lines:  # noqa: PTH123  # of the kernel
        caught = next(line for line in lines if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> signal.SIGTERM - 1 & 1)


async def test_a_defect_is_a_line_in_the_log_and_a_status(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "from sidestream.store.reading import Journals\n"
        "def read(self, most):\n    raise RuntimeError('sk-canary')\n"
        "Journals.read = read\n"
    )
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", "import sitecustomize\n" + SCRIPT, str(tmp_path)),
        env={**os.environ, "PYTHONPATH": path},
        stderr=asyncio.subprocess.PIPE,
    )
    status, log = await ended(process)
    assert 1 == status
    assert "RuntimeError" in {entry.get("error") for entry in log if entry["event"] == "recorder_failed"}
    assert "canary" not in str(log)
