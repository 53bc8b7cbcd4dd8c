"""Everything that is said, once: the JSON text of messages, system prompts and tool definitions.

A text that is put twice has the same number. What is large and opaque in it (an image in base64) is a content of its
own, so that two messages with the same image hold it once. A stored content is a list of pieces, each either bytes or
the number of another content: nothing that a client writes can be mistaken for a reference.

What is not needed any more goes by the triggers in ``conversations.sql``.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Final

import msgspec

from sidestream.providers.jsons import weight_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sidestream.store.database import Database
    from sidestream.store.packing import Packer

_DIGEST: Final = 16
_OPAQUE: Final = re.compile(rb'(?<=[",])[A-Za-z0-9+/_-]{4096,}+={0,2}+')
"""A long run of base64, as a string of its own or in a data URL. Each begins after a byte that is in none, so that
looking for them takes linear time."""

_pack = msgspec.msgpack.Encoder().encode
_pieces = msgspec.msgpack.Decoder(list[bytes | int]).decode


class Contents:
    """The contents in one database."""

    def __init__(self, database: Database, packer: Packer) -> None:
        self.added = 0
        """Bytes of all that was ever put in here, packed; what has gone since is not taken off."""
        self.weighed = 0
        """Bytes of memory, about, of all that was ever read here as JSON."""
        self._database = database
        self._packer = packer
        self._known: dict[bytes, int] = {}
        self._epoch = database.epoch

    def put(self, data: bytes) -> int:
        """Inside a transaction: the number of a text, which is stored if it is new.

        `ValueError` for one that is too large for a row.
        """
        digest = _digest(data)
        if (number := self._number(digest)) is not None:
            return number
        pieces = [self._piece(piece) if opaque else piece for piece, opaque in _split(data) if piece]
        return self._insert(digest, pieces)

    def forget(self) -> None:
        """Contents may have gone in this transaction: none is taken to be there that was seen before."""
        self._known.clear()

    def get(self, number: int) -> bytes:
        """The text; `LookupError` if it is not there, or damaged."""
        found = self._database.rows("SELECT content FROM contents WHERE id = ?", number)
        return self.text(number, found[0][0] if found else None)

    def text(self, number: int, blob: bytes | None) -> bytes:
        """The same, of a row that was read together with others; None where it is not there."""
        pieces = self._unpacked(number, blob)
        text = b"".join(piece if isinstance(piece, bytes) else self._part(piece) for piece in pieces)
        self.weighed += weight_of(text)
        return text

    def outline(self, blob: bytes) -> bytes:
        """A stored text with a 0 for each part that is a content of its own, whether that is there or not.

        ``LookupError`` if it is damaged.
        """
        try:
            pieces = _pieces(self._packer.expand(blob))
        except ValueError as error:
            raise LookupError("a content that is damaged") from error
        return b"".join(piece if isinstance(piece, bytes) else b"0" for piece in pieces)

    def size(self) -> int:
        """What all contents take, packed. Costs the same however many there are."""
        ((total,),) = self._database.rows("SELECT total FROM content_bytes")
        return int(total)

    def _number(self, digest: bytes) -> int | None:
        if self._epoch != self._database.epoch:
            self._epoch = self._database.epoch
            self._known.clear()
        number = self._known.get(digest)
        if number is None and (found := self._database.rows("SELECT id FROM contents WHERE digest = ?", digest)):
            number = self._known[digest] = int(found[0][0])
        return number

    def _piece(self, data: bytes) -> int:
        number = self._number(digest := _digest(data))
        return self._insert(digest, [data]) if number is None else number

    def _insert(self, digest: bytes, pieces: Sequence[bytes | int]) -> int:
        blob = self._packer.squeeze(_pack(pieces))
        if len(blob) > self._database.row_bytes():
            raise ValueError("a content that is too large to be stored")
        number = self._database.insert("INSERT INTO contents (digest, content) VALUES (?, ?)", digest, blob)
        if parts := [(number, part) for part in dict.fromkeys(pieces) if isinstance(part, int)]:
            self._database.run_many("INSERT INTO parts VALUES (?, ?)", parts)
        self._known[digest] = number
        self.added += len(blob)
        return number

    def _part(self, number: int) -> bytes:
        """One piece of bytes, for parts have no parts."""
        found = self._database.rows("SELECT content FROM contents WHERE id = ?", number)
        match self._unpacked(number, found[0][0] if found else None):
            case [bytes(data)]:
                return data
        raise LookupError(f"content {number} is damaged")

    def _unpacked(self, number: int, blob: bytes | None) -> list[bytes | int]:
        if blob is None:
            raise LookupError(f"there is no content {number}")
        try:
            return _pieces(self._packer.expand(blob))
        except ValueError as error:
            raise LookupError(f"content {number} is damaged") from error


def _split(data: bytes) -> Iterator[tuple[bytes, bool]]:
    """The pieces of a text in order, and whether each is opaque."""
    end = 0
    for run in _OPAQUE.finditer(data):
        yield data[end : run.start()], False
        yield run.group(), True
        end = run.end()
    yield data[end:], False


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_DIGEST).digest()
