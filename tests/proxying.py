"""Certificates for loopback, and a proxy that opens tunnels (CONNECT) there."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Self

import trustme

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

AUTHORITY = trustme.CA()
PAST = datetime(2020, 1, 1, tzinfo=UTC)


def serving_as(*names: str, authority: trustme.CA = AUTHORITY, until: datetime | None = None) -> ssl.SSLContext:
    """What a server needs that wants to be believed to have these names."""
    certificate = authority.issue_cert(*names, not_before=PAST, not_after=until)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)
    return context


def bundle(folder: Path, authority: trustme.CA = AUTHORITY) -> str:
    """A file with the authority's certificate."""
    file = folder / "ca.pem"
    authority.cert_pem.write_to_path(file)
    return str(file)


class TunnelProxy:
    """A proxy at `address`; an async context manager. It keeps each head it was sent in `heads`.

    `answer` is what it says to a CONNECT; with anything but a 200 there is no tunnel, and with nothing it is silent.
    """

    def __init__(self, answer: bytes = b"HTTP/1.1 200 Connection established\r\n\r\n") -> None:
        self.heads: list[bytes] = []
        self.address = ""
        self._answer = answer
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head)
            writer.write(self._answer)
            if self._answer.startswith(b"HTTP/1.1 200"):
                await self._tunnel(head.split(b" ")[1].decode(), reader, writer)
            elif not self._answer:
                await reader.read()
        self._tasks.discard(task)
        writer.close()

    @staticmethod
    async def _tunnel(target: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = target.rpartition(":")
        there, back = await asyncio.open_connection(host, int(port))
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_copy(reader, back))
                group.create_task(_copy(there, writer))
        finally:
            back.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()
