"""The types an option of a middleware or sink may have, beyond Python's own.

A plugin's options are the keyword-only parameters of its constructor; YAML gives `Size` as ``32MiB``, `Duration` as
``20s``. Both also take plain numbers (bytes, seconds).
"""

from __future__ import annotations

import math
import re
from typing import Self

_NUMBER = r"\s*(\d+(?:\.\d+)?)\s*"
_SIZE = re.compile(_NUMBER + r"(B|kB|KB|KiB|MB|MiB|GB|GiB)?\s*")
_DURATION = re.compile(_NUMBER + r"(ms|s|m|h|d)?\s*")
_BYTES = {
    None: 1,
    "B": 1,
    "kB": 1000,
    "KB": 1000,
    "KiB": 1 << 10,
    "MB": 1000**2,
    "MiB": 1 << 20,
    "GB": 1000**3,
    "GiB": 1 << 30,
}
_SECONDS = {None: 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Size(int):
    """A number of bytes, zero or more."""

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read ``32MiB``, ``500 kB`` or a whole number of bytes; `ValueError` says what would be right."""
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return cls(value)
        if isinstance(value, str) and (match := _SIZE.fullmatch(value)):
            return cls(round(float(match[1]) * _BYTES[match[2]]))
        raise ValueError("expected a size such as 32MiB, 500kB or a number of bytes")

    def __str__(self) -> str:
        for unit in ("GiB", "MiB", "KiB"):
            if self and self % _BYTES[unit] == 0:
                return f"{self // _BYTES[unit]}{unit}"
        return f"{int(self)}B"


class Duration(float):
    """A number of seconds, zero or more."""

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read ``20s``, ``500ms``, ``15m`` or a number of seconds; `ValueError` says what would be right."""
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0:
            return cls(value)
        if isinstance(value, str) and (match := _DURATION.fullmatch(value)):
            return cls(float(match[1]) * _SECONDS[match[2]])
        raise ValueError("expected a duration such as 20s, 500ms, 15m or a number of seconds")

    def __str__(self) -> str:
        seconds = float(self)
        if seconds and seconds < 1:
            return f"{seconds * 1000:g}ms"
        return f"{seconds:g}s"


class Secret:
    """A key or token: prints as ``***`` wherever it ends up by accident; `reveal()` where it is really needed."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The secret itself."""
        return self._value

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __repr__(self) -> str:
        return "Secret(***)" if self._value else "Secret()"

    def __reduce__(self) -> str:
        raise TypeError("a Secret is not to be serialised")

    __str__ = __repr__
