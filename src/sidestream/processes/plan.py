"""What the supervisor has to know of a configuration, and how it learns that: from a child that lives for a moment.

Reading a configuration loads every plugin that it names: tens of megabytes, and somebody else's code. None of that
belongs into the one process that must not die. So ``sidestream plan`` reads it, and writes one line of JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from sidestream.errors import ConfigError, Problem, SidestreamError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidestream.processes.channel import Document

_PATIENCE = 60.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What concerns the supervisor. Durations are seconds."""

    host: str
    port: int
    prefix: str
    workers: int
    mode: str
    """Where the recorder runs: process, thread, external or none."""
    directory: str
    viewer: str
    """Who may look: all (``open``), or with a token, configured (``token``) or ``made``; "" where there is none."""
    notice: float
    drain: float
    flush: float
    digest: str
    """Of all that concerns the recorder: another one means that it has to start anew. Never to be shown."""


class NotChecked(SidestreamError):
    """The configuration could not even be checked; whatever there is to say is on standard error already."""

    def __init__(self, status: int) -> None:
        super().__init__("the configuration could not be checked")
        self.status = status


def answer(outcome: Plan | SidestreamError) -> tuple[bytes, int]:
    """What the child writes, and its exit status."""
    if isinstance(outcome, Plan):
        return _line(plan=asdict(outcome)), 0
    if isinstance(outcome, ConfigError):
        return _line(problems=[asdict(problem) for problem in outcome.problems]), 2
    return _line(error=str(outcome)), 1


def understood(line: bytes, status: int) -> Plan:
    """The plan that a child wrote before it ended with `status`; what it found wrong is raised again."""
    try:
        fields = json.loads(line)
        if problems := fields.get("problems"):
            raise ConfigError([Problem(**problem) for problem in problems])
        if error := fields.get("error"):
            raise SidestreamError(error)
        return Plan(**fields["plan"])
    except (ValueError, LookupError, TypeError, AttributeError):
        raise NotChecked(status if status > 0 else 1) from None


async def ask(command: Sequence[str], document: Document, *, patience: float = _PATIENCE) -> Plan:
    """The plan for `document`, by a child that `command` starts.

    `ConfigError` has what is wrong with it; another `SidestreamError` says why the gateway could not run.
    """
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, process_group=0
    )
    try:
        async with asyncio.timeout(patience):
            line, _ = await process.communicate(document.encode())
    except TimeoutError:
        raise SidestreamError(f"the configuration could not be checked within {patience:.0f} s") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    return understood(line, process.returncode or 0)


def _line(**fields: Any) -> bytes:
    return json.dumps(fields).encode()
