"""Background tasks: the one place that creates them.

The event loop keeps only weak references to its tasks, and nobody looks at the failure of one that is not awaited. So
every task of sidestream's own is started here: it is referenced until it ends, and a failure is logged.
"""

from __future__ import annotations

import asyncio
import contextlib
import traceback
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, TypeVar

import structlog

if TYPE_CHECKING:
    from collections.abc import Awaitable, Coroutine

T = TypeVar("T")

_log = structlog.get_logger()
_running: set[asyncio.Task[Any]] = set()


def spawn(coro: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
    """Run `coro` in the background under `name`; its failure is logged as ``task_failed``, whoever awaits it or not."""
    task = asyncio.get_running_loop().create_task(coro, name=name)
    _running.add(task)
    task.add_done_callback(_ended)
    return task


async def within(seconds: float | None, what: Awaitable[Any]) -> None:
    """Wait for `what`, so many seconds at most (None: as long as it takes); it is cancelled then."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await what


def where(error: BaseException) -> str:
    """Where `error` was raised, innermost last: ``base.py:88 _work > explorer.py:120 deliver``.

    For logs, in place of a traceback: an exception's text may quote what a client sent, and its frames hold secrets.
    """
    frames = [
        f"{PurePath(frame.f_code.co_filename).name}:{line} {frame.f_code.co_name}"
        for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    return " > ".join(frames[-3:])


def _ended(task: asyncio.Task[Any]) -> None:
    _running.discard(task)
    if task.cancelled():
        return
    if error := task.exception():
        _log.error("task_failed", task=task.get_name(), error=type(error).__name__, where=where(error))
