"""States of conversations: what stands for all messages up to some point, in whatever form they were sent.

A state is a hash chain over what each message is known by (`sidestream.providers.base.Said`). Messages of one role that
follow one another count as one. Nothing is known here of turns.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from typing import TYPE_CHECKING, Final

from sidestream.providers.digests import DIGEST, digest, digest_of
from sidestream.providers.recall import Recall

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sidestream.providers.base import Said

__all__ = ["DIGEST", "digest", "digest_of", "scope_of", "states_of"]

_STATES: Final[Recall[bytes]] = Recall(2 << 20)
"""States, by the one before and the digest of the message: most messages come again with each call of a run."""


@functools.lru_cache(maxsize=256)
def scope_of(dataset: str, provider: str, fingerprint: str) -> bytes:
    """The scope of calls; `fingerprint` stands for the key that they brought along."""
    return digest(dataset, provider, fingerprint)


def states_of(
    messages: Iterable[Said], before: bytes = b"", *, outline: bool = False, digests: Iterable[bytes] = ()
) -> list[bytes]:
    """The state after each of `messages`, which follow on the state `before`; with `outline` by their outlines.

    `digests` are those of the messages by themselves (`digest_of`), as far as they have been worked out.
    """
    states: list[bytes] = []
    chain = _Chain(before)
    for message, known in zip(messages, itertools.chain(digests, itertools.repeat(b"")), strict=False):
        if outline and message.outline is not None:
            chain.add(message, message.outline, b"")
        else:
            chain.add(message, message.units, known)
        states.append(chain.state)
    return states


class _Chain:
    """The state so far. Messages of one role in a row are one message: what an assistant says in them is one text."""

    def __init__(self, state: bytes) -> None:
        self.state = state
        self._role = ""
        self._before = state
        """The state before the assistant's messages that are being added."""
        self._text = self._units = hashlib.blake2b(digest_size=DIGEST)
        self._unhashed: list[tuple[str, tuple[bytes, ...]]] = []
        """Texts and units of such messages that are not in these two, and will have to be if more of them follow."""

    def add(self, message: Said, units: tuple[bytes, ...], known: bytes) -> None:
        """Go on with a message; `known` is its digest, if these are its own units."""
        is_first = message.role != self._role
        if is_first:
            self._role, self._before, self._unhashed = message.role, self.state, []
        if message.role != "assistant":
            for unit in units:
                self.state = digest(self.state, message.role, unit)
            return
        if is_first:
            self._text, self._units = hashlib.blake2b(digest_size=DIGEST), hashlib.blake2b(digest_size=DIGEST)
        self._unhashed.append((message.text, units))
        if message.text or message.units:
            self.state = self._recalled(known) if is_first and known else self._hashed()

    def _recalled(self, known: bytes) -> bytes:
        key = self._before + known
        state = _STATES.get(key)
        if state is None:
            state = self._hashed()
            _STATES.keep(key, state)
        return state

    def _hashed(self) -> bytes:
        for text, units in self._unhashed:
            self._text.update(text.encode("utf-8", "surrogatepass"))
            for unit in units:
                self._units.update(digest(unit))
        self._unhashed = []
        return digest(self._before, self._role, self._text.digest(), self._units.digest())
