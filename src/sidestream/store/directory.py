"""The data directory: who may be in it, and what lies where.

::

    DIR/                    0700
    ├── recorder.lock       held by the one recorder
    ├── fingerprint.key     32 random bytes: what fingerprints of keys are made with
    ├── recorder.sock       the recorder's socket (elsewhere if its path would be too long for a socket)
    ├── store.db            SQLite, with its -wal and -shm
    └── journal/RELAY/      one directory of segments per relay
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from sidestream.errors import SidestreamError

if TYPE_CHECKING:
    from collections.abc import Mapping

_LONGEST_SOCKET_PATH = 100  # bytes; Linux takes 107, macOS 103
_KEY_BYTES = 32


def default(env: Mapping[str, str] = os.environ) -> str:
    """``$XDG_DATA_HOME/sidestream``; the XDG Base Directory specification has a relative one ignored."""
    data = env.get("XDG_DATA_HOME", "")
    return f"{data.rstrip('/') if data.startswith('/') else '~/.local/share'}/sidestream"


class Directory:
    """Where everything lies. Nothing is created before `prepare`."""

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().absolute()
        self.store = self.path / "store.db"
        self.journal = self.path / "journal"
        self.socket = _socket_path(self.path)

    def prepare(self) -> None:
        """Create what is missing; `OSError` if that is not possible."""
        for parent in reversed([parent for parent in self.path.parents if not parent.exists()]):
            parent.mkdir(mode=0o700, exist_ok=True)
        self.path.mkdir(mode=0o700, exist_ok=True)
        self.journal.mkdir(mode=0o700, exist_ok=True)

    def fingerprint_key(self) -> bytes:
        """The key of fingerprints, the same for all processes on this directory; made by whoever comes first."""
        file = self.path / "fingerprint.key"
        with contextlib.suppress(FileNotFoundError):
            if len(key := file.read_bytes()) == _KEY_BYTES:
                return key
        self.prepare()
        descriptor, name = tempfile.mkstemp(dir=self.path, prefix=".fingerprint-")
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(secrets.token_bytes(_KEY_BYTES))
                stream.flush()
                os.fsync(stream.fileno())
            with contextlib.suppress(FileExistsError):
                os.link(name, file)
        finally:
            Path(name).unlink()
        key = file.read_bytes()
        if len(key) != _KEY_BYTES:
            raise OSError(f"{file} is damaged; delete it")
        return key

    def lock(self) -> int | None:
        """Become the recorder of this directory: a descriptor to keep open, or None while there is another one."""
        self.prepare()
        descriptor = os.open(self.path / "recorder.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return descriptor


def _socket_path(path: Path) -> Path:
    """In the directory, or where temporary files are: the first of these whose name is short enough for a socket."""
    name = f"sidestream-{os.getuid()}/{hashlib.blake2b(os.fsencode(path), digest_size=12).hexdigest()}.sock"
    places = path / "recorder.sock", Path(tempfile.gettempdir()) / name, Path("/tmp") / name  # noqa: S108  # made private
    return next((place for place in places if len(os.fsencode(place)) <= _LONGEST_SOCKET_PATH), places[-1])


def vacate(socket: Path) -> None:
    """Leave nothing behind of a socket; neither a directory elsewhere, unless somebody else's is in there, too."""
    with contextlib.suppress(OSError):
        socket.unlink(missing_ok=True)
        if not (socket.parent / "journal").exists():
            socket.parent.rmdir()


def private_parent(socket: Path) -> None:
    """Make sure that nobody else can put something in the place of `socket`; `SidestreamError` if somebody could."""
    parent = socket.parent
    parent.mkdir(mode=0o700, exist_ok=True)
    about = parent.lstat()
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid() or about.st_mode & 0o022:
        raise SidestreamError(f"{parent} must be a directory that only this user can write to")
