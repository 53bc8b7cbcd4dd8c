"""A bounded copy of a body: the chunks themselves, by reference, up to a limit."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Capture:
    """Bytes taken in order, `limit` at most; `truncated` tells that there were more. `size` counts all that passed.

    Each piece goes to `taker` as it comes; without one, they are kept in `chunks`.
    """

    __slots__ = ("_kept", "_taker", "chunks", "limit", "size", "truncated")

    def __init__(self, limit: int, taker: Callable[[bytes], None] | None = None) -> None:
        self.limit = limit
        self.chunks: list[bytes] = []
        self.size = 0
        self.truncated = False
        self._kept = 0
        self._taker = taker or self.chunks.append

    def add(self, data: bytes) -> None:
        """Take these bytes, or as many of them as there is room for."""
        self.size += len(data)
        room = self.limit - self._kept
        if len(data) > room:
            self.truncated = True
            data = data[:room]
        if data:
            self._kept += len(data)
            self._taker(data)

    def join(self) -> bytes:
        """All that was kept here."""
        return b"".join(self.chunks)
