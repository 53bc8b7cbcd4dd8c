"""The SSE decoder gives the same events however the bytes are cut and whichever line ending they use."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidestream.providers.sse import Decoder, Event


def decode(*chunks: bytes) -> list[Event]:
    decoder = Decoder()
    events = [event for chunk in chunks for event in decoder.feed(chunk)]
    last = decoder.finish()
    return events if last is None else [*events, last]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param(b"event: a\ndata: 1\n\n", [Event("a", "1")], id="a name and data"),
        pytest.param(b"data: 1\n\n", [Event(None, "1")], id="no name"),
        pytest.param(b"event:a\ndata:1\n\n", [Event("a", "1")], id="no space after the colon"),
        pytest.param(b"data:  1 \n\n", [Event(None, " 1 ")], id="only one space is taken off"),
        pytest.param(b"data: 1\ndata\ndata: 2\n\n", [Event(None, "1\n\n2")], id="several data lines"),
        pytest.param(b"\xef\xbb\xbfdata: 1\n\n", [Event(None, "1")], id="a byte order mark"),
        pytest.param(b": hello\n:\ndata: 1\nid: 4\nretry: 5\nfoo: 6\nbar\n\n", [Event(None, "1")], id="other lines"),
        pytest.param(b"\n\n\ndata: 1\n\n\n\n", [Event(None, "1")], id="empty lines between"),
        pytest.param(b"event: error\n\n", [Event("error", "")], id="a name alone"),
        pytest.param(b"event: a\nevent\ndata: 1\n\n", [Event(None, "1")], id="a name taken back"),
        pytest.param(b"event: a\nevent: b\ndata: 1\n\n", [Event("b", "1")], id="the last name counts"),
        pytest.param(b"data: \xff\xf0\x9f\n\n", [Event(None, "\ufffd\ufffd")], id="invalid UTF-8"),
        pytest.param("data: \u2028\x85\x0b\x1c\n\n".encode(), [Event(None, "\u2028\x85\x0b\x1c")], id="no line ends"),
        pytest.param(b"data: 1\n\xef\xbb\xbfdata: 2\n\n", [Event(None, "1")], id="a later mark is no mark"),
        pytest.param(b"", [], id="nothing"),
        pytest.param(b"\n", [], id="an empty line"),
    ],
)
def test_lines_become_events(body: bytes, expected: list[Event]) -> None:
    assert decode(body) == expected


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\r"])
def test_every_line_ending_gives_the_same_events_at_every_split(ending: bytes) -> None:
    body = "\ufeffevent: ä\ndata: 1\n: no\ndata: 😀\n\n\ndata: 2\n\n".encode().replace(b"\n", ending)
    expected = [Event("ä", "1\n😀"), Event(None, "2")]
    assert [decode(body[:at], body[at:]) for at in range(len(body))] == [expected] * len(body)


def test_an_event_is_given_out_as_soon_as_its_blank_line_is_there() -> None:
    decoder = Decoder()
    assert decoder.feed(b"data: 1\n\r") == [Event(None, "1")]
    assert decoder.feed(b"\ndata: 2\r") == []
    assert decoder.feed(b"\n\r") == [Event(None, "2")]


def test_the_end_hands_over_an_event_without_its_blank_line() -> None:
    decoder = Decoder()
    assert decoder.feed(b"event: a\ndata: 1\ndata: 2") == []
    assert decoder.finish() == Event("a", "1\n2")


@given(
    body=st.lists(
        st.sampled_from(
            [b"data", b"event", b":", b" ", b"x", b"\r", b"\n", b"\r\n", b"\xef\xbb\xbf", "ü😀".encode(), b"\xff"]
        )
    ).map(b"".join),
    cuts=st.lists(st.integers(0, 60)),
)
def test_any_bytes_give_the_same_events_for_any_split(body: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(body)]
    chunks = [body[start:end] for start, end in pairwise(edges)]
    assert decode(*chunks) == decode(body)


@pytest.mark.timeout(30)
def test_one_line_of_many_megabytes_in_small_chunks_is_put_together_once() -> None:
    decoder, chunk = Decoder(), b"x" * 4096
    decoder.feed(b"data: ")
    for _ in range(30 << 8):
        decoder.feed(chunk)
    assert [len(event.data) for event in decoder.feed(b"\n\n")] == [30 << 20]
