r"""Turns as lines of a file, one JSON object per line.

::

    {"id", "dataset", "trace", "turn", "rule", "origin"?, "messages", "metadata"}

``trace`` is the conversation, ``turn`` its place in there, counted from 1, and ``messages`` are what it added. ``turn``
is what it was when the line was written: a turn that becomes known late can have the same as another one. So the lines
of one trace, in order of ``metadata.started_at``, have each message once. ``origin`` is there where the trace left
another one, or was called from it: ``{"kind", "trace", "turn", "number", "path"}``.

The file is opened for each line. That costs microseconds and keeps no state that could be wrong: a file that was moved
away or deleted, a full disk or a directory without permission is found out by the next line, and once it is repaired
so is the sink. Several processes may write to the same file: a line and a rotation happen under an exclusive lock.

A line is whole or not there: what a failed write left is cut off again, and a file that does not end with a line feed
(after a crash) gets one before the next line. Whether a line was written before a crash is found out by looking for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import itertools
import json
import os
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec

from sidestream.errors import Ambiguous, Retryable, Undeliverable
from sidestream.options import Size
from sidestream.sinks.base import Found, Sink, encoded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidestream.options import Secret
    from sidestream.traces.model import Turn

_ROTATE = Size(100 << 20)
_LOCK_TRIES = 50
_LOCK_PAUSE = 0.01
_SEARCHED_AT_ONCE = 4 << 20
_SEARCHED_IN_ALL = 1 << 30
# O_NONBLOCK: a pipe that nobody reads is refused below instead of holding the thread.
_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK


class Jsonl(Sink):
    """Append every turn to the file `path`.

    `path` is ``$XDG_DATA_HOME/sidestream/traces.jsonl`` by default; ``~`` is expanded, and a symbolic link is followed
    once, at the start. Before the file would outgrow `rotate` it becomes ``traces.jsonl.1``, and so on up to `keep`
    old files; a `rotate` of 0 never does that. Files are created 0600 and directories 0700; what exists keeps its mode.
    """

    per_key = False

    def __init__(self, *, path: str | None = None, rotate: Size = _ROTATE, keep: int = 5) -> None:
        if keep < 0:
            raise ValueError("keep must be 0 or more")
        self.path = _resolved(path)
        self._rotate_at = rotate
        self._keep = keep

    async def deliver(self, turn: Turn, credential: Secret | None, attempt: int) -> None:  # noqa: ARG002 (a file)
        """Append `turn` in a thread."""
        await asyncio.to_thread(self._store, turn)

    async def find(self, turn: Turn, credential: Secret | None) -> Found | None:  # noqa: ARG002 (a file)
        """Look for the line of `turn` in the file and the old ones, the newest first."""
        try:
            return await asyncio.to_thread(self._find, turn.id)
        except OSError as error:
            raise Retryable(f"cannot read {self.path}: {error.strerror or type(error).__name__}") from error

    def _find(self, exchange: str) -> Found | None:
        begin = msgspec.json.encode({"id": exchange})[:-1] + b","
        left = _SEARCHED_IN_ALL
        # A rotation in the middle of this moves lines on to a file that is looked at later.
        for name in (self.path, *(Path(f"{self.path}.{n}") for n in range(1, self._keep + 1))):
            with contextlib.suppress(FileNotFoundError), name.open("rb") as file:
                if (left := left - os.fstat(file.fileno()).st_size) < 0:
                    raise Ambiguous(f"{name} is too large to be searched")
                if any(_is_whole(line) for line in _lines_with(begin, file)):
                    return Found()
        return None

    def _store(self, turn: Turn) -> None:
        line = _line(turn)
        try:
            self._append(line)
        except OSError as error:
            raise Retryable(f"cannot write {self.path}: {error.strerror or type(error).__name__}") from error

    def _append(self, line: bytes) -> None:
        while True:
            descriptor = self._open()
            try:
                _lock(descriptor)
                now = os.fstat(descriptor)
                if not self._is_current(now):
                    continue  # another process has rotated it since
                if self._rotate_at and now.st_size and now.st_size + len(line) > self._rotate_at:
                    self._rotate()
                    continue
                _write(descriptor, line, now.st_size)
                return
            finally:
                os.close(descriptor)

    def _open(self) -> int:
        try:
            descriptor = os.open(self.path, _FLAGS, 0o600)
        except FileNotFoundError:
            missing = [parent for parent in self.path.parents if not parent.exists()]
            for parent in reversed(missing):
                parent.mkdir(mode=0o700, exist_ok=True)
            descriptor = os.open(self.path, _FLAGS, 0o600)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(errno.EINVAL, "not a regular file")
        return descriptor

    def _is_current(self, opened: os.stat_result) -> bool:
        try:
            return os.path.samestat(opened, self.path.lstat())
        except FileNotFoundError:
            return False

    def _rotate(self) -> None:
        names = [self.path, *(Path(f"{self.path}.{n}") for n in range(1, self._keep + 1))]
        if not self._keep:
            self.path.unlink()
        for newer, older in reversed(list(itertools.pairwise(names))):
            with contextlib.suppress(FileNotFoundError):
                newer.replace(older)


def _resolved(path: str | None) -> Path:
    if path:
        given = Path(path)
    else:
        home = os.environ.get("XDG_DATA_HOME", "")  # the specification: a relative one is to be ignored
        data = Path(home) if Path(home).is_absolute() else Path("~/.local/share")
        given = data / "sidestream" / "traces.jsonl"
    try:
        given = given.expanduser()
    except RuntimeError as error:
        raise ValueError("path begins with ~, but there is no such home directory") from error
    try:
        resolved = Path(os.path.realpath(given))
        is_directory = resolved.is_dir()
    except OSError as error:
        raise ValueError(f"path cannot be used: {error.strerror}") from error
    if is_directory:
        raise ValueError("path is a directory; it must name a file")
    return resolved


def _line(turn: Turn) -> bytes:
    fields: dict[str, Any] = {"id": turn.id, "dataset": turn.dataset, "trace": turn.trace}
    fields |= {"turn": turn.number, "rule": turn.rule}
    if turn.origin is not None:
        fields["origin"] = msgspec.structs.asdict(turn.origin)
    try:
        try:
            head, metadata = msgspec.json.encode(fields)[:-1], msgspec.json.encode(turn.metadata)
            return b"".join((head, b',"messages":', encoded(turn.messages), b',"metadata":', metadata, b"}\n"))
        except UnicodeEncodeError:  # half of a surrogate pair: JSON can say it, as an escape
            whole = fields | {"messages": turn.messages, "metadata": turn.metadata}
            return json.dumps(whole, separators=(",", ":"), allow_nan=False).encode() + b"\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise Undeliverable(f"the turn is not JSON: {type(error).__name__}") from error


def _lines_with(begin: bytes, file: BinaryIO) -> Iterator[bytes]:
    """The lines that begin so; found without a look at each line."""
    place, tail = 0, b"\n"
    wanted = b"\n" + begin
    while data := file.read(_SEARCHED_AT_ONCE):
        window = tail + data
        at = -1
        while (at := window.find(wanted, at + 1)) >= 0:
            file.seek(place - len(tail) + at + 1)
            yield file.readline()
        place += len(data)
        file.seek(place)
        tail = window[-len(wanted) + 1 :]


def _is_whole(line: bytes) -> bool:
    """Whether it was written to its end; a crash may have cut it off, and another writer begun a new line then."""
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return line.endswith(b"\n")


def _lock(descriptor: int) -> None:
    """Lock the file; another process holds it for the microseconds of a line, or is stuck."""
    for _ in range(_LOCK_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_LOCK_PAUSE)
        except OSError as error:
            if error.errno not in {errno.ENOLCK, errno.ENOTSUP, errno.EINVAL}:
                raise
            return  # a file system without locks, which is then for one process
        else:
            return
    raise Retryable("another process holds the lock of the file")


def _write(descriptor: int, line: bytes, size: int) -> None:
    if size and os.pread(descriptor, 1, size - 1) != b"\n":
        line = b"\n" + line
    rest = memoryview(line)
    try:
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, size)
        raise
