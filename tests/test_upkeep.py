"""The commands that look into the store, and those that have something changed there."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from click.testing import CliRunner, Result

from sidestream.store.rows import State
from sidestream.store.store import Store
from sidestream.upkeep import deliveries, prune, redeliver, reprocess
from stored import an_item, moved, stored

if TYPE_CHECKING:
    from pathlib import Path

    import click


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A configuration whose store has one delivery in each state."""
    store = Store.open(_data(tmp_path) / "store.db")
    now = time.time()
    names = [str(state) for state in State]
    rows = stored(store, *(an_item(name, ["listsink"], dataset=f"d-{name}", started_at=now) for name in names))
    for row, state in zip(rows, State, strict=True):
        moved(store, row, state, attempts=3, reason="why", due_at=now + 60, remote="r-1")
    store.close()
    file = tmp_path / "sidestream.yaml"
    file.write_text(
        yaml.safe_dump({"recorder": {"dir": str(tmp_path / "data")}, "sinks": ["sidestream.testing:ListSink"]})
    )
    return file


def _data(folder: Path) -> Path:
    data = folder / "data"
    data.mkdir(mode=0o700)
    (data / "journal").mkdir()
    return data


def run(command: click.Command, *arguments: object) -> Result:
    return CliRunner().invoke(command, list(map(str, arguments)), catch_exceptions=False)


def states(file: Path) -> dict[str, str]:
    store = Store.open_reader(file.parent / "data" / "store.db")
    try:
        return {row.exchange: str(row.state) for row in store.deliveries()}
    finally:
        store.close()


def test_deliveries_are_shown_as_a_table_the_newest_first(file: Path) -> None:
    result = run(deliveries, "-c", file)
    header, *rows = result.stdout.splitlines()
    assert ["STATE", "SINK", "DATASET", "EXCHANGE", "ATTEMPTS", "DUE", "REASON"] == header.split()
    assert [str(state) for state in State][::-1] == [row.split()[0] for row in rows]
    assert ["dead", "listsink", "d-dead", "dead", "3", "why"] == rows[0].split()
    (waiting,) = [row for row in rows if row.startswith("retry_at")]
    assert re.search(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", waiting)
    assert "1 parked" in result.stderr


def test_deliveries_can_be_chosen(file: Path) -> None:
    chosen = run(deliveries, "-c", file, "--state", "dead", "--state", "parked", "--json")
    assert ["dead", "parked"] == [json.loads(line)["state"] for line in chosen.stdout.splitlines()]
    chosen = run(deliveries, "-c", file, "--dataset", "d-sending", "--sink", "listsink", "--json")
    assert ["sending"] == [json.loads(line)["exchange"] for line in chosen.stdout.splitlines()]
    assert "" == run(deliveries, "-c", file, "--sink", "nobody's", "--json").stdout
    assert 1 == len(run(deliveries, "-c", file, "--limit", 1, "--json").stdout.splitlines())


def test_a_delivery_as_json_has_all_there_is_to_know(file: Path) -> None:
    (line,) = run(deliveries, "-c", file, "--state", "retry_at", "--json").stdout.splitlines()
    row = json.loads(line)
    due = row.pop("due_at")
    expected: dict[str, Any] = {
        "state": "retry_at",
        "sink": "listsink",
        "dataset": "d-retry_at",
        "exchange": "retry_at",
        "attempts": 3,
        "reason": "why",
        "remote": "r-1",
        "ambiguous": False,
    }
    assert (expected, True) == (row, time.time() < due < time.time() + 61)


def test_an_empty_store_has_no_deliveries(tmp_path: Path) -> None:
    Store.open(_data(tmp_path) / "store.db").close()
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump({"recorder": {"dir": str(tmp_path / "data")}}))
    result = run(deliveries, "-c", file)
    assert ("STATE  SINK  DATASET  EXCHANGE  ATTEMPTS  DUE  REASON\n", "") == (result.stdout, result.stderr)
    assert "0 exchanges read again, 0 could not be understood\n" == run(reprocess, "-c", file).stdout


def test_without_a_store_the_commands_say_so(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump({"recorder": {"dir": str(tmp_path / "nothing")}}))
    for command in (deliveries, redeliver, prune, reprocess):
        result = run(command, "-c", file)
        assert (1, True, "") == (result.exit_code, "there is no store" in result.stderr, result.stdout)
    assert not (tmp_path / "nothing").exists()


def test_redeliver_takes_what_is_parked_or_dead(file: Path) -> None:
    assert "2 to be sent again\n" == run(redeliver, "-c", file).stdout
    after = states(file)
    assert ("pending", "pending", "delivered") == (after["parked"], after["dead"], after["delivered"])


def test_redeliver_can_be_told_which(file: Path) -> None:
    assert "0 to be sent again\n" == run(redeliver, "-c", file, "--exchange", "nobody's").stdout
    assert "0 to be sent again\n" == run(redeliver, "-c", file, "--dataset", "d-parked", "--sink", "other").stdout
    assert "1 to be sent again\n" == run(redeliver, "-c", file, "--state", "delivered").stdout
    assert "1 to be sent again\n" == run(redeliver, "-c", file, "--exchange", "dead").stdout
    assert ("parked", "pending", "pending") == tuple(states(file)[name] for name in ("parked", "delivered", "dead"))


def test_prune_goes_by_the_configured_retention_unless_told(file: Path) -> None:
    assert "0 exchanges removed, 0 bytes\n" == run(prune, "-c", file).stdout
    assert run(prune, "-c", file, "--bytes", "0B").stdout.startswith("2 exchanges removed")
    assert run(prune, "-c", file, "--age", "0s").stdout.startswith("1 exchanges removed")
    assert {"pending", "sending", "retry_at"} == set(states(file).values())


@pytest.mark.parametrize(("option", "value"), [("--age", "soon"), ("--bytes", "many"), ("--age", "-1d")])
def test_a_size_or_duration_that_is_none_is_refused(file: Path, option: str, value: str) -> None:
    result = run(prune, "-c", file, option, value)
    assert (2, True) == (result.exit_code, option in result.stderr)


def test_reprocess_reads_again_and_sends_nothing(file: Path) -> None:
    before = states(file)
    result = run(reprocess, "-c", file)
    assert "6 exchanges read again, 0 could not be understood\n" == result.stdout
    assert before == states(file)


def test_reprocess_can_send_again(file: Path) -> None:
    result = run(reprocess, "-c", file, "--dataset", "d-delivered", "--since", "1h", "--redeliver")
    assert "1 exchanges read again, 0 could not be understood\n" == result.stdout
    assert ("pending", "dead") == (states(file)["delivered"], states(file)["dead"])


@pytest.mark.parametrize(
    ("since", "read"), [("3d", 6), ("2000-01-01", 6), ("2000-01-01T10:30+02:00", 6), ("2999-01-01", 0)]
)
def test_a_time_is_a_date_or_so_long_ago(file: Path, since: str, read: int) -> None:
    assert run(reprocess, "-c", file, "--since", since).stdout.startswith(f"{read} exchanges read again")


@pytest.mark.parametrize("since", ["yesterday", "", "0001-01-01", "99999-01-01"])
def test_a_time_that_is_none_is_refused(file: Path, since: str) -> None:
    result = run(reprocess, "-c", file, "--since", since)
    assert (2, True) == (result.exit_code, "--since" in result.stderr)


def test_the_configuration_may_come_from_the_environment(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDESTREAM_CONFIG", str(file))
    assert "2 to be sent again\n" == run(redeliver).stdout


@pytest.mark.parametrize("option", ["--dataset", "--sink", "--exchange"])
def test_a_name_that_is_no_text_is_refused(option: str) -> None:
    answer = CliRunner().invoke(redeliver, [option, "\udcff"])
    assert (2, True) == (answer.exit_code, "expected printable text" in answer.output)
