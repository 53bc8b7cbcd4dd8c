"""Where the viewer is, for a browser on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from sidestream.errors import SidestreamError

if TYPE_CHECKING:
    from sidestream.config import Server

_HERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # where to go, not where to listen
"""Addresses that stand for every interface, and one of them."""


def address(server: Server) -> str:
    """The viewer's first page, as ``http://127.0.0.1:8005/``; `SidestreamError` if its port cannot be told."""
    if not server.port:
        raise SidestreamError("server.port is 0, any free one; the gateway says at its start which it took")
    host = _HERE.get(server.host, server.host)
    shown = f"[{quote(host, safe=':')}]" if ":" in host else host
    return f"http://{shown}:{server.port}/"


def path_of(run: str) -> str:
    """The page of a run, below the first one."""
    return f"runs/{quote(run, safe='')}"
