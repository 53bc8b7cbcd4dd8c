"""The store's own thread: everything that touches the database happens there, one call after the other.

The database may turn out to be corrupt at any call. Then it is set aside, a new one takes its place, and the call is
made again with that one.
"""

from __future__ import annotations

import asyncio
import functools
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

import structlog

from sidestream.errors import SidestreamError
from sidestream.store.faults import StoreCorrupt, StoreUnavailable
from sidestream.store.store import Store
from sidestream.tasks import where

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

P = ParamSpec("P")
T = TypeVar("T")

log = structlog.get_logger()

_RETRY = 1.0


class Shelf:
    """A store that is opened when it is first needed, and again when it has to be. None as `path` is in memory.

    ``await shelf.call(shelf.store.head, sink, lane)`` calls a method of the store in the store's thread.
    """

    def __init__(self, path: Path | None, *, full_sync: bool = False) -> None:
        self.store = cast("Store", _Methods(self))
        self.set_aside = 0
        """Damaged stores that were put out of the way, whether found when opening them or later."""
        self.replaced = 0
        """How often a new store took the place of one that was damaged or deleted."""
        self._opened_before = False
        self._path = path
        self._full_sync = full_sync
        self._store: Store | None = None
        self._closed = False
        self._refused = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sidestream store")

    @property
    def refused(self) -> int:
        """Exchanges that could not be stored, for what they are."""
        store = self._store
        return self._refused + (store.refused if store is not None else 0)

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call something in the store's thread; `SidestreamError` if there is no store to be had now."""
        if self._closed:
            raise StoreUnavailable("the store is closed")
        call = functools.partial(function, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    async def patiently(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `call`, again and again until there is a store."""
        complained = False
        while True:
            try:
                return await self.call(function, *args, **kwargs)
            except SidestreamError as error:
                if not complained:
                    complained = True
                    log.error("store_unavailable", error=type(error).__name__, where=where(error))
                await asyncio.sleep(_RETRY)

    async def close(self) -> None:
        """Close the store, and end the thread; `SidestreamError` if it could not be closed in good order."""
        if self._closed:
            return
        self._closed = True
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        finally:
            self._thread.shutdown(wait=False)

    def invoke(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method of the store, in its thread; twice where the first call found the store to be corrupt."""
        try:
            return getattr(self._opened(), name)(*args, **kwargs)
        except StoreCorrupt:
            self._start_over()
            return getattr(self._opened(), name)(*args, **kwargs)

    def _opened(self) -> Store:
        if self._store is None:
            before = self._file()
            self._store = Store.open(self._path, full_sync=self._full_sync)
            self.replaced += self._opened_before
            self._opened_before = True
            self._count(before)
        return self._store

    def _start_over(self) -> None:
        damaged, self._store = self._store, None  # if it cannot be set aside now, the next call begins by opening it
        if damaged is not None:
            self._refused += damaged.refused
            before = self._file()
            self._store = damaged.start_over()
            self.replaced += 1
            self._count(before)

    def _file(self) -> int | None:
        """Which file the store is."""
        try:
            return None if self._path is None else self._path.stat().st_ino
        except OSError:
            return None

    def _count(self, before: int | None) -> None:
        """Where there is another file now, the one `before` was set aside."""
        self.set_aside += before is not None and self._file() != before

    def _close(self) -> None:
        store, self._store = self._store, None
        if store is not None:
            store.close()


class _Methods:
    """Has the methods of a store, each of which is called with whatever store there is by then."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    def __getattr__(self, name: str) -> Any:
        return functools.partial(self._shelf.invoke, name)
