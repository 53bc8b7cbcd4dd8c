"""The journal, the relay's side: entries of exchanges go in on the event loop, and a thread writes them down.

The event loop only ever appends to a queue. The thread sleeps while that is empty; then it waits for `window`, for the
entries that will follow, and writes them all at once, or at once if somebody waits for a commit. All who wait when it
is free share one sync. What cannot be written stays queued, within bounds, and is tried again until it can.

An exchange is taken whole or given up: where a piece of it has no room, its other pieces are worth nothing.

What entries mean, and who reads them, is not known here; `sidestream.store.segments` knows the files.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from sidestream.store.segments import MOST, Appender, UnsyncedError
from sidestream.tasks import where
from sidestream.traces.entries import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from sidestream.store.segments import Piece

log = structlog.get_logger()

_RETRY = 0.5
_SURVEY = 1.0
"""Seconds between looks at the disk, and after the last drop until a burst of them is over."""
_PATIENCE = 1.0
"""Seconds without being able to write after which new exchanges are refused."""
_OVERHEAD = 160
"""Bytes of memory that an entry takes besides its payload."""
_ENTRIES_AT_ONCE = 256
"""Few enough for one ``writev``, and for the event loop not to wait for the interpreter lock meanwhile."""
_BYTES_AT_ONCE = 1 << 20
_LAST = Kind.END
"""This kind and those above it are the last of their exchange."""


@dataclass(slots=True)
class JournalCounters:
    """What the journal counts; since the start, never reset."""

    captured: int = 0
    """Exchanges that were taken, also those given up later."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Exchanges refused or given up, by reason: memory, disk, min_free, unwritable, deleted, stopped, failed."""
    bytes: int = 0
    """Bytes of payload written."""
    write_failures: int = 0
    """Attempts to write or sync that failed."""


@dataclass(slots=True)
class _Burst:
    count: int
    last: float


class Journal:
    """An `Intake` that writes to a directory of its own below `root`.

    `memory`, `disk`, `min_free` and `segment` are bytes: what may wait to be written; what journals and store together
    may take on disk, and what must stay free there, for new exchanges to be taken; and the size at which a new segment
    is begun, as it is `age` seconds after the first entry, so that what was read does not lie there until more follows.
    `window` is the number of seconds for which entries may wait for others. With `strict`, `committed` can be awaited,
    and nothing is taken while the disk cannot be written to.
    """

    def __init__(
        self,
        root: Path,
        *,
        strict: bool,
        memory: int,
        disk: int,
        min_free: int,
        segment: int = 64 << 20,
        window: float = 0.02,
        age: float = 3600.0,
    ) -> None:
        self.counters = JournalCounters()
        self._root = root
        self._strict = strict
        self._memory = memory
        self._disk = disk
        self._min_free = min_free
        self._window = window
        self._files = Appender(root, strict=strict, segment=segment, age=age)
        self._at_once = min(_BYTES_AT_ONCE, segment)
        # The event loop's own.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._open: set[int] = set()
        self._bursts: dict[str, _Burst] = {}
        self._stopped = False
        # One side writes these and the other only reads them, so no lock is needed.
        self._number = 0
        self._queued = 0
        self._written = 0
        self._failing_since: float | None = None
        self._stalled = False
        """Whether somebody waited for a commit in vain, which is still to come."""
        self._full: str | None = None
        self._doubtful = 0
        """Exchanges up to this number have pieces of which nobody knows whether they survive a power cut."""
        # Handed over by appending on one side and popping on the other.
        self._queue: deque[Piece] = deque()
        self._commits: deque[asyncio.Future[OSError | None]] = deque()
        self._asleep = False
        self._wake = threading.Event()
        self._hurry = threading.Event()
        self._stopping = threading.Event()
        # The thread's own.
        self._thread = threading.Thread(target=self._work, name="sidestream journal", daemon=True)
        self._lot: deque[Piece] = deque()
        self._over = False
        self._surveyed = float("-inf")
        self._used = 0
        self._ended = asyncio.Event()

    def start(self) -> None:
        """Start to write; on the event loop. A disk that cannot be written to is tried again until it can."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def stop(self, seconds: float) -> None:
        """Write what is there, sync it, and let go of the directory; within `seconds`. What remains is counted lost."""
        self._stopped = True
        self._stopping.set()
        self._hurry.set()
        self._wake.set()
        if self._thread.is_alive():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._ended.wait()
        self._open.clear()
        unwritten = (*self._lot.copy(), *self._queue.copy())
        given_up = {number for kind, number, _, _ in unwritten if kind == Kind.ABANDON}
        if lost := {number for _, number, _, _ in unwritten} - given_up:
            self._dropped("stopped", len(lost))
        self._calm(everything=True)

    @property
    def ready(self) -> bool:
        """Whether a new exchange would be taken."""
        return self._refusal() is None

    @property
    def waiting(self) -> int:
        """Bytes of memory held by what has not been written yet."""
        return self._queued - self._written

    def open(self) -> int | None:
        """A number for a new exchange; None if there is no room for it."""
        if reason := self._refusal():
            self._dropped(reason)
            return None
        self.counters.captured += 1
        self._number += 1
        self._open.add(self._number)
        return self._number

    def put(self, kind: Kind, number: int, time: float, data: bytes) -> bool:
        """Take an entry. False: there is no room for it, or was none for one before; the exchange is given up."""
        if number not in self._open:
            return False
        size = len(data) + _OVERHEAD
        if self._queued - self._written + size > self._memory or size > MOST:
            self._give_up(number)
            self._dropped("memory")
            return False
        if kind >= _LAST:
            self._open.discard(number)
        self._queued += size
        self._queue.append((kind, number, time, data))  # five times faster than an Entry
        if self._asleep:
            self._wake.set()
        return True

    async def committed(self, number: int) -> None:
        """Wait until what was put so far survives a power cut; `OSError` as soon as it is known that it may not."""
        if not self._strict or self._loop is None:
            raise OSError(errno.EINVAL, "the journal is not strict")
        if self._stopped or self._failing_since is not None:
            raise OSError(errno.EIO, "the journal cannot be written to")
        future = self._loop.create_future()
        self._commits.append(future)
        self._hurry.set()
        self._wake.set()
        try:
            error = await future
        except asyncio.CancelledError:  # too late for whoever waited: until it has come, no other is promised
            self._stalled = True
            raise
        if error:
            raise OSError(error.errno, "the journal could not be written to")
        if number <= self._doubtful:
            raise OSError(errno.EIO, "a part of the exchange may be lost")

    def _answer(self, future: asyncio.Future[OSError | None], error: OSError | None) -> None:
        self._stalled = False
        if not future.done():
            future.set_result(error)

    def _refusal(self) -> str | None:
        if self._stopped:
            return "stopped"
        since = self._failing_since
        if since is not None and (self._strict or time.monotonic() - since > _PATIENCE):
            return "unwritable"
        if self._stalled:
            return "unwritable"
        if self._queued - self._written >= self._memory:
            return "memory"
        return self._full

    def _give_up(self, number: int) -> None:
        self._open.discard(number)
        self._queued += _OVERHEAD
        self._queue.append((Kind.ABANDON, number, 0.0, b""))
        if self._asleep:
            self._wake.set()

    def _give_up_all(self, reason: str) -> None:
        numbers = tuple(self._open)
        for number in numbers:
            self._give_up(number)
        if numbers:
            self._dropped(reason, len(numbers))

    def _dropped(self, reason: str, count: int = 1) -> None:
        self.counters.dropped[reason] += count
        if burst := self._bursts.get(reason):
            burst.count += count
            burst.last = time.monotonic()
            return
        self._bursts[reason] = _Burst(count, time.monotonic())
        self._wake.set()
        log.error("capture_dropped", reason=reason)

    def _calm(self, *, everything: bool = False) -> None:
        """Report the bursts of drops that are over."""
        now = time.monotonic()
        for reason, burst in list(self._bursts.items()):
            if everything or now - burst.last >= _SURVEY:
                del self._bursts[reason]
                log.warning("captures_dropped", reason=reason, count=burst.count)

    # From here on: the thread.

    def _work(self) -> None:
        while not self._over:
            with contextlib.suppress(Exception):  # a log may fail, too: its file may be on the same full disk
                self._turn()
        self._settle(OSError(errno.ESHUTDOWN, "stopped"))
        self._files.close()
        self._tell(self._ended.set)

    def _turn(self) -> None:
        self._sleep()
        self._over = self._stopping.is_set()  # looked at first: what was put before it was set is still written
        try:
            self._flush(sync=self._over)
        except OSError as error:
            self._failed(error)
        except Exception as error:  # noqa: BLE001  # the top of a worker: the next entries are due
            self._written += sum(map(_size, self._lot))
            self._lot.clear()
            self._settle(OSError(errno.EIO, "failed"))
            self._tell(self._give_up_all, "failed")
            log.error("journal_failed", error=type(error).__name__, where=where(error))
        finally:
            self._look_around()

    def _sleep(self) -> None:
        """Until there is something to do."""
        if self._failing_since is not None:
            self._stopping.wait(_RETRY)
            return
        if self._surveyed == float("-inf"):  # the first time: see whether it can be written at all
            return
        self._wake.clear()
        self._asleep = True  # from here on a put sets `_wake`; what was put before shows in the queue
        if not self._queue and not self._commits and not self._stopping.is_set():
            self._wake.wait(_SURVEY if self._full or self._bursts else self._files.seconds_left())
        self._asleep = False
        if self._queue:
            self._hurry.wait(self._window)
        self._hurry.clear()

    def _flush(self, *, sync: bool) -> None:
        """Write all that is there; sync it if somebody waits for that."""
        # Before the entries are looked at: all that these wait for is among them then.
        commits = [self._commits.popleft() for _ in range(len(self._commits))]
        try:
            if self._files.prepare():
                self._doubtful = self._number
                self._tell(self._give_up_all, "deleted")
                log.error("journal_deleted")
            self._lot.extend(self._queue.popleft() for _ in range(len(self._queue)))
            while self._lot:
                self._write()
            # One that could not sync has not recovered before it can: a disk may take writes and lose them.
            if commits or sync or (self._strict and self._failing_since is not None):
                self._files.sync()
        except BaseException as error:
            if isinstance(error, UnsyncedError):
                self._doubtful = self._number
            self._commits.extendleft(reversed(commits))  # answered when it shows that nothing can be written
            raise
        self._settle(None, commits)
        since, self._failing_since = self._failing_since, None
        if since is not None:
            log.info("journal_write_recovered", seconds=round(time.monotonic() - since, 1))

    def _write(self) -> None:
        batch, size = [], 0
        for entry in self._lot:
            batch.append(entry)
            size += len(entry[3])
            if size >= self._at_once or len(batch) >= _ENTRIES_AT_ONCE:
                break
        count, error = self._files.append(batch)
        payload = size if error is None else sum(len(entry[3]) for entry in batch[:count])
        for _ in range(count):
            self._lot.popleft()
        self._written += payload + count * _OVERHEAD
        self._used += payload
        self.counters.bytes += payload
        if error is not None:
            raise error

    def _failed(self, error: OSError) -> None:
        self.counters.write_failures += 1
        new = self._failing_since is None
        if new:
            self._failing_since = time.monotonic()
        self._settle(error)
        if new:
            log.error("journal_write_failed", error=errno.errorcode.get(error.errno or 0, type(error).__name__))

    def _settle(self, error: OSError | None, commits: Iterable[asyncio.Future[OSError | None]] | None = None) -> None:
        """Answer those who wait for a commit; all of them, unless told which."""
        if commits is None:
            commits = [self._commits.popleft() for _ in range(len(self._commits))]
        for future in commits:
            self._tell(self._answer, future, error)

    def _tell(self, callback: Callable[..., object], *args: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has been closed
            if self._loop is not None:
                self._loop.call_soon_threadsafe(callback, *args)

    def _look_around(self) -> None:
        """See how much room there is, once a second at most; in between, what was written is added up."""
        now = time.monotonic()
        if now - self._surveyed >= _SURVEY:
            self._surveyed = now
            self._used = _used(self._root)
            self._full = "min_free" if _free(self._root) < self._min_free else None
            if self._bursts:
                self._tell(self._calm)
        if self._used >= self._disk:
            self._full = "disk"


def _size(entry: Piece) -> int:
    return len(entry[3]) + _OVERHEAD


def _used(root: Path) -> int:
    """Bytes in the journals, what was set aside of them, and the store."""
    total = _bytes_in(root, depth=1) + _bytes_in(root.parent / "corrupt", depth=0)
    with contextlib.suppress(OSError), os.scandir(root.parent) as found:
        for entry in found:
            if entry.name.startswith("store.db"):
                total += entry.stat(follow_symlinks=False).st_size
    return total


def _bytes_in(folder: os.PathLike[str] | str, *, depth: int) -> int:
    total = 0
    with contextlib.suppress(OSError), os.scandir(folder) as found:  # it may be vanishing right now
        for entry in found:
            with contextlib.suppress(OSError):
                if entry.is_file(follow_symlinks=False):
                    total += entry.stat(follow_symlinks=False).st_size
                elif depth and entry.is_dir(follow_symlinks=False):
                    total += _bytes_in(entry.path, depth=depth - 1)
    return total


def _free(root: Path) -> float:
    try:
        about = os.statvfs(root)
    except OSError:
        return float("inf")
    return about.f_bavail * about.f_frsize
