"""Digests of texts and bytes: what stands for them where they are only to be known again."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sidestream.providers.base import Said

DIGEST: Final = 16
"""Bytes of a digest."""
_SPACES: Final = b" \t\n\r\v\f\x1c\x1d\x1e\x1f"
"""What `str.split` takes for white space in ASCII."""


def dense(text: str) -> str:
    """A text without any white space."""
    if text.isascii():
        return text.encode().translate(None, _SPACES).decode()
    return "".join(text.split())


def digest(*parts: str | bytes) -> bytes:
    """A digest of texts and bytes, in which it cannot be told apart from any other list of them."""
    pieces: list[bytes] = []
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        pieces += (len(data).to_bytes(8, "big"), data)
    return hashlib.blake2b(b"".join(pieces), digest_size=DIGEST).digest()


def digest_of(message: Said) -> bytes:
    """A message by itself."""
    return digest(message.role, message.text, *message.units)
