"""The commands that show what was recorded, as they are given on a command line."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from typing import TYPE_CHECKING

import click
import pytest
import yaml

from conversing import START, Call, text, user
from recorded import lines, look, recorded
from sidestream import looking
from sidestream.store.shapes import TurnState

if TYPE_CHECKING:
    from pathlib import Path

COMMAND = (sys.executable, "-m", "sidestream")
OLD, NEW = f"{1:032x}", f"{2:032x}"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return recorded(
        tmp_path,
        Call(OLD, [user("Mend the gate")], [text("Mended")], START),
        Call(NEW, [user("Paint \x1b[2Jit")], [text("Painted")], START + 100),
    )


def environment(file: Path, **changes: str) -> dict[str, str]:
    return {**os.environ, "SIDESTREAM_CONFIG": str(file), **changes}


@pytest.mark.parametrize("name", [NEW, NEW.upper(), NEW[:-1] + "2", "last"])
def test_a_run_is_meant_by_its_id_or_as_the_last_one(file: Path, name: str) -> None:
    assert NEW == lines(look(file, "show", name))[1].split()[0]


@pytest.mark.parametrize(("name", "complaint"), [("0000", f"{OLD}, {NEW}"), ("ffff", "no run"), ("x", "no such run")])
def test_a_run_that_is_not_clear_is_an_error(file: Path, name: str, complaint: str) -> None:
    result = look(file, "show", name)
    assert (1, "", True) == (result.exit_code, result.stdout, complaint in result.stderr)


def test_there_is_no_last_run_of_an_empty_store(tmp_path: Path) -> None:
    result = look(recorded(tmp_path), "show", "last")
    assert (1, "Error: nothing has been recorded yet\n") == (result.exit_code, result.stderr)


@pytest.mark.parametrize("arguments", [["traces"], ["show", "last"], ["search", "x"], ["stats"], ["open", "last"]])
def test_without_a_store_the_commands_say_so(tmp_path: Path, arguments: list[str]) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump({"recorder": {"dir": str(tmp_path / "nothing")}}))
    result = look(file, *arguments)
    assert (1, "", True) == (result.exit_code, result.stdout, "there is no store yet" in result.stderr)
    assert not (tmp_path / "nothing").exists()


def test_a_configuration_that_cannot_work_is_told_as_anywhere(tmp_path: Path) -> None:
    (file := tmp_path / "c.yaml").write_text("server: {prot: 1}")
    result = look(file, "traces")
    assert (2, True) == (result.exit_code, "did you mean 'port'?" in result.stderr)


@pytest.mark.parametrize("option", ["--dataset", "--model", "--tool"])
def test_what_cannot_be_a_name_is_refused(file: Path, option: str) -> None:
    assert 2 == look(file, "traces", option, "\x1b").exit_code


def test_every_state_of_a_run_that_is_over_can_be_wanted() -> None:
    (states,) = [option.type for option in looking.traces.params if option.name == "state"]
    assert isinstance(states, click.Choice)
    assert {*TurnState} - {TurnState.RUNNING} == {*states.choices}


def test_words_are_the_same_however_they_are_quoted(file: Path) -> None:
    assert lines(look(file, "search", "mend", "gate")) == lines(look(file, "search", " mend\tgate "))


def test_the_address_of_a_page_can_be_printed(file: Path) -> None:
    addresses = [lines(look(file, "open", "--print", *run)) for run in ([], ["last"])]
    assert [["http://127.0.0.1:8005/"], [f"http://127.0.0.1:8005/runs/{NEW}"]] == addresses


def test_a_browser_is_opened_at_the_page(file: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "open", OLD], env=environment(file, BROWSER="echo %s"), capture_output=True, text=True, check=True
    )
    assert f"http://127.0.0.1:8005/runs/{OLD}\n" == done.stdout


def test_without_a_browser_the_address_is_told(file: Path) -> None:
    bare = {"SIDESTREAM_CONFIG": str(file), "PATH": "/nowhere"}
    done = subprocess.run([*COMMAND, "open"], env=bare, capture_output=True, text=True, check=False)
    complaint = "Error: there is no browser here to open http://127.0.0.1:8005/ with\n"
    assert (1, True) == (done.returncode, complaint in done.stderr)


def test_a_reader_that_has_had_enough_is_no_error(tmp_path: Path) -> None:
    """A megabyte is more than a pipe holds."""
    file = recorded(tmp_path, Call("a1", [user("word " * 200_000)], [text("Yes")], START), indexed=False)
    with subprocess.Popen(
        [*COMMAND, "show", "a1"], env=environment(file), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert b"" == process.stderr.read()


def test_a_terminal_gets_styles_and_nothing_else_that_it_obeys(file: Path) -> None:
    ours, theirs = pty.openpty()
    terminal = environment(file, TERM="xterm", COLUMNS="80")
    terminal.pop("NO_COLOR", None)
    try:
        subprocess.run([*COMMAND, "traces"], env=terminal, stdout=theirs, stderr=subprocess.DEVNULL, check=True)
        shown = os.read(ours, 1 << 16).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert "\x1b[1mSTARTED" in shown
    assert "\\x1b[2Jit" in shown
    assert "\x1b[2J" not in shown
