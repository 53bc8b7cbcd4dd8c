"""A streaming proxy for LLM agents that relays every byte untouched and traces from the sidestream.

The names here are what an embedding application and the author of a middleware need. They are imported when they are
asked for: the supervisor, which needs none of them, stays as small as it should be.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sidestream.app import create_app, mount, mount_viewer
    from sidestream.errors import ConfigError, GatewayError, SidestreamError
    from sidestream.wire.exchange import EXCHANGE, Exchange, Observer, Outcome, ResponseHead

__all__ = [
    "EXCHANGE",
    "ConfigError",
    "Exchange",
    "GatewayError",
    "Observer",
    "Outcome",
    "ResponseHead",
    "SidestreamError",
    "create_app",
    "mount",
    "mount_viewer",
]

_MODULES = {
    "sidestream.app": ("create_app", "mount", "mount_viewer"),
    "sidestream.errors": ("ConfigError", "GatewayError", "SidestreamError"),
    "sidestream.wire.exchange": ("EXCHANGE", "Exchange", "Observer", "Outcome", "ResponseHead"),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            globals()[name] = value = getattr(import_module(module), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
