"""``sidestream demo``: an agent run through the gateway, its trace at an Explorer, and the proof that nothing changed.

The environment variable SIDESTREAM_DEMO_PACE stretches the model's pauses: 1 by default, 0 for none.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import sys
import tempfile
from pathlib import Path
from typing import Final

from sidestream.demo import DemoFailed
from sidestream.demo.agent import Agent
from sidestream.demo.gateway import gateway
from sidestream.demo.provider import KEY, ScriptedProvider
from sidestream.demo.report import show_promises, show_proof, show_setting, show_trace
from sidestream.demo.screen import Screen
from sidestream.testing import FakeExplorer

_SECONDS_FOR_TURNS: Final = 10
_LOG_LINES: Final = 20


def main() -> int:
    """Run the demo; the exit status: 0, 1 if something failed or was changed on the way, 128 + n after a signal."""
    try:
        pace = float(os.environ.get("SIDESTREAM_DEMO_PACE", "1"))
    except ValueError:
        return _complain("SIDESTREAM_DEMO_PACE must be a number", 2)
    with tempfile.TemporaryDirectory(prefix="sidestream-demo-") as name:
        try:
            return asyncio.run(_demo(Screen.on(sys.stdout), Path(name), pace))
        except KeyboardInterrupt:
            return _complain("stopped", 128 + signal.SIGINT)
        except asyncio.CancelledError:
            return _complain("stopped", 128 + signal.SIGTERM)
        except DemoFailed as failure:
            return _complain(f"the demo failed: {failure}\n{_log_tail(Path(name))}", 1)


async def _demo(screen: Screen, folder: Path, pace: float) -> int:
    _end_at_signals()
    trace_key = f"inv-{secrets.token_hex(32)}"
    async with ScriptedProvider(pace=pace) as provider, FakeExplorer() as explorer:
        async with gateway(provider.url, explorer.url, folder=folder) as base_url:
            show_setting(screen, provider.url, base_url, KEY, trace_key)
            agent = Agent(base_url, f"{KEY};invariant-auth={trace_key}", screen)
            answer = await agent.run()
            try:
                await explorer.wait_for_requests(len(agent.calls), _SECONDS_FOR_TURNS)
            except TimeoutError as error:
                raise DemoFailed(f"not every turn arrived: {error}") from None
        log, traces = (folder / "gateway.log").read_text(), explorer.traces
    if not traces:
        raise DemoFailed("no trace arrived")
    show_trace(screen, traces[0], len(agent.calls))
    promises = {
        "One trace holds the run to its last word.": [answer] == [trace.messages[-1]["content"] for trace in traces],
        "The provider got its own key, and never the Explorer's.": all(
            ("x-api-key", KEY) in call.headers and not call.mentions(trace_key) for call in provider.calls
        ),
        "The Explorer got its own.": {trace.key for trace in traces} == {trace_key},
        "The gateway's log has neither.": KEY not in log and trace_key not in log,
    }
    whole = show_proof(screen, agent.calls, provider.calls)
    show_promises(screen, promises)
    return 0 if whole and all(promises.values()) else 1


def _end_at_signals() -> None:
    """End as at Ctrl-C, which asyncio itself looks after, when the process is told to end or its terminal is gone."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101  # a coroutine runs in one
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)


def _log_tail(folder: Path) -> str:
    file = folder / "gateway.log"
    lines = file.read_text(errors="replace").splitlines()[-_LOG_LINES:] if file.exists() else []
    return "\n".join(["", "The gateway's log, its end:", *lines]) if lines else ""


def _complain(text: str, status: int) -> int:
    sys.stderr.write(f"\n{text}\n")
    return status
