"""Entries in, records out: the pieces of many exchanges at once, put together again.

Sans-IO, but for one thing: what is gathered of bodies beyond a megabyte each lies in one unlinked file in the folder
that is given for it (`sidestream.traces.spool`), so that hundreds of long exchanges under way do not fill the memory.
Where that file cannot be written to, or without a folder, it stays in memory: rather too much there than too little in
a record, for the journal that it came from is deleted in reliance on this.
"""

from __future__ import annotations

import array
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from sidestream.traces.entries import Begin, End, Entry, Head, Kind
from sidestream.traces.record import Record
from sidestream.traces.spool import BLOCK, Spool

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RUNNING: Final = "running"
"""The outcome of an exchange that has none yet: in what `Gathering.partial` gives, and never in a store."""
_LOOSE: Final = 64 << 10
"""Bytes of a body that are kept as the chunks that they came in."""
_BEGIN, _RESPONSE = int(Kind.BEGIN), int(Kind.RESPONSE)  # compared per entry; several times faster than the members


class Glimpse(NamedTuple):
    """An exchange under way, from outside."""

    begin: Begin
    request_bytes: int
    response_bytes: int
    answering: bool
    """Whether the response has begun."""


class _Body:
    """A body under way: its bytes, the lengths of its chunks and their times."""

    def __init__(self, spool: Spool | None) -> None:
        self._spool = spool
        self._blocks: list[int] = []
        self._rest = bytearray()
        """What is not in the spool, but for the latest chunks; they are put there when there are some of them."""
        self._latest: list[bytes] = []
        self._settle_at = _LOOSE
        """With more bytes than this in all, it is time to do so."""
        self._enough = BLOCK
        """With more than this in the rest, it is time to move what there is of whole blocks."""
        self._lengths = array.array("Q")
        """Of all chunks but the latest."""
        self.times = array.array("d")
        self.size = 0

    def add(self, data: bytes, time: float) -> None:
        self._latest.append(data)
        self.times.append(time)
        self.size += len(data)
        if self.size > self._settle_at:
            self._settle()

    def read(self) -> bytes:
        """All its bytes; `SpoolError` if they cannot be had back."""
        blocks = self._spool.read(self._blocks) if self._spool is not None and self._blocks else b""
        return b"".join((blocks, self._rest, *self._latest))

    def lengths(self) -> bytes:
        """Those of the chunks, packed."""
        self._settle()
        return self._lengths.tobytes()

    def chunks(self) -> tuple[bytes, ...]:
        """The chunks as they came."""
        if not self._lengths:
            return tuple(self._latest)
        view, ends = self.read(), []
        position = 0
        for length in self._lengths:
            ends.append(view[position : position + length])
            position += length
        return (*ends, *self._latest)

    def close(self) -> None:
        if self._spool is not None:
            self._spool.free(self._blocks)
        self._blocks = []

    def _settle(self) -> None:
        """Put the latest chunks to the rest: many small ones take less memory there."""
        self._rest += b"".join(self._latest)
        self._lengths.extend(map(len, self._latest))
        self._latest = []
        self._settle_at = self.size + _LOOSE
        if self._spool is not None and len(self._rest) > self._enough:
            self._spill(self._spool)

    def _spill(self, spool: Spool) -> None:
        """Move whole blocks from memory to the spool; if that fails, again when there is a block more."""
        done = 0
        try:
            with memoryview(self._rest) as rest:
                while len(rest) - done >= BLOCK:
                    self._blocks.append(spool.write(rest[done : done + BLOCK]))
                    done += BLOCK
        except OSError:
            pass
        del self._rest[:done]
        self._enough = len(self._rest) // BLOCK * BLOCK + BLOCK


class _State(msgspec.Struct):
    """An exchange under way, packed (`Gathering.pack`). Of a body: bytes, lengths, times."""

    begin: Begin
    head: Head | None
    commit: End | None
    last: float
    request: tuple[bytes, bytes, bytes]
    response: tuple[bytes, bytes, bytes]


class _Open:
    def __init__(self, begin: Begin, spool: Spool | None) -> None:
        self.begin = begin
        self.head: Head | None = None
        self.commit: End | None = None
        self.request = _Body(spool)
        self.response = _Body(spool)
        self.last = 0.0

    def record(self, end: End) -> Record:
        head = self.head
        return Record(
            **_fields(self.begin),
            request_chunks=self.request.chunks(),
            response_chunks=self.response.chunks(),
            response_times=tuple(self.response.times),
            **(_fields(head) if head is not None else {}),
            **_fields(end),
        )

    def close(self) -> None:
        self.request.close()
        self.response.close()


class Gathering:
    """The open exchanges of one relay."""

    def __init__(self, folder: Path | None = None) -> None:
        self._spool = Spool(folder) if folder is not None else None
        self._open: dict[int, _Open] = {}

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[int]:
        return iter(self._open)

    def glimpses(self) -> list[Glimpse]:
        """What is open, in order of beginnings."""
        return [
            Glimpse(each.begin, each.request.size, each.response.size, each.head is not None)
            for each in self._open.values()
        ]

    def partial(self, identity: str) -> Record | None:
        """What there is so far of an open exchange, by its id; it stays open. `SpoolError` as for `add`."""
        for exchange in self._open.values():
            if exchange.begin.id == identity:
                end = msgspec.structs.replace(_cut(exchange), outcome=RUNNING, request_complete=True)
                return exchange.record(end)
        return None

    def add(self, entry: Entry) -> Record | None:
        """Take the next entry; the whole exchange, where this was its end. Entries without a beginning are passed over.

        `ValueError` for an entry that is not what its kind says; its exchange is forgotten. `SpoolError` if what was
        gathered is lost: then it has to be gathered again from the beginning.
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
            self._open[number] = _Open(msgspec.msgpack.decode(data, type=Begin), self._spool)
            return None
        exchange = self._open.get(number)
        if exchange is None:
            return None
        if time > exchange.last:  # noqa: PLR1730  # for each chunk
            exchange.last = time
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

    def interrupted(self) -> Iterator[tuple[int, Record]]:
        """Number and record of all that is open, as it will stay because its relay is dead.

        One by one, and each is forgotten as it is given: all of them at once may be more than fits into memory. What
        was committed had all but its end relayed, so it ended as its commit says.
        """
        for number, exchange in list(self._open.items()):
            record = exchange.record(exchange.commit or _cut(exchange))
            self.forget(number)
            yield number, record

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
        exchange = _Open(state.begin, self._spool)
        exchange.head, exchange.commit, exchange.last = state.head, state.commit, state.last
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
    return body.read(), body.lengths(), body.times.tobytes()


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
