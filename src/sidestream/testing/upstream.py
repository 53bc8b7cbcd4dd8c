"""A provider on loopback that says exactly the bytes it is told to, and keeps exactly the bytes it was sent."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from ssl import SSLContext
    from types import TracebackType

    Script = Callable[["Received", "Connection"], Awaitable[None]]


@dataclass(slots=True)
class Received:
    """A request as it arrived. `headers` are name and value in order; `body` is free of framing."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    head: bytes
    body: bytearray = field(default_factory=bytearray)
    complete: bool = False

    def header(self, name: str) -> list[str]:
        """Every value of one field."""
        return [value for key, value in self.headers if key.lower() == name.lower()]


class Connection:
    """The upstream's end of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        """Send bytes at once, as one piece."""
        self._writer.write(data)
        await self._writer.drain()

    async def reset(self) -> None:
        """End the connection with a TCP reset."""
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    async def close(self) -> None:
        """End the connection in order."""
        self._writer.close()

    async def closed_by_peer(self) -> None:
        """Wait until the other side has ended the connection."""
        with contextlib.suppress(ConnectionError):
            while await self._reader.read(1 << 16):
                pass


def response(
    body: bytes = b"",
    *,
    status: str = "200 OK",
    headers: Iterable[tuple[str, str]] = (("Content-Type", "application/json"),),
    length: bool = True,
) -> bytes:
    """A whole response, framed by Content-Length."""
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in headers)]
    if length:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body; empty data is its end."""
    return b"%x\r\n%s\r\n" % (len(data), data)


STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
"""The head of a streamed answer; `chunk` makes what follows."""


class ScriptedUpstream:
    """A server whose `script` is called for every request; an async context manager.

    Without a script every request is answered with an empty 200. A script may raise `ConnectionError`: the connection
    ends. By default the body has been read before the script is called; with ``early=True`` it is called at the head.
    With `ssl` it speaks TLS.
    """

    def __init__(self, script: Script | None = None, *, early: bool = False, ssl: SSLContext | None = None) -> None:
        self.script = script
        self.requests: list[Received] = []
        self.activity = asyncio.Event()
        """Set whenever a head or a piece of a body has arrived."""
        self.connections = 0
        self.ended = asyncio.Event()
        """Set when a connection has ended."""
        self._early = early
        self._ssl = ssl
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """Its origin."""
        assert self._server is not None  # noqa: S101
        scheme = "http" if self._ssl is None else "https"
        return f"{scheme}://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 20, ssl=self._ssl)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None  # noqa: S101
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101
        self._tasks.add(task)
        self.connections += 1
        connection = Connection(reader, writer)
        try:
            while not writer.transport.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                received = _parse(head)
                self.requests.append(received)
                self.activity.set()
                if not self._early:
                    await self._read_body(reader, received)
                if self.script is None:
                    await connection.send(response())
                else:
                    await self.script(received, connection)
                if self._early:
                    await self._read_body(reader, received)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # cancelled by __aexit__; asyncio's streams would report it as a failure
        finally:
            self._tasks.discard(task)
            self.ended.set()
            writer.close()

    async def _read_body(self, reader: asyncio.StreamReader, received: Received) -> None:
        if received.header("Transfer-Encoding"):
            while size := int(await reader.readuntil(b"\n"), 16):
                received.body += await reader.readexactly(size)
                await reader.readexactly(2)
                self.activity.set()
            await reader.readexactly(2)
        else:
            left = int((received.header("Content-Length") or ["0"])[0])
            while left:
                data = await reader.read(min(left, 1 << 16))
                if not data:
                    raise ConnectionResetError
                received.body += data
                left -= len(data)
                self.activity.set()
        received.complete = True


def _parse(head: bytes) -> Received:
    first, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    method, target, _ = first.split(" ")
    fields = [line.partition(":") for line in lines]
    return Received(method, target, [(name, value.strip()) for name, _, value in fields], head)
