"""Records and texts as blobs, and back again exactly; no SQL, no I/O.

A record becomes four: its facts (JSON), the lengths and times of its chunks (MessagePack), and the two bodies. A blob
begins with a byte that says how the rest is packed: as it is, compressed, or compressed with another text, of which it
repeats much, as the dictionary.
"""

from __future__ import annotations

import contextlib
import json
import math
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
import zstandard

from sidestream.traces.record import Record

if TYPE_CHECKING:
    from collections.abc import Sequence

_PLAIN, _ZSTD, _BASED = b"\0", b"\1", b"\2"
_LEVEL: Final = 3
_SMALL: Final = 8 << 10
"""Bytes up to which the lowest level makes nearly as little of a text, in two thirds of the time."""
_WORTH_IT: Final = 512
"""Bytes below which compression is not tried."""
_LARGE: Final = 512 << 10
"""Bytes of a text and its dictionary beyond which the level's own tables are too small to find what is repeated."""
_FAST: Final = 16 << 20
"""Bytes of a dictionary beyond which zstd's fast strategies look at its end alone."""
_LARGEST: Final = 128 << 20
"""Bytes of both beyond which no dictionary is used: it takes as much memory again."""
_BODIES = frozenset({"request_chunks", "response_chunks", "response_times"})
_FACTS = tuple(name for name in Record.__struct_fields__ if name not in _BODIES)
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_UNFIT = (TypeError, ValueError, OverflowError, RecursionError)
"""What an encoder raises; ValueError covers lone surrogates, and integers beyond what Python converts."""


class PackedRecord(NamedTuple):
    """A record, as the table `captures` has it; but the request is left as it was, for it may repeat another's."""

    facts: bytes
    chunks: bytes
    request: bytes
    response: bytes


class Packer:
    """Packs and unpacks; for one thread at a time."""

    def __init__(self) -> None:
        self._compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True)
        self._quick_compressor = zstandard.ZstdCompressor(level=1, write_checksum=True)
        self._decompressor = zstandard.ZstdDecompressor()

    def squeeze(self, data: bytes) -> bytes:
        """One blob, a byte longer than `data` at most."""
        if len(data) >= _WORTH_IT:
            compressor = self._compressor if len(data) > _SMALL else self._quick_compressor
            smaller = compressor.compress(data)
            if len(smaller) < len(data):
                return _ZSTD + smaller
        return _PLAIN + data

    def squeeze_with(self, base: bytes, data: bytes) -> bytes | None:
        """One blob that only `base` makes readable again; None where both are too large for that."""
        if not base or len(base) + len(data) > _LARGEST:
            return None
        dictionary = zstandard.ZstdCompressionDict(base, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
        compressor = zstandard.ZstdCompressor(
            dict_data=dictionary, compression_params=_parameters(len(base), len(data))
        )
        return _BASED + compressor.compress(data)

    def expand(self, blob: bytes, base: bytes | None = None) -> bytes:
        """What was squeezed; `ValueError` if the blob is damaged, or `base` is not what it was squeezed with."""
        kind, decompressor = blob[:1], self._decompressor
        if kind == _PLAIN:
            return blob[1:]
        if kind == _BASED and base:
            dictionary = zstandard.ZstdCompressionDict(base, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
            decompressor = zstandard.ZstdDecompressor(dict_data=dictionary)
        elif kind != _ZSTD:
            raise ValueError("a blob that is damaged")
        try:
            return decompressor.decompress(memoryview(blob)[1:])
        except (zstandard.ZstdError, MemoryError) as error:  # memory, where it is the size that is damaged
            raise ValueError("a blob that is damaged") from error

    def pack(self, record: Record, most: int) -> PackedRecord:
        """A record in `most` bytes: what a row can hold. Beyond that the bodies are cut, and marked as truncated.

        `ValueError` for one that cannot be packed at all.
        """
        packed, share = self._packed(record), most // 2
        while sum(map(len, packed)) > most:
            if not share:
                raise ValueError("a record whose head alone is too large")
            packed = self._packed(_cut(record, share))
            share //= 2
        return packed

    def unpack(self, packed: PackedRecord) -> Record:
        """The record, exactly; `ValueError` if a blob is damaged."""
        try:
            facts = json.loads(self.expand(packed.facts).decode("utf-8", "surrogatepass"))
            sent, received, times = msgspec.msgpack.decode(self.expand(packed.chunks))
            return Record(
                **{name: facts[name] for name in _FACTS if name in facts},
                request_chunks=_split(packed.request, sent),
                response_chunks=_split(self.expand(packed.response), received),
                response_times=tuple(times),
            )
        except (TypeError, KeyError, msgspec.MsgspecError) as error:
            raise ValueError("a record that is damaged") from error

    def _packed(self, record: Record) -> PackedRecord:
        facts = {name: getattr(record, name) for name in _FACTS}
        lengths = [list(map(len, chunks)) for chunks in (record.request_chunks, record.response_chunks)]
        try:
            text = _text_of(record, facts)
            chunks = msgspec.msgpack.encode((*lengths, record.response_times))
        except _UNFIT as error:
            raise ValueError("a record that cannot be packed") from error
        return PackedRecord(
            self.squeeze(text),
            self.squeeze(chunks),
            b"".join(record.request_chunks),
            self.squeeze(b"".join(record.response_chunks)),
        )


def _text_of(record: Record, facts: dict[str, Any]) -> bytes:
    """The facts as JSON, which gives them back exactly.

    Lone surrogates are bytes that were no UTF-8: msgspec refuses them, and ASCII escapes would join two. It has no word
    for a number that is none, either.
    """
    if math.isfinite(record.started_at + record.duration + (record.time_to_first_byte or 0.0)):
        with contextlib.suppress(*_UNFIT):
            return msgspec.json.encode(facts)
    return _encode(facts).encode("utf-8", "surrogatepass")


def _parameters(base: int, size: int) -> zstandard.ZstdCompressionParameters:
    """Such that all of both can be looked back to, and is: the level's own tables remember only the latest of it."""
    window = max((base + size).bit_length(), zstandard.WINDOWLOG_MIN)
    tables: dict[str, int] = {}
    if base > _FAST:
        depth = {"search_log": 2, "min_match": 6}
        tables = {"hash_log": 24, "chain_log": 24, "strategy": zstandard.STRATEGY_GREEDY, **depth}
    elif base + size > _LARGE:
        tables = {"hash_log": window - 3, "strategy": zstandard.STRATEGY_FAST}
    return zstandard.ZstdCompressionParameters.from_level(
        _LEVEL, source_size=size, dict_size=base, window_log=window, write_checksum=True, **tables
    )


def _split(data: bytes, lengths: Sequence[int]) -> tuple[bytes, ...]:
    if len(data) != sum(lengths):
        raise ValueError("a body that is damaged")
    return tuple(data[start:end] for start, end in pairwise(accumulate(lengths, initial=0)))


def _cut(record: Record, most: int) -> Record:
    """The record with at most `most` bytes, and as many chunks, of each body."""
    request, response = _first(record.request_chunks, most), _first(record.response_chunks, most)
    changes: dict[str, Any] = {
        "request_chunks": request,
        "request_truncated": record.request_truncated or len(request) < len(record.request_chunks),
        "response_chunks": response,
        "response_times": record.response_times[: len(response)],
        "response_truncated": record.response_truncated or len(response) < len(record.response_chunks),
    }
    return msgspec.structs.replace(record, **changes)


def _first(chunks: Sequence[bytes], most: int) -> tuple[bytes, ...]:
    """Whole chunks only."""
    fitting = sum(1 for size in accumulate(map(len, chunks)) if size <= most)
    return tuple(chunks[: min(fitting, most)])
