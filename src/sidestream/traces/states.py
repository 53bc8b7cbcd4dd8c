"""States of conversations: what stands for all messages up to some point, in whatever form they were sent.

A state is a hash chain over what each message is known by (`sidestream.providers.base.Said`). Messages of one role that
follow one another count as one. Nothing is known here of turns.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sidestream.providers.base import Said

DIGEST: Final = 16
"""Bytes of a state, and of any other digest here."""


def scope_of(dataset: str, provider: str, fingerprint: str) -> bytes:
    """The scope of calls; `fingerprint` stands for the key that they brought along."""
    return digest(dataset, provider, fingerprint)


def states_of(messages: Iterable[Said], before: bytes = b"", *, outline: bool = False) -> list[bytes]:
    """The state after each of `messages`, which follow on the state `before`; with `outline` by their outlines."""
    states: list[bytes] = []
    chain = _Chain(before)
    for message in messages:
        chain.add(message, message.outline if outline and message.outline is not None else message.units)
        states.append(chain.state)
    return states


def digest_of(message: Said) -> bytes:
    """A message by itself."""
    return digest(message.role, message.text, *message.units)


def digest(*parts: str | bytes) -> bytes:
    """A digest of texts and bytes, in which it cannot be told apart from any other list of them."""
    hashed = hashlib.blake2b(digest_size=DIGEST)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        hashed.update(len(data).to_bytes(8, "big"))
        hashed.update(data)
    return hashed.digest()


class _Chain:
    """The state so far. Messages of one role in a row are one message: what an assistant says in them is one text."""

    def __init__(self, state: bytes) -> None:
        self.state = state
        self._role = ""
        self._before = state
        """The state before the assistant's messages that are being added."""
        self._text = self._units = hashlib.blake2b(digest_size=DIGEST)

    def add(self, message: Said, units: Iterable[bytes]) -> None:
        if message.role != self._role:
            self._role, self._before = message.role, self.state
            self._text, self._units = hashlib.blake2b(digest_size=DIGEST), hashlib.blake2b(digest_size=DIGEST)
        if message.role == "assistant":
            self._text.update(message.text.encode("utf-8", "surrogatepass"))
            for unit in units:
                self._units.update(digest(unit))
            if message.text or message.units:
                self.state = digest(self._before, message.role, self._text.digest(), self._units.digest())
            return
        for unit in units:
            self.state = digest(self.state, message.role, unit)
