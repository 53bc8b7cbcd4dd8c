"""The picture is a PNG."""

from __future__ import annotations

import struct
import zlib

from sidestream.demo.picture import HEIGHT, bars, size


def chunks(png: bytes) -> list[tuple[bytes, bytes]]:
    """Kind and data of every chunk, checked."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    found, at = [], 8
    while at < len(png):
        (length,) = struct.unpack_from(">I", png, at)
        body = png[at + 4 : at + 8 + length]
        assert (zlib.crc32(body),) == struct.unpack_from(">I", png, at + 8 + length)
        found.append((body[:4], body[4:]))
        at += 12 + length
    return found


def test_it_has_the_chunks_of_a_png_with_right_checksums() -> None:
    assert [b"IHDR", b"IDAT", b"IEND"] == [kind for kind, _ in chunks(bars([3, 2]))]


def test_a_bar_is_as_high_as_its_value() -> None:
    png = bars([HEIGHT, 20, 0])
    width, height = size(png)
    pixels = zlib.decompress(dict(chunks(png))[b"IDAT"])
    rows = [pixels[start + 1 : start + 1 + width] for start in range(0, len(pixels), width + 1)]
    assert height == len(rows)
    assert [HEIGHT, 20, 0] == [sum(row[x] != 0xFF for row in rows) for x in (0, 12, 24)]
