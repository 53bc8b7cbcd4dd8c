"""The demo as a person starts it: a process with real ones beside it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import re
import signal
import sys
from typing import TYPE_CHECKING

import aiohttp
import pytest

from sidestream.demo import run
from sidestream.demo.agent import QUESTION

if TYPE_CHECKING:
    import io
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator
    from pathlib import Path

SECONDS = 20


@contextlib.asynccontextmanager
async def demo(folder: Path, pace: str, *, terminal: int | None = None, **env: str) -> AsyncIterator[Process]:
    """Run it with `folder` for its temporary files, in a process group of its own, as a shell does."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-m", "sidestream", "demo"),
        stdin=asyncio.subprocess.DEVNULL if terminal is None else terminal,
        stdout=asyncio.subprocess.PIPE if terminal is None else terminal,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "SIDESTREAM_DEMO_PACE": pace, "TMPDIR": str(folder), "PYTHONUTF8": "1", **env},
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
    assert re.search(r"turn 4 +answers · 1,102 tokens in, 57 out", out)
    assert "The 苔 will thank you. 🍵" in out
    assert 8 == len(re.findall(r"[0-9a-f]{12}  identical$", out, re.MULTILINE))
    assert 2 == out.count("✓")
    assert "DIFFERENT" not in out
    assert "NOT TRUE" not in out
    assert "\x1b" not in out
    assert [] == left_in(tmp_path)


async def test_on_a_terminal_the_viewer_is_opened_and_stays_until_ctrl_c(tmp_path: Path) -> None:
    """The browser is one that writes down what it was asked for."""
    browser, asked, folder = tmp_path / "browser", tmp_path / "asked", tmp_path / "temporary"
    browser.write_text(f'#!/bin/sh\necho "$1" > {asked}\n')
    browser.chmod(0o700)
    folder.mkdir()
    ours, theirs = pty.openpty()
    screen = {"NO_COLOR": "1", "DISPLAY": ":7", "BROWSER": f"{browser} %s", "SSH_CONNECTION": ""}
    screen["SIDESTREAM_DEMO_NO_BROWSER"] = ""
    with os.fdopen(ours, "rb", buffering=0) as terminal, os.fdopen(theirs, "wb"):
        async with demo(folder, "0", terminal=theirs, **screen) as process:
            out = await asyncio.to_thread(read_until, terminal, b"Ctrl-C")
            url = asked.read_text().strip()
            async with aiohttp.ClientSession() as session, session.get(url) as answer:
                page = await answer.text()
            process.send_signal(signal.SIGINT)
            assert process.stderr is not None
            assert (b"", 0) == (await process.stderr.read(), await process.wait())
    assert "opened in your browser" in out
    assert url in out
    assert QUESTION in page
    assert [] == left_in(folder)


def read_until(terminal: io.RawIOBase, mark: bytes) -> str:
    shown = b""
    while mark not in shown:
        shown += terminal.read(4096) or b""
    return shown.decode()


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
    assert 2 == run.main(wait=False)
    assert ("", "\nSIDESTREAM_DEMO_PACE must be a number\n") == capsys.readouterr()


def test_a_failure_is_told_with_the_end_of_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nseq -f 'line %g' 30 >&2\n")
    python.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(python))
    assert 1 == run.main(wait=False)
    _out, err = capsys.readouterr()
    assert err.startswith("\nthe demo failed: the gateway did not start\n")
    assert [f"line {number}" for number in range(11, 31)] == re.findall("line .*", err)
