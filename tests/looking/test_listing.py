"""Runs and hits in lists."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING

import pytest

from conversing import START, Call, assistant, text, tool_result, tool_use, user
from recorded import lines, look, recorded

if TYPE_CHECKING:
    from pathlib import Path

ASKED = user("Mend the gate")
CALLED = [tool_use("t1", "look", at="gate")]
FAILED = {**tool_result("t1", "It is stuck"), "is_error": True}
MENDED = Call("a2", [ASKED, assistant(CALLED), user(FAILED)], [text("Mended")], START + 10)
MENDING = [
    Call("a1", [ASKED], CALLED, START),
    MENDED,
    Call("a3", [ASKED, assistant(CALLED), user(tool_result("t1", "It creaks"))], [text("Oiled")], START + 20),
]
PAINTED = Call("b1", [user("Paint\tit \x1b[2J\u202ered")], None, START + 100, dataset="garden", body={"model": "brush"})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return recorded(tmp_path, *MENDING, PAINTED)


def test_in_a_pipe_a_run_is_a_line_of_fields(file: Path) -> None:
    began = [datetime.fromtimestamp(START + later).astimezone().isoformat(timespec="seconds") for later in (0, 100)]
    expected = [
        f"b1|{began[1]}|failed|run|garden|brush|1|0|1|0|0||1.000|Paint it \\x1b[2J\\u202ered",
        f"a1|{began[0]}|answered|run|demo|claude-x|2|1|0|20|10||11.000|Mend the gate",
    ]
    assert expected == [line.replace("\t", "|") for line in lines(look(file, "traces"))]


def test_branches_are_there_if_all_are_wanted(file: Path) -> None:
    rows = [line.split("\t") for line in lines(look(file, "traces", "--all"))]
    assert [("b1", "run"), ("a3", "branch"), ("a1", "run")] == [(row[0], row[3]) for row in rows]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--dataset", "garden"], ["b1"]),
        (["--model", "claude-x"], ["a1"]),
        (["--state", "failed"], ["b1"]),
        (["--tool", "look"], ["a1"]),
        (["--tool", "jump"], []),
        (["--no-errors"], []),
        (["--errors", "--since", START + 100], ["b1"]),
        (["--until", START + 100], ["a1"]),
    ],
)
def test_runs_can_be_chosen(file: Path, options: list[object], expected: list[str]) -> None:
    moments = [
        datetime.fromtimestamp(option).astimezone().isoformat() if isinstance(option, float) else option
        for option in options
    ]
    assert expected == [line.split("\t")[0] for line in lines(look(file, "traces", *moments))]


def test_what_a_limit_leaves_out_is_said(file: Path) -> None:
    assert "" == look(file, "traces", "--limit", 2).stderr
    result = look(file, "traces", "--limit", 1)
    assert ("b1", True) == (result.stdout.split("\t")[0], "older ones" in result.stderr)


def test_as_json_each_run_is_an_object_with_everything(file: Path) -> None:
    painted, mended = map(json.loads, lines(look(file, "traces", "--json")))
    assert ("b1", "Paint it \x1b[2J\u202ered") == (painted["id"], painted["title"])
    assert ({"input": 20, "output": 10, "cache_read": 0, "cache_written": 0}, 1) == (
        mended["tokens"],
        mended["tool_errors"],
    )


def test_json_obeys_nothing_on_a_terminal_either(file: Path) -> None:
    assert r"Paint it \u001b[2J\u202ered" in look(file, "traces", "--json", columns=80).stdout


def test_a_wide_terminal_shows_a_table(file: Path) -> None:
    head, painted, mended = lines(look(file, "traces", columns=180))
    names = "STARTED RUN TITLE DATASET MODEL TURNS TOOLS TOKENS COST TIME STATE"
    assert names == " ".join(head.split())
    assert " ".join(mended.split()[2:]) == (
        "a1 Mend the gate demo claude-x 2 1 (1 failed) 20 → 10 – 11.0 s answered"  # noqa: RUF001  # no price
    )
    assert "  b1   Paint it \\x1b[2J\\u202ered  garden   brush         1             0" in painted


def test_a_narrow_terminal_shows_less_and_says_so(file: Path) -> None:
    result = look(file, "traces", columns=65)
    assert ["STARTED", "RUN", "TITLE", "STATE"] == lines(result)[0].split()
    assert "a wider terminal shows dataset, model, turns, tools, tokens, cost, time, too\n" == result.stderr
    assert all(len(line) <= 65 for line in lines(result))


def test_a_title_that_is_too_long_for_a_terminal_is_cut_there_only(tmp_path: Path) -> None:
    title = "word " * 15
    file = recorded(tmp_path, Call("a1", [user(title)], [text("Yes")], START))
    assert "…" in lines(look(file, "traces", columns=80))[1]
    assert title.strip() == lines(look(file, "traces"))[0].split("\t")[-1]


def test_ids_are_shortened_as_far_as_they_differ(tmp_path: Path) -> None:
    ids = [f"{'0' * 18}{end}".ljust(32, "0") for end in ("a", "b")]
    file = recorded(tmp_path, *(Call(each, [user(each)], [text(each)], START) for each in ids))
    assert [f"{'0' * 18}b", f"{'0' * 18}a"] == [line.split()[2] for line in lines(look(file, "traces", columns=80))[1:]]


def test_an_empty_list_is_said_to_be_empty_on_a_terminal(file: Path) -> None:
    result = look(file, "traces", "--dataset", "none", columns=80)
    assert ([], "there are no such runs\n") == (lines(result), result.stderr)


def test_more_runs_than_are_fetched_at_once_are_all_listed(tmp_path: Path) -> None:
    calls = [Call(f"x{number:03}", [user(f"n{number}")], [text("Yes")], START + number) for number in range(203)]
    file = recorded(tmp_path, *calls, indexed=False)
    found = [line.split("\t")[0] for line in lines(look(file, "traces", "--limit", 1000))]
    assert [call.id for call in calls][::-1] == found


def test_in_a_pipe_a_hit_is_a_line_of_fields(file: Path) -> None:
    assert ["a1\t2\tassistant\tMended"] == lines(look(file, "search", "MENDED"))


def test_words_of_branches_are_found(file: Path) -> None:
    assert ["a3\t1\ttool\tlook It creaks"] == lines(look(file, "search", "creaks", "it"))


def test_hits_are_of_runs_as_wanted(file: Path) -> None:
    assert 1 == look(file, "search", "mended", "--dataset", "garden").exit_code


def test_a_terminal_shows_hits_by_run(file: Path) -> None:
    shown = lines(look(file, "search", "gate", columns=80))
    assert shown[0].startswith("Mend the gate  a1  demo  20")
    assert "  turn 1 user: Mend the gate" in shown
    assert "\x1b[1;31mgate" in look(file, "search", "gate", columns=80).stdout


def test_hits_as_json_have_their_run(file: Path) -> None:
    (hit,) = map(json.loads, lines(look(file, "search", "--json", "oiled")))
    assert ("a3", "a3", [{"text": "Oiled", "hit": True}]) == (hit["run"]["id"], hit["turn"], hit["snippet"])


def test_nothing_found_is_an_exit_status_of_its_own(file: Path) -> None:
    result = look(file, "search", "nowhere")
    assert (1, "", "nothing was found\n") == (result.exit_code, result.stdout, result.stderr)


def test_what_cannot_be_found_yet_is_said(tmp_path: Path) -> None:
    file = recorded(tmp_path, *MENDING, indexed=False)
    assert "cannot be found yet" in look(file, "search", "mended").stderr


def test_no_word_at_all_is_refused(file: Path) -> None:
    assert 2 == look(file, "search", "?!").exit_code
