"""A run takes little more than what is new in its calls, and each of them comes back exactly."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidestream.store import captures
from sidestream.store.captures import Captures
from sidestream.store.database import Database
from sidestream.store.packing import Packer
from stored import a_record

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

WORDS = [os.urandom(6).hex() for _ in range(4000)]


def request(turn: int) -> bytes:
    """The request of a turn repeats those before it."""
    return " ".join(WORDS[: 40 * (turn + 1)]).encode()


class Kept:
    """The captures of one database in memory."""

    def __init__(self) -> None:
        self.database = Database.open(None)
        self.forget()

    def forget(self) -> None:
        """Have everything read from the database again."""
        self.captures = Captures(self.database, Packer())

    def add(self, data: bytes, base: int | None = None) -> int:
        with self.database.transaction():
            return self.add_within(data, base)

    def add_within(self, data: bytes, base: int | None = None) -> int:
        """Inside a transaction."""
        sequence = self.database.insert(
            "INSERT INTO exchanges (id, dataset, provider, fingerprint, started_at, stored_at, outcome, size, stored)"
            " VALUES (?, '', '', '', 0, 0, '', 0, 0)",
            os.urandom(8).hex(),
        )
        packed = Packer().pack(a_record(request_chunks=(data,)), 1 << 30)
        stored = self.captures.add(sequence, packed, base)
        self.database.run("UPDATE exchanges SET stored = ? WHERE sequence = ?", stored, sequence)
        return sequence

    def run(self, turns: int) -> list[int]:
        """A run in which each call is packed with the one before it."""
        sequences: list[int] = []
        for turn in range(turns):
            sequences.append(self.add(request(turn), sequences[-1] if sequences else None))
        return sequences

    def requests(self, sequences: Sequence[int]) -> list[bytes]:
        self.forget()
        return [b"".join(self.captures.record(sequence).request_chunks) for sequence in sequences]

    def column(self, name: str) -> list[Any]:
        return [value for (value,) in self.database.rows(f"SELECT {name} FROM captures ORDER BY sequence")]  # noqa: S608  # a test's own word

    def remove(self, *sequences: int, most: int = 1 << 30) -> bool:
        with self.database.transaction():
            done = self.captures.release(sequences, most)
            if done:
                self.database.run_many(
                    "DELETE FROM exchanges WHERE sequence = ?", [(sequence,) for sequence in sequences]
                )
        return done

    def corrupt(self, sequence: int) -> None:
        with self.database.transaction():
            self.database.run("UPDATE captures SET request = x'017f' WHERE sequence = ?", sequence)
        self.forget()


@pytest.fixture
def kept() -> Iterator[Kept]:
    kept = Kept()
    yield kept
    kept.database.close()


def test_every_request_of_a_run_comes_back_exactly(kept: Kept) -> None:
    sequences = kept.run(70)
    assert [request(turn) for turn in range(70)] == kept.requests(sequences)


def test_a_run_is_packed_in_little_more_than_what_is_new(kept: Kept) -> None:
    kept.run(70)
    sizes = kept.column("length(request)")
    new = len(Packer().squeeze(request(0)))
    assert max(sizes[1:30]) < new + 50


def test_every_so_often_a_request_is_packed_by_itself(kept: Kept) -> None:
    sequences = kept.run(70)
    assert [sequences[0], sequences[32], sequences[64]] == [
        sequence for sequence, base in zip(sequences, kept.column("base"), strict=True) if base is None
    ]


def test_a_run_that_goes_on_after_a_restart_counts_what_was_before(kept: Kept) -> None:
    sequences = kept.run(20)
    kept.forget()
    for turn in range(20, 40):
        sequences.append(kept.add(request(turn), sequences[-1]))
    assert [sequences[0], sequences[32]] == [
        sequence for sequence, base in zip(sequences, kept.column("base"), strict=True) if base is None
    ]
    assert [request(turn) for turn in range(40)] == kept.requests(sequences)


def test_what_does_not_become_smaller_with_another_is_packed_by_itself(kept: Kept) -> None:
    first = kept.add(os.urandom(2000))
    kept.add(os.urandom(1000).hex().encode(), first)
    assert [None, None] == kept.column("base")


@pytest.mark.parametrize("base", [7, 1 << 62])
def test_a_base_that_is_not_there_any_more_is_done_without(kept: Kept, base: int) -> None:
    sequence = kept.add(request(3), base)
    assert [None] == kept.column("base")
    assert [request(3)] == kept.requests([sequence])


def test_a_base_that_was_removed_is_not_used_though_it_is_remembered(kept: Kept) -> None:
    first = kept.add(request(3))
    with kept.database.transaction():
        kept.database.run("DELETE FROM captures")
    second = kept.add(request(4), first)
    assert [None] == kept.column("base")
    assert [request(4)] == kept.requests([second])


def test_a_base_that_is_damaged_is_done_without(kept: Kept) -> None:
    first = kept.add(request(3))
    kept.corrupt(first)
    second = kept.add(request(4), first)
    assert [None, None] == kept.column("base")
    assert [request(4)] == kept.requests([second])


def test_a_number_that_is_given_again_after_a_failure_stands_for_the_new_request(kept: Kept) -> None:
    """A transaction that failed gives its numbers back, and what it stored was never there."""
    with pytest.raises(ZeroDivisionError), kept.database.transaction():
        raise ZeroDivisionError(kept.add_within(os.urandom(5000)))
    assert 1 == kept.add(request(3))
    second = kept.add(request(4), 1)
    assert [None, 1] == kept.column("base")
    assert [request(3), request(4)] == kept.requests([1, second])


def test_what_damage_there_is_concerns_only_what_was_packed_with_it(kept: Kept) -> None:
    sequences = kept.run(5)
    kept.corrupt(sequences[2])
    assert request(1) == kept.requests(sequences[:2])[1]
    for sequence in sequences[2:]:
        with pytest.raises(LookupError, match=f"exchange {sequence} is damaged"):
            kept.captures.record(sequence)


@pytest.mark.parametrize("base", [2, 3, 999])
def test_a_base_that_is_wrong_is_damage(kept: Kept, base: int) -> None:
    first = kept.add(request(3))
    second = kept.add(request(4), first)
    kept.add(os.urandom(5000))
    with kept.database.transaction():
        kept.database.run("UPDATE captures SET base = ? WHERE sequence = ?", base, second)
    kept.forget()
    with pytest.raises(LookupError, match="exchange 2 is damaged"):
        kept.captures.record(second)


@pytest.mark.parametrize("branches", [1, 2, 3])
def test_after_a_removal_that_failed_it_is_known_how_far_requests_are_from_one_by_itself(
    kept: Kept, branches: int
) -> None:
    """Chains that grew beyond the limit could not be read any more."""
    sequences = kept.run(31)
    last = [kept.add(request(31) + b" and so" * number, sequences[-1]) for number in range(branches)]
    with pytest.raises(ZeroDivisionError), kept.database.transaction():
        raise ZeroDivisionError(kept.captures.release(sequences, 1 << 30))
    assert [sequences[-1]] * branches == kept.column("base")[-branches:]
    for branch in last:
        kept.add(request(32), branch)
    assert [None] * branches == kept.column("base")[-branches:]


def test_what_was_packed_with_one_that_goes_is_packed_anew(kept: Kept) -> None:
    sequences = kept.run(10)
    assert kept.remove(*sequences[:4])
    assert [None, *sequences[4:9]] == kept.column("base")
    assert [request(turn) for turn in range(4, 10)] == kept.requests(sequences[4:])


def test_what_goes_with_its_base_is_not_packed_anew(kept: Kept) -> None:
    assert kept.remove(*kept.run(10), most=0)


def test_one_in_the_middle_can_go(kept: Kept) -> None:
    sequences = kept.run(6)
    assert kept.remove(sequences[2], sequences[4])
    rest = [0, 1, 3, 5]
    assert [request(turn) for turn in rest] == kept.requests([sequences[turn] for turn in rest])


def test_of_many_that_were_packed_with_one_that_goes_only_one_is_packed_by_itself(kept: Kept) -> None:
    """A thousand attempts at the same task must not take more room because the first is removed."""
    first = kept.add(request(50))
    branches = [kept.add(request(50) + b" and so" * number, first) for number in range(8)]
    ((before,),) = kept.database.rows("SELECT sum(stored) FROM exchanges")
    assert kept.remove(first)
    assert [None, *[branches[0]] * 7] == kept.column("base")
    ((after,),) = kept.database.rows("SELECT sum(stored) FROM exchanges")
    assert after <= before
    assert [request(50) + b" and so" * number for number in range(8)] == kept.requests(branches)


def test_packing_anew_ends_after_so_many_bytes_and_can_be_gone_on_with(kept: Kept) -> None:
    first = kept.add(request(50))
    branches = [kept.add(request(50) + b" and so" * number, first) for number in range(6)]
    most = 2 * len(request(50))
    answers = [kept.remove(first, most=most) for _ in range(3)]
    assert [False, False, True] == answers
    assert [request(50) + b" and so" * number for number in range(6)] == kept.requests(branches)


def test_what_cannot_be_read_any_more_keeps_nothing_from_being_removed(kept: Kept) -> None:
    sequences = kept.run(3)
    kept.corrupt(sequences[1])
    assert kept.remove(sequences[0])
    with pytest.raises(LookupError, match="damaged"):
        kept.captures.record(sequences[1])
    assert kept.remove(sequences[1])
    assert kept.remove(sequences[2])


@given(st.lists(st.tuples(st.sampled_from(["add", "add", "add", "remove", "forget"]), st.integers(0, 99)), max_size=40))
def test_whatever_is_added_and_removed_the_rest_comes_back_exactly(steps: list[tuple[str, int]]) -> None:
    kept, expected = Kept(), dict[int, bytes]()
    for step, choice in steps:
        sequences = list(expected)
        if step == "add":
            data = request(choice % 40)
            expected[kept.add(data, sequences[choice % len(sequences)] if sequences else None)] = data
        elif step == "remove":
            going = [sequence for sequence in sequences if sequence % 3 == choice % 3]
            assert kept.remove(*going)
            for sequence in going:
                del expected[sequence]
        else:
            kept.forget()
    assert list(expected.values()) == kept.requests(list(expected))
    kept.database.close()


def test_what_is_stored_follows_what_is_packed_anew(kept: Kept) -> None:
    sequences = kept.run(3)
    kept.remove(sequences[0])
    assert kept.column("length(facts) + length(chunks) + length(request) + length(response)") == [
        stored for (stored,) in kept.database.rows("SELECT stored FROM exchanges ORDER BY sequence")
    ]


def remembered(kept: Kept, sequences: Sequence[int]) -> list[int]:
    recent = kept.captures._recent  # noqa: SLF001  # nothing else tells what is remembered
    return [sequence for sequence in sequences if recent.get(sequence) is not None]


def test_few_requests_are_remembered(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captures, "_RECENT_BYTES", 30_000)
    kept.forget()
    sequences = [kept.add(os.urandom(4000)) for _ in range(5)]
    sequences.append(kept.add(os.urandom(60_001)))
    assert sequences[2:5] == remembered(kept, sequences)


def test_a_very_large_request_is_remembered_alone(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captures, "_RECENT_BYTES", 30_000)
    kept.forget()
    sequences = [kept.add(os.urandom(size)) for size in (4000, 60_000)]
    assert sequences[1:] == remembered(kept, sequences)


def test_small_requests_are_not_remembered_by_the_thousand(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captures, "_RECENT_BYTES", 30_000)
    kept.forget()
    sequences = [kept.add(b"small") for _ in range(20)]
    assert sequences[-7:] == remembered(kept, sequences)


def test_a_request_is_not_remembered_longer_because_the_next_of_its_run_is_packed_with_it(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(captures, "_RECENT_BYTES", 36_000)
    kept.forget()
    runs = [kept.add(request(0)) for _ in range(6)]
    nexts = [kept.add(request(1), first) for first in runs]
    assert [runs[-1], *nexts] == remembered(kept, [*runs, *nexts])


def test_what_was_never_captured_is_a_lookup_error(kept: Kept) -> None:
    with pytest.raises(LookupError, match="no exchange 5"):
        kept.captures.record(5)


def test_a_chain_that_is_longer_than_any_is_damage(kept: Kept) -> None:
    sequences = kept.run(30)
    for turn in range(30, 80):
        sequences.append(kept.add(request(turn)))
    with kept.database.transaction():
        kept.database.run("UPDATE captures SET base = sequence - 1 WHERE sequence > 1")
    kept.forget()
    with pytest.raises(LookupError, match="damaged"):
        kept.captures.record(sequences[-1])
