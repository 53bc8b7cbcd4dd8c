"""Where a request goes: ``{prefix}/[{dataset}/]{provider}/{any path}``, read from the raw target.

Also the front door: what a parser lets through but two HTTP implementations might read differently is refused here,
before any middleware sees it. Nothing here echoes what a client sent.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from aiohttp import HttpVersion, HttpVersion10, HttpVersion11, web

from sidestream.errors import GatewayError
from sidestream.wire.headers import carriable

if TYPE_CHECKING:
    from collections.abc import Collection

DATASET = re.compile(r"[A-Za-z0-9_-]{1,256}")
_KEY = re.compile(r"sk-[a-z]+|inv-[0-9a-f]{32}")
"""What a key begins with; as a dataset's name it would be written down everywhere."""
_HOST = re.compile(r"(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?")
_TARGET = re.compile(r"/[!$-~]*")  # printable ASCII without '"' and '#'
_TWO_READINGS = re.compile(r"(?:^|/|%2f)(?:\.|%2e){1,2}(?:/|%2f|$)|%0[0ad]|\\|%5c", re.IGNORECASE)
"""In a path: dot segments, backslashes, NUL and line ends, encoded or not."""

SPOKEN_HERE = frozenset({HttpVersion10, HttpVersion11})
OTHER_VERSION: web.RequestKey[HttpVersion] = web.RequestKey("other_version", HttpVersion)
"""What a request spoke that is answered in HTTP/1.0."""


class Route(NamedTuple):
    """A parsed target: `target` is the provider's own path and query, as they came."""

    dataset: str | None
    provider: str
    target: str


def parse(target: str, prefix: str, providers: Collection[str]) -> Route:
    """Split a raw target; `GatewayError` (404 or 400) says what a right one looks like."""
    path, mark, query = target.removeprefix(prefix).partition("?")
    first, rest = _split(path)
    second, beyond = _split(rest)
    if first in providers:
        if second in providers:
            raise GatewayError(400, "bad_dataset", "a dataset must not have the name of a provider")
        return Route(None, first, (rest or "/") + mark + query)
    if second not in providers:
        shape = f"{prefix}/[{{dataset}}/]{{provider}}/{{path}}"
        known = ", ".join(sorted(providers))
        raise GatewayError(404, "unknown_route", f"no such route; expected {shape} with a provider of: {known}")
    if _KEY.match(first):
        raise GatewayError(400, "bad_dataset", "the dataset's name looks like a key; keys belong into headers")
    if not DATASET.fullmatch(first):
        raise GatewayError(400, "bad_dataset", "a dataset's name has 1 to 256 letters, digits, '-' and '_'")
    return Route(first, second, (beyond or "/") + mark + query)


def _split(path: str) -> tuple[str, str]:
    """``/a/b/c`` → ``("a", "/b/c")``; ``/a`` → ``("a", "")``."""
    segment, slash, rest = path.removeprefix("/").partition("/")
    return segment, slash + rest


def check(request: web.Request, *, raw_bodies: bool) -> None:
    """Refuse what must not be forwarded: a `GatewayError` says why.

    `raw_bodies` tells that the server hands on request bodies as they were; aiohttp's default decodes them, and then an
    encoded body cannot be relayed.
    """
    headers = request.headers
    if request.method in {"CONNECT", "TRACE"}:
        raise GatewayError(405, "method_not_allowed", "CONNECT and TRACE are not relayed")
    if OTHER_VERSION in request or request.version not in SPOKEN_HERE:
        raise GatewayError(400, "bad_request", "speak HTTP/1.1 or HTTP/1.0")
    _check_target(request.raw_path)
    _check_host(request)
    _check_framing(request)
    if not carriable(headers):
        raise GatewayError(400, "bad_header", "a header has bytes that are not UTF-8, or control characters")
    if not raw_bodies and headers.get("Content-Encoding", "identity").strip().lower() not in {"", "identity"}:
        raise GatewayError(415, "encoded_body", "this server cannot relay encoded request bodies; send it unencoded")


def _check_target(target: str) -> None:
    if not _TARGET.fullmatch(target) or target.startswith("//"):
        raise GatewayError(400, "bad_target", "the request's target must be a path with printable ASCII characters")
    if _TWO_READINGS.search(target.partition("?")[0]):
        raise GatewayError(400, "bad_target", "dot segments, backslashes, NUL and line ends are not relayed")


def _check_host(request: web.Request) -> None:
    hosts = request.headers.getall("Host", [])
    if len(hosts) > 1 or (not hosts and request.version == HttpVersion11):
        raise GatewayError(400, "bad_host", "send exactly one Host header")
    if hosts and not _HOST.fullmatch(hosts[0]):
        raise GatewayError(400, "bad_host", "the Host header is malformed")


def _check_framing(request: web.Request) -> None:
    headers = request.headers
    codings = headers.getall("Transfer-Encoding", [])
    lengths = headers.getall("Content-Length", [])
    if codings and (len(codings) > 1 or codings[0].strip().lower() != "chunked" or request.version == HttpVersion10):
        raise GatewayError(400, "bad_framing", "the only transfer coding understood is 'chunked', with HTTP/1.1")
    if codings and lengths:
        raise GatewayError(400, "bad_framing", "send Content-Length or Transfer-Encoding, not both")
    if len(lengths) > 1 or (lengths and not re.fullmatch(r"[0-9]{1,19}", lengths[0])):
        raise GatewayError(400, "bad_framing", "the Content-Length header is malformed")
    if any(value.lower() != "100-continue" for value in headers.getall("Expect", [])):
        raise GatewayError(417, "bad_expectation", "the only expectation understood is '100-continue'")
