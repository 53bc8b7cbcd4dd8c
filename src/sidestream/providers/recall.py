"""What was made of bytes before: agents send the same tools and the same messages again with every call.

Only what depends on nothing but these bytes may be kept, and whoever is given it must not change it: the next who asks
is given the same object.
"""

from __future__ import annotations

import hashlib
import sys
from types import NoneType
from typing import Any, Final, Generic, TypeVar

import msgspec

T = TypeVar("T")

MOST_BYTES: Final = 8 << 20
"""Of memory, for the values and what goes with them."""
_EACH: Final = 256
"""Bytes that a value takes besides its own: its key, and its place."""
_KEY: Final = 16
_SCALARS: Final = frozenset({str, bytes, int, float, bool, NoneType})


class Recall(Generic[T]):
    """Values by what they were made of. Kept are those that were asked for within the last `most_bytes` or so.

    May be used by several threads: at worst something is made twice.
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most = most_bytes // 2
        self._largest = self._most // 4
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
            self._put(key, *found)
            return found[0]
        return None

    def keep(self, key: bytes, value: T) -> None:
        """Keep a value: JSON, bytes, or structs of such; one that is very large is not kept."""
        if (size := _size_of(value, self._largest)) <= self._largest:
            self._put(key, value, size)

    def _put(self, key: bytes, value: T, size: int) -> None:
        if self._size + size + _EACH > self._most:
            self._before, self._recent, self._size = self._recent, {}, 0
        if key not in self._recent:
            self._size += size + _EACH
        self._recent[key] = value, size


def _size_of(value: Any, most: int) -> int:
    """About how many bytes of memory a value takes, or some number beyond `most`; what is in it twice counts twice.

    A few bytes of JSON can become some thirty times as many, so the length of the text tells nothing.
    """
    size, left = 0, [value]
    while left and size <= most:
        each = left.pop()
        size += sys.getsizeof(each)
        kind = type(each)
        if kind in _SCALARS:
            continue
        if kind is dict:
            left += each
            left += each.values()
        elif kind is list or kind is tuple:
            left += each
        else:
            left += msgspec.structs.astuple(each)
    return size
