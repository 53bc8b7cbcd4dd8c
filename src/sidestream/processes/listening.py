"""The listening sockets, bound once by the supervisor and inherited by every relay.

So a relay can be replaced without a connection being refused (with a socket of each relay's own some were: measured).
"""

from __future__ import annotations

import contextlib
import errno
import resource
import socket
import time
from typing import TYPE_CHECKING

from sidestream.errors import SidestreamError

if TYPE_CHECKING:
    from collections.abc import Sequence

BACKLOG = 2048

_PATIENCE = 1.0
"""Seconds that a port may be taken still: what a killed supervisor has left behind lets go of it within moments."""
_STEP = 0.05
_TRIES = 10
_MOST_DESCRIPTORS = 1 << 16
_OTHER_DESCRIPTORS = 64
"""What a process needs beside its connections: the journal, the log, the recorder's socket, look-ups of names."""


def bind(host: str, port: int, *, patience: float = _PATIENCE) -> list[socket.socket]:
    """Listening sockets on every address of `host`, with the same port; 0 takes any that is free on all of them.

    Waits `patience` seconds for a port that is taken; `SidestreamError` says what is wrong then.
    """
    deadline = time.monotonic() + patience
    try:
        addresses = _addresses(host, port)
        while True:
            try:
                return _bind(addresses)
            except OSError as error:
                if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                    raise
                time.sleep(_STEP)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "no such address"
        raise SidestreamError(f"cannot listen on {host}:{port}: {reason}") from None


def raise_descriptor_limit() -> None:
    """Let this process have as many descriptors as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MOST_DESCRIPTORS)
    while soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # macOS has another limit below its infinity
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            return
        wanted //= 2


def most_connections() -> int:
    """How many connections this process can serve: each needs a descriptor, and one more for its upstream."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft == resource.RLIM_INFINITY or soft > _MOST_DESCRIPTORS:
        soft = _MOST_DESCRIPTORS
    return max(1, (soft - _OTHER_DESCRIPTORS) // 2)


_Address = tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int]]


def _addresses(host: str, port: int) -> Sequence[_Address]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    known = {socket.AF_INET, socket.AF_INET6}
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found if family in known))  # type: ignore[misc]  # such are theirs


def _bind(addresses: Sequence[_Address]) -> list[socket.socket]:
    """One attempt, or a few where the port is ours to choose."""
    for _ in range(_TRIES):
        try:
            return _bind_all(addresses)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or any(address[1] for _, address in addresses):
                raise
    return _bind_all(addresses)


def _bind_all(addresses: Sequence[_Address]) -> list[socket.socket]:
    bound: list[socket.socket] = []
    missing: OSError | None = None
    port = 0
    try:
        for family, (host, asked, *rest) in addresses:
            try:
                sock = _listen(family, (host, asked or port, *rest))
            except OSError as error:
                if error.errno not in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}:
                    raise
                missing = error  # "localhost" is often ::1 as well, where there is no IPv6
                continue
            bound.append(sock)
            port = sock.getsockname()[1]
    except OSError:
        for sock in bound:
            sock.close()
        raise
    if not bound:
        raise missing or OSError(errno.EADDRNOTAVAIL, "no such address")
    return bound


def _listen(family: socket.AddressFamily, address: tuple[object, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setblocking(False)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock
