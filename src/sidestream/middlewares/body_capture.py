"""``body_capture``: a bounded copy of the request's body, taken as it goes upstream. Nothing is held back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from sidestream.options import Size
from sidestream.traces.recording import RECORDING
from sidestream.wire.capture import Capture
from sidestream.wire.exchange import EXCHANGE, Observer

if TYPE_CHECKING:
    from sidestream.wire.chain import Handler

REQUEST_BODY: web.RequestKey[Capture] = web.RequestKey("request_body", Capture)
"""What `BodyCapture` took of the request so far. Its bytes are there only where nothing records the exchange."""


class BodyCapture:
    """Takes the request's bytes for the trace, up to `limit`; beyond it the trace says that it is truncated."""

    inside_of = ("auth_split",)

    def __init__(self, *, limit: Size = Size(32 << 20)) -> None:
        self._limit = limit

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Listen to the request of an exchange that is to become a trace."""
        exchange = request[EXCHANGE]
        if exchange.traced:
            recording = request.get(RECORDING)
            request[REQUEST_BODY] = capture = _RequestCapture(self._limit, recording and recording.request)
            exchange.observe(capture)
        return await handler(request)


class _RequestCapture(Capture, Observer):
    on_request_chunk = Capture.add
