"""From a captured exchange to its reading: a pure function, so that it can be run again on what was captured.

It undoes the bodies' encodings, lets the provider read them, puts the transport's facts beside the provider's, and
works out what the call is placed in its conversation by. What comes out is JSON for the strictest parser, whatever the
provider module let through.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from sidestream.providers.decoding import LIMIT, decode
from sidestream.providers.jsons import clean, clean_text, text_of, weight_of
from sidestream.traces.clues import clues, is_summary
from sidestream.traces.conversation import Call, cut_text
from sidestream.traces.model import Reading
from sidestream.traces.prices import cost_of
from sidestream.traces.sessions import name_in, session_of
from sidestream.traces.states import digest, digest_of, scope_of, states_of

if TYPE_CHECKING:
    from sidestream.providers.base import Provider, Said, Understood
    from sidestream.traces.record import Record

_MOST_COUNTED: Final = 1 << 53
_MOST_DIGESTS: Final = 64
_MOST_DIGESTED: Final = 1 << 20
"""Bytes of JSON in what these are digests of; in memory it can be some thirty times as many."""
_LARGE: Final = 1 << 16
_DELTA: Final = b"_delta\ndata:"
_VALUES_OF_DELTA: Final = 5
"""What `weight_of` finds in an event that appends to a text."""
_DIGITS: Final = 3
"""Nobody tries a thousand times."""


def understand(record: Record, provider: Provider, *, limit: int = LIMIT) -> Reading:
    """Read a record. Each body is decoded up to `limit` bytes.

    The reading's metadata has ``model, usage, stop_reason, message_complete`` (the provider's word), ``outcome, status,
    time_to_first_byte, duration`` (seconds), ``started_at`` (ISO 8601, UTC), ``exchange, provider, via_gateway``, and,
    only where they are known:

    - ``request_id``: the provider's own name for the exchange;
    - ``parameters``: the request's other fields;
    - ``tools``: ``{"count", "digest"}`` and ``system``: ``{"digest"}``, the digests in hex: the same for the same;
    - ``cache``: ``{"read", "written"}``, tokens;
    - ``tokens_per_second``: of a whole answer, over the time in which it came; for one that was not streamed that is
      the whole exchange;
    - ``cost``: of a whole answer (`sidestream.traces.prices.cost_of`);

    and, only where they say something:

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
    if not understood.clean:
        _clean(understood)
    system, tools, asked, answer = understood.system, understood.tools, understood.asked, understood.answer
    manner = [_DIGESTS.of(part) if part else b"" for part in (system, tools)]
    lacking = {*truncated, *problems, *({"request"} & understood.extras.keys())}
    return Reading(
        id=record.id,
        dataset=record.dataset,
        system=system,
        asked=asked,
        answer=answer,
        tools=tools,
        metadata=clean(
            _facts(record, understood)
            | _details(record, understood, *manner)
            | _remarks(record, understood, truncated, problems)
        ),
        call=_call(record, understood, asked, answer, digest(*manner), lacking),
        weight=_weight(request.data) + _weight(response.data),
    )


def _weight(body: bytes) -> int:
    """About how many bytes of memory is taken by what is read out of a body. The pieces of a text become one."""
    return weight_of(body, but=_VALUES_OF_DELTA * body.count(_DELTA))


class _Digests:
    """Digests of the latest lists that were asked for, by their identity: many are the same object again and again."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[list[Any], bytes]] = {}
        self._size = 0

    def of(self, part: list[Any]) -> bytes:
        known = self._known.get(id(part))
        if known is not None and known[0] is part:
            return known[1]
        text = text_of(part)
        found = digest(text)
        if len(text) > _LARGE:  # it would be kept for nothing but its digest
            return found
        self._size += len(text)
        if len(self._known) >= _MOST_DIGESTS or self._size > _MOST_DIGESTED:
            self._known, self._size = {}, len(text)
        self._known[id(part)] = part, found  # so that nothing else can have that identity
        return found


_DIGESTS: Final = _Digests()


def _clean(understood: Understood) -> None:
    understood.system, understood.tools = clean(understood.system), clean(understood.tools)
    understood.asked, understood.digests = [_cleaned(said) for said in understood.asked], []
    understood.answer = _cleaned(understood.answer) if understood.answer is not None else None


def _cleaned(said: Said) -> Said:
    return msgspec.structs.replace(
        said, role=clean_text(said.role), shown=clean(said.shown), text=clean_text(said.text)
    )


def _call(
    record: Record, understood: Understood, asked: list[Said], answer: Said | None, manner: bytes, lacking: set[str]
) -> Call:
    """What the call is placed by; `lacking` names the bodies of which not all is known.

    A request that is not `whole` has no state. The calls of a long conversation that were cut off at the same limit
    look the same, and what each goes on from may lie beyond: any state of theirs would make them retries of each other,
    or branches. So they stay by themselves, as does what their answers' tool calls ask for. Names still tell: the
    session's, and the answer's. An answer that was not captured whole is none that a client would ask for again.
    """
    whole = "request" not in lacking
    said = [*asked, *([answer] if answer is not None else [])]
    digests = [*understood.digests, *map(digest_of, said[len(understood.digests) :])]
    states = states_of(said, digests=digests) if whole and asked else []
    outlined = any(each.outline is not None for each in said)
    openings = [clean_text(text) for text in understood.openings] if whole else []
    arguments = [clean_text(text) for text in understood.arguments] if whole else []
    opened = clues(openings)
    return Call(
        scope=scope_of(record.dataset, record.provider, record.fingerprint),
        started_at=record.started_at,
        ended_at=record.started_at + record.duration,
        states=tuple(states[: len(asked)]),
        leaving=states[-1] if states else None,
        outlines=tuple(states_of(said, outline=True, digests=digests) if states and outlined else states),
        answered=answer is not None,
        complete=understood.message_complete or "response" in lacking,
        digests=tuple(digests),
        texts=tuple(each.text for each in asked),
        roles=tuple(each.role for each in asked),
        cut=cut_text(answer, complete=understood.message_complete),
        manner=manner,
        retries=_retries(record.request_headers.get("x-stainless-retry-count", "")),
        session=session_of(record.request_headers),
        answer=_named(understood.id),
        previous=_named(understood.previous) if whole else None,
        compaction=answer.compaction if answer is not None else b"",
        compacted=asked[0].compaction if whole and asked else b"",
        openings=opened,
        summary=is_summary(openings),
        arguments=tuple(
            text for text in clues(arguments) if text not in opened
        ),  # what it was asked it passes on to nobody
    )


def _named(name: str | None) -> bytes | None:
    return digest(clean_text(name)) if name else None


def _retries(told: str) -> int:
    told = told.strip()
    return int(told) if told.isascii() and told.isdigit() and len(told) <= _DIGITS else 0


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


def _details(record: Record, understood: Understood, system: bytes, tools: bytes) -> dict[str, Any]:
    """What is said only where it is known. `system` and `tools` are digests; b"" for none."""
    usage = understood.usage or {}
    cached = {
        "read": _count(usage.get("cache_read_input_tokens")),
        "written": _count(usage.get("cache_creation_input_tokens")),
    }
    details: dict[str, Any] = {
        "request_id": name_in(record.response_headers.get("request-id")),
        "parameters": understood.parameters or None,
        "tools": {"count": len(understood.tools), "digest": tools.hex()} if tools else None,
        "system": {"digest": system.hex()} if system else None,
        "cache": {key: count for key, count in cached.items() if count is not None} or None,
    }
    if understood.message_complete:  # until then the usage is that of the beginning
        details["tokens_per_second"] = _rate(_count(usage.get("output_tokens")), _answering(record))
        details["cost"] = cost_of(
            understood.model, usage, record.started_at, record.provider, asked=understood.parameters
        )
    return {key: detail for key, detail in details.items() if detail is not None}


def _count(value: Any) -> int | None:
    """A number of tokens, as far as it can be one."""
    return value if type(value) is int and 0 <= value < _MOST_COUNTED else None


def _answering(record: Record) -> float:
    """The seconds in which the answer came; 0 where that is not known."""
    if not record.response_headers.get("content-type", "").strip().lower().startswith("text/event-stream"):
        return record.duration
    if record.response_truncated or not record.response_times:
        return 0.0
    return record.response_times[-1] - record.response_times[0]


def _rate(tokens: int | None, seconds: float) -> float | None:
    if not tokens or not math.isfinite(seconds) or seconds <= 0:
        return None
    rate = round(tokens / seconds, 2)
    return rate if rate and math.isfinite(rate) else None


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
