from __future__ import annotations

import errno
import fcntl
import os
import resource
import sys
import time
from typing import TYPE_CHECKING

import pytest

from sidestream.store import segments
from sidestream.store.segments import Appender, DamagedError
from sidestream.traces.entries import Entry, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SOME = [Entry(Kind.REQUEST, 1, 0.0, b""), Entry(Kind.RESPONSE, 2, 1.5, b"abc"), Entry(Kind.END, 1, 2.5, b"x" * 40)]


def encoded(entries: list[Entry]) -> bytes:
    return b"".join(segments.framed(entry) + entry.data for entry in entries)


def believed(data: bytes) -> list[Entry]:
    found = []
    try:
        for _, entry in segments.entries(data):
            found.append(entry)  # what came before the damage counts
    except DamagedError:
        pass
    return found


@pytest.fixture
def small_files() -> Iterator[int]:
    """No file can grow beyond this many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    yield 1000
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def appender(root: Path, *, segment: int = 1 << 20, strict: bool = False) -> Appender:
    appender = Appender(root, strict=strict, segment=segment)
    appender.prepare()
    return appender


def files(root: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(root.glob("*/*.seg"))]


def test_entries_come_out_as_they_went_in() -> None:
    assert SOME == believed(encoded(SOME))


def test_a_segment_cut_anywhere_has_only_its_whole_entries() -> None:
    data = encoded(SOME)
    ends = [end for end, _ in segments.entries(data)]
    for cut in range(len(data)):
        assert SOME[: sum(end <= cut for end in ends)] == believed(data[:cut])


def test_an_entry_with_any_byte_changed_is_never_believed() -> None:
    data = encoded(SOME)
    ends = [end for end, _ in segments.entries(data)]
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 0x41
        assert SOME[: sum(end <= place for end in ends)] == believed(bytes(changed))


def test_zeros_are_damage_and_not_entries() -> None:
    with pytest.raises(DamagedError):
        list(segments.entries(bytes(100)))


def test_a_length_that_cannot_be_is_damage_before_that_many_bytes_are_there() -> None:
    with pytest.raises(DamagedError):
        list(segments.entries((segments.MOST + 1).to_bytes(4, "little") + bytes(17)))


def test_a_header_tells_where_the_segment_before_ended() -> None:
    header = segments.header(7, 12345)
    assert segments.HEADER_SIZE == len(header)
    assert 12345 == segments.before(header, 7)
    assert segments.before(header[:-1], 7) is None


@pytest.mark.parametrize("place", range(segments.HEADER_SIZE))
def test_a_header_with_any_byte_changed_is_damage(place: int) -> None:
    header = bytearray(segments.header(7, 12345))
    header[place] ^= 0x41
    with pytest.raises(DamagedError):
        segments.before(bytes(header), 7)


def test_the_header_of_another_segment_is_damage() -> None:
    with pytest.raises(DamagedError):
        segments.before(segments.header(7, 0), 8)


def test_numbers_beyond_32_bits_wrap_around() -> None:
    ((_, entry),) = segments.entries(encoded([Entry(Kind.END, (1 << 32) + 5, 0.0, b"")]))
    assert 5 == entry.number


def test_how_much_is_needed_is_told_from_the_beginning_of_an_entry() -> None:
    data = encoded(SOME[2:])
    assert segments.ENTRY_SIZE == segments.needed(data[:5])
    assert len(data) == segments.needed(data[:30])


def test_other_files_are_not_segments(tmp_path: Path) -> None:
    for name in ("00000002.seg", "100000000.seg", "00000001.seg", "lock", "1.seg", "00000003.seg.tmp"):
        (tmp_path / name).touch()
    assert [1, 2, 100_000_000] == segments.numbers(tmp_path)


def test_what_is_appended_is_in_the_file_at_once(tmp_path: Path) -> None:
    files_of = appender(tmp_path)
    assert (3, None) == files_of.append(SOME)
    assert [segments.header(1, 0) + encoded(SOME)] == files(tmp_path)
    files_of.close()


def test_only_the_owner_has_access(tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        files_of = appender(tmp_path / "new" / "journal")
        files_of.append(SOME)
        files_of.close()
    finally:
        os.umask(umask)
    for path in (tmp_path / "new").rglob("*"):
        assert (0o700 if path.is_dir() else 0o600) == path.stat().st_mode & 0o777


def test_the_lock_is_held_until_the_appender_is_closed(tmp_path: Path) -> None:
    files_of = appender(tmp_path)
    (lock,) = tmp_path.glob("*/lock")
    with lock.open() as file:
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        files_of.close()
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)


def test_each_segment_says_where_the_one_before_ended(tmp_path: Path) -> None:
    files_of = appender(tmp_path, segment=1, strict=True)
    for entry in SOME:
        files_of.append([entry])
    files_of.close()
    first, second, third = files(tmp_path)
    assert 0 == segments.before(first, 1)
    assert len(first) == segments.before(second, 2)
    assert len(second) == segments.before(third, 3)


@pytest.mark.parametrize("size", range(0, 2000, 101))
def test_of_entries_without_room_the_whole_ones_stay_and_nothing_else(
    tmp_path: Path, small_files: int, size: int
) -> None:
    batch = [Entry(Kind.RESPONSE, number, 0.0, b"x" * size) for number in range(40)]
    files_of = appender(tmp_path)
    count, error = files_of.append(batch)
    while error is None:
        assert len(batch) == count
        count, error = files_of.append(batch)
    (data,) = files(tmp_path)
    whole = believed(data[segments.HEADER_SIZE :])
    assert batch[:count] == whole[len(whole) - count :]
    assert segments.HEADER_SIZE + len(encoded(whole)) == len(data)
    assert small_files >= len(data)
    files_of.close()


def test_when_there_is_room_again_it_goes_on_where_it_stopped(tmp_path: Path, small_files: int) -> None:
    batch = [Entry(Kind.RESPONSE, number, 0.0, b"x" * 150) for number in range(10)]
    files_of = appender(tmp_path)
    count, error = files_of.append(batch)
    assert error is not None
    resource.setrlimit(resource.RLIMIT_FSIZE, (10 * small_files, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    assert not files_of.prepare()
    assert (10 - count, None) == files_of.append(batch[count:])
    (data,) = files(tmp_path)
    assert batch == believed(data[segments.HEADER_SIZE :])
    files_of.close()


def test_what_cannot_be_cut_off_is_left_behind_in_a_closed_segment(
    tmp_path: Path, small_files: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_cut(*_: object) -> None:
        raise OSError

    monkeypatch.setattr(os, "ftruncate", no_cut)
    batch = [Entry(Kind.RESPONSE, number, 0.0, b"x" * 150) for number in range(10)]
    files_of = appender(tmp_path)
    count, _ = files_of.append(batch)
    assert not files_of.prepare()
    files_of.append(batch[count : count + 1])
    first, second = files(tmp_path)
    assert small_files == len(first)
    assert segments.HEADER_SIZE + len(encoded(batch[:count])) == segments.before(second, 2)
    files_of.close()


def test_a_deleted_directory_is_told_once_and_replaced(tmp_path: Path) -> None:
    files_of = appender(tmp_path)
    files_of.append(SOME)
    (directory,) = tmp_path.iterdir()
    for path in directory.iterdir():
        path.unlink()
    directory.rmdir()
    assert [True, False] == [files_of.prepare(), files_of.prepare()]
    files_of.append(SOME)
    assert [segments.header(1, 0) + encoded(SOME)] == files(tmp_path)
    files_of.close()


def test_a_deleted_segment_is_told_and_the_next_one_says_that_there_was_one(tmp_path: Path) -> None:
    files_of = appender(tmp_path)
    files_of.append(SOME)
    (segment,) = tmp_path.glob("*/*.seg")
    size = segment.stat().st_size
    segment.unlink()
    assert files_of.prepare()
    files_of.append(SOME)
    (data,) = files(tmp_path)
    assert size == segments.before(data, 2)
    files_of.close()


def test_a_deletion_is_told_also_when_the_new_beginning_fails_at_first(tmp_path: Path) -> None:
    root = tmp_path / "journal"
    files_of = appender(root)
    for path in root.glob("*/*"):
        path.unlink()
    root.rename(tmp_path / "away")
    root.touch()
    with pytest.raises(OSError):
        files_of.prepare()
    root.unlink()
    assert files_of.prepare()
    files_of.close()


def test_a_directory_that_could_not_be_made_leaves_nothing_behind(tmp_path: Path, small_files: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    files_of = Appender(tmp_path, strict=False, segment=small_files)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        with pytest.raises(OSError):
            files_of.prepare()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [] == list(tmp_path.iterdir())


def test_a_segment_that_could_not_be_synced_is_not_written_to_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_file: int) -> None:
        raise OSError(5, "broken")

    files_of = appender(tmp_path, strict=True)
    files_of.append(SOME)
    monkeypatch.setattr(segments, "_sync", broken)
    with pytest.raises(segments.UnsyncedError):
        files_of.sync()
    monkeypatch.undo()
    assert not files_of.prepare()
    files_of.append(SOME)
    first, second = files(tmp_path)
    assert len(first) == segments.before(second, 2)
    files_of.close()


def test_an_empty_segment_that_could_not_be_synced_is_no_doubt_and_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_file: int) -> None:
        raise OSError(5, "broken")

    files_of = appender(tmp_path, strict=True)
    monkeypatch.setattr(segments, "_sync", broken)
    for _ in range(3):
        with pytest.raises(OSError) as caught:
            files_of.sync()
        assert not isinstance(caught.value, segments.UnsyncedError)
        assert not files_of.prepare()
    assert 1 == len(files(tmp_path))
    files_of.close()


@pytest.mark.parametrize("works", [True, False])
def test_what_stands_before_a_rest_that_cannot_be_cut_off_is_synced_or_known_not_to_be(
    tmp_path: Path, small_files: int, monkeypatch: pytest.MonkeyPatch, *, works: bool
) -> None:
    synced: list[int] = []

    def no_cut(*_: object) -> None:
        raise OSError

    def sync(file: int) -> None:
        if not works:
            raise OSError(5, "broken")
        synced.append(os.fstat(file).st_size)

    monkeypatch.setattr(os, "ftruncate", no_cut)
    monkeypatch.setattr(segments, "_sync", sync)
    files_of = appender(tmp_path, strict=True)
    count, error = files_of.append([Entry(Kind.RESPONSE, number, 0.0, b"x" * 150) for number in range(10)])
    assert 0 < count < 10
    assert works != isinstance(error, segments.UnsyncedError)
    assert ([small_files] if works else []) == synced
    files_of.close()


def test_an_old_segment_is_closed_by_one_with_a_header_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    files_of = Appender(tmp_path, strict=True, segment=1 << 20, age=60)
    files_of.prepare()
    now[0] += 1000
    assert files_of.seconds_left() is None
    files_of.append(SOME[:1])
    now[0] += 59
    assert not files_of.prepare()
    files_of.append(SOME[1:2])
    assert (1, 1) == (len(files(tmp_path)), files_of.seconds_left())
    now[0] += 1
    assert not files_of.prepare()
    first, second = files(tmp_path)
    assert (SOME[:2], segments.header(2, len(first))) == (believed(first[segments.HEADER_SIZE :]), second)
    now[0] += 1000
    assert not files_of.prepare()
    assert files_of.seconds_left() is None
    files_of.append(SOME[2:])
    assert SOME[2:] == believed(files(tmp_path)[1][segments.HEADER_SIZE :])
    files_of.close()


@pytest.mark.parametrize("code", [errno.ENOTSUP, errno.EINVAL, errno.EIO])
def test_where_macos_has_no_full_sync_a_plain_one_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, "refused")

    synced: list[int] = []
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    files_of = appender(tmp_path)
    files_of.append(SOME)
    monkeypatch.setattr(fcntl, "fcntl", refuse)
    monkeypatch.setattr(os, "fsync", synced.append)
    if code == errno.EIO:
        with pytest.raises(segments.UnsyncedError):
            files_of.sync()
    else:
        files_of.sync()
    assert (code != errno.EIO) == bool(synced)
    files_of.close()


def test_a_directory_that_was_moved_is_told_once_and_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "_LOOK", 0.0)
    files_of = appender(tmp_path / "journal")
    files_of.append(SOME)
    (tmp_path / "journal").rename(tmp_path / "elsewhere")
    assert [True, False] == [files_of.prepare(), files_of.prepare()]
    files_of.append(SOME)
    assert 1 == len(files(tmp_path / "journal"))
    files_of.close()
