"""The commands that carry runs out of a store and into one, and those for keys."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from click.testing import CliRunner

from sidestream.cli import main
from sidestream.store.api_keys import ApiKeys
from sidestream.store.library import Library
from sidestream.store.shapes import RunFilter
from sidestream.store.store import Store
from stored import a_run

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

    from sidestream.store.rows import Item


def a_gateway(folder: Path, *items: Item) -> Path:
    """The configuration of a gateway whose store has these exchanges."""
    data = folder / "data"
    if items:
        data.mkdir(parents=True)
        store = Store.open(data / "store.db")
        store.commit(items)
        store.close()
    folder.mkdir(exist_ok=True)
    file = folder / "sidestream.yaml"
    file.write_text(yaml.safe_dump({"recorder": {"dir": str(data)}}))
    return file


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def conversations(config: Path) -> dict[str, Any]:
    """All that a store says, by run: of each turn what was said, and what is known of it."""
    library = Library.open(config.parent / "data" / "store.db")
    try:
        return {
            summary.id: (
                summary.dataset,
                summary.title,
                summary.tokens,
                summary.state,
                [
                    (turn.turn.id, turn.turn.started_at, turn.system, turn.messages, turn.answered, turn.facts["model"])
                    for turn in library.messages(summary.id)
                ],
            )
            for summary in library.runs(RunFilter(everything=True)).runs
        }
    finally:
        library.close()


@pytest.mark.parametrize("wanted", ["json", "jsonl"])
def test_what_is_exported_is_the_same_when_it_is_imported(tmp_path: Path, wanted: str) -> None:
    there, here = a_gateway(tmp_path / "a", *a_run("abc", 60, words=3)), a_gateway(tmp_path / "b")
    file = tmp_path / "run"
    assert 0 == run("export", "-c", there, "abc-0", "--format", wanted, "-o", file).exit_code
    assert "60 turns imported, 0 were there\n" == run("import", "-c", here, file).output
    assert conversations(there) == conversations(here)
    assert "0 turns imported, 60 were there\n" == run("import", "-c", here, file).output
    assert "0 turns imported, 60 were there\n" == run("import", "-c", there, file).output


def test_it_can_go_into_another_dataset_of_the_same_store(tmp_path: Path) -> None:
    config = a_gateway(tmp_path / "a", *a_run("abc", 3))
    file = tmp_path / "run"
    run("export", "-c", config, "abc-0", "-o", file)
    result = run("import", "-c", config, file, "--dataset", "copy")
    assert "3 turns imported, 0 were there\n3 got new ids, for another dataset has theirs\n" == result.output
    assert "0 turns imported, 3 were there\n" == run("import", "-c", config, file, "--dataset", "copy").output
    assert ["copy", "demo"] == sorted(dataset for dataset, *_ in conversations(config).values())


def test_a_run_goes_to_the_standard_output(tmp_path: Path) -> None:
    config = a_gateway(tmp_path / "a", *a_run("abc", 2))
    roles = [
        message["role"] for message in json.loads(run("export", "-c", config, "abc-0", "--format", "openai").output)
    ]
    assert ["system", "user", "assistant", "user", "assistant"] == roles


def test_a_file_is_whole_and_for_this_user_alone(tmp_path: Path) -> None:
    config = a_gateway(tmp_path / "a", *a_run("abc", 2))
    file = tmp_path / "out" / "run.json"
    assert "cannot be written" in run("export", "-c", config, "abc-0", "-o", file).output
    file.parent.mkdir()
    run("export", "-c", config, "abc-0", "-o", file)
    assert 0o600 == file.stat().st_mode & 0o777
    assert [file] == list(file.parent.iterdir())


def test_a_run_that_is_not_there_is_told(tmp_path: Path) -> None:
    config = a_gateway(tmp_path / "a", *a_run("abc", 2))
    file = tmp_path / "run.json"
    result = run("export", "-c", config, "nowhere", "-o", file)
    assert (1, False) == (result.exit_code, file.exists())


def test_nothing_is_imported_of_files_one_of_which_is_damaged(tmp_path: Path) -> None:
    there, here = a_gateway(tmp_path / "a", *a_run("abc", 2)), a_gateway(tmp_path / "b")
    good, bad = tmp_path / "good.jsonl", tmp_path / "bad.jsonl"
    run("export", "-c", there, "abc-0", "--format", "jsonl", "-o", good)
    bad.write_text(f"{good.read_text()}{{")
    result = run("import", "-c", here, good, bad)
    assert (1, f"Error: {bad}:3: not JSON, or nested too deeply\n") == (result.exit_code, result.output)
    assert not (here.parent / "data" / "store.db").exists()


@pytest.mark.parametrize("dataset", ["", "a/b", "ä"])
def test_a_dataset_is_checked_wherever_it_is_named(tmp_path: Path, dataset: str) -> None:
    config, file = a_gateway(tmp_path / "a"), tmp_path / "file.json"
    file.write_text(json.dumps({"messages": [{"role": "user", "content": "x"}], "dataset": dataset or "."}))
    assert "Error: --dataset: a dataset's name has" in run("import", "-c", config, file, "--dataset", dataset).output
    assert f"Error: {file}:1: a dataset's name has" in run("import", "-c", config, file).output


def test_keys_are_made_listed_and_revoked(tmp_path: Path) -> None:
    config = a_gateway(tmp_path / "a")
    key = run("keys", "create", "laptop", "-c", config).output.strip()
    assert ApiKeys(tmp_path / "a" / "data").knows(key)
    listed = run("keys", "list", "-c", config).output
    assert (True, False) == (listed.endswith("  laptop\n"), key in listed)
    assert 1 == run("keys", "create", "laptop", "-c", config).exit_code
    assert "revoked\n" == run("keys", "revoke", "laptop", "-c", config).output
    assert "" == run("keys", "list", "-c", config).output
    assert 2 == run("keys", "create", "", "-c", config).exit_code
