"""Anthropic's error objects: read the provider's, write the gateway's own.

See https://docs.anthropic.com/en/api/errors.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from sidestream.providers.jsons import UNREADABLE

_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "request_too_large",
    415: "invalid_request_error",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_LONGEST_TEXT: Final = 2000


def error_body(status: int, message: str) -> bytes:
    """An error of the gateway's own, as an Anthropic client reads it."""
    kind = _TYPES.get(status, "api_error")
    return msgspec.json.encode({"type": "error", "error": {"type": kind, "message": message}})


def read_error(data: Any, text: str) -> dict[str, Any]:
    """The error object ``{"type", "message"}`` of a parsed error body or event.

    Where there is no such object: the body's own if it is an object at all, otherwise its `text`, shortened.
    """
    if data is UNREADABLE or not isinstance(data, dict):
        return {"message": text[:_LONGEST_TEXT]}
    error = data.get("error")
    return error if isinstance(error, dict) else data
