"""The types an option of a middleware or sink may have, beyond Python's own.

A plugin's options are the keyword-only parameters of its constructor; YAML gives `Size` as ``32MiB``, `Duration` as
``20s``. Both also take plain numbers (bytes, seconds).
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Self

_NUMBER = r"\s*([0-9]{1,30}(?:\.[0-9]{1,18})?)\s*"
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
_SECONDS = {
    None: Decimal(1),
    "ms": Decimal("0.001"),
    "s": Decimal(1),
    "m": Decimal(60),
    "h": Decimal(3600),
    "d": Decimal(86400),
}
_LONGEST = 1_000_000_000
"""About thirty years; a longer duration is a mistake, and infinity none at all."""


class Size(int):
    """A number of bytes, zero or more."""

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read ``32MiB``, ``500 kB`` or a whole number of bytes; `ValueError` says what would be right."""
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return cls(value)
        if isinstance(value, str) and (match := _SIZE.fullmatch(value)):
            return cls(Decimal(match[1]) * _BYTES[match[2]])
        raise ValueError("expected a size such as 32MiB, 500kB or a number of bytes")

    def __str__(self) -> str:
        for unit in ("GiB", "MiB", "KiB"):
            if self and self % _BYTES[unit] == 0:
                return f"{self // _BYTES[unit]}{unit}"
        return f"{int(self)}B"


class Duration(float):
    """A number of seconds, zero or more; thirty years at most."""

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read ``20s``, ``500ms``, ``15m`` or a number of seconds; `ValueError` says what would be right."""
        seconds: float | Decimal = -1
        if isinstance(value, int | float) and not isinstance(value, bool):
            seconds = value
        elif isinstance(value, str) and (match := _DURATION.fullmatch(value)):
            seconds = Decimal(match[1]) * _SECONDS[match[2]]
        if 0 <= seconds <= _LONGEST:
            return cls(seconds)
        raise ValueError("expected a duration such as 20s, 500ms, 15m or a number of seconds")

    def __str__(self) -> str:
        if 0 < self < 1 and (self * 1000).is_integer():
            return f"{self * 1000:.0f}ms"
        return f"{Decimal(repr(float(self))):f}".removesuffix(".0") + "s"


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
