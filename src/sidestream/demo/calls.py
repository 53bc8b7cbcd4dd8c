"""One call as one end of it saw it. Agent and provider keep these, and the report compares them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field


@dataclass(slots=True)
class Call:
    """The bytes of both bodies, and the head of the request as far as this end knows it."""

    target: str
    headers: list[tuple[str, str]]
    request: bytes
    response: bytearray = field(default_factory=bytearray)

    def mentions(self, secret: str) -> bool:
        """Whether `secret` is anywhere in the request."""
        head = "\n".join([self.target, *(f"{name}: {value}" for name, value in self.headers)])
        return secret in head or secret.encode() in self.request


def sha256(body: bytes | bytearray) -> str:
    """The SHA-256 of a body, in hexadecimal digits."""
    return hashlib.sha256(body).hexdigest()
