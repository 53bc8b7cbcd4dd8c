"""What an Explorer's replies mean; it asks for nothing itself.

200 is a stored trace. 408, 425, 429, 502, 503 and 504 come from in front of Explorer, or ask to come again. So does a
redirect, or a 200 that is not Explorer's: a log-in page, a maintenance page, a wrong address. 401 and 403 speak of the
key. After any other 5xx nobody knows: Explorer stores a trace before it is done with the request, and some proxies have
numbers of their own for an answer that they lost. Any other 4xx is final.

An append is not sent again as lightly, for two at a time to one trace bring an Explorer to a standstill: an answer from
in front of it says nothing of whether the Explorer is still busy. A 404 means that it does not have the trace any more.
"""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, TypeVar

import aiohttp
import msgspec

from sidestream.errors import Ambiguous, DeliveryError, Gone, Retryable, Unauthorized, Undeliverable

if TYPE_CHECKING:
    from sidestream.wire.calling import Answer

T = TypeVar("T")

_LIMIT = 64 << 10
_LATER = frozenset({408, 425, 429, 502, 503, 504})
_LOST = frozenset({408, 502, 503, 504})
"""Those of the latter after which what was asked for may still be under way."""
_ELSEWHERE = "; is `url` the address of the Explorer itself?"
_NO_ROUTE = "Not Found"
"""What the framework says that Explorer is written with, of an address that it does not know."""
_HINTS = {
    404: _ELSEWHERE,
    413: ": it is too large",
}


class _Stored(msgspec.Struct):
    """The reply to a push, as far as we need it."""

    id: list[str]


class _Appended(msgspec.Struct):
    success: bool


class _Identity(msgspec.Struct):
    username: str


class _Refused(msgspec.Struct):
    detail: str


async def pushed(reply: Answer) -> str | None:
    """The id of the stored trace, if the whole reply came. Raises what else its status means."""
    if reply.status != 200:
        raise refusal(reply)
    try:
        body = await _read(reply)
    except (aiohttp.ClientError, OSError):
        return None  # the trace was stored before the reply began; Explorer is known to hang up in the middle of it
    stored = _decoded(body, _Stored)
    if stored is None:
        if len(body) > _LIMIT:
            raise Ambiguous("the answer is longer than any of an Explorer's")
        raise Retryable(f"the answer is 200, but not an Explorer's{_ELSEWHERE}")
    return stored.id[0] if stored.id else None


async def appended(reply: Answer) -> None:
    """Nothing, if it is done; raises what else the reply to an append means."""
    if reply.status == 404:
        raise await missing(reply)
    if reply.status != 200:
        error = refusal(reply)
        if isinstance(error, Retryable) and reply.status in _LOST:
            raise Ambiguous(str(error), after=error.after)
        raise error
    try:
        body = await _read(reply)
    except (aiohttp.ClientError, OSError):
        return  # it was stored before the reply began
    answer = _decoded(body, _Appended)
    if answer is None or not answer.success:
        raise Ambiguous(f"the answer is 200, but not an Explorer's{_ELSEWHERE}")


async def missing(reply: Answer) -> DeliveryError:
    """What a 404 means that speaks of a trace: it is not there, if it is an Explorer who says so."""
    try:
        refused = _decoded(await _read(reply), _Refused)
    except (aiohttp.ClientError, OSError):
        refused = None
    if refused is None or refused.detail == _NO_ROUTE:
        return refusal(reply)
    return Gone("Explorer does not have the trace any more")


async def username(reply: Answer) -> str:
    """Whose key it is. Raises `Ambiguous` if the body does not say."""
    identity = _decoded(await _read(reply), _Identity)
    if identity is None:
        raise not_explorers()
    return identity.username


def refusal(reply: Answer) -> DeliveryError:
    """What any status but 200 means to a push."""
    said = f"Explorer answered {reply.status}"
    if reply.status in _LATER:
        return Retryable(said, after=_retry_after(reply.headers.get("Retry-After")))
    if reply.status in {401, 403}:
        return Unauthorized(f"{said}: the key is not valid there")
    if 200 <= reply.status <= 299:
        return Ambiguous(f"{said}, which it never does")
    if 300 <= reply.status <= 399:
        return Retryable(f"{said}{_ELSEWHERE}")
    if 500 <= reply.status <= 599:
        return Ambiguous(said, server_error=True)
    return Undeliverable(f"{said}{_HINTS.get(reply.status, '')}")


def unanswered(reply: Answer) -> DeliveryError:
    """What any status but 200 means to a question: that an Explorer in trouble is asked again."""
    error = refusal(reply)
    if isinstance(error, Ambiguous):
        return Retryable(f"Explorer could not be asked: it answered {reply.status}")
    return error


def not_explorers() -> Ambiguous:
    """What a 200 means that holds something else than an Explorer's answer to a question."""
    return Ambiguous("the answer is not an Explorer's; is `url` right?")


async def _read(reply: Answer) -> bytes:
    """The body, as much of it as is looked at."""
    body = bytearray()
    async for chunk in reply.content.iter_any():
        body += chunk
        if len(body) > _LIMIT:
            break
    return bytes(body)


def _decoded(body: bytes, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def _retry_after(value: str | None) -> float | None:
    """Seconds to wait (RFC 9110, 10.2.3: a number or a date); None for neither."""
    if value is None:
        return None
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        return max(parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except (ValueError, OverflowError):
        return None
