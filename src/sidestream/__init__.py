"""A streaming proxy for LLM agents that relays every byte untouched and traces from the sidestream.

The names here are what an embedding application and the author of a middleware need.
"""

from sidestream.app import create_app, mount
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
]
