"""Keeps the index of words up with the store, and the file free of what was deleted, a little at a time.

An exchange is never held up by it: each step is short, and between two of them the store does what else there is to do.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from sidestream.recorder.pace import Pace

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidestream.store.shelf import Shelf

EVERY: Final = 0.5
"""Seconds between two looks for something to be done."""
_PURGE_EVERY: Final = 3600.0
"""Seconds after which the index is purged of what retention has removed. It has to be written anew for that."""
_TRIES: Final = 10
_RETRY: Final = 0.5


class Indexer:
    """For one store. `work` every so often; nothing is lost where it is broken off."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._texts = Pace(32 << 10, 128 << 10)
        self._pages = Pace(16, 32)
        self._free = Pace(100, 1000)
        self._purged_at = time.monotonic()

    async def work(self) -> None:
        """Do all there is to do now."""
        call, store = self._shelf.call, self._shelf.store
        await self.index()
        overdue = time.monotonic() - self._purged_at > _PURGE_EVERY
        if await call(store.purging) or (overdue and await call(store.stale_texts)):
            await self.purge()

    async def purge(self) -> bool:
        """Have nothing in the file that is not in the store; False where a reader is in the way of that, for now."""
        call, store = self._shelf.call, self._shelf.store
        steps = await call(store.purging)
        await self.index()
        while await call(self._pages.measured, store.purge_index, self._pages.amount):
            pass
        self._purged_at = time.monotonic()
        for _ in range(_TRIES):
            if await self.vacuum():
                await call(store.purged, steps)
                return True
            await asyncio.sleep(_RETRY)
        return False

    async def vacuum(self) -> bool:
        """Give back all room that is free, and empty SQLite's log; False where a reader is in the way of that."""
        call, store = self._shelf.call, self._shelf.store
        while await call(self._free.measured, store.shrink, self._free.amount):
            pass
        return await call(store.vacuum, 0)

    async def index(self) -> None:
        """Bring the index up with the store, and merge what there is to merge; that may leave traces in the file."""
        await self._step(self._shelf.store.index)

    async def unindex(self) -> None:
        """The half of that which makes room: take out of the index what has gone."""
        await self._step(self._shelf.store.unindex)

    async def _step(self, step: Callable[[int], bool]) -> None:
        call, store = self._shelf.call, self._shelf.store
        while await call(self._texts.measured, step, self._texts.amount):
            while await call(self._pages.measured, store.merge_index, self._pages.amount):
                pass
