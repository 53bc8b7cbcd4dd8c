"""The command that deletes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import yaml
from click.testing import CliRunner, Result

from sidestream.removing import delete
from sidestream.store.store import Store
from stored import a_run, an_item, stored

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A configuration whose store has a run of three turns, and two exchanges of another dataset."""
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    store = Store.open(data / "store.db")
    stored(store, *a_run("r", 3), an_item("x1", dataset="other"), an_item("x2", [], dataset="other"))
    store.close()
    file = tmp_path / "sidestream.yaml"
    file.write_text(yaml.safe_dump({"recorder": {"dir": str(data)}}))
    return file


def run(*arguments: object, answer: str = "") -> Result:
    return CliRunner().invoke(delete, list(map(str, arguments)), input=answer, catch_exceptions=False)


def left(file: Path) -> list[str]:
    store = Store.open_reader(file.parent / "data" / "store.db")
    try:
        return [record.id for _, record in store.exchanges()]
    finally:
        store.close()


def test_a_run_is_deleted_when_it_was_confirmed(file: Path) -> None:
    result = run("-c", file, "r-1", answer="y\n")
    assert "Delete the run r-0 of demo, 3 turns, and all that left it? [y/N]: y" in result.stdout
    assert result.stdout.endswith("3 turns deleted\n")
    assert ["x1", "x2"] == left(file)


def test_a_dataset_is_deleted_when_it_was_confirmed(file: Path) -> None:
    result = run("-c", file, "--dataset", "other", answer="y\n")
    assert "Delete the dataset other, 2 runs with 2 turns? [y/N]: y" in result.stdout
    assert result.stdout.endswith("2 turns deleted\n")
    assert ["r-0", "r-1", "r-2"] == left(file)


@pytest.mark.parametrize("answer", ["n\n", "\n", ""])
def test_without_a_yes_nothing_is_deleted(file: Path, answer: str) -> None:
    assert 1 == run("-c", file, "r-0", answer=answer).exit_code
    assert 5 == len(left(file))


def test_with_yes_nobody_is_asked(file: Path) -> None:
    assert "2 turns deleted\n" == run("-c", file, "--dataset", "other", "--yes").stdout
    assert "0 turns deleted\n" == run("-c", file, "--dataset", "other", "--yes").stdout


def test_a_run_that_is_not_there_is_said(file: Path) -> None:
    result = run("-c", file, "abcdef", "--yes")
    assert (1, True, "") == (result.exit_code, "there is no run" in result.stderr, result.stdout)


@pytest.mark.parametrize("arguments", [[], ["r-0", "--dataset", "other"]])
def test_either_a_run_or_a_dataset(file: Path, arguments: list[str]) -> None:
    result = run("-c", file, *arguments, "--yes")
    assert (2, True) == (result.exit_code, "either a RUN or --dataset" in result.stderr)
    assert 5 == len(left(file))


def test_without_a_store_it_says_so(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump({"recorder": {"dir": str(tmp_path / "nothing")}}))
    result = run("-c", file, "--dataset", "demo", "--yes")
    assert (1, True) == (result.exit_code, "there is no store" in result.stderr)
    assert not (tmp_path / "nothing").exists()
