"""``sidestream demo``: an agent run through the gateway, watched in its viewer, and the proof that nothing was changed.

The environment variable SIDESTREAM_DEMO_PACE stretches the model's pauses: 1 by default, 0 for none. With
SIDESTREAM_DEMO_NO_BROWSER no browser is opened.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sidestream.demo import DemoFailed, browser
from sidestream.demo.agent import QUESTION, Agent
from sidestream.demo.gateway import gateway
from sidestream.demo.provider import KEY, ScriptedProvider
from sidestream.demo.report import show_promises, show_proof, show_setting, show_turns, show_viewer
from sidestream.demo.screen import Screen
from sidestream.demo.viewer import run_of

if TYPE_CHECKING:
    from sidestream.demo.viewer import Shown

_LOG_LINES: Final = 20


def main(*, wait: bool) -> int:
    """Run the demo, and with `wait` keep its viewer open until somebody ends it.

    The exit status: 0, 1 if something failed or was changed on the way, 128 + n after a signal that cut it short.
    """
    try:
        pace = float(os.environ.get("SIDESTREAM_DEMO_PACE", "1"))
    except ValueError:
        return _complain("SIDESTREAM_DEMO_PACE must be a number", 2)
    with tempfile.TemporaryDirectory(prefix="sidestream-demo-") as name:
        try:
            return asyncio.run(_demo(Screen.on(sys.stdout), Path(name), pace, wait=wait))
        except KeyboardInterrupt:
            return _complain("stopped", 128 + signal.SIGINT)
        except asyncio.CancelledError:
            return _complain("stopped", 128 + signal.SIGTERM)
        except DemoFailed as failure:
            return _complain(f"the demo failed: {failure}\n{_log_tail(Path(name))}", 1)


async def _demo(screen: Screen, folder: Path, pace: float, *, wait: bool) -> int:
    _end_at_signals()
    async with ScriptedProvider(pace=pace) as provider, gateway(provider.url, folder=folder) as running:
        show_setting(screen, provider.url, running.base_url, running.viewer)
        agent = Agent(running.base_url, KEY, screen)
        answer = await agent.run()
        shown = await run_of(running.viewer, len(agent.calls))
        show_turns(screen, shown.turns)
        whole = show_proof(screen, agent.calls, provider.calls)
        promises = {
            "The run has it all, from the question to the last word.": _ends(shown) == (QUESTION, answer),
            "The provider got its key, and the gateway kept it nowhere.": all(
                ("x-api-key", KEY) in call.headers for call in provider.calls
            )
            and KEY not in shown.captured
            and not _kept(folder, KEY),
        }
        show_promises(screen, promises)
        if wait:
            told = _when_told()
            show_viewer(screen, shown.url, opened=await asyncio.to_thread(browser.show, shown.url))
            await told.wait()
            asyncio.get_running_loop().remove_signal_handler(signal.SIGINT)  # a second one hurries
    return 0 if whole and all(promises.values()) else 1


def _ends(shown: Shown) -> tuple[str, str]:
    """What was said first after the system prompt, and last."""
    said = [message["content"] for message in shown.messages if message["role"] != "system"]
    return said[0], said[-1]


def _kept(folder: Path, secret: str) -> bool:
    """Whether `secret` is in any file of the gateway's, which goes on writing and removing them."""
    for file in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            if file.is_file() and secret.encode() in file.read_bytes():
                return True
    return False


def _end_at_signals() -> None:
    """End as at Ctrl-C, which asyncio itself looks after, when the process is told to end or its terminal is gone."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101  # a coroutine runs in one
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)


def _when_told() -> asyncio.Event:
    """What a signal sets from now on: all has been shown, so that the end is no failure any more."""
    told = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    return told


def _log_tail(folder: Path) -> str:
    file = folder / "gateway.log"
    lines = file.read_text(errors="replace").splitlines()[-_LOG_LINES:] if file.exists() else []
    return "\n".join(["", "The gateway's log, its end:", *lines]) if lines else ""


def _complain(text: str, status: int) -> int:
    sys.stderr.write(f"\n{text}\n")
    return status
