"""The Explorer keys that calls brought along: in memory only, by fingerprint.

A fingerprint is a keyed hash (BLAKE2b, 128 bits), so it says nothing of its key, also to someone who has seen other
fingerprints. The relay keeps the keys to send them to the recorder, also to one that was started later; the recorder
keeps them to deliver with.
"""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidestream.options import Secret

_MOST = 10_000
_AGAIN = 60.0
"""Seconds after which a key that is seen again is worth telling again: it may have become valid since."""


class Keys:
    """Keys by fingerprint, the most recently seen 10,000. `heard` is called with each one worth telling about."""

    def __init__(self, secret: bytes, heard: Callable[[str, Secret], None] | None = None) -> None:
        self._secret = secret
        self._heard = heard
        self._keys: dict[str, Secret] = {}
        self._fingerprints: dict[Secret, str] = {}
        self._told: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def seen(self, key: Secret) -> str:
        """Take note of a key; returns its fingerprint, 32 hex digits."""
        fingerprint = self._fingerprints.get(key)
        if fingerprint is not None:
            self._keys[fingerprint] = self._keys.pop(fingerprint)
        else:
            fingerprint = hashlib.blake2b(key.reveal().encode(), key=self._secret, digest_size=16).hexdigest()
            self.add(fingerprint, key)
        now = time.monotonic()
        if self._heard and now - self._told.get(fingerprint, -_AGAIN) >= _AGAIN:
            self._told[fingerprint] = now
            self._heard(fingerprint, key)
        return fingerprint

    def add(self, fingerprint: str, key: Secret) -> None:
        """Keep a key whose fingerprint is known; one that is kept already has been seen again."""
        if (known := self._keys.pop(fingerprint, None)) is not None:
            self._keys[fingerprint] = known
            return
        if len(self._keys) >= _MOST:
            oldest = next(iter(self._keys))
            self._fingerprints.pop(self._keys.pop(oldest), None)
            self._told.pop(oldest, None)
        self._keys[fingerprint] = key
        self._fingerprints[key] = fingerprint

    def get(self, fingerprint: str) -> Secret | None:
        """The key, if it is known."""
        return self._keys.get(fingerprint)

    def all(self) -> dict[str, Secret]:
        """A copy of what is known."""
        return dict(self._keys)
