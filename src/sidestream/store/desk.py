"""A library in a thread of its own: opened when somebody first looks, and again when the store was replaced.

What is looked up there can take as long as it takes; neither the recorder's event loop nor its writing waits for it.
"""

from __future__ import annotations

import asyncio
import functools
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from sidestream.store.faults import StoreUnavailable
from sidestream.store.library import Library

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

P = ParamSpec("P")
T = TypeVar("T")


class Desk:
    """``await desk.look(Library.run, identity)``. `close` when nobody looks any more."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._library: Library | None = None
        self._closed = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sidestream library")

    async def look(self, what: Callable[Concatenate[Library, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call something with the library; `SidestreamError` if there is none, besides what the call raises."""
        if self._closed:
            raise StoreUnavailable("the store is closed")
        call = functools.partial(self._look, what, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    async def close(self) -> None:
        """Close the library, and end the thread; safe to call twice."""
        if self._closed:
            return
        self._closed = True
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown(wait=False)

    def _look(self, what: Callable[Concatenate[Library, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self._library is not None and self._library.gone():
            self._close()
        if self._library is None:
            self._library = Library.open(self._path)
        return what(self._library, *args, **kwargs)

    def _close(self) -> None:
        library, self._library = self._library, None
        if library is not None:
            library.close()
