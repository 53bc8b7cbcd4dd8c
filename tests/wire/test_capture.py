"""Bounded copies."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sidestream.wire.capture import Capture


@given(st.lists(st.binary(max_size=20)), st.integers(0, 200))
def test_a_capture_is_the_beginning_of_what_passed_and_says_if_there_was_more(pieces: list[bytes], limit: int) -> None:
    capture = Capture(limit)
    for piece in pieces:
        capture.add(piece)
    whole = b"".join(pieces)
    assert (whole[:limit], len(whole), len(whole) > limit) == (capture.join(), capture.size, capture.truncated)


def test_chunks_are_kept_by_reference() -> None:
    capture, piece = Capture(10), bytes(10)
    capture.add(piece)
    assert piece is capture.chunks[0]
