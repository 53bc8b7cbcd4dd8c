"""A bounded copy of a body: the chunks themselves, by reference, up to a limit."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Capture:
    """Bytes taken in order, `limit` at most; `truncated` tells that there were more. `size` counts all that passed.

    Each piece goes to `taker` as it comes; without one, they are kept in `chunks`.
    """

    __slots__ = ("_room", "_taker", "chunks", "limit", "size", "truncated")

    def __init__(self, limit: int, taker: Callable[[bytes], None] | None = None) -> None:
        self.limit = limit
        self.chunks: list[bytes] = []
        self.size = 0
        self.truncated = False
        self._room = limit
        self._taker = taker or self.chunks.append

    def add(self, data: bytes) -> None:
        """Take these bytes, or as many of them as there is room for."""
        size = len(data)
        self.size += size
        if self._room < size:
            self.truncated = True
            data = data[: self._room]
            size = len(data)
        if size:
            self._room -= size
            self._taker(data)

    def join(self) -> bytes:
        """All that was kept here."""
        return b"".join(self.chunks)
