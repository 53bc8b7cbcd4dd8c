"""What a request asks for beside its messages, fit to be kept: without credentials, and bounded.

A request may bring credentials of its own along, for MCP servers and for whatever a provider invents next. They are
known by the names of their fields, also where a field of its own says the name, and, inside of texts, where they stand
in a URL or look like a key. Numbers and switches are none (``max_tokens``). Of MCP servers only what they are called
and where they are is kept. Messages and tools are not looked at here.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from sidestream.providers.jsons import text_of

if TYPE_CHECKING:
    from collections.abc import Mapping

REMOVED: Final = "[removed]"
MOST_CHARACTERS: Final = 16 << 10
"""Of all parameters as JSON."""
_ELSEWHERE: Final = frozenset({"messages", "system", "tools", "model"})
_CREDENTIAL: Final = re.compile(
    r"token|secret|passw|pwd|passphrase|authori[sz]ation|credential|cookie|bearer|signature"
    r"|(?:api|access|private|auth|account|client|service)[-_. ]?key|(?:^|[-_. ])(?:auth|key|sig|pat)$",
    re.IGNORECASE,
)
_NAMES: Final = ("name", "header", "key")
"""Fields that say what the field beside them is."""
_USER: Final = re.compile(r"://[^/?#\s@]+@")
_KEY: Final = re.compile(
    r"\b(?:(?i:Bearer)\s+[\w.~+/=-]{16,}|(?i:Basic)\s+(?=[\w+/][a-z+/]*[A-Z0-9=])[A-Za-z0-9+/]{6,}={0,2}|sk-[\w-]{16,}"
    r"|gh[pousr]_\w{16,}|github_pat_\w{16,}|xox[a-z]-[\w-]{10,}|AKIA[A-Z0-9]{12,}|glpat-[\w-]{16,}"
    r"|(?<!-)eyJ[\w-]{4,}+\.[\w-]{4,}+\.[\w-]*)"
)
_ARGUMENT: Final = re.compile(r"(?P<name>[?&#][^=&?#\s]+)=[^&#\s]*")


def parameters_of(request: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """A request's fields, except those that are read elsewhere; and whether all of them had room.

    `request` is cleaned JSON. The largest fields are left out first.
    """
    sizes = {key: len(key) + len(text_of(value)) for key, value in request.items() if key not in _ELSEWHERE}
    room, kept = MOST_CHARACTERS, set[str]()
    for key in sorted(sizes, key=sizes.__getitem__):
        room -= sizes[key]
        if room < 0:
            break
        kept.add(key)
    return {key: _safe(key, request[key]) for key in sizes if key in kept}, len(kept) == len(sizes)


def _safe(key: str, value: Any) -> Any:
    """The value of a field, without any credentials."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if _CREDENTIAL.search(key):
        return REMOVED
    if key == "mcp_servers":
        return [_server(each) for each in value if isinstance(each, dict)] if isinstance(value, list) else REMOVED
    if isinstance(value, dict):
        naming = _naming(value)
        return {name: _beside(naming, name, item) if naming else _safe(name, item) for name, item in value.items()}
    if isinstance(value, list):
        return [_safe("", item) for item in value]
    return _without_credentials(value) if isinstance(value, str) else value


def _naming(value: Mapping[str, Any]) -> str | None:
    """The field that says that a credential is beside it."""
    found = [
        name
        for name, item in value.items()
        if name.lower() in _NAMES and isinstance(item, str) and _CREDENTIAL.search(item)
    ]
    return min(found, key=lambda name: _NAMES.index(name.lower()), default=None)


def _beside(naming: str, name: str, value: Any) -> Any:
    """The value of a field of which `naming` says that it is a credential."""
    if name in {naming, "type"} and isinstance(value, str):
        return _without_credentials(value)
    return value if value is None or isinstance(value, bool | int | float) else REMOVED


def _server(server: Mapping[str, Any]) -> dict[str, Any]:
    """What an MCP server is called, and where it is."""
    kept = {name: _safe("", server[name]) for name in ("name", "type") if isinstance(server.get(name), str)}
    return kept | ({"url": _place(server["url"])} if isinstance(server.get("url"), str) else {})


def _place(url: str) -> str:
    """A URL without who asks, and for what."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return REMOVED
    host = parts.netloc.rpartition("@")[2]
    return _without_credentials(f"{parts.scheme}://{host}{parts.path}") if parts.scheme and host else REMOVED


def _without_credentials(text: str) -> str:
    """A text without the user names, passwords and tokens of URLs in it, and without keys."""
    text = _KEY.sub(REMOVED, _USER.sub(f"://{REMOVED}@", text))
    return _ARGUMENT.sub(_argument, text)


def _argument(match: re.Match[str]) -> str:
    return f"{match['name']}={REMOVED}" if _CREDENTIAL.search(match["name"][1:]) else match[0]
