"""Anthropic streams for tests: the hand-written ones, and what the official SDK makes of a stream."""

from __future__ import annotations

import json
import os
import warnings
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from anthropic._streaming import SSEDecoder  # how the SDK itself reads
from anthropic.lib.streaming._beta_messages import accumulate_event  # the reference
from httpx2 import Headers

from sidestream.providers import sse
from sidestream.providers.anthropic.assembler import Assembled, Assembler
from sidestream.providers.jsons import clean

FOLDER = Path(__file__).parent / "fixtures" / "anthropic"
NAMES = sorted(path.stem for path in FOLDER.glob("*.sse"))


def stream(name: str) -> bytes:
    """A hand-written stream, with LF."""
    return (FOLDER / f"{name}.sse").read_bytes()


def recorded(answer: str) -> list[Any]:
    """The folders of recorded exchanges that have such an answer, as parameters of a test."""
    folder = os.environ.get("SIDESTREAM_STREAMS")
    if not folder:
        reason = "SIDESTREAM_STREAMS names no folder of recorded exchanges"
        return [pytest.param(None, marks=pytest.mark.skip(reason=reason), id="none")]
    paths = sorted(Path(folder, "anthropic").glob(f"*/{answer}"))
    return [pytest.param(path.parent, id=path.parent.name) for path in paths]


def assemble(*chunks: bytes) -> Assembled:
    """What our assembler makes of a stream."""
    decoder, assembler = sse.Decoder(), Assembler()
    for chunk in chunks:
        for event in decoder.feed(chunk):
            assembler.feed(event)
    assembler.finish(decoder.finish())
    return assembler.result()


def message_of(name: str) -> dict[str, Any]:
    """The message assembled from a hand-written stream."""
    message = assemble(stream(name)).message
    assert message is not None
    return message


class SDKError(Exception):
    """The SDK raised."""


def sdk_message(body: bytes) -> Any:
    """The message that the official SDK's beta client accumulates from a stream; None if it never began."""
    try:
        with warnings.catch_warnings(action="ignore"):  # it warns of blocks that it does not know
            return _accumulate(body)
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise SDKError from error


def _accumulate(body: bytes) -> Any:
    message: Any = None
    buffers: dict[int, bytes] = {}
    for event in SSEDecoder().iter_bytes(iter([body])):
        if event.event == "error":
            raise SDKError
        if event.event in {None, "ping"} or not event.data:
            continue
        data: Any = json.loads(event.data)
        if message is not None or data.get("type") == "message_start":
            message = accumulate_event(
                event=data, current_snapshot=message, json_bufs=buffers, request_headers=Headers()
            )
    return comparable(message.to_dict(mode="python")) if message is not None else None


def comparable(value: Any) -> Any:
    """A message with null fields dropped and times as the API writes them, made fit for comparison."""
    return clean(_bare(value))


def _bare(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _bare(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_bare(item) for item in value]
    return value.isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else value
