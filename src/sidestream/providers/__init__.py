"""The LLM APIs sidestream can read, sans-IO: bytes in, facts out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidestream.providers.anthropic import Anthropic

if TYPE_CHECKING:
    from sidestream.providers.base import Provider

__all__ = ["PROVIDERS"]

PROVIDERS: dict[str, Provider] = {"anthropic": Anthropic()}
"""Every provider by its name in routes and in YAML."""
