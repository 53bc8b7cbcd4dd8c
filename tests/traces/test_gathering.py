from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from journaling import begin, end, head, pieces
from sidestream.traces.entries import Entry, Kind
from sidestream.traces.gathering import Gathering
from sidestream.traces.spool import SpoolError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sidestream.traces.record import Record

MEGABYTE = b"x" * (1 << 20)


def gathered(gathering: Gathering, *entries: Entry) -> list[Record]:
    return [record for entry in entries if (record := gathering.add(entry))]


@pytest.fixture
def limit_files() -> Iterator[Callable[[int], None]]:
    """Let no file grow beyond so many bytes: what a full disk is like."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_the_pieces_of_an_exchange_become_a_record_at_its_end() -> None:
    gathering = Gathering()
    (record,) = gathered(
        gathering,
        Entry(Kind.BEGIN, 1, 0.0, begin("a")),
        Entry(Kind.REQUEST, 1, 0.0, b"re"),
        Entry(Kind.REQUEST, 1, 0.0, b"quest"),
        Entry(Kind.HEAD, 1, 0.5, head(201)),
        Entry(Kind.RESPONSE, 1, 0.6, b"first"),
        Entry(Kind.RESPONSE, 1, 0.7, b""),
        Entry(Kind.RESPONSE, 1, 0.8, b"last"),
        Entry(Kind.END, 1, 2.0, end("completed")),
    )
    assert ("a", 201, "completed", 2.0) == (record.id, record.status, record.outcome, record.duration)
    assert (b"re", b"quest") == record.request_chunks
    assert (b"first", b"", b"last") == record.response_chunks
    assert (0.6, 0.7, 0.8) == record.response_times
    assert 0 == len(gathering)


def test_chunks_stay_as_they_came_however_many_there_are() -> None:
    gathering = Gathering()
    chunks = [bytes([number % 256]) * (number % 100) for number in range(5000)]
    gathered(gathering, Entry(Kind.BEGIN, 1, 0.0, begin("a")), Entry(Kind.HEAD, 1, 0.5, head()))
    gathered(gathering, *(Entry(Kind.RESPONSE, 1, place / 1000, chunk) for place, chunk in enumerate(chunks)))
    gathering.unpack(2, gathering.pack(1))
    for number in (1, 2):
        (record,) = gathered(gathering, Entry(Kind.END, number, 6.0, end("completed")))
        assert tuple(chunks) == record.response_chunks
        assert tuple(place / 1000 for place in range(5000)) == record.response_times


def test_what_is_under_way_can_be_glimpsed() -> None:
    gathering = Gathering()
    gathered(
        gathering, *pieces(1, "a", b"12", b"345", ended=False), *pieces(2, "b", ended=False), *pieces(3, "c", b"x")
    )
    gathering.add(Entry(Kind.HEAD, 1, 0.5, head()))
    found = [
        (glimpse.begin.id, glimpse.request_bytes, glimpse.response_bytes, glimpse.answering)
        for glimpse in gathering.glimpses()
    ]
    assert [("a", 7, 5, True), ("b", 7, 0, False)] == found


def test_what_there_is_so_far_can_be_had_and_disturbs_nothing(tmp_path: Path) -> None:
    gathering = Gathering(tmp_path)
    *begun, last = pieces(1, "a", MEGABYTE, MEGABYTE, b"end")
    gathered(gathering, *begun[:-1])
    partial = gathering.partial("a")
    assert partial is not None
    assert ("running", True, (MEGABYTE, MEGABYTE)) == (
        partial.outcome,
        partial.request_complete,
        partial.response_chunks,
    )
    assert 1.0 == partial.duration
    (record,) = gathered(gathering, begun[-1], last)
    assert ("completed", (MEGABYTE, MEGABYTE, b"end")) == (record.outcome, record.response_chunks)
    assert gathering.partial("a") is None


def test_an_exchange_that_was_packed_is_glimpsed_as_before() -> None:
    first, second = Gathering(), Gathering()
    gathered(first, *pieces(1, "a", b"12", b"345", ended=False))
    second.unpack(1, first.pack(1))
    assert first.glimpses() == second.glimpses()


def test_exchanges_may_be_mixed() -> None:
    first, second = pieces(1, "a", b"1", b"2"), pieces(2, "b", b"3", b"4")
    mixed = [entry for pair in zip(first, second, strict=True) for entry in pair]
    records = gathered(Gathering(), *mixed)
    assert {"a": (b"1", b"2"), "b": (b"3", b"4")} == {record.id: record.response_chunks for record in records}


def test_an_exchange_that_never_got_an_answer_has_no_status() -> None:
    (record,) = gathered(Gathering(), *pieces(1, "a"))
    assert record.status is None
    assert record.time_to_first_byte is None


def test_pieces_without_a_beginning_are_passed_over() -> None:
    gathering = Gathering()
    assert [] == gathered(gathering, *pieces(1, "a", b"1")[1:])
    assert [] == list(gathering)


def test_kinds_of_a_later_version_are_passed_over() -> None:
    first, *others = pieces(1, "a", b"1")
    (record,) = gathered(Gathering(), first, Entry(99, 1, 0.0, b"?"), *others)
    assert (b"1",) == record.response_chunks


def test_an_abandoned_exchange_is_no_record() -> None:
    gathering = Gathering()
    assert [] == gathered(gathering, *pieces(1, "a", b"1", ended=False), Entry(Kind.ABANDON, 1, 0.0, b""))
    assert [] == list(gathering.interrupted())


def test_a_second_beginning_takes_the_place_of_the_first() -> None:
    (record,) = gathered(Gathering(), *pieces(1, "a", b"1", ended=False), *pieces(1, "b", b"2"))
    assert ("b", (b"2",)) == (record.id, record.response_chunks)


@pytest.mark.parametrize("kind", [Kind.BEGIN, Kind.HEAD, Kind.COMMIT, Kind.END])
@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x80", b"\xa2\xff\xff", b"\x81\xa2id\xa2\xff\xff"])
def test_an_entry_that_is_not_what_its_kind_says_costs_its_exchange_and_no_other(kind: Kind, data: bytes) -> None:
    gathering = Gathering()
    gathered(gathering, *pieces(1, "a", ended=False), *pieces(2, "b", ended=False))
    with pytest.raises(ValueError):
        gathering.add(Entry(kind, 1, 0.0, data))
    assert [2] == list(gathering)


def test_what_is_open_when_its_relay_dies_is_interrupted() -> None:
    gathering = Gathering()
    gathered(gathering, *pieces(1, "a", b"1", b"2", b"3", ended=False))
    ((_, record),) = gathering.interrupted()
    assert ("interrupted", (b"1", b"2", b"3"), 2.0) == (record.outcome, record.response_chunks, record.duration)
    assert not record.request_complete
    assert 0 == len(gathering)


def test_what_was_committed_when_its_relay_dies_ended_as_its_commit_says() -> None:
    gathering = Gathering()
    gathered(gathering, *pieces(1, "a", b"1", ended=False), Entry(Kind.COMMIT, 1, 1.0, end("completed")))
    assert ["completed"] == [record.outcome for _, record in gathering.interrupted()]


def test_an_end_counts_more_than_the_commit_before_it() -> None:
    *others, last = pieces(1, "a")
    (record,) = gathered(Gathering(), *others, Entry(Kind.COMMIT, 1, 1.0, end("client_disconnected")), last)
    assert "completed" == record.outcome


def test_what_is_interrupted_is_given_one_by_one_and_forgotten_as_it_is() -> None:
    gathering = Gathering()
    gathered(gathering, *(entry for number in (1, 2, 3) for entry in pieces(number, f"x{number}", ended=False)))
    left = [(number, record.id, len(gathering)) for number, record in gathering.interrupted()]
    assert [(1, "x1", 2), (2, "x2", 1), (3, "x3", 0)] == left


def test_long_bodies_lie_in_one_file_without_a_name_and_come_back_whole(tmp_path: Path) -> None:
    gathering = Gathering(tmp_path)
    before = len(list(Path("/dev/fd").iterdir()))
    bodies = {number: [bytes([number, n]) * 150_000 for n in range(20)] for number in range(1, 9)}
    exchanges = [pieces(number, f"x{number}", *chunks) for number, chunks in bodies.items()]
    mixed = [entry for entries in zip(*exchanges, strict=True) for entry in entries]
    gathered(gathering, *mixed[:-8])
    assert [] == list(tmp_path.iterdir())
    assert before + 1 == len(list(Path("/dev/fd").iterdir()))
    records = gathered(gathering, *mixed[-8:])
    assert {f"x{number}": tuple(chunks) for number, chunks in bodies.items()} == {
        record.id: record.response_chunks for record in records
    }
    assert before == len(list(Path("/dev/fd").iterdir()))


def test_without_room_for_the_file_a_body_stays_in_memory_and_goes_there_when_there_is_room(
    tmp_path: Path, limit_files: Callable[[int], None]
) -> None:
    gathering = Gathering(tmp_path)
    chunks = [bytes([n]) * 300_000 for n in range(40)]
    entries = pieces(1, "a", *chunks)
    limit_files(2_500_000)
    gathered(gathering, *entries[:22])
    limit_files(resource.RLIM_INFINITY)
    (record,) = gathered(gathering, *entries[22:])
    assert tuple(chunks) == record.response_chunks
    assert not record.response_truncated


def test_without_a_directory_for_the_file_bodies_stay_in_memory(tmp_path: Path) -> None:
    gathering = Gathering(tmp_path / "missing")
    (record, _) = gathered(gathering, *pieces(1, "a", *[MEGABYTE] * 5, b"1"), *pieces(2, "b", b"short"))
    assert ((*[MEGABYTE] * 5, b"1"), False) == (record.response_chunks, record.response_truncated)


def test_what_cannot_be_had_back_is_never_a_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gathering = Gathering(tmp_path)
    *others, last = pieces(1, "a", MEGABYTE, MEGABYTE)
    gathered(gathering, *others)
    monkeypatch.setattr(os, "pread", lambda *_: b"")
    with pytest.raises(SpoolError):
        gathering.add(last)


def test_a_packed_exchange_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    before, after = Gathering(), Gathering(tmp_path)
    chunks = [b"1", b"", MEGABYTE, b"2", MEGABYTE]
    *others, last = pieces(1, "a", *chunks)
    expected = gathered(Gathering(), *others, Entry(Kind.HEAD, 1, 0.5, head()), last)
    gathered(before, *others[:4], Entry(Kind.HEAD, 1, 0.5, head()))
    after.unpack(1, before.pack(1))
    gathered(after, *others[4:])
    again = Gathering()
    again.unpack(1, after.pack(1))
    assert expected == gathered(again, last)


def test_a_packed_exchange_keeps_its_commit_and_its_last_time(tmp_path: Path) -> None:
    before, after = Gathering(tmp_path / "missing"), Gathering()
    gathered(before, *pieces(1, "a", MEGABYTE, b"1", b"2", ended=False))
    after.unpack(1, before.pack(1))
    ((_, record),) = after.interrupted()
    assert (3, 2.0) == (len(record.response_chunks), record.duration)
    gathered(before, Entry(Kind.COMMIT, 1, 3.0, end("completed")))
    after.unpack(1, before.pack(1))
    assert ["completed"] == [record.outcome for _, record in after.interrupted()]


@pytest.mark.parametrize("data", [b"", b"\xc1", b"not packed", begin("a")])
def test_bytes_that_are_no_packed_exchange_are_refused(data: bytes) -> None:
    gathering = Gathering()
    with pytest.raises(ValueError):
        gathering.unpack(1, data)
    assert 0 == len(gathering)


def test_a_packed_exchange_cut_anywhere_is_refused() -> None:
    gathering = Gathering()
    gathered(gathering, *pieces(1, "a", b"12", b"34", ended=False))
    packed = gathering.pack(1)
    for cut in range(len(packed)):
        with pytest.raises(ValueError):
            Gathering().unpack(1, packed[:cut])
