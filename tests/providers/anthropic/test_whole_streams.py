"""A stream that is read as a whole tells what it tells event by event."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import streams
from sidestream.providers.anthropic.understanding import assemble

START: list[dict[str, Any]] = [
    {"type": "message_start", "message": {"id": "m", "type": "message", "role": "assistant", "content": []}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": "a"}},
    {"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "id": "t", "input": {}}},
    {"type": "content_block_start", "index": 2, "content_block": {"type": "thinking", "thinking": ""}},
]
BEGIN = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in START).encode()


def delta(data: bytes) -> bytes:
    return b"event: content_block_delta\ndata: " + data + b"\n\n"


def text(delta_fields: bytes, index: bytes = b"0", more: bytes = b"") -> bytes:
    return delta(b'{"type":"content_block_delta","index":' + index + b',"delta":{' + delta_fields + b"}" + more + b"}")


USUAL = text(b'"type":"text_delta","text":"b"')
ODD = [
    USUAL,
    text(b'"type":"text_delta","text":"b"', b"1"),
    text(b'"type":"input_json_delta","partial_json":"{}"', b"1"),
    text(b'"type":"thinking_delta","thinking":"b"', b"2"),
    text(b'"type":"signature_delta","signature":"b"', b"2"),
    text(b'"type":"text_delta","text":"b","text":5'),
    text(b'"type":"text_delta","text":5,"text":"b"'),
    text(b'"type":"text_delta","text":"b","type":"novel"'),
    text(b'"type":"text_delta","text":"b","novel":1'),
    text(b'"type":"text_delta","text":"b","partial_json":"c"'),
    text(b'"type":"text_delta"'),
    text(b'"type":["text_delta"],"text":"b"'),
    text(b'"type":"text_delta","text":"\\ud83d"'),
    text(b'"type":"text_delta","text":"\\ude00"'),
    text(b'"type":"text_delta","text":"\xff"'),
    text(b'"type":"text_delta","text":"\\q"'),
    text(b'"type":"text_delta","text":NaN'),
    text(b'"type":"text_delta","text":"' + b"b" * 1024 + b'"'),
    *(text(b'"type":"text_delta","text":"b"', index) for index in (b"-1", b"3", b"0.0", b"true", b'"0"', b"1e400")),
    text(b'"type":"text_delta","text":"b"', more=b',"type":"novel"'),
    text(b'"type":"text_delta","text":"b"', more=b',"delta":null'),
    text(b'"type":"text_delta","text":"b"', more=b',"novel":"\\q"'),
    delta(b'{"type":"content_block_delta"}'),
    delta(b"[" * 2000),
    delta(b'{"type":"content_block_delta","index":0,\n"delta":{"type":"text_delta","text":"b"}}'),
    delta(b'{"type":"content_block_delta","index":0,\ndata: "delta":{"type":"text_delta","text":"b"}}'),
    delta(b'{"type":"message_stop"}'),
    delta(b""),
    b"event: content_block_delta\nevent: ping\ndata: " + USUAL.partition(b"data: ")[2],
    b"event: error\ndata: {}\n\n",
    b"event: message_stop\ndata: {}\n\n",
    b"\n",
    b": comment\n\n",
    b"\xef\xbb\xbf",
    b"\r",
    b"data: \n\n",
    USUAL[:-1],
    USUAL[:-9],
]


@pytest.mark.parametrize("event", ODD)
def test_an_event_counts_as_it_does_when_it_comes_alone(event: bytes) -> None:
    for body in (BEGIN + event, BEGIN + event + USUAL, event + BEGIN + USUAL, BEGIN + event * 2):
        assert streams.assemble(body) == assemble(body)


@pytest.mark.parametrize("name", streams.NAMES)
def test_a_whole_stream_tells_the_same_with_any_line_ends_wherever_it_is_cut(name: str) -> None:
    body = streams.stream(name)
    assert assemble(body) == assemble(body.replace(b"\n", b"\r\n"))
    for cut in range(0, len(body), max(len(body) // 50, 1)):
        assert streams.assemble(body[:cut]) == assemble(body[:cut])


def test_a_long_stream_is_read_in_parts() -> None:
    body = BEGIN + USUAL * 5000 + delta(b'{"type":"novel","of":"' + b"x" * 600_000 + b'"}') + USUAL * 5000
    told: dict[str, Any] = assemble(body).message or {}
    assert "a" + "b" * 10_000 == told["content"][0]["text"]
    assert streams.assemble(body) == assemble(body)


@given(
    parts=st.lists(st.sampled_from([*ODD, BEGIN]), max_size=6),
    cut=st.integers(0, 2000),
    at=st.integers(0, 2000),
    put=st.sampled_from([b"", b"\n", b"\n\n", b'"', b"{", b"\\", b" ", b"\x00", b"data: ", b"\xef\xbb\xbf"]),
)
@example([USUAL], 2000, 0, b"\n")
def test_any_bytes_tell_the_same_as_event_by_event(parts: list[bytes], cut: int, at: int, put: bytes) -> None:
    body = (BEGIN + b"".join(parts))[:cut]
    body = body[:at] + put + body[at:]
    assert streams.assemble(body) == assemble(body)
