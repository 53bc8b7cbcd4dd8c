"""How it is printed."""

from __future__ import annotations

import json

import pytest

from sidestream.looking.output import clock, one_line, print_fields, print_json


def test_a_field_has_no_tab_or_line_end(capsys: pytest.CaptureFixture[str]) -> None:
    print_fields(["a\tb\r\nc", "\x85\u2028", "d"])
    assert ("a b  c\t\\x85\\u2028\td\n", "") == capsys.readouterr()


@pytest.mark.parametrize("text", ["Héllo 漢字", "\x00\x1b\x7f\x9b\u202e\u2028", "\U000e0041😀", '"\\'])
def test_json_is_the_same_with_everything_escaped_that_a_terminal_obeys(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    print_json({"text": text})
    printed = capsys.readouterr().out
    assert {"text": text} == json.loads(printed)
    assert printed.rstrip("\n") == one_line(printed.rstrip("\n"))


@pytest.mark.parametrize("at", [float("nan"), float("inf"), 1e30, -1e30])
def test_a_moment_that_no_calendar_has_is_unknown(at: float) -> None:
    assert "unknown" == clock(at)
