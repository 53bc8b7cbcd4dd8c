"""``auth_split``: takes the trace credential off a request, and leaves the provider's as the provider expects it.

The trace credential (an Explorer key) comes in ``Invariant-Authorization: Bearer KEY``, or behind the provider's own
key in ``x-api-key`` or ``Authorization: Bearer …``: ``PROVIDERKEY;invariant-auth=KEY``, or in the older form
``PROVIDERKEY|invariant-auth: KEY``. What goes upstream is the provider's key in the header it came in, and nothing of
ours.

No message here ever holds a value of a header.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

from aiohttp import web

from sidestream.errors import GatewayError
from sidestream.options import Secret
from sidestream.wire.exchange import EXCHANGE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from multidict import CIMultiDict

    from sidestream.wire.chain import Handler

TRACE_CREDENTIAL: web.RequestKey[Secret] = web.RequestKey("trace_credential", Secret)
"""The Explorer key a request came with; absent when it came with none."""

TRACE_KEY_NEEDED: web.AppKey[bool] = web.AppKey("trace_key_needed", bool)
"""Whether a sink is configured that has no key of its own; what ``require_trace_key: auto`` goes by."""

_EXPLICIT = "Invariant-Authorization"
_CARRIERS = ("x-api-key", "Authorization")
_KEY = r"[A-Za-z0-9._~+/=-]{1,512}"
_RECOGNISABLE = 8
"""Characters from which on a key is no everyday word."""
_MARK = re.compile(r"invariant-auth", re.IGNORECASE)
_BEARER = re.compile(rf"Bearer +({_KEY}) *", re.IGNORECASE)
_COMBINED = re.compile(rf"(?P<provider>[^;|]*[^;|\s])(?:;invariant-auth=|\|invariant-auth: )(?P<trace>{_KEY})")
_EMPTY_BEARER = re.compile(r"(?:Bearer)?\s*", re.IGNORECASE)


class AuthSplit:
    """Separates the trace credential from the provider's key.

    `require_trace_key` says whether a call under a dataset must bring a trace credential; ``auto`` means: exactly when
    an Explorer sink is configured without a key of its own.
    """

    def __init__(self, *, require_trace_key: Literal["auto"] | bool = "auto") -> None:
        self._require = require_trace_key

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Clean the head that goes upstream, keep the credential beside it, refuse what lacks either key (400)."""
        exchange = request[EXCHANGE]
        credential = split(exchange.request_headers, request.headers.getall(_EXPLICIT, ()))
        provider = exchange.provider
        if provider.needs_credential(exchange.method, exchange.path) and not _has_key(exchange.request_headers):
            raise GatewayError(400, "missing_provider_key", provider.missing_credential)
        if credential is not None:
            request[TRACE_CREDENTIAL] = credential
        elif exchange.dataset is not None and self._required(request):
            raise GatewayError(400, "missing_trace_key", "Missing invariant authorization header")
        return await handler(request)

    def _required(self, request: web.Request) -> bool:
        return request.app.get(TRACE_KEY_NEEDED, False) if self._require == "auto" else self._require


def split(headers: CIMultiDict[str], explicit_values: Iterable[str]) -> Secret | None:
    """Take the trace credential out of `headers`, in place; `GatewayError` (400) for anything half or contradictory.

    `explicit_values` are those of the header that is ours alone; it may have been named in ``Connection``.
    """
    headers.popall(_EXPLICIT, [])
    explicit = {_explicit(value) for value in explicit_values}
    if len(explicit) > 1:
        raise GatewayError(400, "bad_trace_key", f"{_EXPLICIT} was sent more than once, with different keys")
    suffixes = {suffix for name in _CARRIERS if name in headers for suffix in _clean(headers, name)}
    if len(suffixes) > 1:
        raise GatewayError(400, "bad_trace_key", "the headers carry different invariant-auth keys")
    key = next(iter(explicit or suffixes), None)
    return Secret(key) if key is not None else None


def provider_keys(headers: CIMultiDict[str]) -> tuple[str, ...]:
    """The provider's keys in a head that `split` has cleaned, to recognise them where they do not belong."""
    values = [value for name in _CARRIERS for value in headers.getall(name, ())]
    return tuple(key for value in values if len(key := value.rpartition(" ")[2]) >= _RECOGNISABLE)


def _explicit(value: str) -> str:
    match = _BEARER.fullmatch(value.strip())
    if match is None:
        raise GatewayError(400, "bad_trace_key", f"{_EXPLICIT} must be 'Bearer KEY'")
    return match[1]


def _clean(headers: CIMultiDict[str], name: str) -> set[str]:
    """Cut the suffix off every value of one header, in place; returns the keys found."""
    values = headers.getall(name)
    if not any(map(_MARK.search, values)):
        return set()
    found = set()
    cleaned = []
    for value in values:
        if _MARK.search(value) is None:
            cleaned.append(value)
            continue
        match = _COMBINED.fullmatch(value.strip())
        if match is None or _EMPTY_BEARER.fullmatch(match["provider"]) or _MARK.search(match["provider"]):
            raise GatewayError(
                400, "bad_trace_key", f"{name} must be 'PROVIDERKEY;invariant-auth=KEY', both halves given"
            )
        found.add(match["trace"])
        cleaned.append(match["provider"])
    position = iter(cleaned)
    fields = [(key, next(position) if key.lower() == name.lower() else value) for key, value in headers.items()]
    headers.clear()
    headers.extend(fields)
    return found


def _has_key(headers: CIMultiDict[str]) -> bool:
    return any(not _EMPTY_BEARER.fullmatch(value) for name in _CARRIERS for value in headers.getall(name, []))
