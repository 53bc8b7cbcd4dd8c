"""An exchange as it was on the wire, for a reader: bodies as trees and as text, events with the times they came at.

Pure: a record in, plain values for the template out. Bodies are decoded and shown up to a limit, which is said.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sidestream.providers.decoding import decode
from sidestream.providers.jsons import MOST_VALUES, UNREADABLE, clean, parse, values_in
from sidestream.providers.sse import Decoder
from sidestream.viewer.conversation import Node, Text, folded, tree

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sidestream.providers.sse import Event
    from sidestream.traces.record import Record

LIMIT: Final = 16 << 20
"""Bytes of a body that are decoded."""
LONGEST: Final = 200_000
"""Characters of a body that are shown."""
MOST_EVENTS: Final = 2000
_DECODED_AGAIN: Final = 64 << 20
"""Bytes that may be decoded over again to learn when the events of an encoded stream came."""
_PROBLEMS: Final = {
    "truncated": "The encoded body stops early.",
    "corrupt": "The encoded body cannot be decoded beyond this.",
    "too_large": "The body is larger than what is decoded here.",
    "unknown_encoding": "The body's encoding is not known here; these are its bytes as they were.",
}


@dataclass(frozen=True, kw_only=True)
class Body:
    """A body, decoded."""

    size: int
    """Bytes on the wire."""
    decoded: int
    encoding: str
    text: Text
    tree: Node | None
    """Of JSON."""
    problems: tuple[str, ...]


class Row(NamedTuple):
    """An event of a stream."""

    chunk: int
    """The number, from 1, of the chunk that completed it."""
    begins: bool
    """Whether it is the first of that chunk."""
    at: float | None
    """Seconds since the beginning of the exchange; None where that is not known."""
    later: float | None
    """Seconds since the chunk before."""
    name: str
    data: Text


@dataclass(frozen=True, kw_only=True)
class Stream:
    """The events of an answer."""

    rows: tuple[Row, ...]
    hidden: int
    """Events that are left out."""
    chunks: int
    coarse: bool
    """Whether times are those of several chunks together."""


def request_body(record: Record) -> bytes:
    """What the client sent, decoded."""
    encoding = record.request_headers.get("content-encoding", "")
    return decode(b"".join(record.request_chunks), encoding, limit=LIMIT).data


def request_json(record: Record) -> dict[str, Any] | None:
    """The same as JSON; None where it is no object, is not all there, or holds too much to be compared."""
    value = _json(request_body(record))
    return value if isinstance(value, dict) and not record.request_truncated else None


def request(record: Record) -> Body:
    """The request's body."""
    notes = ["Only the beginning of it was captured."] if record.request_truncated else []
    if not record.request_complete:
        notes.append("It was not sent to its end.")
    return _body(record.request_chunks, record.request_headers, notes)


def response(record: Record) -> Body:
    """The response's body."""
    notes = ["Only the beginning of it was captured."] if record.response_truncated else []
    if not record.end_verifiable:
        notes.append("Only the end of the connection marked its end.")
    return _body(record.response_chunks, record.response_headers, notes)


def stream(record: Record) -> Stream | None:
    """The events of the response; None if it is no stream of events."""
    if not record.response_headers.get("content-type", "").strip().lower().startswith("text/event-stream"):
        return None
    encoding = record.response_headers.get("content-encoding", "")
    pieces, step = _decoded(record.response_chunks, encoding)
    rows: list[Row] = []
    total = 0
    for number, events in _events(pieces):
        total += len(events)
        chunk = min((number + 1) * step, len(record.response_chunks))
        at, before = _time(record, chunk - 1), _time(record, number * step - 1)
        later = at - before if at is not None and before is not None else None
        rows += [
            Row(chunk, not place, at, later, event.name or "", folded(event.data, LONGEST))
            for place, event in enumerate(events[: MOST_EVENTS - len(rows)])
        ]
    return Stream(rows=tuple(rows), hidden=total - len(rows), chunks=len(record.response_chunks), coarse=step > 1)


def _events(pieces: Sequence[bytes]) -> Iterator[tuple[int, list[Event]]]:
    decoder = Decoder()
    for number, piece in enumerate(pieces):
        if events := decoder.feed(piece):
            yield number, events
    if pieces and (last := decoder.finish()) is not None:
        yield len(pieces) - 1, [last]


def _time(record: Record, chunk: int) -> float | None:
    return record.response_times[chunk] if 0 <= chunk < len(record.response_times) else None


def _decoded(chunks: Sequence[bytes], encoding: str) -> tuple[Sequence[bytes], int]:
    """What each so many chunks hold, decoded, and how many. An encoded stream is decoded up to each of them anew."""
    if encoding.strip().lower() in {"", "identity"}:
        return chunks, 1
    whole = decode(b"".join(chunks), encoding, limit=LIMIT)
    if whole.problem in {"corrupt", "unknown_encoding"} or not chunks:
        return [whole.data], max(1, len(chunks))
    step = 1 + len(chunks) * len(whole.data) // _DECODED_AGAIN
    pieces, sofar = [], b""
    for end in range(step, len(chunks) + step, step):
        data = decode(b"".join(chunks[:end]), encoding, limit=LIMIT).data
        pieces.append(data[len(sofar) :])
        sofar = data
    return pieces, step


def _body(chunks: Sequence[bytes], headers: dict[str, str], notes: list[str]) -> Body:
    encoding = headers.get("content-encoding", "")
    decoded = decode(b"".join(chunks), encoding, limit=LIMIT)
    text = decoded.data.decode("utf-8", "replace")
    if decoded.problem is not None:
        notes = [*notes, _PROBLEMS.get(decoded.problem, decoded.problem)]
    value = _json(decoded.data)
    return Body(
        size=sum(map(len, chunks)),
        decoded=len(decoded.data),
        encoding=encoding,
        text=folded(text, LONGEST),
        tree=None if value is UNREADABLE else tree(value),
        problems=tuple(notes),
    )


def _json(data: bytes) -> Any:
    if not data or values_in(data) > MOST_VALUES:
        return UNREADABLE
    value = parse(data)
    return value if value is UNREADABLE else clean(value)
