"""What a relay has of the trace plane, by ``recorder.mode``: where it puts what it captures, and who reads that.

============  =======================  ====================================================
mode          exchanges go through     the recorder is
============  =======================  ====================================================
``external``  a journal of this relay  another process; so it is for the relays of a gateway
``thread``    a journal of this relay  a thread here, unless the directory has a recorder
``none``      memory                   here, on the relay's own event loop
============  =======================  ====================================================

A relay whose recorder is another process does not load what that is made of: store, sinks and viewer are most of both.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from sidestream.recorder.link import Link
from sidestream.store.directory import Directory
from sidestream.store.journal import Journal
from sidestream.traces.keys import Keys

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from sidestream.config import Config
    from sidestream.options import Secret
    from sidestream.recorder.plane import Plane
    from sidestream.recorder.program import RecorderThread
    from sidestream.sinks.base import Sink
    from sidestream.traces.entries import Intake

log = structlog.get_logger()

_LARGEST_SEGMENT = 64 << 20
_SMALLEST_SEGMENT = 64 << 10
_LAST_WRITE = 5.0
"""Seconds that the journal has at the end to write what is left."""


@dataclass(frozen=True, slots=True)
class Beside:
    """The trace plane as the relay sees it. `captured` is of this relay; `recorder` of the recorder that runs here."""

    intake: Intake
    keys: Keys
    captured: Callable[[], dict[str, Any]]
    recorder: Callable[[], Awaitable[dict[str, Any] | None]]


def beside(config: Config, sinks: Sequence[Sink]) -> contextlib.AbstractAsyncContextManager[Beside]:
    """The relay's part of the trace plane, for as long as the context lasts; at its end, what is left is dealt with."""
    return _in_memory(config, sinks) if config.recorder.mode == "none" else _journaled(config)


@contextlib.asynccontextmanager
async def _in_memory(config: Config, sinks: Sequence[Sink]) -> AsyncIterator[Beside]:
    from sidestream.recorder.memory import Memory  # noqa: PLC0415  # the other modes do without
    from sidestream.recorder.plane import Plane  # noqa: PLC0415  # likewise
    from sidestream.store.shelf import Shelf  # noqa: PLC0415  # likewise

    arrived = asyncio.Event()
    memory = Memory(config.recorder.memory, arrived)
    heard: list[Plane] = []

    def tell(fingerprint: str, _key: Secret) -> None:
        for plane in heard:
            plane.key_seen(fingerprint)

    keys = Keys(secrets.token_bytes(32), tell)
    plane = Plane(memory, Shelf(None), sinks, keys=keys, retention=None, arrived=arrived)
    heard.append(plane)
    await plane.start()

    def captured() -> dict[str, Any]:
        return {"captured": memory.captured, "dropped": dict(memory.dropped)}

    async def recorder() -> dict[str, Any]:
        await plane.refresh()
        return plane.snapshot()

    try:
        yield Beside(memory, keys, captured, recorder)
    finally:
        memory.close()
        await plane.stop(config.recorder.flush)
        if lost := memory.unstored + memory.stored_exchanges:
            memory.dropped["shutdown"] += lost
            log.error("traces_lost", count=lost, reason="shutdown")


def _thread(config: Config) -> RecorderThread:
    from sidestream.recorder.program import RecorderThread  # noqa: PLC0415  # the other modes do without

    return RecorderThread(config)


def _segment(disk: int, workers: int) -> int:
    """Bytes of a segment: few enough that one per relay, which is read but still written to, does not fill the disk."""
    return max(_SMALLEST_SEGMENT, min(_LARGEST_SEGMENT, disk // (16 * workers)))


@contextlib.asynccontextmanager
async def _journaled(config: Config) -> AsyncIterator[Beside]:
    recorder = config.recorder
    directory = Directory(Path(recorder.dir))
    try:
        secret = directory.fingerprint_key()
    except OSError as error:
        log.error("fingerprint_key_unavailable", directory=str(directory.path), error=type(error).__name__)
        secret = secrets.token_bytes(32)  # the relay goes on; what it records now is for keys it sends along now
    link = Link(directory.socket)
    journal = Journal(
        directory.journal,
        strict=recorder.durability == "strict",
        memory=recorder.memory,
        disk=recorder.disk,
        min_free=recorder.min_free,
        segment=_segment(recorder.disk, config.server.workers),
    )
    thread = _thread(config) if recorder.mode == "thread" else None
    journal.start()
    link.start()
    if thread:
        thread.start()

    def captured() -> dict[str, Any]:
        counters = journal.counters
        return {
            "captured": counters.captured,
            "dropped": dict(counters.dropped),
            "journal": {"bytes": counters.bytes, "write_failures": counters.write_failures},
        }

    async def snapshot() -> dict[str, Any] | None:
        return await thread.snapshot() if thread else None

    try:
        yield Beside(journal, Keys(secret, link.tell), captured, snapshot)
    finally:
        await journal.stop(_LAST_WRITE)
        link.expect_end()
        if thread:
            await thread.stop()
        await link.stop()
