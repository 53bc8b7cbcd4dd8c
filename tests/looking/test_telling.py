"""A conversation as it went."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from conversing import START, Call, assistant, text, tool_result, tool_use, user
from recorded import lines, look, recorded
from sidestream.looking.telling import _calls, _in_a_line, _spread, _text

if TYPE_CHECKING:
    from pathlib import Path

PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBO" * 3000}}
LONG = "\n".join(f"line {number}" for number in range(40))
THOUGHT = "First this.\nThen that."
ASKED = user("Mend the *gate*")
CALLED = [
    {"type": "thinking", "thinking": THOUGHT, "signature": "s"},
    text("# Soon\n\nFirst I **look**:\n\n```python\nlook()\n```"),
    tool_use("t1", "look", at="gate", how={"near": True}, why="x" * 300),
]
FAILED = {**tool_result("t1", [text(LONG), PICTURE]), "is_error": True}
HISTORY = [ASKED, assistant(CALLED), user(FAILED)]
CALLS = [
    Call("a1", [ASKED], CALLED, START, body={"system": LONG}),
    Call("a2", HISTORY, None, START + 10, body={"system": LONG}),
    Call("a3", HISTORY, [text("Mended \x1b]0;x\x07\u202e.")], START + 20, body={"system": LONG}),
    Call("a4", [*HISTORY, assistant([text("Mended \x1b]0;x\x07\u202e.")]), user("Thanks")], [text("Wel")], START + 30),
]
CALLS[3].complete = False
BRANCH = Call("b1", [ASKED, assistant(CALLED), user(tool_result("t1", "Nothing"))], [text("Hm")], START + 40)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return recorded(tmp_path, *CALLS, BRANCH, indexed=False)


def shown(file: Path, *arguments: object, columns: int = 0) -> str:
    return "\n".join(lines(look(file, "show", *arguments, columns=columns)))


def test_a_run_is_told_turn_by_turn(file: Path) -> None:
    told = shown(file, "a1")
    head, *turns = told.split("\n── ")
    facts = "cut · 4 turns · 2 of them went wrong · 1 tool call, 1 failed · 30 → 15 tokens · 31.0 s"
    assert ["Mend the *gate*", facts] == head.splitlines()[:3:2]
    assert [
        "turn 1 · claude-x · answered · tool_use · 10 → 5 tokens · first byte 0.10 s · 1.0 s",
        "turn 2 · claude-x · failed · 0 → 0 tokens · first byte 0.10 s · 1.0 s",
        "turn 3 · again, after turn 2 · claude-x · answered · end_turn · 10 → 5 tokens · first byte 0.10 s · 1.0 s",
        "turn 4 · claude-x · cut · 10 → 5 tokens · first byte 0.10 s · 1.0 s",
    ] == [turn.splitlines()[0] for turn in turns]
    assert (
        "user\n  Mend the *gate*\nthinking First this. … 11 more characters: --thinking\nassistant\n  # Soon\n" in told
    )
    assert "status 529: overloaded_error: Overloaded" in turns[1]


def test_what_is_long_is_folded_and_that_is_said(file: Path) -> None:
    told = shown(file, "a1", "--turns", "1-2")
    folded = "\n".join(f"  line {number}" for number in range(12))
    assert f"system\n{folded}\n  … 224 more characters: --full\nuser\n" in told
    assert f"tool look (error)\n{folded}\n  … 251 more characters: --full\n" in told
    assert '  → look(at="gate", how={"near":true}, why="xx' in told
    assert "xx) … 136 more characters: --full\n" in told


def test_everything_is_shown_if_it_is_wanted(file: Path) -> None:
    told = shown(file, "a1", "--full")
    assert "\n  line 39\nuser\n" in told
    assert "thinking\n  First this.\n  Then that.\nassistant\n" in told
    assert f'  → look\n    at: gate\n    how: {{"near":true}}\n    why: {"x" * 300}\n' in told
    assert "  line 39\n  [image: image/png, 9.0 KB]\n" in told
    assert "--full" not in told


def test_thinking_can_be_wanted_alone(file: Path) -> None:
    told = shown(file, "a1", "--thinking")
    assert "thinking\n  First this.\n  Then that.\nassistant\n" in told
    assert "--full" in told


def test_branches_are_named_at_the_end_and_say_what_they_left(file: Path) -> None:
    assert ["Branches and children", "branch  at turn 1  b1  1 turn  answered"] == shown(file, "a1").splitlines()[-2:]
    assert "branch of a1  Mend the *gate*" in shown(file, "b1").splitlines()


def test_a_terminal_shows_markdown_laid_out(file: Path) -> None:
    told = shown(file, "a1", "--turns", "1", columns=100)
    assert "assistant\n  Soon\n\n  First I look:\n\n    look()\n" in told
    assert "\x1b[1mlook" in look(file, "show", "a1", columns=100).stdout


def test_what_a_model_said_does_nothing_to_a_terminal(tmp_path: Path) -> None:
    """Nor does what Markdown can spell: a reference to a character."""
    said = "[red]Red[/red] \x1b[2J\x9b \u202e &#x202e; &#155; [x](http://a/&#x2066;)"
    file = recorded(tmp_path, Call("a1", [user("Hi"), user(said)], [text(said)], START), indexed=False)
    for columns in (0, 200):
        told = shown(file, "a1", columns=columns)
        assert 2 == told.count(r"[red]Red[/red] \x1b[2J\x9b \u202e ")
        assert not set(told) & set("\x1b\x9b\u202e\u2066")


def test_lines_are_as_wide_as_the_terminal(file: Path) -> None:
    assert max(map(len, lines(look(file, "show", "a1", columns=60)))) <= 60
    assert max(map(len, lines(look(file, "show", "a1", "--full")))) > 300


@pytest.mark.parametrize(
    ("wanted", "expected"), [("2", [2]), ("2-3", [2, 3]), ("3-", [3, 4]), ("-2", [1, 2]), ("3-99", [3, 4])]
)
def test_turns_can_be_chosen(file: Path, wanted: str, expected: list[int]) -> None:
    found = json.loads(shown(file, "a1", f"--turns={wanted}", "--json"))
    assert expected == [each["turn"]["number"] for each in found["messages"]]


def test_turns_that_are_not_there_are_an_error(file: Path) -> None:
    result = look(file, "show", "a1", "--turns", "5-6")
    assert (1, "", "Error: the run has no more than 4 turns\n") == (result.exit_code, result.stdout, result.stderr)


@pytest.mark.parametrize("wanted", ["0", "3-2", "a", "1-2-3", "--"])
def test_turns_that_are_none_are_refused(file: Path, wanted: str) -> None:
    assert 2 == look(file, "show", "a1", f"--turns={wanted}").exit_code


def test_more_turns_than_are_fetched_at_once_are_all_told(tmp_path: Path) -> None:
    calls, messages = list[Call](), list[dict[str, Any]]()
    for number in range(45):
        messages = [*messages, user(f"q{number}")]
        calls.append(Call(f"x{number}", messages, [text(f"a{number}")], START + number * 2))
        messages = [*messages, assistant([text(f"a{number}")])]
    told = shown(recorded(tmp_path, *calls, indexed=False), "x0", "--turns", "3-44")
    assert [f"  {letter}{number}" for number in range(2, 44) for letter in "qa"] == [
        line for line in told.splitlines() if line.startswith(("  q", "  a"))
    ]


def test_as_json_a_run_is_one_object_with_everything(file: Path) -> None:
    (line,) = lines(look(file, "show", "a1", "--json"))
    run = json.loads(line)
    assert ("a1", 4, 2) == (run["summary"]["id"], len(run["turns"]), len(run["related"]))
    assert LONG == run["messages"][0]["system"][0]["content"]
    assert "Mended \x1b]0;x\x07\u202e." == run["messages"][2]["messages"][-1]["content"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, ""),
        (7, "7"),
        ({"a": [None]}, '{"a":[null]}'),
        (["a", {"text": "b"}, {"text": None}, [["c"]]], 'a\nb\n{"text":null}\nc'),
        ([{"image_url": {"url": "data:image/png;base64,AAAA"}}], "[image: image/png, 3 B]"),
        ([{"image_url": f"https://example/{'x' * 300}"}], f"[image: https://example/{'x' * 184}]"),
    ],
)
def test_content_of_any_shape_can_be_told(content: Any, expected: str) -> None:
    """Traces that others have pushed have messages of their own making."""
    assert expected == _text(content)


@pytest.mark.parametrize(
    ("calls", "expected"),
    [
        (None, []),
        ([None, {}, {"function": "look"}], []),
        ([{"function": {}}], [("", "", [""])]),
        ([{"function": {"name": "look", "arguments": '{"at": 1}'}}], [("look", '{"at": 1}', ['{"at": 1}'])]),
        ([{"function": {"name": 1, "arguments": {"at": "a\nb"}}}], [("1", r'at="a\nb"', ["at:\n  a\n  b"])]),
    ],
)
def test_tool_calls_of_any_shape_can_be_told(calls: Any, expected: list[tuple[str, str, list[str]]]) -> None:
    found = _calls({"tool_calls": calls})
    assert expected == [(name, _in_a_line(given), list(_spread(given))) for name, given in found]
