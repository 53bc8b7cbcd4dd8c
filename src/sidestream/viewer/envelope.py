"""What the relay and the recorder have agreed on for what they pass on, and the headers of every answer.

A leaf, and small: every relay has it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

MOUNT: Final = "/viewer"
"""Where the viewer is on the recorder's socket."""
BASE_HEADER: Final = "X-Sidestream-Base"
"""The path that the viewer is reached under, set by the relay that passes a request on; "" for the root."""
ACCESS_HEADER: Final = "X-Sidestream-Access"
"""What the relay found out of whoever asks: a `sidestream.viewer.access.Standing`."""

PAGE_HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
        " form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # with none at all, browsers send forms of ours with the origin "null"
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""For everything but static files."""
