"""A key that lies in a file, and may be replaced there at any time."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from sidestream.errors import Retryable
from sidestream.options import Secret

_MOST = 4096


class KeyFile:
    """The key in the file `path`: read when it is needed, and again when the file has changed."""

    def __init__(self, path: str) -> None:
        if not path:
            raise ValueError("api_key_file must name a file")
        try:
            self.path = Path(path).expanduser().absolute()
        except RuntimeError as error:
            raise ValueError("api_key_file begins with ~, but there is no such home directory") from error
        self._read_from: tuple[int, ...] = ()
        self._key = Secret("")

    def read(self) -> Secret:
        """The key; `Retryable` while there is none to be had. For a thread: it touches the disk."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
        except (OSError, ValueError) as error:
            raise Retryable(f"cannot read api_key_file {self.path}: {_words(error)}") from error
        try:
            about = os.fstat(descriptor)
            if not stat.S_ISREG(about.st_mode):
                raise Retryable(f"api_key_file {self.path} is not a file")
            now = (about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns)
            if now != self._read_from or not self._key:
                self._key = self._parsed(os.read(descriptor, _MOST))
                self._read_from = now
        except OSError as error:
            raise Retryable(f"cannot read api_key_file {self.path}: {_words(error)}") from error
        finally:
            os.close(descriptor)
        return self._key

    def _parsed(self, data: bytes) -> Secret:
        key = Secret(data.decode(errors="replace").strip())
        if not key or not is_sendable(key):
            raise Retryable(f"api_key_file {self.path} holds no key: expected inv- and 64 hexadecimal digits")
        return key


def is_sendable(key: Secret) -> bool:
    """Whether a key can stand in a header."""
    value = key.reveal()
    return value.isascii() and value.isprintable() and " " not in value


def _words(error: Exception) -> str:
    return getattr(error, "strerror", None) or type(error).__name__
