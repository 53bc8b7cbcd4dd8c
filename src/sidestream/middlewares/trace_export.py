"""``trace_export``: hands the captured exchange over to the trace plane, at its end.

It never parses, blocks, or raises into the relay.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidestream.middlewares.auth_split import TRACE_CREDENTIAL
from sidestream.middlewares.body_capture import REQUEST_BODY
from sidestream.middlewares.stream_tee import RESPONSE_BODY
from sidestream.traces.record import Record, kept_headers
from sidestream.traces.recorder import RECORDER
from sidestream.wire.capture import Capture
from sidestream.wire.exchange import EXCHANGE, Observer, Outcome

if TYPE_CHECKING:
    from aiohttp import web

    from sidestream.traces.recorder import Recorder
    from sidestream.wire.chain import Handler

_NOTHING = Capture(0)


class TraceExport:
    """Exports every exchange under a dataset that the provider's module can read; rejected calls are only counted."""

    needs = ("body_capture", "stream_tee")

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Listen for the end of an exchange that is to become a trace."""
        exchange = request[EXCHANGE]
        if exchange.traced:
            exchange.observe(_Handover(request, request.app[RECORDER]))
        return await handler(request)


class _Handover(Observer):
    def __init__(self, request: web.Request, recorder: Recorder) -> None:
        self._request = request
        self._recorder = recorder

    def on_end(self, outcome: Outcome, error: BaseException | None) -> None:
        if outcome is not Outcome.REJECTED:
            self._recorder.submit(record_of(self._request, outcome, error), self._request.get(TRACE_CREDENTIAL))


def record_of(request: web.Request, outcome: Outcome, error: BaseException | None) -> Record:
    """What is known of an ended exchange, as bytes and facts."""
    exchange = request[EXCHANGE]
    sent = request.get(REQUEST_BODY, _NOTHING)
    received = request.get(RESPONSE_BODY, _NOTHING)
    head = exchange.head
    return Record(
        id=exchange.id,
        dataset=exchange.dataset or "",
        provider=exchange.provider.name,
        method=exchange.method,
        path=exchange.path,
        request_headers=kept_headers(exchange.request_headers),
        request_chunks=tuple(sent.chunks),
        request_truncated=sent.truncated,
        request_complete=exchange.request_complete,
        status=head.status if head else None,
        response_headers=kept_headers(head.headers) if head else {},
        response_chunks=tuple(received.chunks),
        response_truncated=received.truncated,
        outcome=outcome.value,
        error=exchange.error_code or (type(error).__name__ if error else None),
        started_at=exchange.started_at,
        time_to_first_byte=exchange.first_byte - exchange.started if exchange.first_byte else None,
        duration=(exchange.ended or exchange.started) - exchange.started,
        end_verifiable=exchange.end_verifiable,
        exact=exchange.exact,
    )
