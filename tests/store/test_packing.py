"""What is packed comes back exactly, and nothing that a wire can bring keeps it from being packed."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidestream.store import packing
from sidestream.store.packing import Packer
from sidestream.traces.record import Record
from stored import a_record

NO_LIMIT = 1 << 30
ANY_TEXT = st.text(st.characters(), max_size=30) | st.text("\ud83d\ude00\udc80\udcff\x00é😀", max_size=6)
NUMBER = st.floats(allow_nan=False)
CHUNKS = st.lists(st.binary(max_size=200), max_size=8).map(tuple)
HEADERS = st.dictionaries(ANY_TEXT, ANY_TEXT, max_size=4)
RECORDS = st.builds(
    Record,
    id=ANY_TEXT,
    dataset=ANY_TEXT,
    provider=ANY_TEXT,
    fingerprint=ANY_TEXT,
    method=ANY_TEXT,
    path=ANY_TEXT,
    request_headers=HEADERS,
    request_chunks=CHUNKS,
    request_truncated=st.booleans(),
    request_complete=st.booleans(),
    status=st.none() | st.integers(),
    response_headers=HEADERS,
    response_chunks=CHUNKS,
    response_times=st.lists(NUMBER, max_size=8).map(tuple),
    response_truncated=st.booleans(),
    outcome=ANY_TEXT,
    error=st.none() | ANY_TEXT,
    started_at=NUMBER,
    time_to_first_byte=st.none() | NUMBER,
    duration=NUMBER,
    end_verifiable=st.booleans(),
    exact=st.booleans(),
)


@given(RECORDS)
def test_a_record_comes_back_exactly(record: Record) -> None:
    packer = Packer()
    assert record == packer.unpack(packer.pack(record, NO_LIMIT))


@given(st.binary(max_size=300) | st.binary(min_size=1, max_size=3).map(lambda data: data * 999))
def test_a_blob_comes_back_and_is_a_byte_longer_at_most(data: bytes) -> None:
    packer = Packer()
    blob = packer.squeeze(data)
    assert data == packer.expand(blob)
    assert len(blob) <= len(data) + 1


def test_a_body_that_is_compressed_already_comes_back_as_it_was() -> None:
    packer = Packer()
    compressed = packer.squeeze(b"x" * 1000)[1:]  # a whole zstd frame
    assert compressed == packer.expand(packer.squeeze(compressed))


@pytest.mark.parametrize("damaged", [b"", b"\x07abc", b"\x01abc"])
def test_a_damaged_blob_is_a_value_error(damaged: bytes) -> None:
    with pytest.raises(ValueError):
        Packer().expand(damaged)


@pytest.mark.parametrize("field", ["facts", "chunks", "response"])
def test_a_flipped_bit_in_a_compressed_blob_is_a_value_error(field: str) -> None:
    packer = Packer()
    chunks: dict[str, Any] = {
        "request_headers": {"a": "b" * 1000},
        "request_chunks": (b"a" * 1000,),
        "response_chunks": (b"b" * 500,) * 90,
        "response_times": (0.5,) * 90,
    }
    packed = packer.pack(a_record(**chunks), NO_LIMIT)
    blob = bytearray(getattr(packed, field))
    assert blob[0] == 1
    blob[-1] ^= 1  # the checksum's last byte
    with pytest.raises(ValueError):
        packer.unpack(packed._replace(**{field: bytes(blob)}))


def test_bodies_beyond_what_a_row_holds_are_cut_and_marked() -> None:
    packer = Packer()
    chunks = tuple(os.urandom(100) for _ in range(100))
    record = a_record(request_chunks=chunks, response_chunks=chunks, response_times=tuple(map(float, range(100))))
    most = 5000
    packed = packer.pack(record, most)
    back = packer.unpack(packed)
    assert sum(map(len, packed)) <= most
    assert back.request_truncated
    assert back.response_truncated
    assert 0 < len(back.response_chunks) < 100
    assert chunks[: len(back.response_chunks)] == back.response_chunks
    assert len(back.response_chunks) == len(back.response_times)


def test_a_body_that_fits_is_not_cut() -> None:
    packer = Packer()
    record = a_record()
    size = sum(map(len, packer.pack(record, NO_LIMIT)))
    assert record == packer.unpack(packer.pack(record, size))


def test_a_head_that_is_too_large_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="head"):
        Packer().pack(a_record(), 50)


def test_a_record_of_things_that_are_not_json_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="packed"):
        Packer().pack(a_record(request_headers={"a": object()}), NO_LIMIT)


@given(st.binary(min_size=1, max_size=300), st.binary(max_size=300))
def test_a_blob_that_was_packed_with_another_text_comes_back_with_that(base: bytes, data: bytes) -> None:
    packer = Packer()
    blob = packer.squeeze_with(base, data)
    assert blob is not None
    assert data == packer.expand(blob, base)


def test_a_blob_packed_with_a_text_that_it_repeats_is_small() -> None:
    packer = Packer()
    base = os.urandom(100_000)
    blob = packer.squeeze_with(base, base[:50_000] + b"something new" + base[50_000:])
    assert blob is not None
    assert len(blob) < 300


@pytest.mark.parametrize("megabytes", [2, 20])
def test_what_is_repeated_of_a_large_text_is_found_wherever_it_is(megabytes: int) -> None:
    """Images make requests large, and are sent along with every call."""
    packer = Packer()
    base = os.urandom(megabytes << 20)
    data = base[:500] + b"something new" + base[500:]
    blob = packer.squeeze_with(base, data)
    assert blob is not None
    assert len(blob) < 10_000
    assert data == packer.expand(blob, base)


def test_a_text_that_is_empty_or_too_large_is_no_dictionary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "_LARGEST", 1000)
    packer = Packer()
    assert packer.squeeze_with(b"", b"a" * 100) is None
    assert packer.squeeze_with(b"a" * 500, b"a" * 501) is None
    assert packer.squeeze_with(b"a" * 500, b"a" * 500) is not None


@pytest.mark.parametrize("wrong", [None, b"", bytes(2000), b"short"])
def test_a_wrong_dictionary_is_noticed(wrong: bytes | None) -> None:
    packer = Packer()
    base = os.urandom(2000)
    blob = packer.squeeze_with(base, base[500:])
    assert blob is not None
    with pytest.raises(ValueError):
        packer.expand(blob, wrong)


def test_a_size_that_is_damaged_asks_for_no_memory() -> None:
    """The frame's head says that a petabyte follows."""
    head = bytes([1, 0x28, 0xB5, 0x2F, 0xFD, 0xE0])
    with pytest.raises(ValueError):
        Packer().expand(head + (1 << 50).to_bytes(8, "little") + bytes([1, 0, 0]))
