"""A captured call as a shell command that makes it again, through the gateway. No key is in it.

What agents sent is hostile, and a command is pasted into a shell: everything stands in single quotes or in a
here-document, whose end cannot occur in it, and characters that a terminal would act on are escaped.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from sidestream.providers.jsons import UNREADABLE, parse

if TYPE_CHECKING:
    from sidestream.traces.record import Record

LONGEST: Final = 1 << 20
"""Bytes of a body that a command is made for."""
_KEPT: Final = ("anthropic-version", "anthropic-beta")
_END: Final = "END_OF_REQUEST"
_ACTED_ON: Final = re.compile("[!\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
"""By a terminal; the exclamation mark by a shell that has a history, in here-documents too."""
_UNSHOWN: Final = re.compile(r"[^ -~]")


class NoCommand(ValueError):
    """Why there is no command for a call, in words."""


def command(record: Record, body: bytes, *, prefix: str = "/api/v1/gateway") -> str:
    """The command for `record`, whose decoded body is `body`; `NoCommand` where it would not be the same call.

    The gateway's address is ``$SIDESTREAM_URL``, or the usual one; the key is ``$ANTHROPIC_API_KEY``.
    """
    if record.request_truncated or not record.request_complete:
        raise NoCommand("The request was not captured whole.")
    if len(body) > LONGEST:
        raise NoCommand("The request is too large for a command line.")
    address = f'"${{SIDESTREAM_URL:-http://127.0.0.1:8005}}"{_quoted(_path(record, prefix))}'
    lines = [
        f"curl --no-buffer --globoff -X {_quoted(record.method)} {address} \\",
        '  -H "x-api-key: $ANTHROPIC_API_KEY" \\',
        "  -H 'content-type: application/json' \\",
        *(f"  -H {_quoted(f'{name}: {value}')} \\" for name, value in _headers(record)),
    ]
    if not body:
        return "\n".join(lines).removesuffix(" \\")
    text = _text(body)
    end = _END
    while end in text:
        end += "_"
    return "\n".join([*lines, f"  --data-binary @- <<'{end}'", text, end])


def _path(record: Record, prefix: str) -> str:
    return f"{prefix}/{record.dataset}/{record.provider}{record.path}"


def _headers(record: Record) -> list[tuple[str, str]]:
    return [(name, record.request_headers[name]) for name in _KEPT if name in record.request_headers]


def _quoted(text: str) -> str:
    """In single quotes, in which a shell reads nothing but their end; without what is not printable ASCII."""
    quoted = _UNSHOWN.sub("", text).replace("'", "'\\''")
    return f"'{quoted}'"


def _text(body: bytes) -> str:
    """The body's JSON, in which other characters than those of text are written as JSON escapes them."""
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise NoCommand("The request is not text.") from error
    if parse(body) is UNREADABLE:
        raise NoCommand("The request is no JSON.")
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    return _ACTED_ON.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
