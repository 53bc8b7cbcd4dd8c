"""Records and traces as blobs, and back again exactly; no SQL, no I/O.

A record becomes four: its facts (JSON), the lengths and times of its chunks (MessagePack), and the two bodies. A trace
is JSON. Each blob begins with a byte that says whether the rest is compressed, which it is where that makes it smaller.
"""

from __future__ import annotations

import json
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import zstandard

from sidestream.providers.jsons import clean, text_of
from sidestream.traces.model import Trace
from sidestream.traces.record import Record

if TYPE_CHECKING:
    from collections.abc import Sequence

_PLAIN, _ZSTD = b"\0", b"\1"
_WORTH_IT = 512
"""Bytes below which compression is not tried."""
_BODIES = frozenset({"request_chunks", "response_chunks", "response_times"})
_FACTS = tuple(name for name in Record.__struct_fields__ if name not in _BODIES)
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_UNFIT = (TypeError, ValueError, OverflowError, RecursionError)
"""What an encoder raises; ValueError covers lone surrogates, and integers beyond what Python converts."""


class PackedRecord(NamedTuple):
    """A record, as the table `captures` has it."""

    facts: bytes
    chunks: bytes
    request: bytes
    response: bytes


class Packer:
    """Packs and unpacks; for one thread at a time."""

    def __init__(self) -> None:
        self._compressor = zstandard.ZstdCompressor(level=3, write_checksum=True)
        self._decompressor = zstandard.ZstdDecompressor()

    def squeeze(self, data: bytes) -> bytes:
        """One blob, a byte longer than `data` at most."""
        if len(data) >= _WORTH_IT:
            smaller = self._compressor.compress(data)
            if len(smaller) < len(data):
                return _ZSTD + smaller
        return _PLAIN + data

    def expand(self, blob: bytes) -> bytes:
        """What was squeezed; `ValueError` if the blob is damaged."""
        if blob[:1] == _PLAIN:
            return blob[1:]
        if blob[:1] != _ZSTD:
            raise ValueError("a blob that is damaged")
        try:
            return self._decompressor.decompress(memoryview(blob)[1:])
        except zstandard.ZstdError as error:
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
                request_chunks=_split(self.expand(packed.request), sent),
                response_chunks=_split(self.expand(packed.response), received),
                response_times=tuple(times),
            )
        except (TypeError, KeyError, msgspec.MsgspecError) as error:
            raise ValueError("a record that is damaged") from error

    def pack_trace(self, trace: Trace) -> bytes:
        """A trace as one blob; `ValueError` for one that no JSON can hold."""
        try:
            try:
                return self.squeeze(_json(trace))
            except _UNFIT:
                return self.squeeze(_json(Trace(**clean(msgspec.structs.asdict(trace)))))
        except _UNFIT as error:
            raise ValueError("a trace that no JSON can hold") from error

    def unpack_trace(self, blob: bytes) -> Trace:
        """The trace; `ValueError` if the blob is damaged."""
        return msgspec.json.decode(self.expand(blob), type=Trace)

    def _packed(self, record: Record) -> PackedRecord:
        facts = {name: getattr(record, name) for name in _FACTS}
        lengths = [list(map(len, chunks)) for chunks in (record.request_chunks, record.response_chunks)]
        try:
            # Lone surrogates are bytes that were no UTF-8. msgspec refuses them, and ASCII escapes would join two.
            text = _encode(facts).encode("utf-8", "surrogatepass")
            chunks = msgspec.msgpack.encode((*lengths, record.response_times))
        except _UNFIT as error:
            raise ValueError("a record that cannot be packed") from error
        return PackedRecord(
            self.squeeze(text),
            self.squeeze(chunks),
            self.squeeze(b"".join(record.request_chunks)),
            self.squeeze(b"".join(record.response_chunks)),
        )


def _json(trace: Trace) -> bytes:
    """Message by message: one call of an encoder holds the interpreter, and with it a relay in the same process."""
    encode = msgspec.json.encode
    messages = b",".join([encode(message) for message in trace.messages])
    head = text_of({"id": trace.id, "dataset": trace.dataset, "metadata": trace.metadata}).encode()
    return b"".join((head[:-1], b',"messages":[', messages, b"]}"))


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
