"""Numbers in words, as pages and the terminal show them. A leaf."""

from __future__ import annotations

import math
from typing import Final

NOTHING: Final = "\u2013"
"""What stands for a number that is not known."""


def duration(seconds: float | None) -> str:
    """``0.84 s``, ``12.3 s``, ``4 min 5 s``, ``2 h 3 min``."""
    if seconds is None or not math.isfinite(seconds):
        return NOTHING
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def count(number: int | None) -> str:
    """``950``, ``12.4k``, ``3.1M``."""
    if number is None:
        return NOTHING
    for limit, unit in ((1_000_000, "M"), (1_000, "k")):
        if number >= limit * 10 or (number >= limit > 1_000):
            return f"{number / limit:.1f}{unit}"
    return f"{number:,}"


def money(dollars: float | None) -> str:
    """``$0.0042``, ``$1.20``; ``$0`` is nothing at all."""
    if dollars is None:
        return NOTHING
    if dollars == 0:
        return "$0"
    return f"${dollars:,.{2 if dollars >= 1 else 3 if dollars >= 0.1 else 4}f}"


def size(number: int) -> str:
    """``812 B``, ``4.1 KB``, ``2.0 MB``."""
    if number < 1000:
        return f"{number} B"
    return f"{number / 1000:.1f} KB" if number < 1_000_000 else f"{number / 1_000_000:.1f} MB"
