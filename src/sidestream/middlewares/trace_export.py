"""``trace_export``: hands an exchange over to the trace plane, piece by piece while it goes on.

It never parses, blocks, or raises into the relay. Only under strict durability it holds a response's end, as was asked
for.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import structlog

from sidestream.errors import GatewayError, NotRecorded
from sidestream.middlewares.auth_split import TRACE_CREDENTIAL, provider_keys
from sidestream.middlewares.body_capture import REQUEST_BODY
from sidestream.middlewares.stream_tee import RESPONSE_BODY
from sidestream.traces.entries import Begin, End, Head
from sidestream.traces.record import kept_headers
from sidestream.traces.recording import INTAKE, KEYS, RECORDING, STRICT, TRUNCATED, Recording
from sidestream.wire.capture import Capture
from sidestream.wire.exchange import EXCHANGE, Observer, Outcome

if TYPE_CHECKING:
    from aiohttp import web

    from sidestream.wire.chain import Handler
    from sidestream.wire.exchange import ResponseHead

log = structlog.get_logger()

_NOTHING = Capture(0)


class TraceExport:
    """Exports every exchange under a dataset that the provider's module can read; rejected calls are only counted."""

    needs = ("body_capture", "stream_tee")

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Record an exchange that is to become a trace."""
        exchange = request[EXCHANGE]
        if exchange.traced:
            intake = request.app[INTAKE]
            request[RECORDING] = recording = Recording(intake, lambda: _begin(request), exchange.started)
            exchange.observe(_Handover(request, recording))
            if (timeout := request.app[STRICT]) is not None:
                if not intake.ready:
                    raise GatewayError(503, "recording_unavailable", "this call cannot be recorded now")
                exchange.before_end.append(lambda: _committed(request, recording, timeout))
        return await handler(request)


class _Handover(Observer):
    def __init__(self, request: web.Request, recording: Recording) -> None:
        self._request = request
        self._recording = recording

    def on_response_head(self, head: ResponseHead) -> None:
        exchange = self._request[EXCHANGE]
        self._recording.head(
            Head(
                status=head.status,
                response_headers=kept_headers(head.headers, provider_keys(exchange.request_headers)),
                time_to_first_byte=(exchange.first_byte or exchange.started) - exchange.started,
            )
        )

    def on_end(self, outcome: Outcome, error: BaseException | None) -> None:
        exchange = self._request[EXCHANGE]
        if outcome is Outcome.REJECTED:
            self._recording.abandon()
            return
        reason = exchange.error_code or (type(error).__name__ if error else None)
        end = _end(self._request, outcome, reason, exchange.ended)
        self._recording.end(end)
        truncated = self._request.app[TRUNCATED]
        truncated["request"] += end.request_truncated
        truncated["response"] += end.response_truncated


async def _committed(request: web.Request, recording: Recording, timeout: float) -> None:  # noqa: ASYNC109
    """Hold the end of a response until the exchange survives a power cut; `NotRecorded` breaks the transfer off."""
    exchange = request[EXCHANGE]
    try:
        async with asyncio.timeout(timeout):
            await recording.commit(_end(request, exchange.outcome or Outcome.COMPLETED, exchange.error_code, None))
    except OSError as error:  # a TimeoutError is one
        log.error("commit_failed", exchange=exchange.id, error=type(error).__name__)
        raise NotRecorded("the exchange could not be written down") from error


def _begin(request: web.Request) -> Begin:
    exchange = request[EXCHANGE]
    credential = request.get(TRACE_CREDENTIAL)
    return Begin(
        id=exchange.id,
        dataset=exchange.dataset or "",
        provider=exchange.provider.name,
        fingerprint=request.app[KEYS].seen(credential) if credential else "",
        method=exchange.method,
        path=exchange.path,
        request_headers=kept_headers(exchange.request_headers, provider_keys(exchange.request_headers)),
        started_at=exchange.started_at,
    )


def _end(request: web.Request, outcome: Outcome, error: str | None, ended: float | None) -> End:
    exchange = request[EXCHANGE]
    return End(
        request_truncated=request.get(REQUEST_BODY, _NOTHING).truncated,
        request_complete=exchange.request_complete,
        response_truncated=request.get(RESPONSE_BODY, _NOTHING).truncated,
        outcome=outcome.value,
        error=error,
        duration=(ended or time.monotonic()) - exchange.started,
        end_verifiable=exchange.end_verifiable,
        exact=exchange.exact,
    )
