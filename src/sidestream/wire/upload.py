"""The request's body on its way upstream: in one write if it is here already, else piece by piece as it arrives."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import aiohttp

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aiohttp import web

    from sidestream.wire.exchange import Exchange
    from sidestream.wire.live import Waiting

_ONE_WRITE = 1 << 20
_PIECE = 1 << 16


class Upload:
    """One request's body; `waiting` is told which limit applies from now on."""

    def __init__(self, request: web.Request, exchange: Exchange, waiting: Waiting) -> None:
        self._request = request
        self._exchange = exchange
        self._waiting = waiting
        self.receiving = False
        """Whether the client's next piece is being awaited."""
        self.answered = False
        """Set once the upstream has answered: then it wants no more of the body."""
        self.misused: RuntimeError | None = None
        """What a middleware did to the body that keeps it from being sent."""

    async def body(self) -> bytes | AsyncIterator[bytes] | None:
        """The body: whole, or in pieces as they arrive; None if there is none. `sent` is to be called afterwards."""
        request, content = self._request, self._request.content
        if not request.body_exists:
            return None
        self._exchange.request_complete = False
        if not content.is_eof():
            if "Expect" in request.headers and request.version >= aiohttp.HttpVersion11:
                await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                request.writer.output_size = 0  # an interim response; the response has not begun
            return self._sending(self._arriving())
        data = await request.read() if content.at_eof() else content.read_nowait()  # a middleware may have read it
        if request.content_length not in {None, len(data)}:
            raise _consumed()
        if len(data) > _ONE_WRITE:
            return self._sending(in_pieces(data))
        self._exchange.request_chunk(data)
        return data

    def sent(self) -> None:
        """All of it is on its way."""
        self._exchange.request_complete = True
        if not self.answered:
            self._waiting.on("first_byte")

    async def _arriving(self) -> AsyncIterator[bytes]:
        size = 0
        while True:
            self._waiting.on("idle")
            self.receiving = True
            chunk = await self._request.content.readany()
            self.receiving = False
            if not chunk:
                break
            size += len(chunk)
            yield chunk
        if self._request.content_length not in {None, size}:
            self.misused = _consumed()
            raise self.misused

    async def _sending(self, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for piece in pieces:
            if self.answered:
                await asyncio.get_running_loop().create_future()  # until the upload is ended
            self._waiting.on("write")
            yield piece
            self._exchange.request_chunk(piece)


async def in_pieces(data: bytes) -> AsyncIterator[bytes]:
    """A long body: in one write, it would be copied as a whole while everything else waits."""
    for start in range(0, len(data), _PIECE):
        yield data[start : start + _PIECE]


def _consumed() -> RuntimeError:
    return RuntimeError("a middleware consumed the request's body; use request.read(), or an observer")
