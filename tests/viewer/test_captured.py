"""What went over the wire is shown as it was: decoded, with the times it came at, and with what is missing."""

from __future__ import annotations

import json
import zlib
from typing import TYPE_CHECKING, Any

import pytest

from sidestream.viewer import captured
from sidestream.viewer.captured import LIMIT, LONGEST, MOST_EVENTS, Stream
from stored import a_record

if TYPE_CHECKING:
    from sidestream.traces.record import Record

STREAM = {"content-type": "text/event-stream"}


def streamed(*chunks: bytes, times: tuple[float, ...] = (), **changes: Any) -> Record:
    facts: dict[str, Any] = {"response_headers": STREAM, "response_chunks": chunks, "response_times": times}
    return a_record(**facts | changes)


def events(record: Record) -> Stream:
    found = captured.stream(record)
    assert found is not None
    return found


def gzipped(*chunks: bytes) -> list[bytes]:
    packer = zlib.compressobj(wbits=31)
    packed = [packer.compress(chunk) + packer.flush(zlib.Z_SYNC_FLUSH) for chunk in chunks]
    return [*packed[:-1], packed[-1] + packer.flush()]


def test_events_have_the_time_of_the_chunk_that_completed_them() -> None:
    rows = events(streamed(b"event: a\nda", b"ta: 1\n\ndata: 2\n\n", b"data: 3\n\n", times=(0.5, 0.75, 1.0))).rows
    assert [(2, True, 0.75, "a", "1"), (2, False, 0.75, "", "2"), (3, True, 1.0, "", "3")] == [
        (row.chunk, row.begins, row.at, row.name, row.data.whole) for row in rows
    ]
    assert [0.25, 0.25, 0.25] == [row.later for row in rows]


def test_the_event_that_the_end_cut_off_is_shown() -> None:
    assert ["1"] == [row.data.whole for row in events(streamed(b"data: 1", times=(0.5,))).rows]


def test_times_that_are_not_known_are_not_made_up() -> None:
    (row,) = events(streamed(b"data: 1\n\n")).rows
    assert (None, None) == (row.at, row.later)


def test_an_encoded_stream_has_its_times_too() -> None:
    chunks = gzipped(b"data: 1\n\n", b"data: 2\n\n", b"data: 3\n\n")
    record = streamed(*chunks, times=(1.0, 2.0, 3.0), response_headers=STREAM | {"content-encoding": "gzip"})
    found = events(record)
    assert ([1.0, 2.0, 3.0], False) == ([row.at for row in found.rows], found.coarse)


def test_a_large_encoded_stream_has_coarser_times_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captured, "_DECODED_AGAIN", 20)
    chunks = gzipped(*(b"data: 1\n\n" for _ in range(4)))
    headers = STREAM | {"content-encoding": "gzip"}
    found = events(streamed(*chunks, times=(1.0, 2.0, 3.0, 4.0), response_headers=headers))
    assert (True, 4, 4.0) == (found.coarse, len(found.rows), found.rows[-1].at)


def test_a_damaged_encoded_stream_shows_what_there_is() -> None:
    (first, *_) = gzipped(b"data: 1\n\n", b"")
    headers = STREAM | {"content-encoding": "gzip"}
    found = events(streamed(first + b"garbage", times=(1.0,), response_headers=headers))
    assert ["1"] == [row.data.whole for row in found.rows]


def test_events_that_are_left_out_are_counted() -> None:
    found = events(streamed(b"data: 1\n\n" * (MOST_EVENTS + 5)))
    assert (MOST_EVENTS, 5) == (len(found.rows), found.hidden)


def test_what_is_no_stream_has_no_events() -> None:
    assert captured.stream(a_record(response_headers={"content-type": "application/json"})) is None


def test_a_body_of_json_is_shown_as_a_tree_and_as_text() -> None:
    body = captured.request(a_record())
    assert body.tree is not None
    assert (["model"], '{"model": "m"}', ()) == (
        [name for name, _ in body.tree.entries],
        body.text.whole,
        body.problems,
    )


def test_a_body_that_is_no_json_is_shown_as_text_alone() -> None:
    body = captured.response(a_record(response_chunks=(b"<html>\xff",)))
    assert (None, "<html>\ufffd") == (body.tree, body.text.whole)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"request_truncated": True}, "Only the beginning"),
        ({"request_complete": False}, "not sent to its end"),
        ({"request_headers": {"content-encoding": "snappy"}}, "not known"),
        ({"request_headers": {"content-encoding": "gzip"}}, "cannot be decoded"),
        ({"request_chunks": (b"x" * (LIMIT + 1),)}, "larger"),
    ],
)
def test_what_a_body_lacks_is_said(changes: dict[str, Any], word: str) -> None:
    assert word in " ".join(captured.request(a_record(**changes)).problems)


def test_of_a_long_body_so_much_is_shown_and_the_rest_counted() -> None:
    text = captured.request(a_record(request_chunks=(b"x" * (LONGEST + 7),))).text
    assert (LONGEST, 7) == (len(text.whole), text.rest)


@pytest.mark.parametrize(
    "changes",
    [{"request_truncated": True}, {"request_chunks": (b"[1]",)}, {"request_chunks": (b"{oh",)}, {"request_chunks": ()}],
)
def test_a_request_that_is_no_whole_object_is_not_compared(changes: dict[str, Any]) -> None:
    assert captured.request_json(a_record(**changes)) is None


def test_a_request_with_too_many_values_is_not_compared() -> None:
    body = json.dumps({"a": [0] * 300_000}).encode()
    assert captured.request_json(a_record(request_chunks=(body,))) is None
    assert captured.request(a_record(request_chunks=(body,))).tree is None
