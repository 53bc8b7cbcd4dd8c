"""Entries in, records out: the pieces of many exchanges at once, put together again.

Sans-IO, but for one thing: what is gathered of a body beyond a megabyte lies in an unlinked file in the folder that is
given for it, so that hundreds of long exchanges under way do not fill the memory. Without a folder it stays there.
"""

from __future__ import annotations

import array
import os
import tempfile
from typing import TYPE_CHECKING, Any

import msgspec

from sidestream.traces.entries import Begin, End, Entry, Head, Kind
from sidestream.traces.record import Record

if TYPE_CHECKING:
    import io
    from collections.abc import Iterator
    from pathlib import Path

_IN_MEMORY = 1 << 20
_BEGIN, _RESPONSE = int(Kind.BEGIN), int(Kind.RESPONSE)  # compared per entry; several times faster than the members


class _Body:
    """A body under way: its bytes, the lengths of its chunks and their times."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._file: io.FileIO | None = None
        self._spilled = 0
        self._rest = bytearray()
        """What is not in the file."""
        self.lengths = array.array("Q")
        self.times = array.array("d")
        self.truncated = False
        """Whether there was no room for the rest."""

    def add(self, data: bytes, time: float) -> None:
        if self.truncated:
            return
        self._rest += data
        self.lengths.append(len(data))
        self.times.append(time)
        if self._folder is not None and len(self._rest) > _IN_MEMORY:
            self._spill()

    def read(self) -> bytes:
        """All its bytes; where the file cannot be read, none: then it has no chunks either."""
        try:
            return self._from_file() + self._rest
        except OSError:
            self.truncated = True
            self.lengths, self.times = array.array("Q"), array.array("d")
            return b""

    def chunks(self) -> tuple[bytes, ...]:
        """The chunks as they came; copied one by one."""
        view, ends = self.read(), []
        position = 0
        for length in self.lengths:
            ends.append(view[position : position + length])
            position += length
        return tuple(ends)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    __del__ = close  # a gathering may be dropped as it is

    def _spill(self) -> None:
        """Move what is in memory to the file; without room for it, it stays, and nothing more is taken."""
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(buffering=0, dir=self._folder)  # noqa: SIM115  # lives as long as this
            rest = memoryview(self._rest)
            while rest:
                count = os.pwrite(self._file.fileno(), rest, self._spilled + len(self._rest) - len(rest))
                rest = rest[count:]
        except OSError:
            self.truncated = True
            return
        self._spilled += len(self._rest)
        self._rest = bytearray()

    def _from_file(self) -> bytes:
        if self._file is None:
            return b""
        data = bytearray(self._spilled)
        self._file.seek(0)
        view = memoryview(data)
        while view:
            count = self._file.readinto(view)
            if not count:
                raise OSError("the file of a body is shorter than what was written to it")
            view = view[count:]
        return bytes(data)


class _State(msgspec.Struct):
    """An exchange under way, packed (`Gathering.pack`). Of a body: bytes, lengths, times, and whether truncated."""

    begin: Begin
    head: Head | None
    commit: End | None
    last: float
    request: tuple[bytes, bytes, bytes, bool]
    response: tuple[bytes, bytes, bytes, bool]


class _Open:
    def __init__(self, begin: Begin, folder: Path | None) -> None:
        self.begin = begin
        self.head: Head | None = None
        self.commit: End | None = None
        self.request = _Body(folder)
        self.response = _Body(folder)
        self.last = 0.0

    def record(self, end: End) -> Record:
        head = self.head
        return Record(
            **_fields(self.begin),
            request_chunks=self.request.chunks(),
            response_chunks=self.response.chunks(),
            response_times=tuple(self.response.times),
            **(_fields(head) if head is not None else {}),
            **_fields(end)
            | {
                "request_truncated": end.request_truncated or self.request.truncated,
                "response_truncated": end.response_truncated or self.response.truncated,
            },
        )

    def close(self) -> None:
        self.request.close()
        self.response.close()


class Gathering:
    """The open exchanges of one relay."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._open: dict[int, _Open] = {}

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[int]:
        return iter(self._open)

    def add(self, entry: Entry) -> Record | None:
        """Take the next entry; the whole exchange, where this was its end. Entries without a beginning are passed over.

        `ValueError` for an entry that is not what its kind says; its exchange is forgotten.
        """
        try:
            return self._add(entry)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            self.forget(entry.number)
            raise ValueError("an entry that is not what its kind says") from error

    def _add(self, entry: Entry) -> Record | None:
        kind, number, time, data = entry
        if kind == _BEGIN:
            self.forget(number)
            self._open[number] = _Open(msgspec.msgpack.decode(data, type=Begin), self._folder)
            return None
        exchange = self._open.get(number)
        if exchange is None:
            return None
        exchange.last = max(exchange.last, time)
        if kind == _RESPONSE:
            exchange.response.add(data, time)
        elif kind == Kind.REQUEST:
            exchange.request.add(data, time)
        elif kind == Kind.HEAD:
            exchange.head = msgspec.msgpack.decode(data, type=Head)
        elif kind == Kind.COMMIT:
            exchange.commit = msgspec.msgpack.decode(data, type=End)
        elif kind == Kind.END:
            record = exchange.record(msgspec.msgpack.decode(data, type=End))
            self.forget(number)
            return record
        elif kind == Kind.ABANDON:
            self.forget(number)
        return None

    def forget(self, number: int) -> None:
        """Let go of an exchange."""
        if exchange := self._open.pop(number, None):
            exchange.close()

    def interrupted(self) -> list[Record]:
        """All that is open, as it will stay because its relay is dead; empty afterwards.

        What was committed had all but its end relayed, so it ended as its commit says.
        """
        records = [exchange.record(exchange.commit or _cut(exchange)) for exchange in self._open.values()]
        for number in list(self._open):
            self.forget(number)
        return records

    def pack(self, number: int) -> bytes:
        """What was gathered of an open exchange, as bytes."""
        exchange = self._open[number]
        bodies = _packed(exchange.request), _packed(exchange.response)
        return msgspec.msgpack.encode(_State(exchange.begin, exchange.head, exchange.commit, exchange.last, *bodies))

    def unpack(self, number: int, packed: bytes) -> None:
        """Take up an exchange as `pack` left it; `ValueError` if these bytes are not from there."""
        try:
            state = msgspec.msgpack.decode(packed, type=_State)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ValueError("not a packed exchange") from error
        exchange = _Open(state.begin, self._folder)
        exchange.head, exchange.commit, exchange.last = state.head, state.commit, state.last
        packed_bodies = (exchange.request, state.request), (exchange.response, state.response)
        for body, (data, lengths, times, truncated) in packed_bodies:
            position = 0
            for length, time in zip(_unpacked("Q", lengths), _unpacked("d", times), strict=True):
                body.add(data[position : position + length], time)
                position += length
            body.truncated |= truncated
        self.forget(number)
        self._open[number] = exchange


def _fields(struct: msgspec.Struct) -> dict[str, Any]:
    return {name: getattr(struct, name) for name in struct.__struct_fields__}


def _packed(body: _Body) -> tuple[bytes, bytes, bytes, bool]:
    return body.read(), body.lengths.tobytes(), body.times.tobytes(), body.truncated


def _unpacked(typecode: str, data: bytes) -> array.array[Any]:
    values = array.array(typecode)
    values.frombytes(data)
    return values


def _cut(exchange: _Open) -> End:
    return End(
        request_truncated=False,
        request_complete=exchange.head is not None,
        response_truncated=False,
        outcome="interrupted",
        error=None,
        duration=exchange.last,
        end_verifiable=True,
        exact=True,
    )
