import asyncio
import fcntl
import json
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sidestream.errors import Ambiguous, Retryable, Undeliverable
from sidestream.options import Size
from sidestream.sinks.base import Found
from sidestream.sinks.jsonl import Jsonl
from sidestream.traces.model import Origin, Turn


def a_turn(number: int = 1, text: Any = "Hello", **metadata: Any) -> Turn:
    said = [{"role": "user", "content": text}]
    return Turn(id=f"x{number}", dataset="demo", messages=said, metadata=metadata, trace="x1", number=number)


async def written(sink: Jsonl, *turns: Turn) -> None:
    for trace in turns:
        await sink.deliver(trace, None, 1)


def ids(path: Path) -> list[str]:
    return [json.loads(line)["id"] for line in path.read_text().splitlines()]


def names(directory: Path) -> list[str]:
    return sorted(place.name for place in directory.iterdir())


def existing_directory(parent: Path) -> Path:
    directory = parent / "existing"
    directory.mkdir()
    directory.chmod(0o755)
    return directory


def mode(place: Path) -> str:
    return oct(place.stat().st_mode & 0o777)


async def recovers(sink: Jsonl, turn: Turn, repair: Callable[[], object]) -> None:
    """The sink cannot write `trace` now, until `repair` is called."""
    with pytest.raises(Retryable):
        await sink.deliver(turn, None, 1)
    repair()
    await sink.deliver(turn, None, 2)


# Lines


async def test_each_turn_is_one_line_of_json(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    await written(Jsonl(path=str(path)), a_turn(1, "two\nlines", model="m"), a_turn(2, "ü"))

    first, second = path.read_text().splitlines()
    assert list(json.loads(first)) == ["id", "dataset", "trace", "turn", "rule", "messages", "metadata"]
    assert json.loads(first) == {
        "id": "x1",
        "dataset": "demo",
        "trace": "x1",
        "turn": 1,
        "rule": "first",
        "messages": [{"role": "user", "content": "two\nlines"}],
        "metadata": {"model": "m"},
    }
    assert json.loads(second)["messages"][0]["content"] == "ü"


async def test_a_turn_of_a_branch_says_where_that_left(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    origin = Origin(kind="branch", trace="t", turn="x0", number=3, path=["Hello"])
    await written(Jsonl(path=str(path)), msgspec.structs.replace(a_turn(), origin=origin))

    line = json.loads(path.read_text())
    assert line["origin"] == {"kind": "branch", "trace": "t", "turn": "x0", "number": 3, "path": ["Hello"]}


async def test_lines_are_appended_to_those_of_an_earlier_run(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    await written(Jsonl(path=str(path)), a_turn(1))
    await written(Jsonl(path=str(path)), a_turn(2), a_turn(3))

    assert ids(path) == ["x1", "x2", "x3"]


async def test_a_line_that_a_crash_cut_off_does_not_spoil_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    path.write_text('{"id":"x1"}\n{"id":"x')
    await written(Jsonl(path=str(path)), a_turn(2))

    lines = path.read_text().splitlines()
    assert lines[:2] == ['{"id":"x1"}', '{"id":"x']
    assert json.loads(lines[2])["id"] == "x2"


async def test_half_a_surrogate_pair_is_written_as_an_escape(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    await written(Jsonl(path=str(path)), a_turn(1, "\ud83d"))

    assert json.loads(path.read_text())["messages"][0]["content"] == "\ud83d"


async def test_what_is_not_json_is_undeliverable_and_leaves_no_trace(tmp_path: Path) -> None:
    sink = Jsonl(path=str(tmp_path / "traces.jsonl"))
    with pytest.raises(Undeliverable):
        await sink.deliver(a_turn(1, object()), None, 1)

    assert names(tmp_path) == []


# Places and modes


async def test_files_are_for_the_owner_only_and_so_are_the_directories_made_for_them(tmp_path: Path) -> None:
    path = existing_directory(tmp_path) / "a" / "b" / "traces.jsonl"
    await written(Jsonl(path=str(path)), a_turn())

    assert [mode(place) for place in (path, path.parent, path.parent.parent, path.parents[2])] == [
        "0o600",
        "0o700",
        "0o700",
        "0o755",
    ]


def test_the_default_place_is_in_the_data_home_of_the_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert Jsonl().path == tmp_path / "data" / "sidestream" / "traces.jsonl"


@pytest.mark.parametrize("data_home", [None, "", "relative/data"])
def test_without_a_data_home_the_default_place_is_below_the_home(
    data_home: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    if data_home is not None:
        monkeypatch.setenv("XDG_DATA_HOME", data_home)
    assert Jsonl().path == tmp_path / ".local" / "share" / "sidestream" / "traces.jsonl"


def test_a_tilde_is_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Jsonl(path="~/traces.jsonl").path == tmp_path / "traces.jsonl"


async def test_a_relative_path_is_one_from_where_the_sink_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sink = Jsonl(path="traces.jsonl")
    monkeypatch.chdir("/")
    await written(sink, a_turn())

    assert ids(tmp_path / "traces.jsonl") == ["x1"]


async def test_a_link_that_stands_at_the_start_is_followed(tmp_path: Path) -> None:
    link, target = tmp_path / "link.jsonl", tmp_path / "target.jsonl"
    link.symlink_to(target)
    await written(Jsonl(path=str(link), rotate=Size(1)), a_turn(1), a_turn(2))

    assert link.is_symlink()
    assert ids(target) == ["x2"]
    assert ids(tmp_path / "target.jsonl.1") == ["x1"]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"path": "/"}, "path is a directory"),
        ({"path": "~nobody-of-that-name/traces.jsonl"}, "no such home directory"),
        ({"keep": -1}, "keep must be 0 or more"),
    ],
)
def test_an_option_that_cannot_work_is_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Jsonl(**options)


# Rotation


async def test_a_file_that_would_outgrow_the_limit_makes_room_and_the_oldest_goes(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    line = len(
        b'{"id":"x1","dataset":"demo","trace":"x1","turn":1,"rule":"first",'
        b'"messages":[{"role":"user","content":"Hello"}],"metadata":{}}\n'
    )
    sink = Jsonl(path=str(path), rotate=Size(2 * line), keep=2)
    await written(sink, *map(a_turn, range(1, 8)))

    assert names(tmp_path) == ["traces.jsonl", "traces.jsonl.1", "traces.jsonl.2"]
    assert ids(path) == ["x7"]
    assert ids(tmp_path / "traces.jsonl.1") == ["x5", "x6"]
    assert ids(tmp_path / "traces.jsonl.2") == ["x3", "x4"]
    assert [mode(tmp_path / name) for name in names(tmp_path)] == ["0o600"] * 3


async def test_a_line_larger_than_the_limit_has_a_file_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    await written(Jsonl(path=str(path), rotate=Size(10)), a_turn(1), a_turn(2))

    assert (ids(path), ids(tmp_path / "traces.jsonl.1")) == (["x2"], ["x1"])


async def test_no_old_file_is_kept_if_none_is_wanted(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    await written(Jsonl(path=str(path), rotate=Size(10), keep=0), a_turn(1), a_turn(2))

    assert names(tmp_path) == ["traces.jsonl"]
    assert ids(path) == ["x2"]


async def test_a_limit_of_zero_means_no_rotation(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    await written(Jsonl(path=str(path), rotate=Size(0)), a_turn(1), a_turn(2))

    assert ids(path) == ["x1", "x2"]


async def test_a_file_that_somebody_moved_away_is_begun_anew(tmp_path: Path) -> None:
    sink = Jsonl(path=str(tmp_path / "logs" / "traces.jsonl"))
    await written(sink, a_turn(1))
    sink.path.parent.rename(tmp_path / "archive")
    await written(sink, a_turn(2))

    assert ids(tmp_path / "archive" / "traces.jsonl") == ["x1"]
    assert ids(sink.path) == ["x2"]


# Trouble


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """No file of this process can grow beyond `size` bytes: to a writer, a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_full_disk_leaves_no_half_line_and_the_trace_is_written_when_there_is_room(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    sink, trace = Jsonl(path=str(path)), a_turn(1, "y" * 10_000)
    full = 16 << 20
    filler = json.dumps({"id": "filler", "padding": "x" * (full - 1000)}) + "\n"
    path.write_text(filler)
    with file_size_limit(full), pytest.raises(Retryable):
        await sink.deliver(trace, None, 1)
    assert path.stat().st_size == len(filler)
    await sink.deliver(trace, None, 2)

    assert ids(path) == ["filler", "x1"]


async def test_a_directory_that_cannot_be_made_is_tried_again(tmp_path: Path) -> None:
    in_the_way = tmp_path / "data"
    in_the_way.write_text("a file")
    sink = Jsonl(path=str(in_the_way / "traces.jsonl"))

    await recovers(sink, a_turn(), in_the_way.unlink)

    assert ids(sink.path) == ["x1"]


async def test_a_file_that_another_process_has_locked_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    with path.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        await recovers(Jsonl(path=str(path)), a_turn(), lambda: fcntl.flock(other, fcntl.LOCK_UN))

    assert ids(path) == ["x1"]


async def test_a_pipe_is_not_written_to(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    os.mkfifo(path)
    sink = Jsonl(path=str(path))

    await recovers(sink, a_turn(), path.unlink)

    assert ids(path) == ["x1"]


async def test_a_link_put_in_the_files_place_later_is_not_followed(tmp_path: Path) -> None:
    path, elsewhere = tmp_path / "traces.jsonl", tmp_path / "elsewhere"
    sink = Jsonl(path=str(path))
    path.symlink_to(elsewhere)

    await recovers(sink, a_turn(), path.unlink)

    assert not elsewhere.exists()
    assert ids(path) == ["x1"]


async def test_a_write_that_does_not_succeed_says_why(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    sink = Jsonl(path=str(tmp_path / "data" / "traces.jsonl"))

    with pytest.raises(Retryable) as caught:
        await sink.deliver(a_turn(), None, 1)

    assert str(caught.value) == f"cannot write {sink.path}: Not a directory"


async def test_two_writers_share_a_file_without_losing_or_mixing_lines(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    writers = [Jsonl(path=str(path), rotate=Size(2000), keep=100) for _ in range(2)]
    numbers = range(100)
    await asyncio.gather(
        *(
            written(sink, *(a_turn(1000 * (place + 1) + number) for number in numbers))
            for place, sink in enumerate(writers)
        )
    )

    found = sorted(trace for name in names(tmp_path) for trace in ids(tmp_path / name))
    assert found == sorted(f"x{1000 * place + number}" for place in (1, 2) for number in numbers)


def test_a_path_that_the_system_refuses_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="path cannot be used"):
        Jsonl(path="/tmp/" + "x" * 5000)  # noqa: S108


# Looking for what may have been written


async def test_what_was_written_is_found_also_in_old_files(tmp_path: Path) -> None:
    sink = Jsonl(path=str(tmp_path / "traces.jsonl"), rotate=Size(10), keep=2)
    await written(sink, a_turn(1), a_turn(2), a_turn(3))

    assert [await sink.find(a_turn(number), None) for number in (1, 2, 3, 4)] == [Found(), Found(), Found(), None]


async def test_nothing_is_found_where_there_is_no_file(tmp_path: Path) -> None:
    assert await Jsonl(path=str(tmp_path / "a" / "traces.jsonl")).find(a_turn(), None) is None


async def test_a_line_that_was_cut_off_does_not_count_also_with_others_behind_it(tmp_path: Path) -> None:
    sink = Jsonl(path=str(tmp_path / "traces.jsonl"))
    sink.path.write_text('{"id":"x1","dataset":"demo","mess')
    assert await sink.find(a_turn(1), None) is None

    await written(sink, a_turn(2))
    assert await sink.find(a_turn(1), None) is None
    assert await sink.find(a_turn(2), None) == Found()


async def test_only_the_line_of_the_exchange_counts_and_not_one_that_speaks_of_it(tmp_path: Path) -> None:
    sink = Jsonl(path=str(tmp_path / "traces.jsonl"))
    await written(sink, a_turn(10), a_turn(2, '{"id":"x1","dataset"'))

    assert await sink.find(a_turn(1), None) is None


@pytest.mark.parametrize("at_once", [1, 7, 64])
async def test_lines_are_found_wherever_the_pieces_of_the_file_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr("sidestream.sinks.jsonl._SEARCHED_AT_ONCE", at_once)
    sink = Jsonl(path=str(tmp_path / "traces.jsonl"))
    await written(sink, *(a_turn(number, "y" * number) for number in range(20)))

    assert [await sink.find(a_turn(number), None) for number in range(21)] == [Found()] * 20 + [None]


async def test_a_file_too_large_to_be_searched_tells_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidestream.sinks.jsonl._SEARCHED_IN_ALL", 10)
    sink = Jsonl(path=str(tmp_path / "traces.jsonl"))
    await written(sink, a_turn())

    with pytest.raises(Ambiguous):
        await sink.find(a_turn(), None)


async def test_a_file_that_cannot_be_read_now_is_searched_later(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    with pytest.raises(Retryable):
        await Jsonl(path=str(tmp_path / "data" / "traces.jsonl")).find(a_turn(), None)
