"""How much was recorded."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from conversing import Call, assistant, text, tool_result, tool_use, user
from recorded import lines, look, recorded

if TYPE_CHECKING:
    from pathlib import Path

LONG_AGO = 1_000_000_000.0
ASKED = user("Mend the gate")
CALLED = [tool_use("t1", "look")]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return recorded(
        tmp_path,
        Call("a1", [ASKED], CALLED, LONG_AGO),
        Call("a2", [ASKED, assistant(CALLED), user(tool_result("t1", "It creaks"))], [text("Oiled")], LONG_AGO + 6),
        Call("b1", [user("Paint it")], None, LONG_AGO + 100, dataset="garden"),
        indexed=False,
    )


def test_numbers_of_a_span_of_time(file: Path) -> None:
    shown = lines(look(file, "stats", "--since", "2001-01-01"))
    assert shown[2:] == [
        "turns         3, 1 of them went wrong",
        "tokens        20 in; 10 out",
        "cost          –",  # noqa: RUF001  # what is shown where nothing is known
        "first byte    0.10 s median, 0.10 s p95, 0.10 s p99",
        "whole answer  1.0 s median, 1.0 s p95, 1.0 s p99",
        "",
        "MODEL     TURNS",
        "claude-x      3",
        "",
        "TOOL  CALLS  ERRORS  MEDIAN    P95",
        "look      1       0   5.0 s  5.0 s",
    ]


def test_numbers_of_a_dataset(file: Path) -> None:
    head, _, turns, *_ = lines(look(file, "stats", "--since", "2001-01-01", "--dataset", "garden"))
    assert (True, "turns         1, 1 of them went wrong") == (head.endswith("  garden"), turns)


def test_without_a_time_they_are_of_the_last_day(file: Path) -> None:
    shown = lines(look(file, "stats", columns=80))
    assert "turns         0" == shown[2]
    assert 7 == len(shown)


def test_a_terminal_shows_a_bar_for_each_part_of_the_time(file: Path) -> None:
    shown = lines(look(file, "stats", "--since", "2001-01-01", columns=80))
    assert any(line.strip(" ") == "█" for line in shown)
    assert any(line.endswith(", at most 3") for line in shown)


def test_numbers_as_json_are_an_overview(file: Path) -> None:
    (line,) = lines(look(file, "stats", "--since", "2001-01-01", "--json"))
    overview = json.loads(line)
    assert (60, 3, {"claude-x": 3}) == (len(overview["buckets"]), overview["total"]["turns"], overview["models"])


def test_a_time_to_come_is_refused(file: Path) -> None:
    assert 2 == look(file, "stats", "--since", "2999-01-01").exit_code
