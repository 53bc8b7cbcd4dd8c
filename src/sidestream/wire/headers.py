"""Which header fields travel on, and which end here.

RFC 9110 §7.6.1: a proxy removes the hop-by-hop fields and whatever ``Connection`` names. ``Host`` is the next hop's,
and ``Expect`` has been answered by us. Everything else goes on: every duplicate, in order.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from multidict import CIMultiDict

if TYPE_CHECKING:
    from multidict import CIMultiDictProxy

HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_NOT_FORWARDED = HOP_BY_HOP | {"host", "expect"}

# What aiohttp cannot write: control characters, and bytes that were not UTF-8 (read as lone surrogates).
_UNCARRIABLE = re.compile("[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")


def carriable_text(text: str) -> bool:
    """Whether a field's value (or a reason phrase) can be sent on byte for byte."""
    return text.isprintable() or _UNCARRIABLE.search(text) is None


def carriable(headers: CIMultiDictProxy[str]) -> bool:
    """Whether every field can be sent on byte for byte."""
    return carriable_text("".join(headers.values()) + "".join(headers))


def end_to_end(headers: CIMultiDictProxy[str], *, drop: frozenset[str]) -> CIMultiDict[str]:
    """The fields that travel on, as a new multidict: all but `drop` (lower case) and those named in ``Connection``."""
    if "Connection" in headers:
        named = ",".join(headers.getall("Connection"))
        drop |= {name.strip().lower() for name in named.split(",")}
    return CIMultiDict([field for field in headers.items() if field[0].lower() not in drop])


def request_headers(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    """What of a request's head goes upstream."""
    return end_to_end(headers, drop=_NOT_FORWARDED)


def response_headers(headers: CIMultiDictProxy[str]) -> tuple[CIMultiDict[str], bool]:
    """What of a response's head goes downstream, and whether that is all of it.

    A field with bytes that aiohttp cannot write is left out; then the second value is False.
    """
    kept = end_to_end(headers, drop=HOP_BY_HOP)
    if carriable(headers):
        return kept, True
    return CIMultiDict([(name, value) for name, value in kept.items() if carriable_text(name + value)]), False
