"""From a captured exchange to its trace: a pure function, so that it can be run again on what was captured.

It undoes the bodies' encodings, lets the provider read them, and puts the transport's facts beside the provider's. What
comes out is JSON for the strictest parser, whatever the provider module let through.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sidestream.providers.decoding import LIMIT, decode
from sidestream.providers.jsons import clean
from sidestream.traces.model import Trace

if TYPE_CHECKING:
    from sidestream.providers.base import Provider, Understood
    from sidestream.traces.record import Record


def understand(record: Record, provider: Provider, *, limit: int = LIMIT) -> Trace:
    """Read a record. Each body is decoded up to `limit` bytes.

    The trace's metadata has ``model, usage, stop_reason, message_complete`` (the provider's word), ``outcome, status,
    time_to_first_byte, duration`` (seconds), ``started_at`` (ISO 8601, UTC), ``exchange, provider, via_gateway``, and,
    only where they say something:

    - ``request_complete: false``, ``end_verifiable: false``, ``exact: false``: as in the record;
    - ``truncated``: which of ``request`` and ``response`` were captured, or decoded, only in part;
    - ``undecoded``: the same names with the word of `sidestream.providers.decoding.Decoded`;
    - ``error``: the provider's error object; ``transport_error``: what went wrong with the transport, in words;
    - ``extras``: what no rule of the provider module knew.
    """
    request = decode(b"".join(record.request_chunks), record.request_headers.get("content-encoding", ""), limit=limit)
    response = decode(
        b"".join(record.response_chunks), record.response_headers.get("content-encoding", ""), limit=limit
    )
    problems = {
        name: body.problem for name, body in (("request", request), ("response", response)) if body.problem is not None
    }
    understood = provider.understand(
        request=request.data,
        response=response.data,
        content_type=record.response_headers.get("content-type", ""),
        status=record.status,
    )
    truncated = [
        name
        for name, cut in (("request", record.request_truncated), ("response", record.response_truncated))
        if cut or problems.get(name) == "too_large"
    ]
    return Trace(
        id=record.id,
        dataset=record.dataset,
        messages=clean(understood.messages),
        metadata=clean(_facts(record, understood) | _remarks(record, understood, truncated, problems)),
    )


def _facts(record: Record, understood: Understood) -> dict[str, Any]:
    return {
        "model": understood.model,
        "usage": understood.usage,
        "stop_reason": understood.stop_reason,
        "outcome": record.outcome,
        "message_complete": understood.message_complete,
        "exchange": record.id,
        "provider": record.provider,
        "status": record.status,
        "time_to_first_byte": record.time_to_first_byte,
        "duration": record.duration,
        "started_at": datetime.fromtimestamp(record.started_at, UTC).isoformat(),
        "via_gateway": True,
    }


def _remarks(record: Record, understood: Understood, truncated: list[str], problems: dict[str, str]) -> dict[str, Any]:
    """What is worth saying only when it is so."""
    unusual = {key: False for key in ("request_complete", "end_verifiable", "exact") if not getattr(record, key)}
    notes = {
        "truncated": truncated,
        "undecoded": problems,
        "error": understood.error,
        "transport_error": record.error,
        "extras": understood.extras,
    }
    return unusual | {key: note for key, note in notes.items() if note}
