"""Blocks of bytes in a file without a name: what does not have to be in memory for now.

The file is made when it is first needed and given back when nothing is in it; it is never longer than what was in it
at once. It knows nothing of what the bytes are, or of whose.
"""

from __future__ import annotations

import heapq
import os
import tempfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import io
    from collections.abc import Sequence
    from pathlib import Path

BLOCK = 1 << 20
"""Bytes of a block."""


class SpoolError(Exception):
    """What was written before cannot be read back."""


class Spool:
    """One file in `folder`, and one descriptor, however many blocks there are."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: io.FileIO | None = None
        self._count = 0
        """Blocks that the file has, free ones included."""
        self._free: list[int] = []

    def write(self, data: memoryview) -> int:
        """Keep a block; its number. `OSError` if there is no room for it."""
        if self._file is None:
            self._file = tempfile.TemporaryFile(buffering=0, dir=self._folder)  # noqa: SIM115  # lives as long as this
        block = self._free[0] if self._free else self._count
        done = 0
        while done < BLOCK:
            done += os.pwrite(self._file.fileno(), data[done:], block * BLOCK + done)
        if self._free:
            heapq.heappop(self._free)
        else:
            self._count += 1
        return block

    def read(self, blocks: Sequence[int]) -> bytes:
        """The bytes of these blocks, in this order; `SpoolError` if they cannot be had."""
        data = bytearray(len(blocks) * BLOCK)
        with memoryview(data) as view:
            for place, block in enumerate(blocks):
                self._read(block, view[place * BLOCK : (place + 1) * BLOCK])
        return bytes(data)

    def free(self, blocks: Sequence[int]) -> None:
        """These are not needed any more."""
        for block in blocks:
            heapq.heappush(self._free, block)
        if self._count and len(self._free) == self._count:
            self.close()

    def close(self) -> None:
        """Let go of the file and all that is in it; safe to call twice."""
        if self._file is not None:
            self._file.close()
        self._file, self._count, self._free = None, 0, []

    __del__ = close  # its owner may be dropped as it is

    def _read(self, block: int, into: memoryview) -> None:
        if self._file is None:
            raise SpoolError("the file is closed")
        done = 0
        while done < BLOCK:
            try:
                part = os.pread(self._file.fileno(), BLOCK - done, block * BLOCK + done)
            except OSError as error:
                raise SpoolError("the file cannot be read") from error
            if not part:
                raise SpoolError("the file is shorter than what was written to it")
            into[done : done + len(part)] = part
            done += len(part)
