"""Bodies are decoded by their Content-Encoding within bounds, and what cannot be is flagged."""

from __future__ import annotations

import gzip
import os
import tracemalloc
import zlib
from typing import TYPE_CHECKING

import brotli
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from sidestream.providers.decoding import Decoded, decode

if TYPE_CHECKING:
    from collections.abc import Callable

BODY = b"".join(b"data: %d %s\n\n" % (number, os.urandom(8).hex().encode()) for number in range(16_000))


def raw_deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(data) + compressor.flush()


ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": lambda data: brotli.compress(data, quality=5),
    "zstd": zstandard.ZstdCompressor().compress,
}
every_encoding = pytest.mark.parametrize("encoding", ENCODERS)


@every_encoding
def test_a_whole_body_decodes(encoding: str) -> None:
    assert decode(ENCODERS[encoding](BODY), encoding) == Decoded(BODY)


def test_raw_deflate_decodes_too() -> None:
    assert decode(raw_deflate(BODY), "deflate") == Decoded(BODY)


@pytest.mark.parametrize("encoding", ["", "identity", " , Identity"])
def test_a_body_without_encoding_is_itself(encoding: str) -> None:
    assert decode(BODY, encoding) == Decoded(BODY)


@pytest.mark.parametrize("encoding", ["gzip, br", " GZIP,identity , BR "])
def test_a_list_is_undone_from_its_end(encoding: str) -> None:
    assert decode(ENCODERS["br"](gzip.compress(BODY)), encoding) == Decoded(BODY)


def test_every_gzip_member_and_zero_padding_is_read() -> None:
    assert decode(gzip.compress(b"one ") + gzip.compress(b"two") + b"\0\0", "gzip") == Decoded(b"one two")


def test_every_zstd_frame_is_read() -> None:
    compress = zstandard.ZstdCompressor().compress
    assert decode(b"".join(compress(b"%d," % number) for number in range(300)), "zstd") == Decoded(
        b"".join(b"%d," % number for number in range(300))
    )


@every_encoding
def test_an_empty_body_is_empty(encoding: str) -> None:
    assert decode(b"", encoding) == Decoded(b"")


@every_encoding
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.999])
def test_a_cut_body_gives_what_decodes(encoding: str, kept: float) -> None:
    whole = ENCODERS[encoding](BODY)
    decoded = decode(whole[: max(int(len(whole) * kept), 1)], encoding)
    assert (decoded.complete, decoded.problem, BODY.startswith(decoded.data)) == (False, "truncated", True)
    assert kept < 0.5 or len(decoded.data) > len(BODY) * kept * 0.3


@every_encoding
def test_a_corrupt_body_gives_what_was_whole_before_the_fault(encoding: str) -> None:
    whole = bytearray(ENCODERS[encoding](BODY))
    whole[-300:] = b"\xff" * 300
    decoded = decode(bytes(whole), encoding)
    assert decoded.problem in {"corrupt", "truncated"}
    assert BODY[: len(BODY) // 2] == decoded.data[: len(BODY) // 2]


def test_a_wrong_checksum_leaves_the_data() -> None:
    whole = bytearray(gzip.compress(BODY))
    whole[-8] ^= 1
    assert decode(bytes(whole), "gzip") == Decoded(BODY, "corrupt")


@every_encoding
def test_what_is_not_encoded_at_all_is_corrupt(encoding: str) -> None:
    assert decode(b"not compressed in any way" * 9, encoding).problem in {"corrupt", "truncated"}


def test_rubbish_after_the_end_is_corrupt_but_costs_nothing() -> None:
    assert decode(gzip.compress(BODY) + b"rubbish", "gzip") == Decoded(BODY, "corrupt")
    assert decode(zlib.compress(BODY) + b"rubbish", "deflate") == Decoded(BODY, "corrupt")
    assert decode(ENCODERS["br"](BODY) + b"rubbish", "br") == Decoded(BODY, "corrupt")


@every_encoding
def test_a_limit_cuts_the_output(encoding: str) -> None:
    assert decode(ENCODERS[encoding](BODY), encoding, limit=1000) == Decoded(BODY[:1000], "too_large")
    assert decode(ENCODERS[encoding](BODY), encoding, limit=len(BODY)) == Decoded(BODY)


def test_a_limit_cuts_what_is_not_encoded() -> None:
    assert decode(BODY, "", limit=1000) == Decoded(BODY[:1000], "too_large")


@every_encoding
def test_a_bomb_is_stopped_within_the_limit(encoding: str) -> None:
    bomb = ENCODERS[encoding](bytes(64 << 20))
    tracemalloc.start()
    decoded = decode(bomb, encoding, limit=1 << 20)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (len(decoded.data), decoded.problem) == (1 << 20, "too_large")
    assert peak < 24 << 20


@pytest.mark.parametrize("encoding", ["compress", "gzip, secret", "gzip; q=1", ", ".join(["gzip"] * 5)])
def test_an_unknown_encoding_is_left_alone(encoding: str) -> None:
    assert decode(b"\x1f\x8bbytes", encoding) == Decoded(b"\x1f\x8bbytes", "unknown_encoding")


def test_a_list_is_undone_as_far_as_it_is_known() -> None:
    assert decode(gzip.compress(b"inner"), "secret, gzip") == Decoded(b"inner", "unknown_encoding")


@given(body=st.binary(max_size=300), encoding=st.sampled_from([*ENCODERS, "gzip, br"]), cut=st.integers(0, 300))
def test_any_bytes_decode_to_something(body: bytes, encoding: str, cut: int) -> None:
    prefix = ENCODERS[encoding.partition(",")[0]](b"x" * 40)[:cut]
    assert len(decode(prefix + body, encoding, limit=5000).data) <= 5000


@every_encoding
@pytest.mark.parametrize("size", [(1 << 18) - 1, 1 << 18, (1 << 19) + 1, 3 << 20])
def test_a_body_that_expands_a_lot_decodes_to_its_last_byte(encoding: str, size: int) -> None:
    """Much of the output may still be to come when the last of the input has been taken."""
    assert decode(ENCODERS[encoding](bytes(size)), encoding) == Decoded(bytes(size))


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
@pytest.mark.parametrize("part", [b"", b"x"])
def test_a_body_in_tens_of_thousands_of_parts_is_too_large(encoding: str, part: bytes) -> None:
    decoded = decode(ENCODERS[encoding](part) * 60_000, encoding)
    assert (part * 50_000, "too_large") == (decoded.data, decoded.problem)
    assert decode(ENCODERS[encoding](part) * 40_000, encoding) == Decoded(part * 40_000)


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd"])
def test_a_bomb_in_a_bomb_is_stopped_within_the_limit(coding: str) -> None:
    """Half a gigabyte in a few dozen bytes; the limit holds for what lies between two codings, too."""
    compress = ENCODERS[coding]
    inner = compress(bytes(64 << 20)) if coding != "gzip" else gzip.compress(bytes(8 << 20)) * 8
    bomb = compress(inner * 8) if coding != "br" else compress(inner)
    tracemalloc.start()
    decoded = decode(bomb, f"{coding}, {coding}", limit=4 << 20)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (4 << 20, "too_large") == (len(decoded.data), decoded.problem)
    assert peak < 32 << 20
