"""One exchange on its way into an intake: from its beginning to its end, or not at all."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from sidestream.traces.entries import Begin, End, Entry, Head, Kind
from sidestream.traces.gathering import Gathering
from sidestream.traces.recording import Recording

if TYPE_CHECKING:
    from sidestream.traces.record import Record

BEGIN = Begin(
    id="x",
    dataset="d",
    provider="anthropic",
    fingerprint="",
    method="POST",
    path="/v1/messages",
    request_headers={},
    started_at=1.0,
)
HEAD = Head(status=200, response_headers={}, time_to_first_byte=0.25)
END = End(
    request_truncated=False,
    request_complete=True,
    response_truncated=False,
    outcome="completed",
    error=None,
    duration=2.0,
    end_verifiable=True,
    exact=True,
)


class Kept:
    """An intake that keeps `room` entries, and takes `exchanges`."""

    ready = True
    waiting = 0

    def __init__(self, room: int = 1000, exchanges: int = 1) -> None:
        self.entries: list[Entry] = []
        self.opened = 0
        self.awaited: list[int] = []
        self._room = room
        self._exchanges = exchanges

    def open(self) -> int | None:
        self.opened += 1
        return self.opened if self.opened <= self._exchanges else None

    def put(self, kind: Kind, number: int, time: float, data: bytes) -> bool:
        if len(self.entries) == self._room:
            return False
        self.entries.append(Entry(kind, number, time, data))
        return True

    async def committed(self, number: int) -> None:
        self.awaited.append(number)

    @property
    def kinds(self) -> list[Kind]:
        return [Kind(entry.kind) for entry in self.entries]

    def gathered(self) -> list[Record]:
        gathering = Gathering()
        return [record for entry in self.entries if (record := gathering.add(entry)) is not None]


def recording(intake: Kept) -> Recording:
    return Recording(intake, lambda: BEGIN, time.monotonic())


def test_what_is_recorded_is_what_can_be_gathered() -> None:
    intake = Kept()
    one = recording(intake)
    one.request(b"ask")
    one.head(HEAD)
    one.response(b"ans")
    one.response(b"wer")
    one.end(END)
    (record,) = intake.gathered()
    assert ("x", "d", 200, "completed", 2.0) == (
        record.id,
        record.dataset,
        record.status,
        record.outcome,
        record.duration,
    )
    assert ((b"ask",), (b"ans", b"wer")) == (record.request_chunks, record.response_chunks)
    assert sorted(record.response_times) == list(record.response_times)
    assert not one.lost


def test_it_begins_with_the_first_word() -> None:
    intake = Kept()
    one = recording(intake)
    assert ([], 0) == (intake.kinds, intake.opened)
    one.end(END)
    assert [Kind.BEGIN, Kind.END] == intake.kinds


def test_what_is_rejected_before_anything_was_told_leaves_no_trace() -> None:
    intake = Kept()
    recording(intake).abandon()
    assert ([], 0) == (intake.kinds, intake.opened)


def test_what_is_abandoned_later_says_so() -> None:
    intake = Kept()
    one = recording(intake)
    one.request(b"ask")
    one.abandon()
    assert [Kind.BEGIN, Kind.REQUEST, Kind.ABANDON] == intake.kinds
    assert [] == intake.gathered()


def test_without_room_it_asks_once_and_is_silent() -> None:
    intake = Kept(exchanges=0)
    one = recording(intake)
    one.request(b"ask")
    one.response(b"answer")
    one.end(END)
    one.abandon()
    assert ([], 1, True) == (intake.kinds, intake.opened, one.lost)


@pytest.mark.parametrize("room", range(4))
def test_once_the_intake_has_given_it_up_nothing_more_is_put(room: int) -> None:
    intake = Kept(room)
    one = recording(intake)
    for _ in range(3):
        one.request(b"ask")
    one.end(END)
    one.abandon()
    assert (room, 1, True) == (len(intake.entries), intake.opened, one.lost)


async def test_a_commit_waits_for_the_intake() -> None:
    intake = Kept()
    one = recording(intake)
    await one.commit(END)
    assert ([Kind.BEGIN, Kind.COMMIT], [1]) == (intake.kinds, intake.awaited)


@pytest.mark.parametrize("room", [0, 1])
async def test_a_commit_without_room_fails(room: int) -> None:
    one = recording(Kept(room))
    with pytest.raises(OSError, match="not taken"):
        await one.commit(END)


async def test_a_commit_of_what_was_given_up_before_fails() -> None:
    one = recording(Kept(1))
    one.request(b"ask")
    with pytest.raises(OSError, match="not taken"):
        await one.commit(END)


def test_an_exchange_whose_beginning_cannot_be_told_is_not_begun() -> None:
    """It would stay open in the intake for good."""
    intake = Kept()

    def broken() -> Begin:
        raise UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed")

    one = Recording(intake, broken, 0.0)
    with pytest.raises(UnicodeEncodeError):
        one.request(b"ask")
    one.end(END)
    assert ([], 0, True) == (intake.kinds, intake.opened, one.lost)
