"""What was made of bytes before: agents send the same tools and the same messages again with every call.

Only what depends on nothing but these bytes may be kept, and whoever is given it must not change it: the next who asks
is given the same object.
"""

from __future__ import annotations

import hashlib
from typing import Final, Generic, TypeVar

T = TypeVar("T")

MOST_BYTES: Final = 8 << 20
"""Of what values were made of, and `_EACH` for every one of them, while they are kept; in memory they take two or three
times as many."""
_EACH: Final = 1024
_KEY: Final = 16


class Recall(Generic[T]):
    """Values by what they were made of. Kept are those that were asked for within the last `most_bytes` or so.

    May be used by several threads: at worst something is made twice.
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most = most_bytes // 2
        self._size = 0
        self._recent: dict[bytes, tuple[T, int]] = {}
        self._before: dict[bytes, tuple[T, int]] = {}

    @staticmethod
    def key(data: bytes) -> bytes:
        """What stands for these bytes."""
        return hashlib.blake2b(data, digest_size=_KEY).digest()

    def get(self, key: bytes) -> T | None:
        """The value that was kept under this key, if it still is."""
        if found := self._recent.get(key):
            return found[0]
        if found := self._before.get(key):
            self.keep(key, *found)
            return found[0]
        return None

    def keep(self, key: bytes, value: T, size: int) -> None:
        """Keep a value that was made of `size` bytes; one that is very large is not."""
        if size > self._most // 8:
            return
        if self._size + size + _EACH > self._most:
            self._before, self._recent, self._size = self._recent, {}, 0
        if key not in self._recent:
            self._size += size + _EACH
        self._recent[key] = value, size
