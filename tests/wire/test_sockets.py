"""What only a socket tells."""

from __future__ import annotations

import asyncio
import socket

import pytest

from rawhttp import connect
from sidestream.wire.sockets import closed_by_peer, reset


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
