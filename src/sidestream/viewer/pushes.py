"""What may be pushed: the bodies of Explorer's API, read, bounded and checked.

Where an Explorer would answer a mistake with 500, or take what it can never show again, this says 400: `Refused`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from aiohttp import web

from sidestream.providers.decoding import decode
from sidestream.providers.jsons import UNREADABLE, clean, parse, values_in
from sidestream.traces.pushing import SNIPPETS, fault_of
from sidestream.wire.routes import DATASET

if TYPE_CHECKING:
    from collections.abc import Sequence

LARGEST_BODY: Final = 64 << 20
"""Bytes, also after decompression."""
MOST_VALUES: Final = 2_000_000
"""JSON values; each takes up to some hundred bytes of memory."""
MOST_TRACES: Final = 1000
"""That one push may bring."""


class Refused(Exception):
    """Answer with `status` and these words, as Explorer says what is wrong."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


class Push(NamedTuple):
    """A trace that is pushed."""

    messages: list[dict[str, Any]]
    metadata: dict[str, Any]
    """With the ``annotations``, if there are any."""


async def payload_of(request: web.Request) -> dict[str, Any]:
    """The body of a request, an object, cleaned."""
    try:
        body = await request.clone(client_max_size=LARGEST_BODY).read()
    except web.RequestPayloadError:
        raise Refused(400, "The body cannot be decoded") from None
    payload = await asyncio.to_thread(_read, body, request.headers.get("Content-Encoding", ""))
    if not isinstance(payload, dict):
        raise Refused(400, "The body must be a JSON object")
    return payload


def pushes_in(payload: dict[str, Any]) -> list[Push]:
    """The traces of a push."""
    given = payload.get("messages")
    if not isinstance(given, list) or not given:
        raise Refused(400, "messages must be a non-empty list of traces")
    if len(given) > MOST_TRACES:
        raise Refused(413, f"There are more than {MOST_TRACES} traces")
    metadata = _parallel(payload, "metadata", {}, len(given))
    if not all(isinstance(each, dict) for each in metadata):
        raise Refused(400, "metadata must be a list of dictionaries")
    annotations = _parallel(payload, "annotations", [], len(given))
    return [
        Push(messages_in(messages, f"messages[{place}]"), facts | notes_in(notes, f"annotations[{place}]"))
        for place, (messages, facts, notes) in enumerate(zip(given, metadata, annotations, strict=True))
    ]


def messages_in(given: Any, name: str = "messages") -> list[dict[str, Any]]:
    """The messages of a trace."""
    if fault := fault_of(given):
        raise Refused(400, f"{name}{fault}")
    return list(given)


def notes_in(given: Any, name: str = "annotations") -> dict[str, Any]:
    """Annotations as metadata; nothing for none."""
    notes: Sequence[Any] = given or []
    if not isinstance(notes, list) or not all(map(_is_note, notes)):
        raise Refused(400, f"{name} must be a list of annotations, each with a content and an address")
    return {"annotations": notes} if notes else {}


def dataset_in(payload: dict[str, Any]) -> str:
    """The dataset that a push is for."""
    given = payload.get("dataset")
    if given is None:
        return SNIPPETS
    if not isinstance(given, str) or not DATASET.fullmatch(given):
        raise Refused(400, "Dataset name can only contain A-Z, a-z, 0-9, - and _")
    return given


def _read(body: bytes, encoding: str) -> Any:
    if encoding and body.lstrip()[:1] != b"{":  # else the server has decoded it already
        decoded = decode(body, encoding, limit=LARGEST_BODY)
        if decoded.problem == "unknown_encoding":
            raise Refused(415, "The body's encoding is not known; gzip, deflate, br and zstd are")
        if decoded.problem is not None:
            raise Refused(413 if decoded.problem == "too_large" else 400, "The body cannot be decoded")
        body = decoded.data
    if values_in(body) > MOST_VALUES:
        raise Refused(413, "The body holds too many values")
    payload = parse(body)
    if payload is UNREADABLE:
        raise Refused(400, "The body is not JSON, or nested too deeply")
    return clean(payload)


def _parallel(payload: dict[str, Any], name: str, nothing: Any, length: int) -> list[Any]:
    """What is given for each trace."""
    given = payload.get(name)
    if given is None or given == []:
        return [nothing] * length
    if not isinstance(given, list) or len(given) != length:
        raise Refused(400, f"{name} must be the same length as messages")
    return given


def _is_note(note: Any) -> bool:
    return isinstance(note, dict) and isinstance(note.get("content"), str) and isinstance(note.get("address"), str)
