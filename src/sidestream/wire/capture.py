"""A bounded copy of a body: the chunks themselves, by reference, up to a limit."""

from __future__ import annotations


class Capture:
    """Bytes kept in order, `limit` at most; `truncated` tells that there were more. `size` counts all that passed."""

    __slots__ = ("_kept", "chunks", "limit", "size", "truncated")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.chunks: list[bytes] = []
        self.size = 0
        self.truncated = False
        self._kept = 0

    def add(self, data: bytes) -> None:
        """Keep these bytes, or as many of them as there is room for."""
        self.size += len(data)
        room = self.limit - self._kept
        if len(data) > room:
            self.truncated = True
            data = data[:room]
        if data:
            self._kept += len(data)
            self.chunks.append(data)

    def join(self) -> bytes:
        """All that was kept."""
        return b"".join(self.chunks)
