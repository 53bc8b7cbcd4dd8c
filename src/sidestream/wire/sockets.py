"""What only the socket under a transport can do or tell."""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_CLOSED_BY_PEER = frozenset({7, 8})  # TCP_CLOSE and TCP_CLOSE_WAIT of Linux's tcp_states.h


def reset(transport: asyncio.WriteTransport) -> None:
    """Break a connection off with a TCP reset: what an HTTP/1.0 client needs to see a cut."""
    sock = _tcp(transport)
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    transport.abort()


def closed_by_peer(transport: asyncio.WriteTransport) -> bool:
    """Whether the other side has closed a connection from which nothing is being read: the transport cannot see that.

    Linux's kernel tells; elsewhere the answer is always no.
    """
    sock = _tcp(transport)
    if sock is None or not hasattr(socket, "TCP_INFO"):
        return False
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] in _CLOSED_BY_PEER


def bound_unsent(transport: asyncio.WriteTransport, most: int) -> None:
    """Have the kernel take no more than so many bytes beyond what is on its way; where it knows how."""
    sock = _tcp(transport)
    if sock is not None and hasattr(socket, "TCP_NOTSENT_LOWAT"):
        with contextlib.suppress(OSError):  # it has been reset already
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, most)


def _tcp(transport: asyncio.WriteTransport) -> socket.socket | None:
    sock: socket.socket | None = transport.get_extra_info("socket")
    return sock if sock is not None and sock.family in {socket.AF_INET, socket.AF_INET6} else None
