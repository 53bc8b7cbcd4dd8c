"""Keeps what runs for as long as the gateway does small.

structlog imports rich wherever it is installed, to print tracebacks that no process here ever prints: 5 MB in each.
"""

from __future__ import annotations

import sys


def import_structlog() -> None:
    """Import structlog without rich; whoever wants rich afterwards, a plugin for one, imports it as ever."""
    if "rich" in sys.modules or "structlog" in sys.modules:
        return
    sys.modules["rich"] = None  # type: ignore[assignment]  # Python's way to say that there is no such module
    try:
        import structlog  # noqa: F401, PLC0415
    finally:
        del sys.modules["rich"]
