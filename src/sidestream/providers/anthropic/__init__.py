"""Anthropic's Messages API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sidestream.providers.anthropic.errors import error_body
from sidestream.providers.anthropic.understanding import understand

if TYPE_CHECKING:
    from sidestream.providers.base import Understood

__all__ = ["Anthropic"]


class Anthropic:
    """The `Provider` named ``anthropic``: it traces what is posted to ``/v1/messages``; the rest is only relayed."""

    name: Final = "anthropic"
    missing_credential: Final = "Missing Anthropic authorization header"

    def error_body(self, status: int, message: str) -> bytes:
        """An error of the gateway's own: ``{"type": "error", "error": {"type", "message"}}``."""
        return error_body(status, message)

    def traces(self, method: str, path: str) -> bool:
        """Whether this exchange is a call of the Messages API."""
        return method == "POST" and path == "/v1/messages"

    def needs_credential(self, method: str, path: str) -> bool:
        """Whether the gateway refuses this call without a key: the same calls that are traced."""
        return self.traces(method, path)

    def understand(self, *, request: bytes, response: bytes, content_type: str, status: int | None) -> Understood:
        """Read an exchange; both bodies decoded, possibly cut anywhere. Never raises."""
        return understand(request=request, response=response, content_type=content_type, status=status)
