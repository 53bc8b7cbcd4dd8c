from __future__ import annotations

import random
import shutil
import time
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

import sidestream.store.reading
from journaling import Memory, drained, end, pieces
from sidestream.store import segments
from sidestream.store.reading import Journals
from sidestream.store.rows import Carried, Position
from sidestream.store.segments import Appender
from sidestream.traces.entries import Entry, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

MOST = 1 << 20


class Relay:
    """A relay that writes what it is told, at once."""

    def __init__(self, root: Path, *, segment: int = 1 << 30) -> None:
        self.root = root
        before = set(root.glob("*"))
        self.files = Appender(root, strict=False, segment=segment)
        self.files.prepare()
        (self.path,) = set(root.iterdir()) - before
        self.name = self.path.name

    def write(self, *entries: Entry) -> None:
        self.files.prepare()
        for entry in entries:
            assert (1, None) == self.files.append([entry])

    def die(self) -> None:
        self.files.close()

    def segment(self, number: int) -> Path:
        return self.path / segments.name(number)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
def relay(root: Path) -> Iterator[Relay]:
    relay = Relay(root)
    yield relay
    relay.die()


@pytest.fixture
def turning(root: Path) -> Iterator[Relay]:
    """A relay that begins a new segment with each write."""
    relay = Relay(root, segment=1)
    yield relay
    relay.die()


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 0x41
    path.write_bytes(data)


def rest(path: Path, entries: Sequence[Entry]) -> None:
    """Append to a segment what its relay has not."""
    with path.open("ab") as file:
        for entry in entries:
            file.write(segments.framed(entry) + entry.data)


def test_an_exchange_is_a_record_when_it_has_ended(root: Path, relay: Relay) -> None:
    journals = Journals(root)
    *beginning, last = pieces(1, "a", b"1", b"23")
    relay.write(*beginning)
    assert [] == journals.read(MOST).records
    relay.write(last)
    (record,) = journals.read(MOST).records
    assert ("a", (b"1", b"23"), (0.0, 1.0)) == (record.id, record.response_chunks, record.response_times)
    assert not journals.read(MOST).found


def test_what_is_under_way_can_be_looked_at_in_all_relays(root: Path, relay: Relay) -> None:
    other, journals = Relay(root), Journals(root)
    relay.write(*pieces(1, "a", b"1", ended=False))
    other.write(*pieces(1, "b", b"23", ended=False), *pieces(2, "c"))
    assert [] == journals.glimpses()
    journals.read(MOST)
    assert {"a": 1, "b": 2} == {glimpse.begin.id: glimpse.response_bytes for glimpse in journals.glimpses()}
    assert (b"23",) == journals.partial("b").response_chunks
    with pytest.raises(LookupError):
        journals.partial("c")
    other.die()


def test_nothing_there_is_nothing_found(root: Path) -> None:
    journals = Journals(root)
    assert not journals.read(MOST).found
    assert 0 == journals.backlog_bytes()
    assert journals.oldest_unread() is None


def test_other_things_in_the_directory_are_left_alone(root: Path, relay: Relay) -> None:
    (root / "README").touch()
    (root / "lost+found").mkdir()
    relay.write(*pieces(1, "a"))
    relay.die()
    assert {"a"} == drained(root).keys()
    assert {"README", "lost+found"} == {path.name for path in root.iterdir()}


def test_several_relays_are_read_in_turn(root: Path) -> None:
    relays = [Relay(root) for _ in range(3)]
    for relay in relays:
        for number in range(2000):
            relay.write(*pieces(number, f"{relay.name}-{number}", b"x" * 1000))
    batch = Journals(root).read(6 << 20)
    assert {relay.name for relay in relays} == {record.id[:32] for record in batch.records}
    assert batch.size < 8 << 20
    for relay in relays:
        relay.die()


def test_an_entry_larger_than_a_bite_is_read_whole(root: Path, relay: Relay) -> None:
    relay.write(*pieces(1, "a", b"x" * (5 << 20)), *pieces(2, "b"))
    (first, _) = Journals(root).read(100 << 20).records
    assert 5 << 20 == len(first.response_chunks[0])


def test_the_position_is_where_the_oldest_open_exchange_begins(root: Path, relay: Relay) -> None:
    journals = Journals(root)
    relay.write(*pieces(1, "a"), *pieces(2, "b", ended=False))
    place = relay.segment(1).stat().st_size - sum(
        segments.ENTRY_SIZE + len(entry.data) for entry in pieces(2, "b", ended=False)
    )
    assert {relay.name: Position(1, place)} == journals.read(MOST).positions
    relay.write(*pieces(3, "c"))
    assert {} == journals.read(MOST).positions
    relay.write(Entry(Kind.END, 2, 1.0, end()))
    assert {relay.name: Position(1, relay.segment(1).stat().st_size)} == journals.read(MOST).positions


def test_segments_are_deleted_when_nothing_in_them_is_needed_and_not_before(root: Path, turning: Relay) -> None:
    memory = Memory()
    journals = memory.journals(root)
    turning.write(*pieces(1, "a"), *pieces(2, "b"))
    batch = journals.read(MOST)
    assert [1, 2, 3, 4, 5, 6] == segments.numbers(turning.path)
    journals.done(batch)
    assert [6] == segments.numbers(turning.path)


def test_a_dead_relay_is_read_to_its_end_and_removed(root: Path, relay: Relay) -> None:
    relay.write(*pieces(1, "a", b"1"), *pieces(2, "b", b"2", ended=False))
    relay.write(*pieces(3, "c", b"3", ended=False), Entry(Kind.COMMIT, 3, 1.0, end()))
    relay.die()
    journals = Journals(root)
    batch = journals.read(MOST)
    assert ["completed", "interrupted", "completed"] == [record.outcome for record in batch.records]
    assert {relay.name: None} == batch.positions
    assert relay.path.exists()
    journals.done(batch)
    assert not relay.path.exists()
    assert not journals.read(MOST).found


def test_what_a_dead_relay_left_open_comes_in_batches_that_fit_into_memory(root: Path, relay: Relay) -> None:
    for number in range(20):
        relay.write(*pieces(number, f"x{number}", b"x" * 100_000, ended=False))
    memory = Memory()
    journals = memory.journals(root)
    memory.take_all(journals)
    relay.die()
    sizes = []
    while (batch := journals.read(250_000)).found:
        sizes.append(len(batch.records))
        memory.commit(batch)
        assert relay.path.exists()
        journals.done(batch)
    assert [3] * 6 + [2] == sizes
    assert 20 == len(memory.records) == journals.counters.interrupted
    assert not relay.path.exists()


def test_the_ends_of_many_long_exchanges_come_in_batches_that_fit_into_memory(root: Path, relay: Relay) -> None:
    for number in range(20):
        relay.write(*pieces(number, f"x{number}", b"x" * 100_000, ended=False))
    memory = Memory()
    journals = memory.journals(root)
    memory.take_all(journals)
    relay.write(*(Entry(Kind.END, number, 1.0, end()) for number in range(20)))
    assert [3, 3, 3, 3, 3, 3, 2, 0] == [len(journals.read(250_000).records) for _ in range(8)]


def test_many_small_chunks_count_for_the_memory_that_they_take(root: Path, relay: Relay) -> None:
    relay.write(*pieces(1, "a", *[b"x"] * 1000), *pieces(2, "b", *[b"x"] * 1000))
    assert ["a"] == [record.id for record in Journals(root).read(50_000).records]


@pytest.mark.parametrize("loss", ["damage", "gap"])
def test_a_recorder_that_dies_amid_the_interrupted_ones_interrupts_the_others_next_time(root: Path, loss: str) -> None:
    relay = Relay(root, segment=3000)
    for number in range(10):
        relay.write(*pieces(number, f"x{number}", b"x" * 100, ended=False))
    relay.write(*(Entry(Kind.RESPONSE, number, 1.0, b"lost") for number in range(10)))
    *_, last = segments.numbers(relay.path)
    relay.write(Entry(Kind.RESPONSE, 0, 1.0, b"x" * 3000), Entry(Kind.RESPONSE, 0, 1.0, b"late"))
    if loss == "damage":
        flip(relay.segment(last), segments.HEADER_SIZE + 1)
    else:
        relay.segment(last).unlink()
    memory = Memory()
    with capture_logs():
        while len(memory.records) < 10:
            journals = memory.journals(root)
            for _ in range(3):
                memory.commit(batch := journals.read(1))
                journals.done(batch)
    assert {"interrupted"} == {record.outcome for record in memory.records.values()}
    assert b"late" not in memory.records["x0"].response_chunks
    relay.die()


def test_what_is_about_to_be_interrupted_is_not_carried_beyond_the_gap(root: Path, turning: Relay) -> None:
    turning.files.append([entry for number in range(2) for entry in pieces(number, f"x{number}", ended=False)])
    turning.write(*[Entry(Kind.RESPONSE, 0, 0.0, b"lost")] * 8)
    for number in range(2, 9):
        turning.segment(number).unlink()
    turning.write(*(Entry(Kind.END, number, 1.0, end()) for number in range(2)))
    memory = Memory()
    with capture_logs():
        journals = memory.journals(root)
        while len(memory.records) < 1:
            memory.commit(batch := journals.read(1))
            journals.done(batch)
        memory.take_all(memory.journals(root))
    assert ["interrupted"] * 2 == [record.outcome for record in memory.records.values()]


def test_a_dead_relay_cut_anywhere_gives_whole_exchanges_and_beginnings(root: Path, tmp_path: Path) -> None:
    relay = Relay(root)
    relay.write(*pieces(1, "a", b"11", b"22"), *pieces(2, "b", b"33", b"44"))
    relay.die()
    data = relay.segment(1).read_bytes()
    for cut in range(0, len(data), 3):
        copy = tmp_path / str(cut) / relay.name
        copy.mkdir(parents=True)
        (copy / "lock").touch()
        (copy / segments.name(1)).write_bytes(data[:cut])
        for record in drained(copy.parent).values():
            chunks = {"a": (b"11", b"22"), "b": (b"33", b"44")}[record.id]
            assert chunks[: len(record.response_chunks)] == record.response_chunks
            assert (record.outcome == "completed") <= (chunks == record.response_chunks)
        assert not copy.exists()
        assert not (tmp_path / str(cut) / "corrupt").exists()


def test_half_an_entry_of_a_living_relay_is_waited_for(root: Path, relay: Relay) -> None:
    journals = Journals(root)
    relay.write(*pieces(1, "a", b"1"))
    whole = relay.segment(1).read_bytes()
    records = []
    for cut in [*range(0, len(whole), 7), len(whole)]:
        relay.segment(1).write_bytes(whole[:cut])
        records += journals.read(MOST).records
    assert ["a"] == [record.id for record in records]


def test_a_directory_without_a_lock_is_one_being_made_for_a_while(
    root: Path, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay.write(*pieces(1, "a", ended=False))
    (relay.path / "lock").unlink()
    journals = Journals(root)
    assert [] == journals.read(MOST).records
    monkeypatch.setattr(sidestream.store.reading, "_GRACE", -1.0)
    assert ["interrupted"] == [record.outcome for record in journals.read(MOST).records]


def test_a_directory_that_vanishes_interrupts_its_exchanges(root: Path, relay: Relay) -> None:
    journals = Journals(root)
    relay.write(*pieces(1, "a", ended=False))
    journals.read(MOST)
    shutil.rmtree(root)
    batch = journals.read(MOST)
    assert ["interrupted"] == [record.outcome for record in batch.records]
    assert {relay.name: None} == batch.positions
    journals.done(batch)
    assert not journals.read(MOST).found


def test_a_relay_that_only_the_store_knows_is_forgotten(root: Path) -> None:
    batch = Journals(root, positions={"0" * 32: Position(3, 100)}).read(MOST)
    assert {"0" * 32: None} == batch.positions


def test_damage_interrupts_what_is_open_and_sets_the_segment_aside(root: Path) -> None:
    relay = Relay(root, segment=600)
    relay.write(*pieces(1, "a"), *pieces(2, "b", b"early", ended=False))
    relay.write(*pieces(3, "c", b"x" * 600))
    relay.write(Entry(Kind.RESPONSE, 2, 3.0, b"late"), Entry(Kind.END, 2, 3.0, end()), *pieces(4, "d"))
    flip(relay.segment(1), relay.segment(1).stat().st_size - 100)
    journals = Journals(root)
    with capture_logs() as logs:
        batch = journals.read(MOST)
        journals.done(batch)
    records = {record.id: record for record in batch.records}
    assert {"a": "completed", "b": "interrupted", "d": "completed"} == {
        name: record.outcome for name, record in records.items() if name != "c"
    }
    assert (b"early",) == records["b"].response_chunks
    assert [(relay.name, 1)] == [(line["relay"], line["segment"]) for line in logs]
    corrupt = root.parent / "corrupt"
    assert [f"{relay.name}-00000001.seg"] == [path.name for path in corrupt.iterdir()]
    assert 0o700 == corrupt.stat().st_mode & 0o777
    assert 1 == journals.counters.set_aside
    relay.die()


def test_any_byte_changed_in_a_closed_segment_never_makes_a_wrong_record(tmp_path: Path) -> None:
    relay = Relay(tmp_path / "whole", segment=400)
    relay.write(*pieces(1, "a", b"11", b"22"), *pieces(2, "b", b"x" * 200), *pieces(3, "c", b"33"))
    relay.die()
    chunks = {"a": (b"11", b"22"), "b": (b"x" * 200,), "c": (b"33",)}
    for place in range(0, relay.segment(1).stat().st_size, 5):
        copy = tmp_path / str(place) / "journal"
        shutil.copytree(relay.root, copy)
        flip(copy / relay.name / segments.name(1), place)
        with capture_logs():
            records = drained(copy)
        assert "c" in records
        for record in records.values():
            assert chunks[record.id][: len(record.response_chunks)] == record.response_chunks
            assert (record.outcome == "completed") <= (chunks[record.id] == record.response_chunks)
        assert (copy.parent / "corrupt").exists()


def test_damage_in_the_segment_of_a_living_relay_is_waited_for_until_it_goes_on(root: Path) -> None:
    relay = Relay(root, segment=300)
    relay.write(*pieces(1, "a", ended=False))
    size = relay.segment(1).stat().st_size
    flip(relay.segment(1), size - 1)
    journals = Journals(root)
    assert [] == journals.read(MOST).records
    assert not journals.read(MOST).found
    flip(relay.segment(1), size - 1)
    relay.write(Entry(Kind.RESPONSE, 1, 0.0, b"x" * 300))
    assert journals.read(MOST).found
    flip(relay.segment(1), relay.segment(1).stat().st_size - 1)
    relay.write(Entry(Kind.END, 1, 1.0, end()), *pieces(2, "b"))
    assert 2 <= max(segments.numbers(relay.path))
    assert "b" in {record.id for record in journals.read(MOST).records}
    relay.die()


def test_damage_at_the_end_of_a_dead_relay_is_set_aside(root: Path, relay: Relay) -> None:
    relay.write(*pieces(1, "a"), *pieces(2, "b"))
    relay.die()
    flip(relay.segment(1), relay.segment(1).stat().st_size - 1)
    with capture_logs():
        assert {"a": "completed", "b": "interrupted"} == {
            record.id: record.outcome for record in drained(root).values()
        }
    assert 1 == len(list((root.parent / "corrupt").iterdir()))
    assert [] == list(root.iterdir())


def test_a_beginning_that_was_left_in_a_closed_segment_is_no_damage(root: Path) -> None:
    relay = Relay(root, segment=1)
    first, *others = pieces(1, "a", b"1")
    relay.write(first)
    rest(relay.segment(1), [Entry(Kind.RESPONSE, 1, 0.0, b"never written")])
    relay.write(*others)
    (record,) = Journals(root).read(MOST).records
    assert ("completed", (b"1",)) == (record.outcome, record.response_chunks)
    relay.die()


@pytest.mark.parametrize("size", [0, 10, 60])
def test_a_closed_segment_that_has_become_shorter_is_damage(root: Path, turning: Relay, size: int) -> None:
    turning.write(*pieces(1, "a", b"1"), *pieces(2, "b"))
    with turning.segment(2).open("r+b") as file:
        file.truncate(size)
    with capture_logs():
        records = {record.id: record.outcome for record in Journals(root).read(MOST).records}
    assert {"a": "interrupted", "b": "completed"} == records


def test_a_missing_segment_interrupts_what_was_open(root: Path, turning: Relay) -> None:
    turning.write(*pieces(1, "a", b"1", b"2"), *pieces(2, "b"))
    turning.segment(3).unlink()
    with capture_logs() as logs:
        records = {record.id: record.outcome for record in Journals(root).read(MOST).records}
    assert {"a": "interrupted", "b": "completed"} == records
    assert ["journal_gap_found"] == [line["event"] for line in logs]


def test_a_relay_that_cannot_be_read_does_not_hold_up_the_others_and_is_tried_again(root: Path) -> None:
    broken, sound = Relay(root), Relay(root)
    broken.write(*pieces(1, "a"))
    sound.write(*pieces(1, "b"))
    segment = broken.segment(1)
    segment.rename(root / "away")
    segment.mkdir()
    journals = Journals(root)
    with capture_logs() as logs:
        assert ["b"] == [record.id for record in journals.read(MOST).records]
        journals.read(MOST)
    assert [("journal_unreadable", broken.name)] == [(line["event"], line["relay"]) for line in logs]
    segment.rmdir()
    (root / "away").rename(segment)
    assert ["a"] == [record.id for record in journals.read(MOST).records]
    broken.die()
    sound.die()


def test_an_entry_that_is_not_what_its_kind_says_costs_only_its_exchange(root: Path, relay: Relay) -> None:
    relay.write(*pieces(1, "a", ended=False), *pieces(2, "b", ended=False))
    relay.write(Entry(Kind.END, 1, 1.0, b"\xc1"), Entry(Kind.END, 2, 1.0, end()))
    journals = Journals(root)
    with capture_logs() as logs:
        batch = journals.read(MOST)
    assert ["b"] == [record.id for record in batch.records]
    assert ["journal_entry_invalid"] == [line["event"] for line in logs]
    assert {relay.name: Position(1, relay.segment(1).stat().st_size)} == batch.positions


def test_a_long_exchange_is_carried_so_that_old_segments_can_go(root: Path, turning: Relay) -> None:
    memory = Memory()
    journals = memory.journals(root)
    for part in range(30):
        entries = pieces(1, "a", ended=False) if part == 0 else [Entry(Kind.RESPONSE, 1, 0.0, b"%d;" % part)]
        turning.write(*entries)
        memory.take_all(journals)
    assert [(turning.name, 1)] == list(memory.carried)
    assert len(segments.numbers(turning.path)) < 8
    turning.write(Entry(Kind.END, 1, 1.0, end()))
    memory.take_all(journals)
    assert tuple(b"%d;" % part for part in range(1, 30)) == memory.records["a"].response_chunks
    assert {} == memory.carried


def test_what_is_to_be_carried_comes_in_batches_that_fit_into_memory(root: Path, turning: Relay) -> None:
    for number in range(5):
        turning.write(*pieces(number, f"x{number}", b"x" * 100_000, ended=False))
    turning.write(*[Entry(Kind.RESPONSE, 9, 0.0, b"x")] * 6)
    memory = Memory()
    journals = memory.journals(root)
    while (batch := journals.read(250_000)).found:
        assert sum(len(each.state) for each in batch.carried) < 350_000
        memory.commit(batch)
        journals.done(batch)
    assert list(range(5)) == sorted(number for _, number in memory.carried)


def test_a_new_store_is_told_all_that_it_must_know(root: Path, turning: Relay) -> None:
    idle = Relay(root)
    idle.write(*pieces(1, "idle"))
    turning.write(*pieces(1, "a", b"1", ended=False))
    turning.write(*[Entry(Kind.RESPONSE, 1, 0.0, b"2")] * 8)
    lost, memory = Memory(), Memory()
    journals = lost.journals(root)
    lost.take_all(journals)
    journals.forgotten()
    memory.take_all(journals)
    assert (lost.positions, lost.carried.keys()) == (memory.positions, memory.carried.keys())
    assert {} == memory.records
    turning.write(Entry(Kind.END, 1, 1.0, end()))
    memory.take_all(memory.journals(root))
    assert {"a": (b"1", *[b"2"] * 8)} == {name: record.response_chunks for name, record in memory.records.items()}
    assert {} == memory.carried
    idle.die()


def test_what_was_carried_is_taken_up_without_reading_it_twice(root: Path, turning: Relay) -> None:
    memory = Memory()
    turning.write(*pieces(1, "a", b"1", ended=False))
    for part in range(2, 30):
        turning.write(Entry(Kind.RESPONSE, 1, 0.0, b"%d;" % part))
        if part == 10:
            turning.write(*pieces(2, "b", ended=False))
        memory.take_all(memory.journals(root))
    turning.write(Entry(Kind.END, 1, 1.0, end()), Entry(Kind.END, 2, 1.0, end()))
    memory.take_all(memory.journals(root))
    assert (b"1", *(b"%d;" % part for part in range(2, 30))) == memory.records["a"].response_chunks
    assert {"a", "b"} == memory.records.keys()
    assert {} == memory.carried


def test_a_carried_exchange_that_cannot_be_read_is_dropped_and_logged(root: Path, relay: Relay) -> None:
    relay.write(*pieces(1, "a"))
    carried = [Carried(relay.name, 9, Position(1, 0), b"not packed")]
    with capture_logs() as logs:
        journals = Journals(root, carried=carried)
    assert ["carried_exchange_lost"] == [line["event"] for line in logs]
    assert ["a"] == [record.id for record in journals.read(MOST).records]


def test_a_carried_exchange_of_a_relay_that_is_gone_is_interrupted_and_released(root: Path, turning: Relay) -> None:
    memory = Memory()
    turning.write(*pieces(1, "a", *[b"x"] * 10, ended=False))
    memory.take_all(memory.journals(root))
    assert memory.carried
    shutil.rmtree(root)
    memory.take_all(memory.journals(root))
    assert "interrupted" == memory.records["a"].outcome
    assert ({}, {}) == (memory.carried, memory.positions)


def test_what_waits_is_known(root: Path, relay: Relay) -> None:
    journals = Journals(root)
    journals.read(MOST)
    relay.write(*pieces(1, "a"))
    assert relay.segment(1).stat().st_size == journals.backlog_bytes()
    age = journals.oldest_unread()
    assert age is not None
    assert age >= 0
    journals.read(MOST)
    assert 0 == journals.backlog_bytes()
    assert journals.oldest_unread() is None


def script_of(dice: random.Random, prefix: str, expected: dict[str, tuple[bytes, ...]]) -> list[Entry]:
    """The entries of eight exchanges, mixed."""
    queues = []
    for number in range(1, 9):
        chunks = tuple(dice.randbytes(dice.randrange(300)) for _ in range(dice.randrange(30)))
        expected[f"{prefix}-{number}"] = chunks
        queues.append(pieces(number, f"{prefix}-{number}", *chunks))
    script = []
    while queues := [queue for queue in queues if queue]:
        script.append(dice.choice(queues).pop(0))
    return script


def play(relay: Relay, script: list[Entry], steps: int) -> None:
    relay.write(*script[:steps])
    del script[:steps]
    if not script:
        relay.die()


@pytest.mark.parametrize("seed", range(40))
def test_whatever_crashes_when_every_exchange_is_recorded_exactly_as_it_was(root: Path, seed: int) -> None:
    """Relays write and end, the recorder dies before and after commits, and each byte is there once."""
    dice = random.Random(seed)
    memory = Memory()
    expected: dict[str, tuple[bytes, ...]] = {}
    scripts = [script_of(dice, str(number), expected) for number in range(3)]
    relays = [Relay(root, segment=dice.choice([1, 500, 3000])) for _ in scripts]
    journals = memory.journals(root)
    while any(scripts):
        for relay, script in zip(relays, scripts, strict=True):
            play(relay, script, dice.randrange(20))
        batch = journals.read(dice.choice([1, 1000, MOST]))
        crash = dice.choice([None, None, None, "before", "after"])
        if crash != "before":
            memory.commit(batch)
        if crash:
            journals = memory.journals(root)
        else:
            journals.done(batch)
    memory.take_all(journals)
    assert expected == {name: record.response_chunks for name, record in memory.records.items()}
    assert {"completed"} == {record.outcome for record in memory.records.values()}
    assert ({}, {}) == (memory.positions, memory.carried)
    assert [] == list(root.iterdir())


def test_the_clock_does_not_matter(root: Path, relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 0.0)
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    older = Relay(root)
    older.write(*pieces(1, "b"))
    relay.write(*pieces(1, "a"))
    assert {"a", "b"} == {record.id for record in Journals(root).read(MOST).records}
    older.die()
