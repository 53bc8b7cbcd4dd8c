from __future__ import annotations

import math

import msgspec
import pytest

from journaling import begin, end, head
from sidestream.traces.entries import Begin, End, Entry, Head, Kind


def test_the_kinds_are_numbers_that_lie_on_disks_and_must_not_change() -> None:
    assert {
        "BEGIN": 1,
        "REQUEST": 2,
        "HEAD": 3,
        "RESPONSE": 4,
        "COMMIT": 5,
        "END": 6,
        "ABANDON": 7,
    } == {kind.name: kind.value for kind in Kind}


def test_an_entry_is_kind_number_time_and_bytes_in_this_order() -> None:
    assert (4, 7, 1.5, b"data") == Entry(kind=Kind.RESPONSE, number=7, time=1.5, data=b"data")


@pytest.mark.parametrize(
    ("packed", "kind", "facts"),
    [
        (begin("a"), Begin, {"id": "a", "fingerprint": ""}),
        (head(529), Head, {"status": 529}),
        (end("timed_out"), End, {"outcome": "timed_out", "error": None}),
    ],
)
def test_what_is_packed_comes_out_again(packed: bytes, kind: type[msgspec.Struct], facts: dict[str, object]) -> None:
    unpacked = msgspec.msgpack.decode(packed, type=kind)
    assert facts == {name: getattr(unpacked, name) for name in facts}


def test_facts_that_a_later_version_adds_do_not_keep_this_one_from_reading() -> None:
    facts = msgspec.msgpack.decode(end())
    assert "completed" == msgspec.msgpack.decode(msgspec.msgpack.encode(facts | {"new": 1}), type=End).outcome


def test_facts_that_are_missing_are_an_error_and_not_made_up() -> None:
    facts = msgspec.msgpack.decode(end())
    del facts["outcome"]
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(msgspec.msgpack.encode(facts), type=End)


def test_times_are_kept_to_the_last_bit() -> None:
    time = math.pi * 1e9
    facts = msgspec.msgpack.decode(begin("a")) | {"started_at": time}
    assert time == msgspec.msgpack.decode(msgspec.msgpack.encode(facts), type=Begin).started_at
