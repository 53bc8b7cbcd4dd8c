"""A client that sends and receives exact bytes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PATH = "/api/v1/gateway/my-agent/anthropic/v1/messages"
KEYS = "x-api-key: sk-ant-canary\r\n"


@dataclass(slots=True)
class Answer:
    """A response as it was on the wire. `complete` tells whether its framing was honoured to the end."""

    status: int
    head: bytes
    body: bytes
    complete: bool

    @property
    def fields(self) -> list[tuple[str, str]]:
        lines = self.head.decode("latin-1").split("\r\n")[1:]
        return [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines if line)]

    def field(self, name: str) -> str | None:
        return next((value for key, value in self.fields if key.lower() == name.lower()), None)


class RawClient:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self) -> bytes:
        async with asyncio.timeout(10):
            return await self.reader.readuntil(b"\r\n\r\n")

    async def until(self, marker: bytes) -> bytes:
        async with asyncio.timeout(10):
            return await self.reader.readuntil(marker)

    async def answer(self, *, method: str = "POST") -> Answer:
        """Read one whole response."""
        async with asyncio.timeout(15):
            head = await self.reader.readuntil(b"\r\n\r\n")
            while head.startswith(b"HTTP/1.1 100"):
                head = await self.reader.readuntil(b"\r\n\r\n")
            answer = Answer(int(head[9:12]), head, b"", complete=False)
            try:
                await self._body(answer, method)
            except (asyncio.IncompleteReadError, ConnectionError, ValueError) as error:
                answer.body += getattr(error, "partial", b"")
            return answer

    async def _body(self, answer: Answer, method: str) -> None:
        if method == "HEAD" or answer.status in {204, 304}:
            answer.complete = True
        elif (length := answer.field("Content-Length")) is not None:
            answer.body = await self.reader.readexactly(int(length))
            answer.complete = True
        elif answer.field("Transfer-Encoding") is not None:
            while size := int(await self.reader.readline(), 16):
                answer.body += await self.reader.readexactly(size)
                await self.reader.readexactly(2)
            await self.reader.readexactly(2)
            answer.complete = True
        else:
            while data := await self.reader.read(1 << 16):
                answer.body += data
            answer.complete = True

    async def rest(self) -> bytes | None:
        """All that comes until the connection ends; None when it is reset."""
        async with asyncio.timeout(15):
            try:
                return await self.reader.read()
            except ConnectionResetError:
                return None

    def reset(self) -> None:
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def closed(self) -> None:
        """Wait until the other side has closed."""
        async with asyncio.timeout(15):
            with contextlib.suppress(ConnectionError):
                while await self.reader.read(1 << 16):
                    pass


@contextlib.asynccontextmanager
async def connect(url: str) -> AsyncIterator[RawClient]:
    """A connection to the server of a URL."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=1 << 22)
    try:
        yield RawClient(reader, writer)
    finally:
        writer.close()


def post(body: bytes = b"{}", *, path: str = PATH, headers: str = KEYS, version: str = "1.1") -> bytes:
    """A POST with a length."""
    head = f"POST {path} HTTP/{version}\r\nHost: gateway\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def exchange(url: str, request: bytes, *, method: str = "POST") -> Answer:
    """One request on a connection of its own."""
    async with connect(url) as client:
        await client.send(request)
        return await client.answer(method=method)
