"""Who may look: checked by the relay, in front of everything that is not a call to a provider.

Whoever reaches a loopback address is at the machine, or is a page of somebody else's in the browser there. So where
the gateway listens on loopback only, no login is needed, but a browser must have come by itself: by the right ``Host``
(a name that was made to point here is refused), and not from another site's page. Elsewhere a token is needed as well.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sidestream.errors import GatewayError

if TYPE_CHECKING:
    from collections.abc import Collection

    from aiohttp import web

    from sidestream.options import Secret

_COOKIE: Final = "sidestream"
_HOST: Final = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[^:\[\]]+)(?::\d{1,5})?", re.IGNORECASE)
_AT_HOME: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})
_OWN: Final = frozenset({"same-origin", "none"})


class Standing(enum.StrEnum):
    """What a request has shown that it may."""

    OPEN = "open"
    """All: it brought the token, or none is needed."""
    CLOSED = "closed"
    """Nothing, so far."""


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine reaches what listens on `host`."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class Access:
    """What is asked of a request. Without a token: that it comes by one of `hosts`, or of the machine's own names.

    `any_host`: nor that, for others look after it.
    """

    token: Secret | None
    hosts: Collection[str] = ()
    any_host: bool = False

    def standing(self, request: web.Request) -> Standing:
        """What a request may; `GatewayError` (403) for one that another site's page has made."""
        host = request.headers.get("Host", "").lower()
        if self.token is None and not self.any_host and not self._is_known(host):
            raise GatewayError(
                403, "foreign_host", "this name is not known here; add it to viewer.hosts, or use localhost"
            )
        _refuse_foreign_pages(request, host)
        return Standing.OPEN if self.token is None or self._has_token(request, self.token) else Standing.CLOSED

    def may_see_numbers(self, request: web.Request) -> bool:
        """Whether somebody may know what the gateway has counted: everybody, where no token is needed."""
        return self.token is None or self._has_token(request, self.token)

    def cookie_name(self) -> str:
        """What a browser keeps it under: cookies are one host's, and several gateways may be on it."""
        return _cookie_name(self.token) if self.token is not None else _COOKIE

    def cookie(self) -> str:
        """What a browser keeps of the token."""
        return _session(self.token) if self.token is not None else ""

    def is_token(self, given: str) -> bool:
        """Whether somebody knows the token."""
        return self.token is not None and _same(given, self.token.reveal())

    def _is_known(self, host: str) -> bool:
        match = _HOST.fullmatch(host)
        if match is None:
            return False
        name = match["name"].removesuffix(".")
        return name in _AT_HOME or name.endswith(".localhost") or name in self.hosts or is_loopback(name.strip("[]"))

    def _has_token(self, request: web.Request, token: Secret) -> bool:
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer" and _same(given.strip(), token.reveal()):
            return True
        return _same(request.cookies.get(_cookie_name(token), ""), _session(token))


def _refuse_foreign_pages(request: web.Request, host: str) -> None:
    """Refuse what a page of another site has a browser ask for. Only to come here by a link is everybody's right."""
    headers = request.headers
    origin = headers.get("Origin")
    if origin is not None and (not host or origin.lower().partition("://")[2] != host):
        raise GatewayError(403, "foreign_origin", "another site's page must not ask this")
    site = headers.get("Sec-Fetch-Site", "none").lower()
    by_link = (
        request.method == "GET"
        and headers.get("Sec-Fetch-Mode") == "navigate"
        and headers.get("Sec-Fetch-Dest") == "document"
    )
    if site not in _OWN and not by_link:
        raise GatewayError(403, "foreign_origin", "another site's page must not ask this")


def _cookie_name(token: Secret) -> str:
    return f"{_COOKIE}-{hmac.new(token.reveal().encode(), b'name of the cookie', hashlib.sha256).hexdigest()[:8]}"


def _session(token: Secret) -> str:
    return hmac.new(token.reveal().encode(), b"sidestream viewer session", hashlib.sha256).hexdigest()


def _same(given: str, right: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), right.encode())
