"""Entries in, records out: the pieces of many exchanges at once, put together again.

Sans-IO. What is gathered of a body beyond a megabyte lies in an unlinked temporary file, so that hundreds of long
exchanges under way do not fill the memory.
"""

from __future__ import annotations

import array
import tempfile
from typing import TYPE_CHECKING, Any

import msgspec

from sidestream.traces.entries import Begin, End, Entry, Head, Kind
from sidestream.traces.record import Record

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_IN_MEMORY = 1 << 20


class _Body:
    """A body under way: its bytes, the lengths of its chunks and their times."""

    def __init__(self, folder: Path | None) -> None:
        where = None if folder is None else str(folder)
        self._file = tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=where)  # noqa: SIM115  # lives as long as this
        self.lengths = array.array("Q")
        self.times = array.array("d")
        self.truncated = False
        """Whether there was no room for the rest."""

    def add(self, data: bytes, time: float) -> None:
        if self.truncated:
            return
        size = self._file.tell()
        try:
            self._file.write(data)
        except OSError:
            self.truncated = True
            self._file.seek(size)
            return
        self.lengths.append(len(data))
        self.times.append(time)

    def read(self) -> bytes:
        self._file.seek(0)
        data: bytes = self._file.read()
        return data

    def chunks(self) -> tuple[bytes, ...]:
        """The chunks as they came; copied one by one."""
        view, ends = self.read(), []
        position = 0
        for length in self.lengths:
            ends.append(view[position : position + length])
            position += length
        return tuple(ends)

    def close(self) -> None:
        self._file.close()


class _State(msgspec.Struct):
    """An exchange under way, packed (`Gathering.pack`)."""

    begin: Begin
    head: Head | None
    commit: End | None
    request: tuple[bytes, bytes, bytes]
    response: tuple[bytes, bytes, bytes]


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
        if kind == Kind.BEGIN:
            self.forget(number)
            self._open[number] = _Open(msgspec.msgpack.decode(data, type=Begin), self._folder)
            return None
        exchange = self._open.get(number)
        if exchange is None:
            return None
        exchange.last = max(exchange.last, time)
        if kind == Kind.RESPONSE:
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
        return msgspec.msgpack.encode(_State(exchange.begin, exchange.head, exchange.commit, *bodies))

    def unpack(self, number: int, packed: bytes) -> None:
        """Take up an exchange as `pack` left it; `ValueError` if these bytes are not from there."""
        try:
            state = msgspec.msgpack.decode(packed, type=_State)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ValueError("not a packed exchange") from error
        exchange = _Open(state.begin, self._folder)
        exchange.head, exchange.commit = state.head, state.commit
        for body, (data, lengths, times) in ((exchange.request, state.request), (exchange.response, state.response)):
            position = 0
            for length, time in zip(_unpacked("Q", lengths), _unpacked("d", times), strict=True):
                body.add(data[position : position + length], time)
                position += length
        self.forget(number)
        self._open[number] = exchange


def _fields(struct: msgspec.Struct) -> dict[str, Any]:
    return {name: getattr(struct, name) for name in struct.__struct_fields__}


def _packed(body: _Body) -> tuple[bytes, bytes, bytes]:
    return body.read(), body.lengths.tobytes(), body.times.tobytes()


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
