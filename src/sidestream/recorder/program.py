"""The recorder as a program of its own, or in a thread: it becomes the one recorder of its directory, and runs a plane.

While another recorder holds the directory's lock it waits, and takes over when that one ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import structlog
import uvloop

from sidestream import registry
from sidestream.errors import SidestreamError
from sidestream.options import Size
from sidestream.recorder.plane import Plane
from sidestream.recorder.socket import listening
from sidestream.recorder.stage import Stage
from sidestream.store.desk import Desk
from sidestream.store.directory import Directory
from sidestream.store.reading import Journals
from sidestream.store.shelf import Shelf
from sidestream.tasks import spawn, where, within
from sidestream.traces.keys import Keys

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from sidestream.config import Config, Recorder, Retention

T = TypeVar("T")

log = structlog.get_logger()

_RETRY = 0.5
_LONGEST_WAIT = 30.0
_MOMENTS = 0.5
"""Seconds in which a recorder that is told to stop may still start, and record what was left for it."""
_LOOK = 1.0
_PATIENCE = 1.0
"""Seconds that a thread has to answer; then its numbers are those of the last time."""


async def run(config: Config, stopping: asyncio.Event, started: Callable[[Plane], None] | None = None) -> None:
    """Record until `stopping` is set, and then for ``recorder.flush`` seconds more, at most."""
    directory = Directory(Path(config.recorder.dir))
    sinks = registry.build("sinks", config.sinks)
    held = await _unless(stopping, _became_the_one(directory))
    if held is None:
        return
    lock, fingerprint_key = held
    shelf = Shelf(directory.store, full_sync=config.recorder.durability == "strict")
    try:
        journals = await _unless(stopping, _journals(directory, shelf))
        if journals is None:
            return
        arrived, keys = asyncio.Event(), Keys(fingerprint_key)
        async with contextlib.AsyncExitStack() as stack:
            desk = Desk(directory.store)
            retention = _kept(config.recorder)
            plane = Plane(journals, shelf, sinks, keys=keys, retention=retention, arrived=arrived, desk=desk)
            stage = Stage(plane, desk, directory.path)
            stack.push_async_callback(plane.stop, config.recorder.flush)
            await plane.start()
            await stack.enter_async_context(listening(plane, directory.socket, stage))
            log.info("recorder_started", directory=str(directory.path))
            if started:
                started(plane)
            async with _holding(directory, lock):
                await plane.until(stopping)
        log.info("recorder_stopped")
    finally:
        await shelf.close()
        os.close(lock)


@contextlib.asynccontextmanager
async def _holding(directory: Directory, lock: int) -> AsyncIterator[None]:
    """End what is within, by `SidestreamError`, when the directory is deleted or moved: somebody else may have it."""
    task = asyncio.current_task()
    lost = False

    async def watch() -> None:
        nonlocal lost
        while await asyncio.to_thread(directory.holds, lock):  # noqa: ASYNC110  # a directory sets no event
            await asyncio.sleep(_LOOK)
        lost = True
        if task is not None:
            task.cancel()

    watching = spawn(watch(), name="lock of the directory")
    try:
        yield
    except asyncio.CancelledError:
        if not lost or task is None:
            raise
        task.uncancel()
        log.error("recorder_directory_lost", directory=str(directory.path))
        raise SidestreamError(f"{directory.path} was deleted or moved") from None
    finally:
        watching.cancel()


def _kept(recorder: Recorder) -> Retention:
    """What the store keeps: at most half of what journals and store may take, or there would be no room for more."""
    return replace(recorder.retention, bytes=Size(min(recorder.retention.bytes, recorder.disk // 2)))


async def _unless(stopping: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """What comes of `work`; None where it is time to stop, and it is not done within moments."""
    working = spawn(work, name="start of the recorder")
    told = spawn(stopping.wait(), name="end of the recorder")
    try:
        await asyncio.wait([working, told], return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait([working], timeout=_MOMENTS)
        return working.result() if working.done() else None
    finally:
        told.cancel()
        working.cancel()
        await asyncio.wait([working])


async def _became_the_one(directory: Directory) -> tuple[int, bytes]:
    """The lock and the key of fingerprints, as soon as no other recorder has the directory, and it can be used."""
    complained = False
    while True:
        try:
            if (lock := directory.lock()) is not None:
                try:
                    return lock, directory.fingerprint_key()
                except BaseException:
                    os.close(lock)
                    raise
        except OSError as error:
            if not complained:
                complained = True
                log.error("recorder_directory_unusable", error=type(error).__name__, where=where(error))
        await asyncio.sleep(_RETRY)


async def _journals(directory: Directory, shelf: Shelf) -> Journals:
    """Read on from where the store says, as soon as there is one."""
    positions = await shelf.patiently(shelf.store.positions)
    carried = await shelf.patiently(shelf.store.carried)
    return Journals(directory.journal, directory.path, positions=positions, carried=carried)


class RecorderThread:
    """The program in a thread, with an event loop of its own."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._plane: Plane | None = None
        self._loop = uvloop.new_event_loop()
        self._stopping = asyncio.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sidestream recorder", daemon=True)

    def start(self) -> None:
        """Start it."""
        self._thread.start()

    async def stop(self) -> None:
        """Let it finish: ``recorder.flush`` seconds, and a little more."""
        with contextlib.suppress(RuntimeError):  # its loop is closed: it has ended
            self._loop.call_soon_threadsafe(self._stopping.set)
        await asyncio.to_thread(self._ended.wait, self._config.recorder.flush + 2)

    async def snapshot(self) -> dict[str, Any] | None:
        """As `Plane.snapshot`; None while it is not recording."""
        plane = self._plane
        if plane is None:
            return None
        refreshing = plane.refresh()
        try:
            refreshed = asyncio.run_coroutine_threadsafe(refreshing, self._loop)
        except RuntimeError:  # its loop is closed: it has ended
            refreshing.close()
            return plane.snapshot()
        await within(_PATIENCE, asyncio.wrap_future(refreshed))
        return plane.snapshot()

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._record())
        finally:
            self._ended.set()

    async def _record(self) -> None:
        """Record, and begin anew where that fails, after ever longer waits."""
        wait = _RETRY
        while True:
            try:
                await run(self._config, self._stopping, self._started)
                return
            except (Exception, SystemExit) as error:  # noqa: BLE001  # the top of a thread
                self._plane = None
                log.error("recorder_failed", error=type(error).__name__, where=where(error))
                if self._stopping.is_set():
                    return
                await within(wait, self._stopping.wait())
                wait = min(2 * wait, _LONGEST_WAIT)

    def _started(self, plane: Plane) -> None:
        self._plane = plane
