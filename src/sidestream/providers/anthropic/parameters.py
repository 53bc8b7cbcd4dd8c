"""What a request asks for beside its messages, fit to be kept: without credentials, and bounded.

A request may bring credentials of its own along, for MCP servers and for whatever a provider invents next. They are
known by the names of their fields, and, inside of texts, where they stand in a URL or look like a key. Numbers and
switches are none (``max_tokens``). Messages and tools are not looked at here.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from sidestream.providers.jsons import text_of

if TYPE_CHECKING:
    from collections.abc import Mapping

REMOVED: Final = "[removed]"
MOST_CHARACTERS: Final = 16 << 10
"""Of all parameters as JSON."""
_ELSEWHERE: Final = frozenset({"messages", "system", "tools", "model"})
_CREDENTIAL: Final = re.compile(
    r"token|secret|passw|pwd|passphrase|authori[sz]ation|credential|cookie|bearer|signature"
    r"|(?:api|access|private|auth|account|client|service)[-_. ]?key|(?:^|[-_. ])(?:auth|key|sig)$",
    re.IGNORECASE,
)
_USER: Final = re.compile(r"://[^/?#\s@]+@")
_KEY: Final = re.compile(r"\b(?:Bearer\s+[\w.~+/=-]{16,}|sk-[\w-]{16,})")
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
    if isinstance(value, dict):
        return {name: _safe(name, item) for name, item in value.items()}
    if isinstance(value, list):
        return [_safe("", item) for item in value]
    return _without_credentials(value) if isinstance(value, str) else value


def _without_credentials(text: str) -> str:
    """A text without the user names, passwords and tokens of URLs in it, and without keys."""
    text = _KEY.sub(REMOVED, _USER.sub(f"://{REMOVED}@", text))
    return _ARGUMENT.sub(_argument, text)


def _argument(match: re.Match[str]) -> str:
    return f"{match['name']}={REMOVED}" if _CREDENTIAL.search(match["name"][1:]) else match[0]
