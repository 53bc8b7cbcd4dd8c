r"""The files of a journal: how entries lie in them, and how they are appended.

A relay has a directory of its own, with a ``lock`` that it holds (flock) for as long as it lives, and segments
``00000001.seg``, ``00000002.seg`` … A segment is::

    sidestream journal 1\n
    number u32, end of the segment before u64, crc32 of these u32
    entry …                                 length u32, crc32 u32, kind u8, number u32, time f64, payload

All little endian; an entry's checksum covers everything behind it. Only whole entries count: what stands at the end of
a segment beyond its last whole entry was being written when its relay died, or could not be written. As each segment
says where the one before it ended, neither such a rest nor a missing piece can be taken for the other.

A whole entry that was written is never taken back, so a reader may go past it at once.
"""

from __future__ import annotations

import bisect
import contextlib
import errno
import fcntl
import itertools
import os
import re
import struct
import sys
import time
from typing import TYPE_CHECKING
from zlib import crc32

from sidestream.ids import new_id
from sidestream.store.folders import private, sync_folder
from sidestream.traces.entries import Entry

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

Piece = tuple[int, int, float, bytes]
"""What an `Entry` is, without its name."""

MOST = 256 << 20
"""Bytes that one entry may carry; a length beyond it is damage."""

_MAGIC = b"sidestream journal 1\n"
_BEFORE = struct.Struct("<IQ")
_CHECKSUM = struct.Struct("<I")
_FRAME = struct.Struct("<II")
_ABOUT = struct.Struct("<BId")
_ENTRY = struct.Struct("<IIBId")
_NUMBERS = 0xFFFFFFFF
_LOOK = 1.0
_NAME = re.compile(r"([0-9]{8,})\.seg")
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW

_NOT_SUPPORTED = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOTTY})
"""How a file system of macOS, of a network for instance, says that it has no F_FULLFSYNC."""

HEADER_SIZE = len(_MAGIC) + _BEFORE.size + _CHECKSUM.size
ENTRY_SIZE = _ENTRY.size
"""Bytes of an entry without its payload."""


class DamagedError(ValueError):
    """What stands there was never written like this."""


class UnsyncedError(OSError):
    """What was written may or may not survive a power cut: syncing it failed, and trying again would prove nothing."""


def name(number: int) -> str:
    """The file name of a segment."""
    return f"{number:08}.seg"


def numbers(folder: Path) -> list[int]:
    """The numbers of the segments in this directory, in order."""
    with os.scandir(folder) as found:
        return sorted(int(match[1]) for entry in found if (match := _NAME.fullmatch(entry.name)))


def header(number: int, before: int) -> bytes:
    """How segment `number` begins, if the one before it ended at `before` (0: there is none)."""
    facts = _BEFORE.pack(number & _NUMBERS, before)
    return _MAGIC + facts + _CHECKSUM.pack(crc32(facts))


def before(data: bytes, number: int) -> int | None:
    """Where the segment before ended, as this beginning of segment `number` has it; None if too little is there.

    `DamagedError` if that is not the beginning of this segment.
    """
    if len(data) < HEADER_SIZE:
        return None
    facts = data[len(_MAGIC) : len(_MAGIC) + _BEFORE.size]
    (checksum,) = _CHECKSUM.unpack_from(data, HEADER_SIZE - _CHECKSUM.size)
    own, end = _BEFORE.unpack(facts)
    if not data.startswith(_MAGIC) or checksum != crc32(facts) or own != number & _NUMBERS:
        raise DamagedError("not the beginning of this segment")
    return int(end)


def framed(entry: Piece) -> bytes:
    """What stands before the payload of `entry`."""
    kind, number, time, data = entry
    about = _ABOUT.pack(kind, number & _NUMBERS, time)
    return _FRAME.pack(len(data), crc32(data, crc32(about))) + about


def entries(data: bytes, start: int = 0) -> Iterator[tuple[int, Entry]]:
    """The whole entries from `start` on, each with the place of its end; `DamagedError` at one that is not right."""
    view, size, unpack, about = memoryview(data), len(data), _ENTRY.unpack_from, ENTRY_SIZE
    make = tuple.__new__  # in half the time of `Entry`, and there is one for each chunk
    while (payload := start + about) <= size:
        length, checksum, kind, number, time = unpack(data, start)
        if length > MOST:
            raise DamagedError("an entry of impossible length")
        end = payload + length
        if end > size:
            return
        if crc32(view[start + _FRAME.size : end]) != checksum:
            raise DamagedError("an entry's checksum is wrong")
        yield end, make(Entry, (kind, number, time, data[payload:end]))
        start = end


def needed(data: bytes) -> int:
    """Bytes of the entry that begins here, as far as that can be told from these."""
    if len(data) < ENTRY_SIZE:
        return ENTRY_SIZE
    (length,) = _CHECKSUM.unpack_from(data)
    return ENTRY_SIZE + int(length)


class Appender:
    """The files of one relay, for its writer thread. Every method may raise `OSError`, and may then be called again.

    With `strict`, what was appended before a `sync` survives a power cut, wherever it lies.
    """

    def __init__(self, root: Path, *, strict: bool, segment: int, age: float = float("inf")) -> None:
        self._root = root
        self._strict = strict
        self._segment = segment
        self._age = age
        self._directory: Path | None = None
        self._lock = -1
        self._file = -1
        self._number = 0
        self._before = 0
        self._lost = False
        self._end = 0
        """Where the last whole entry of the current segment ends; 0: not even its header has been written."""
        self._written_to_since = 0.0
        self._looked_at = float("-inf")

    def prepare(self) -> bool:
        """Make sure that there is a segment to write to. True: somebody has taken away what was written before."""
        in_place = self._in_place()
        if self._file >= 0 and in_place and os.fstat(self._file).st_nlink:
            if self.seconds_left() == 0:
                self._rotate()
                _, error = self.append(())  # with a header it can be read, and the one before can be deleted
                if error is not None:
                    raise error
            return False
        self._lost = self._lost or self._file >= 0
        if self._directory is None or not in_place:
            self._lost = self._lost or self._directory is not None
            self._new_directory()
        self._next_segment()
        lost, self._lost = self._lost, False
        return lost

    def _in_place(self) -> bool:
        """Whether the directory is where it was made; one that was moved is read by nobody. Looked at once a second."""
        if self._directory is None:
            return False
        now = time.monotonic()
        if not os.fstat(self._lock).st_nlink:
            return False
        if now - self._looked_at < _LOOK:
            return True
        self._looked_at = now
        try:
            return os.path.samestat(os.fstat(self._lock), (self._directory / "lock").stat())
        except FileNotFoundError:
            return False

    def seconds_left(self) -> float | None:
        """After how many seconds `prepare` will begin a new segment, if nothing happens; None: never."""
        if self._file < 0 or self._end <= HEADER_SIZE or self._age == float("inf"):
            return None
        return max(self._written_to_since + self._age - time.monotonic(), 0.0)

    def append(self, batch: Sequence[Piece]) -> tuple[int, OSError | None]:
        """Write entries: how many of them are written, and why not all."""
        try:
            if self._end >= self._segment:
                self._rotate()
        except OSError as failure:
            return 0, failure
        if self._end <= HEADER_SIZE:
            self._written_to_since = time.monotonic()
        begin = b"" if self._end else header(self._number, self._before)
        parts: list[bytes | memoryview] = [begin] if begin else []
        for entry in batch:
            parts += (framed(entry), entry[3])
        sizes = list(map(len, parts))
        written, error = _written(self._file, parts, sum(sizes))
        if error is None:
            self._end += written
            return len(batch), None
        ends = list(itertools.accumulate(sizes, initial=self._end))
        whole = ends[bool(begin) :: 2]  # where the first entry begins, and where each of them ends
        count = bisect.bisect_right(whole, self._end + written) - 1
        if count >= 0:
            self._end = whole[count]
        return max(count, 0), self._cut() or error

    def sync(self) -> None:
        """Wait until the disk has what was appended; `UnsyncedError` if it may not have all of it."""
        if self._file < 0:
            return
        try:
            _sync(self._file)
        except OSError as error:
            if not self._end:  # there was nothing in it
                raise
            self._close_segment()
            raise UnsyncedError(*error.args) from error

    def close(self) -> None:
        """Let go of everything; a reader then takes the relay for dead."""
        self._close_segment()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
        self._directory = None

    def _rotate(self) -> None:
        if self._strict:
            self.sync()
        self._next_segment()

    def _next_segment(self) -> None:
        if self._directory is None:
            raise FileNotFoundError
        number = self._number + 1
        file = os.open(self._directory / name(number), _FLAGS, 0o600)
        try:
            if self._strict:
                sync_folder(self._directory)
        except OSError:
            os.close(file)
            raise
        self._close_segment()
        self._file, self._number, self._before, self._end = file, number, self._end, 0

    def _new_directory(self) -> None:
        self.close()
        private(self._root)
        directory = self._root / new_id()
        directory.mkdir(mode=0o700)
        lock = -1
        try:
            # Locked first and named then: whoever sees it can rely on it.
            lock = os.open(directory / "lock.new", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            (directory / "lock.new").rename(directory / "lock")
            if self._strict:
                for parent in (directory, self._root, self._root.parent):
                    sync_folder(parent)
        except OSError:
            if lock >= 0:
                os.close(lock)
            for path in (directory / "lock.new", directory / "lock"):
                with contextlib.suppress(OSError):
                    path.unlink()
            with contextlib.suppress(OSError):
                directory.rmdir()
            raise
        self._directory, self._lock = directory, lock
        self._number = self._end = 0

    def _cut(self) -> UnsyncedError | None:
        """Cut off the beginning of an entry; where that is not possible, the next segment will say that it is one.

        What stands before it is synced then, for nobody can do so later; the error if that failed.
        """
        try:
            os.ftruncate(self._file, self._end)
        except OSError:
            try:
                if self._strict and self._end:
                    self.sync()
            except UnsyncedError as error:
                return error
            self._close_segment()
        return None

    def _close_segment(self) -> None:
        if self._file >= 0:
            file, self._file = self._file, -1
            with contextlib.suppress(OSError):
                os.close(file)


def _written(file: int, parts: list[bytes | memoryview], size: int) -> tuple[int, OSError | None]:
    """Write it all, which is `size` bytes: the number of bytes written, and why no more."""
    total = 0
    while total < size:
        try:
            count = os.writev(file, parts)
        except OSError as error:
            return total, error
        total += count
        if total == size:
            break
        done = 0
        while done < len(parts) and count >= len(parts[done]):
            count -= len(parts[done])
            done += 1
        del parts[:done]
        if parts:
            parts[0] = memoryview(parts[0])[count:]
    return total, None


def _sync(file: int) -> None:
    if sys.platform == "darwin":  # there, fsync stops at the drive's cache
        try:
            fcntl.fcntl(file, fcntl.F_FULLFSYNC)
        except OSError as error:
            if error.errno not in _NOT_SUPPORTED:
                raise
            os.fsync(file)
    else:
        os.fdatasync(file)
