"""A bar chart as a PNG, by hand: the demo has an image to show and no library to draw it with.

The format: https://www.w3.org/TR/png-3/. Eight-bit greyscale, no filter, one IDAT chunk.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

HEIGHT = 48
_BAR, _GAP = 10, 2
_PAPER, _INK = b"\xff", b"\x40"


def bars(values: Sequence[int]) -> bytes:
    """A PNG with one bar per value, each so many pixels high, up to `HEIGHT`."""
    rows = (
        b"".join((_INK if value > height else _PAPER) * _BAR + _PAPER * _GAP for value in values)
        for height in range(HEIGHT - 1, -1, -1)
    )
    header = struct.pack(">IIBBBBB", len(values) * (_BAR + _GAP), HEIGHT, 8, 0, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows), 9)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


def size(png: bytes) -> tuple[int, int]:
    """Width and height of a PNG, from its header."""
    width, height = struct.unpack_from(">II", png, 16)
    return width, height


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
