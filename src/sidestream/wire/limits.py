"""How many calls may be under way at once: in all, and with one provider key. Whatever is beyond is refused at once.

A refusal costs hardly more than its answer: no body is read, no upstream opened, nothing recorded. One key is told from
another by a hash under a secret that each process makes for itself; neither key nor hash outlives its calls, or is told
to anybody.
"""

from __future__ import annotations

import hashlib
import math
import re
import secrets
from typing import TYPE_CHECKING, Final

import structlog

from sidestream.errors import GatewayError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from multidict import CIMultiDictProxy

log = structlog.get_logger()

CALM: Final = 10.0
"""Seconds without a refusal after which a burst of them is over."""
_CARRIERS: Final = ("x-api-key", "Authorization")
_BEARER: Final = re.compile(r"\ABearer\s+", re.IGNORECASE)
_BEHIND: Final = re.compile(r"[;|]")
_NONE: Final[frozenset[bytes]] = frozenset()


class Caps:
    """The caps of one process; 0 is none.

    A call takes a place of every key that it carries, so that a second, made-up key is no way around the cap. Calls
    without a key count as those of one. `retry_after` is what a refused client is told to wait, in seconds, rounded up.
    """

    def __init__(self, *, exchanges: int = 0, exchanges_per_key: int = 0, retry_after: float = 1.0) -> None:
        self.exchanges = exchanges
        self._per_key = exchanges_per_key
        self._retry_after = max(1, math.ceil(retry_after))
        self._secret = secrets.token_bytes(32)
        self._taken: dict[bytes, int] = {}
        self._bursts: dict[str, _Burst] = {}

    @property
    def taken(self) -> Mapping[bytes, int]:
        """Calls under way by hash of their key; what has none is not there."""
        return self._taken

    def admit(self, headers: CIMultiDictProxy[str], under_way: int) -> frozenset[bytes]:
        """Let a call in while `under_way` others are; returns what to `release` when it is over.

        `GatewayError` (503 ``too_busy``, 429 ``key_too_busy``) if a cap has been reached.
        """
        if self.exchanges and under_way >= self.exchanges:
            self._refused("limits.exchanges")
            raise GatewayError(503, "too_busy", "the gateway is busy; try again soon", retry_after=self._retry_after)
        if not self._per_key:
            return _NONE
        keys = self._keys(headers)
        if any(self._taken.get(key, 0) >= self._per_key for key in keys):
            self._refused("limits.exchanges_per_key")
            raise GatewayError(
                429, "key_too_busy", "too many calls are under way with this key", retry_after=self._retry_after
            )
        for key in keys:
            self._taken[key] = self._taken.get(key, 0) + 1
        return keys

    def release(self, keys: frozenset[bytes]) -> None:
        """A call that was let in is over."""
        for key in keys:
            left = self._taken[key] - 1
            if left:
                self._taken[key] = left
            else:
                del self._taken[key]

    def check(self, now: float) -> None:
        """Say which bursts of refusals are over; `now` is monotonic seconds."""
        for limit, burst in list(self._bursts.items()):
            if burst.going_on:
                burst.going_on, burst.last = False, now
            elif now - burst.last >= CALM:
                del self._bursts[limit]
                log.info("limit_relieved", limit=limit, refused=burst.refused)

    def _keys(self, headers: CIMultiDictProxy[str]) -> frozenset[bytes]:
        found = [_bare(value) for name in _CARRIERS for value in headers.getall(name, ())]
        return frozenset(
            hashlib.blake2b(key.encode(), key=self._secret, digest_size=16).digest() for key in found or [""]
        )

    def _refused(self, limit: str) -> None:
        burst = self._bursts.get(limit)
        if burst is None:
            burst = self._bursts[limit] = _Burst()
            log.warning("limit_reached", limit=limit)
        burst.going_on = True
        burst.refused += 1


class _Burst:
    """Refusals that follow each other."""

    __slots__ = ("going_on", "last", "refused")

    def __init__(self) -> None:
        self.going_on = True
        """Whether there was one since it was last asked."""
        self.last = 0.0
        self.refused = 0


def _bare(value: str) -> str:
    """The provider's key in a header's value, without the trace credential that may stand behind it."""
    return _BEHIND.split(_BEARER.sub("", value.strip()), maxsplit=1)[0].strip()
