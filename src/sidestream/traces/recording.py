"""The relay's side of the trace plane: one exchange on its way into the journal, or into memory."""

from __future__ import annotations

import collections
import time
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from sidestream.traces.entries import Begin, End, Head, Intake, Kind
from sidestream.traces.keys import Keys

if TYPE_CHECKING:
    from collections.abc import Callable

_RESPONSE = Kind.RESPONSE  # as a global: this is the one kind that comes with every chunk


class Recording:
    """One exchange on its way into an intake.

    `begin` is asked for when there is something to tell, at the latest; `started` is monotonic seconds.
    """

    def __init__(self, intake: Intake, begin: Callable[[], Begin], started: float) -> None:
        self._intake = intake
        self._begin: Callable[[], Begin] | None = begin
        self._started = started
        self._number: int | None = None

    @property
    def lost(self) -> bool:
        """Whether the intake had no room for it."""
        return self._begin is None and self._number is None

    def request(self, data: bytes) -> None:
        """These bytes went upstream."""
        self._put(Kind.REQUEST, 0.0, data)

    def head(self, head: Head) -> None:
        """The upstream has answered."""
        self._put(Kind.HEAD, head.time_to_first_byte, msgspec.msgpack.encode(head))

    def response(self, data: bytes) -> None:
        """These bytes went downstream, now."""
        self._put(_RESPONSE, time.monotonic() - self._started, data)

    def end(self, end: End) -> None:
        """It is over."""
        self._put(Kind.END, end.duration, msgspec.msgpack.encode(end))

    def abandon(self) -> None:
        """It is not to become a trace."""
        if self._number is not None:
            self._put(Kind.ABANDON, 0.0, b"")

    async def commit(self, end: End) -> None:
        """Wait until what was recorded so far survives a power cut; `OSError` if it cannot, or was not taken at all."""
        self._put(Kind.COMMIT, end.duration, msgspec.msgpack.encode(end))
        if self._number is None:
            raise OSError("the exchange was not taken")
        await self._intake.committed(self._number)

    def _put(self, kind: Kind, at: float, data: bytes) -> None:
        if self._begin is not None:
            ask, self._begin = self._begin, None  # it knows the request, which knows this
            begin = msgspec.msgpack.encode(ask())  # first: what fails here must not stay open in the intake
            self._number = self._intake.open()
            if self._number is not None:
                self._put(Kind.BEGIN, 0.0, begin)
        if self._number is not None and not self._intake.put(kind, self._number, at, data):
            self._number = None


RECORDING: web.RequestKey[Recording] = web.RequestKey("recording", Recording)
"""Where the captures put what they take of an exchange; absent where nothing records it."""

INTAKE: web.AppKey[Intake] = web.AppKey("intake", Intake)
"""Where recordings go to."""

KEYS: web.AppKey[Keys] = web.AppKey("keys", Keys)
"""The Explorer keys that calls brought along."""

STRICT: web.AppKey[float | None] = web.AppKey("strict", float)
"""Under strict durability, how many seconds a response's end may be held; else None."""

TRUNCATED: web.AppKey[collections.Counter[str]] = web.AppKey("truncated", collections.Counter)
"""How many captures reached their limit, by ``request`` and ``response``."""
