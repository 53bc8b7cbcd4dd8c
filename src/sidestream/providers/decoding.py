"""Undo a body's ``Content-Encoding``, for reading only: the relay never decodes.

A captured body can be cut, corrupt or a bomb (Brotli expands 625,000 times), so decoding goes in small steps, stops at
a limit on the output, and gives back whatever could be decoded together with a word about what went wrong.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final, Protocol

import brotli
import msgspec
import zstandard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LIMIT: Final = 64 << 20
"""How much decoded output is kept, in bytes, unless told otherwise."""
_STEP: Final = 256 << 10
_MOST_CODINGS: Final = 4
_MOST_MEMBERS: Final = 50_000
"""gzip members, or zstd frames, of one body: an empty one costs as much as thousands of bytes."""
_ZSTD_WINDOW: Final = 64 << 20
"""RFC 9659 allows 8 MiB; a frame written in one go may ask for as much as it holds."""


class Decoded(msgspec.Struct, frozen=True):
    """A body after decoding.

    `problem` is None when `data` is all there was, otherwise the first of: ``truncated`` (the input stops early),
    ``corrupt`` (it cannot be continued), ``too_large`` (the limit was reached, or it is in too many parts),
    ``unknown_encoding`` (`data` is the input of the coding that is not known).
    """

    data: bytes
    problem: str | None = None

    @property
    def complete(self) -> bool:
        """Whether `data` is the whole body."""
        return self.problem is None


def decode(body: bytes, encoding: str, *, limit: int = LIMIT) -> Decoded:
    """Decode `body`, whose ``Content-Encoding`` is `encoding` (a comma list is undone from its end). Never raises."""
    codings = [name for name in (part.strip().lower() for part in encoding.split(",")) if name not in {"", "identity"}]
    decoded = Decoded(body) if len(body) <= limit else Decoded(body[:limit], "too_large")
    if not codings or not body:
        return decoded
    if len(codings) > _MOST_CODINGS:
        return Decoded(decoded.data, "unknown_encoding")
    data, problem = body, None
    for name in reversed(codings):
        coding = _CODINGS.get(name)
        if coding is None:
            return Decoded(data[:limit], problem or "unknown_encoding")
        data, trouble = coding(data, limit)
        problem = problem or trouble
    return Decoded(data, problem)


class _Coding(Protocol):
    """A decompressor. What it yields is bounded per item, so that a bomb can be stopped in time."""

    step: int
    """How many bytes of input to give it at once."""

    @property
    def finished(self) -> bool:
        """Whether the input may end here."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Decode some more."""


class _TooManyMembers(Exception):
    """A body that is in more parts than anybody would make of it."""


_Corrupt = (zlib.error, brotli.error, zstandard.ZstdError)


def _run(make: Callable[[], _Coding], body: bytes, limit: int) -> tuple[bytes, str | None]:
    """Decode with one coding; give what came out and a word about the end."""
    good = 0
    output = bytearray()
    try:
        coding = make()
        for start in range(0, len(body), coding.step):
            for chunk in coding.feed(body[start : start + coding.step]):
                output += chunk
                if len(output) > limit:
                    del output[limit:]
                    return bytes(output), "too_large"
            good = start + coding.step
        return bytes(output), None if coding.finished else "truncated"
    except _TooManyMembers:
        return bytes(output), "too_large"
    except _Corrupt:
        return _rescue(make, body, good, limit), "corrupt"


def _rescue(make: Callable[[], _Coding], body: bytes, good: int, limit: int) -> bytes:
    """Decode again up to the fault, the last step byte by byte: what a step gave before it failed is lost otherwise."""
    output = bytearray()
    try:
        coding = make()
        for start, end in _slices(good, len(body), coding.step):
            for chunk in coding.feed(body[start:end]):
                output += chunk
                if len(output) >= limit:
                    del output[limit:]
                    return bytes(output)
    except (_TooManyMembers, *_Corrupt):
        pass
    return bytes(output)


def _slices(good: int, size: int, step: int) -> Iterator[tuple[int, int]]:
    for start in range(0, good, step):
        yield start, start + step
    for start in range(good, size):
        yield start, start + 1


class _Zlib:
    """gzip (any number of members, RFC 1952) and deflate (RFC 1950, or the raw RFC 1951 that many servers send)."""

    step = 16 << 10

    def __init__(self, window: int, *, members: bool = False) -> None:
        self._window = window
        self._left = _MOST_MEMBERS if members else 1
        self._too_many = _TooManyMembers() if members else zlib.error("something follows the end")
        self._inflate = zlib.decompressobj(window)

    @property
    def finished(self) -> bool:
        return self._inflate.eof

    def feed(self, data: bytes) -> Iterator[bytes]:
        more = True
        while data or more:
            if self._inflate.eof:
                if not data.strip(b"\0"):
                    return
                self._left -= 1
                if not self._left:
                    raise self._too_many
                self._inflate = zlib.decompressobj(self._window)
            chunk = self._inflate.decompress(data, _STEP)
            more = len(chunk) == _STEP
            data = self._inflate.unconsumed_tail or self._inflate.unused_data
            yield chunk


class _Brotli:
    step = 16 << 10

    def __init__(self) -> None:
        self._decompressor = brotli.Decompressor()

    @property
    def finished(self) -> bool:
        return bool(self._decompressor.is_finished())

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Decode some more; when all input has been taken, there may still be output that a limit held back."""
        decompressor = self._decompressor
        chunk = decompressor.process(data, output_buffer_limit=_STEP)
        yield chunk
        while not decompressor.is_finished() and (chunk or not decompressor.can_accept_more_data()):
            chunk = decompressor.process(b"", output_buffer_limit=_STEP)
            yield chunk


class _Zstd:
    """Any number of frames (RFC 8878).

    The step is small because one step's output cannot be limited: it is at most 128 KiB for every four bytes.
    """

    step = 256

    def __init__(self) -> None:
        self._context = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
        self._frame = self._context.decompressobj()
        self._begun = False
        self._left = _MOST_MEMBERS

    @property
    def finished(self) -> bool:
        return not self._begun

    def feed(self, data: bytes) -> Iterator[bytes]:
        while data:
            self._begun = True
            chunk = self._frame.decompress(data)
            data = b""
            if self._frame.eof:
                data = self._frame.unused_data
                self._frame = self._context.decompressobj()
                self._begun = False
                self._left -= 1
                if not self._left:
                    yield chunk
                    raise _TooManyMembers
            yield chunk


def _gzip(body: bytes, limit: int) -> tuple[bytes, str | None]:
    return _run(lambda: _Zlib(31, members=True), body, limit)


def _deflate(body: bytes, limit: int) -> tuple[bytes, str | None]:
    wrapped = body[0] & 15 == 8 and int.from_bytes(body[:2].ljust(2)) % 31 == 0 if body else True
    return _run(lambda: _Zlib(15 if wrapped else -15), body, limit)


def _brotli(body: bytes, limit: int) -> tuple[bytes, str | None]:
    return _run(_Brotli, body, limit)


def _zstd(body: bytes, limit: int) -> tuple[bytes, str | None]:
    return _run(_Zstd, body, limit)


_CODINGS: Final = {"gzip": _gzip, "x-gzip": _gzip, "deflate": _deflate, "br": _brotli, "zstd": _zstd}
