"""What only a socket tells."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket

import pytest

from rawhttp import connect
from sidestream.wire.sockets import bound_unsent, closed_by_peer, reset


async def accepted(server: socket.socket) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    connection, _address = await asyncio.get_running_loop().sock_accept(server)
    return await asyncio.open_connection(sock=connection)


@pytest.fixture
def server() -> socket.socket:
    server = socket.create_server(("127.0.0.1", 0))
    server.setblocking(False)
    return server


async def test_a_reset_is_seen_as_one(server: socket.socket) -> None:
    with server:
        async with connect(f"http://127.0.0.1:{server.getsockname()[1]}") as client:
            _reader, writer = await accepted(server)
            reset(writer.transport)
            assert await client.rest() is None
            writer.close()


@pytest.mark.skipif(not hasattr(socket, "TCP_INFO"), reason="only Linux tells")
async def test_a_connection_that_nobody_reads_from_is_known_to_be_closed_by_its_peer(server: socket.socket) -> None:
    with server:
        async with connect(f"http://127.0.0.1:{server.getsockname()[1]}") as client:
            _reader, writer = await accepted(server)
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            await client.send(b"unread")
            assert not closed_by_peer(writer.transport)
            client.reset()
            async with asyncio.timeout(5):
                while not closed_by_peer(writer.transport):  # noqa: ASYNC110  # the kernel tells only when asked
                    await asyncio.sleep(0)
            assert not writer.transport.is_closing()
            writer.transport.abort()
            writer.close()


def taken(writer: asyncio.StreamWriter) -> int:
    """Bytes that the kernel takes for a peer that reads nothing."""
    sock = writer.transport.get_extra_info("socket")
    size = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            size += os.write(sock.fileno(), bytes(1 << 14))
    return size


@pytest.mark.skipif(not hasattr(socket, "TCP_NOTSENT_LOWAT"), reason="this kernel cannot")
async def test_for_a_peer_that_does_not_read_the_kernel_takes_little_beyond_what_is_on_its_way(
    server: socket.socket,
) -> None:
    sizes = []
    with server:
        for bounded in (False, True):
            async with connect(f"http://127.0.0.1:{server.getsockname()[1]}"):
                _reader, writer = await accepted(server)
                if bounded:
                    bound_unsent(writer.transport, 1 << 16)
                sizes.append(taken(writer))
                writer.transport.abort()
                writer.close()
    assert sizes[1] < sizes[0]
