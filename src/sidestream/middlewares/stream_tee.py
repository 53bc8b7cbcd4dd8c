"""``stream_tee``: a bounded copy of the response's body and of its chunks' times, taken once they have been written."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from aiohttp import web

from sidestream.options import Size
from sidestream.wire.capture import Capture
from sidestream.wire.exchange import EXCHANGE, Observer

if TYPE_CHECKING:
    from sidestream.wire.chain import Handler


class ResponseCapture(Capture):
    """A response's bytes, and when each kept chunk went downstream (monotonic seconds, one per chunk)."""

    __slots__ = ("times",)

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.times: list[float] = []

    def add(self, data: bytes) -> None:
        """Keep these bytes and their time."""
        super().add(data)
        if len(self.chunks) > len(self.times):
            self.times.append(time.monotonic())


RESPONSE_BODY: web.RequestKey[ResponseCapture] = web.RequestKey("response_body", ResponseCapture)
"""What `StreamTee` has of the response so far."""


class StreamTee:
    """Keeps the response's bytes for the trace, up to `limit`; beyond it the trace says that it is truncated."""

    inside_of = ("auth_split",)

    def __init__(self, *, limit: Size = Size(32 << 20)) -> None:
        self._limit = limit

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Listen to the response of an exchange that is to become a trace."""
        exchange = request[EXCHANGE]
        if exchange.traced:
            request[RESPONSE_BODY] = capture = ResponseCapture(self._limit)
            exchange.observe(_ResponseListener(capture))
        return await handler(request)


class _ResponseListener(Observer):
    def __init__(self, capture: ResponseCapture) -> None:
        self._capture = capture

    def on_response_chunk(self, data: bytes) -> None:
        self._capture.add(data)
