"""The demo as a person starts it: a process with real ones beside it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from sidestream.demo import run
from sidestream.demo.agent import QUESTION

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator
    from pathlib import Path

SECONDS = 20


@contextlib.asynccontextmanager
async def demo(folder: Path, pace: str) -> AsyncIterator[Process]:
    """Run it with `folder` for its temporary files, in a process group of its own, as a shell does."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-m", "sidestream", "demo"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "SIDESTREAM_DEMO_PACE": pace, "TMPDIR": str(folder), "PYTHONUTF8": "1"},
        process_group=0,
        preexec_fn=_hear_interrupts,
    )
    try:
        async with asyncio.timeout(SECONDS):
            yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def left_in(folder: Path) -> list[Path]:
    return list(folder.iterdir())


async def test_it_runs_shows_and_proves(tmp_path: Path) -> None:
    async with demo(tmp_path, "0") as process:
        out, err = (stream.decode() for stream in await process.communicate())
    assert (0, "") == (process.returncode, err)
    assert QUESTION in out
    assert "[image/png, 84x48, 128 bytes]" in out
    assert "The 苔 will thank you. 🍵" in out
    assert 8 == len(re.findall(r"[0-9a-f]{12}  identical$", out, re.MULTILINE))
    assert 4 == out.count("✓")
    assert "DIFFERENT" not in out
    assert "NOT TRUE" not in out
    assert "\x1b" not in out
    assert not re.search(r"inv-[0-9a-f]{9}", out), "the whole of the trace key"
    assert [] == left_in(tmp_path)


def _hear_interrupts() -> None:
    """A job in the background may have been started with SIGINT ignored, and its children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize(("number", "to_group"), [(signal.SIGINT, True), (signal.SIGTERM, False)])
async def test_a_signal_ends_it_tidily(tmp_path: Path, number: signal.Signals, *, to_group: bool) -> None:
    """Ctrl-C goes to the whole group, the gateway included; ``kill`` to the demo alone."""
    async with demo(tmp_path, "50") as process:
        assert process.stdout is not None
        out = (await process.stdout.readuntil(b"call 1\n")).decode()
        (os.killpg if to_group else os.kill)(process.pid, number)
        _out, err = await process.communicate()
        assert (128 + number, "\nstopped\n") == (process.returncode, err.decode())
        match = re.search(r"→ http://127\.0\.0\.1:(\d+)/", out)
        assert match, out
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", int(match[1]))
    assert [] == left_in(tmp_path)


def test_a_pace_that_is_no_number_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SIDESTREAM_DEMO_PACE", "fast")
    assert 2 == run.main()
    assert ("", "\nSIDESTREAM_DEMO_PACE must be a number\n") == capsys.readouterr()


def test_a_failure_is_told_with_the_end_of_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nseq -f 'line %g' 30 >&2\n")
    python.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(python))
    assert 1 == run.main()
    _out, err = capsys.readouterr()
    assert err.startswith("\nthe demo failed: the gateway did not start\n")
    assert [f"line {number}" for number in range(11, 31)] == re.findall("line .*", err)
