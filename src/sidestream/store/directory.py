"""The data directory: who may be in it, and what lies where.

::

    DIR/                    0700
    ├── recorder.lock       held by the one recorder
    ├── fingerprint.key     32 random bytes: what fingerprints of keys are made with
    ├── viewer.token        32 random bytes: what opens the viewer, where that needs something and nothing is configured
    ├── api-keys.json       digests of the keys that others may push traces with
    ├── recorder.sock       the recorder's socket (elsewhere if its path would be too long for a socket)
    ├── store.db            SQLite, with its -wal and -shm
    └── journal/RELAY/      one directory of segments per relay
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import stat
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from sidestream.errors import SidestreamError
from sidestream.store.folders import private

if TYPE_CHECKING:
    from collections.abc import Mapping

_LONGEST_SOCKET_PATH = 100  # bytes; Linux takes 107, macOS 103
_ELSEWHERE = Path("/tmp")  # noqa: S108  # what is made there is private, or not used
_KEY_BYTES = 32
_OURS = frozenset({"recorder.lock", "fingerprint.key", "viewer.token", "api-keys.json", "store.db", "journal"})
_NO_LINKS = frozenset({errno.EPERM, errno.EACCES, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK})
_MOMENT = 1.0
"""Seconds that somebody else may take to write 32 bytes."""


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
        """Create what is missing, for this user alone; `OSError` if that is not possible.

        A directory that was there is closed to others if it is this user's, and holds nothing or what is ours: the
        umask of whoever made it says nothing of what is in here.
        """
        private(self.path)
        self._close_to_others()
        private(self.journal)

    def fingerprint_key(self) -> bytes:
        """The key of fingerprints, the same for all processes on this directory; made by whoever comes first."""
        return self._secret("fingerprint.key")

    def viewer_token(self) -> str:
        """What opens the viewer, likewise, where the configuration has no token."""
        return self._secret("viewer.token").hex()

    def holds(self, lock: int) -> bool:
        """Whether the descriptor is still that of the lock file here; not if the directory was deleted or moved."""
        try:
            return os.path.samestat(os.fstat(lock), (self.path / "recorder.lock").stat())
        except OSError:
            return False

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

    def _secret(self, name: str) -> bytes:
        file = self.path / name
        with contextlib.suppress(FileNotFoundError):
            if len(key := file.read_bytes()) == _KEY_BYTES:
                return key
        self.prepare()
        descriptor, written = tempfile.mkstemp(dir=self.path, prefix=f".{name}-")
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(secrets.token_bytes(_KEY_BYTES))
                stream.flush()
                os.fsync(stream.fileno())
            _name(Path(written), file)
        finally:
            Path(written).unlink()
        return _read_key(file)

    def _close_to_others(self) -> None:
        about = self.path.stat()
        if about.st_uid != os.getuid() or not about.st_mode & 0o077:
            return
        inside = {path.name for path in self.path.iterdir()}
        if not inside or inside & _OURS:
            with contextlib.suppress(OSError):  # some file systems have no modes
                self.path.chmod(0o700)


def _name(written: Path, file: Path) -> None:
    """Have `file` be what was written, unless there is one; whole from the beginning where there are hard links."""
    try:
        os.link(written, file)
    except FileExistsError:
        return
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        with contextlib.suppress(FileExistsError):
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with open(descriptor, "wb", buffering=0) as stream:  # noqa: PTH123  # it is open already
                stream.write(written.read_bytes())
                os.fsync(descriptor)


def _read_key(file: Path) -> bytes:
    """The key, for which one who is just writing it is waited for."""
    until = time.monotonic() + _MOMENT
    while len(key := file.read_bytes()) != _KEY_BYTES:
        if time.monotonic() > until:
            raise OSError(f"{file} is damaged; delete it")
        time.sleep(0.01)
    return key


def _socket_path(path: Path) -> Path:
    """In the directory, if its name is short enough for a socket; else where all look, whatever their TMPDIR says."""
    there = path / "recorder.sock"
    if len(os.fsencode(there)) <= _LONGEST_SOCKET_PATH:
        return there
    name = hashlib.blake2b(os.fsencode(path), digest_size=12).hexdigest()
    return _ELSEWHERE / f"sidestream-{os.getuid()}" / f"{name}.sock"


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
