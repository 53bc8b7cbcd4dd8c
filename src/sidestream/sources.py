"""A configuration file's bytes, bounded; what they mean is not known here.

Apart from `sidestream.documents` because the supervisor reads the file too, and has no memory to spare for a parser.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidestream.errors import ConfigError, Problem

if TYPE_CHECKING:
    from pathlib import Path

MAX_BYTES = 1 << 20


def fetch(file: Path) -> bytes:
    """All of `file`; `ConfigError` if it cannot be read, or is too large for a configuration."""
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise _refused("there is no such file") from None
    except IsADirectoryError:
        raise _refused("this is a directory, not a file") from None
    except OSError as error:
        raise _refused(f"cannot be read: {error.strerror}") from None
    except ValueError:
        raise _refused("this cannot be the name of a file") from None
    if len(data) > MAX_BYTES:
        raise _refused("larger than 1 MiB; this cannot be a configuration")
    return data


def _refused(message: str) -> ConfigError:
    return ConfigError([Problem("", message)])
