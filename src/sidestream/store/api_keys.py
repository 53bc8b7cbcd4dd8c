"""The keys that others may push traces with: made here, shown once, and kept as digests alone.

They are in one file of the data directory, which the command line writes, and whoever checks a key reads again when it
has changed. A key has 256 random bits, so its SHA-256 can be kept without salt: nobody guesses it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import os
import secrets
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from sidestream.errors import SidestreamError
from sidestream.store.folders import private, sync_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

FILE: Final = "api-keys.json"
_LARGEST: Final = 4 << 20


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of a key."""

    name: str
    digest: str
    """Of the key: SHA-256 in hex."""
    created_at: float
    """Unix time."""


_decode = msgspec.json.Decoder(list[ApiKey]).decode


class ApiKeys:
    """Those of one data directory. Everything touches the disk, so it is for a thread; `SidestreamError` if it cannot.

    The check of a key reads the file only where it has changed.
    """

    def __init__(self, directory: Path) -> None:
        self._file = directory / FILE
        self._read_from: tuple[int, ...] = ()
        self._keys: list[ApiKey] = []

    def all(self) -> list[ApiKey]:
        """All keys, in order of their creation."""
        try:
            about = self._file.stat()
            now = (about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns)
            if now != self._read_from:
                if about.st_size > _LARGEST:
                    raise SidestreamError(f"{self._file} is too large to be what it should be")
                self._keys = _decode(self._file.read_bytes())
                self._read_from = now
        except FileNotFoundError:
            return []
        except OSError as error:
            raise SidestreamError(f"{self._file} cannot be read: {error.strerror}") from error
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise SidestreamError(f"{self._file} is damaged; delete it, and make new keys") from error
        return self._keys

    def knows(self, key: str) -> bool:
        """Whether this is one of them. It takes as long whichever it is."""
        digest = _digest(key).encode()
        return sum([hmac.compare_digest(digest, each.digest.encode()) for each in self.all()]) > 0

    def create(self, name: str) -> str:
        """Make a key: ``inv-`` and 64 hexadecimal digits. `SidestreamError` if there is one of this name."""
        key = f"inv-{secrets.token_hex(32)}"
        with self._changing():
            keys = self.all()
            if any(each.name == name for each in keys):
                raise SidestreamError("there is a key of this name; revoke it, or choose another name")
            self._write([*keys, ApiKey(name=name, digest=_digest(key), created_at=time.time())])
        return key

    def revoke(self, name: str) -> None:
        """Have a key not be known any more. `SidestreamError` if there is none of this name."""
        with self._changing():
            keys = self.all()
            kept = [each for each in keys if each.name != name]
            if len(kept) == len(keys):
                raise SidestreamError("there is no key of this name; `sidestream keys list` shows which there are")
            self._write(kept)

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """One process at a time."""
        folder = self._file.parent
        try:
            private(folder)
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise SidestreamError(f"{folder} cannot be used: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        except OSError as error:
            raise SidestreamError(f"{self._file} cannot be written: {error.strerror}") from error
        finally:
            os.close(descriptor)

    def _write(self, keys: list[ApiKey]) -> None:
        descriptor, name = tempfile.mkstemp(dir=self._file.parent, prefix=f".{FILE}-")
        written = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(msgspec.json.format(msgspec.json.encode(keys)) + b"\n")
                stream.flush()
                os.fsync(stream.fileno())
            written.replace(self._file)
        except BaseException:
            written.unlink(missing_ok=True)
            raise
        sync_folder(self._file.parent)


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
