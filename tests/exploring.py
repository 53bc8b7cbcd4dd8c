"""An Explorer sink at work, and servers that answer it with given bytes."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from delivering import HELLO, a_turn
from sidestream.errors import DeliveryError
from sidestream.options import Secret
from sidestream.sinks.explorer import Explorer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sidestream.sinks.base import Found
    from sidestream.traces.model import Message, Turn

KEY = "inv-" + "a" * 64
OTHER_KEY = "inv-" + "b" * 64
STORED = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n{"id":["1"]}'


def a_sink(url: str, **options: Any) -> Explorer:
    return Explorer(url=url, **{"api_key": Secret(KEY), **options})


@asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncIterator[Explorer]:
    sink = a_sink(url, **options)
    await sink.open()
    try:
        yield sink
    finally:
        await sink.close()


async def pushed(url: str, turn: Turn | None = None, credential: Secret | None = None, **options: Any) -> str | None:
    async with opened(url, **options) as sink:
        return await sink.deliver(turn or a_turn(), credential, 1)


async def found(url: str, turn: Turn | None = None, credential: Secret | None = None, **options: Any) -> Found | None:
    async with opened(url, **options) as sink:
        return await sink.find(turn or a_turn(), credential)


async def refused(url: str, turn: Turn | None = None, **options: Any) -> DeliveryError:
    with pytest.raises(DeliveryError) as caught:
        await pushed(url, turn, **options)
    return caught.value


def an_append(remote: str | None, name: str = "x2", number: int = 2, *messages: Message) -> Turn:
    """A turn to be put behind the trace `remote`; it follows x1."""
    said = list(messages) or [{**HELLO, "timestamp": f"2026-01-0{number}T00:00:00.000000+00:00"}]
    return replace(a_turn(name, *said), trace="x1", number=number, rule="extends_tip", remote=remote)


@asynccontextmanager
async def answering(*answers: bytes) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A server that answers the n-th connection with the n-th of `answers` and closes it; its address and requests."""
    left = list(answers)
    requests: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
        requests.append(head + await reader.readexactly(length))
        writer.write(left.pop(0))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        yield f"http://{host}:{port}", requests


def answer(body: bytes, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
