"""``stream_tee``: a bounded copy of the response's body and of its chunks' times, taken once they have been written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from sidestream.options import Size
from sidestream.traces.recording import RECORDING
from sidestream.wire.capture import Capture
from sidestream.wire.exchange import EXCHANGE, Observer

if TYPE_CHECKING:
    from sidestream.wire.chain import Handler

RESPONSE_BODY: web.RequestKey[Capture] = web.RequestKey("response_body", Capture)
"""What `StreamTee` took of the response so far. Its bytes are there only where nothing records the exchange."""


class StreamTee:
    """Takes the response's bytes for the trace, up to `limit`; beyond it the trace says that it is truncated."""

    inside_of = ("auth_split",)

    def __init__(self, *, limit: Size = Size(32 << 20)) -> None:
        self._limit = limit

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Listen to the response of an exchange that is to become a trace."""
        exchange = request[EXCHANGE]
        if exchange.traced:
            recording = request.get(RECORDING)
            request[RESPONSE_BODY] = capture = _ResponseCapture(self._limit, recording and recording.response)
            exchange.observe(capture)
        return await handler(request)


class _ResponseCapture(Capture, Observer):
    on_response_chunk = Capture.add
