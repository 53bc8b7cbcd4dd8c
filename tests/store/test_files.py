"""Files that runs are imported from."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from sidestream.errors import SidestreamError
from sidestream.store.files import ImportFile

if TYPE_CHECKING:
    from pathlib import Path

USER = {"role": "user", "content": "Hello"}


def a_line(name: str, trace: str, seconds: int) -> dict[str, Any]:
    metadata = {"started_at": f"2026-11-22T10:00:{seconds:02}+00:00"}
    return {"id": name, "trace": trace, "rule": "first", "messages": [USER], "metadata": metadata}


def names(path: Path) -> list[str | None]:
    """The turns of a file in the order in which they would be stored."""
    source = ImportFile(path, None)
    checked = [turn.id for turn, _ in source.check()]
    turns = [turn.id for turn, _ in source.turns()]
    assert sorted(map(str, turns)) == sorted(map(str, checked))
    return turns


def test_lines_come_in_the_order_in_which_turns_began(tmp_path: Path) -> None:
    file = tmp_path / "traces.jsonl"
    lines = [a_line("x1", "x1", 1), a_line("x3", "x1", 3), a_line("x2", "x1", 2)]
    file.write_text("\n\n".join(map(json.dumps, lines)))
    assert ["x1", "x2", "x3"] == names(file)


@pytest.mark.parametrize("indent", [None, 2])
def test_one_value_may_take_many_lines(tmp_path: Path, indent: int | None) -> None:
    file = tmp_path / "traces.json"
    file.write_text(json.dumps([a_line("x1", "x1", 1), a_line("x2", "x1", 2)], indent=indent))
    assert ["x1", "x2"] == names(file)


def test_an_empty_file_has_no_turns(tmp_path: Path) -> None:
    file = tmp_path / "empty"
    file.write_text("\n \n")
    assert [] == names(file)


def test_what_only_speaks_of_a_dataset_is_counted(tmp_path: Path) -> None:
    file = tmp_path / "dataset.jsonl"
    file.write_text('{"metadata": {}}\n' + json.dumps([USER]))
    source = ImportFile(file, None)
    assert (1, 1) == (len(list(source.check())), source.passed_over)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"x", ":1: not JSON"),
        (b"\xff\x00", ":1: not JSON"),
        (b"{\n", ":1: not JSON"),
        (b"{\nx", ": not JSON"),
        (json.dumps(a_line("x1", "x1", 1)).encode() + b"\n{", ":2: not JSON"),
        (b"[" * 100_000, ":1: not JSON, or nested too deeply"),
        (b'\n\n{"a": 1}', ":3: messages must be a non-empty list of messages"),
        (b'{\n"a": 1}', ": messages must be a non-empty list of messages"),
        (b"1", ":1: neither a run, nor a turn, nor a trace"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_place(tmp_path: Path, content: bytes, problem: str) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    with pytest.raises(SidestreamError) as caught:
        list(ImportFile(file, None).check())
    assert str(caught.value).startswith(f"{file}{problem}")


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(SidestreamError, match="cannot be read: No such file"):
        list(ImportFile(tmp_path / "none", None).check())
