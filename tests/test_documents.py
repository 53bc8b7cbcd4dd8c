"""Reading YAML into plain data: bounds, refusals, and the environment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidestream.documents import Expanded, escape, join, read
from sidestream.errors import ConfigError, Problem
from sidestream.sources import MAX_BYTES

if TYPE_CHECKING:
    from pathlib import Path

ENV = {"HOME": "/home/me", "EMPTY": "", "TRAP": "${HOME}: {a: b}\n- c", "PORT": "8005"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "sidestream.yaml"


def problems_of(file: Path, content: str | bytes) -> list[str]:
    """Everything that reading a file reports, fatal or not."""
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    problems: list[Problem] = []
    try:
        read(file, ENV, problems)
    except ConfigError as error:
        problems += error.problems
    return [str(problem) for problem in problems]


def value_of(file: Path, content: str) -> object:
    """What reading a file gives, when nothing is wrong with it."""
    file.write_text(content)
    problems: list[Problem] = []
    value = read(file, ENV, problems)
    assert problems == []
    return value


@pytest.mark.parametrize("content", ["", "\n", "# nothing\n", "---\n", "null", "~"])
def test_an_empty_file_is_nothing(file: Path, content: str) -> None:
    assert value_of(file, content) is None


def test_scalars_have_yamls_types(file: Path) -> None:
    content = "[1, -2, 1_000, 0x1f, 1.5, true, no, null, text, '8005', 2026-01-01, 1:30, 1:30.5, =, <<]"
    expected = [1, -2, 1000, 31, 1.5, True, False, None, "text", "8005", "2026-01-01", "1:30", "1:30.5", "=", "<<"]
    assert expected == value_of(file, content)


def test_a_byte_order_mark_is_ignored(file: Path) -> None:
    assert value_of(file, "\ufeffa: 1") == {"a": 1}


def test_an_alias_stands_for_its_anchor(file: Path) -> None:
    assert value_of(file, "a: &x [1]\nb: *x") == {"a": [1], "b": [1]}


def test_a_merge_key_is_an_ordinary_one(file: Path) -> None:
    assert value_of(file, "a: &x {c: 1}\nb: {<<: *x}") == {"a": {"c": 1}, "b": {"<<": {"c": 1}}}


def test_a_missing_file(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"^there is no such file$"):
        read(file, ENV, [])


def test_a_directory(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^this is a directory, not a file$"):
        read(tmp_path, ENV, [])


def test_a_file_in_a_file(file: Path) -> None:
    file.touch()
    with pytest.raises(ConfigError, match=r"^cannot be read: Not a directory$"):
        read(file / "x", ENV, [])


def test_a_name_that_no_file_can_have(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"^this cannot be the name of a file$"):
        read(file / "\0", ENV, [])


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"a: 1\nb: \xff", "line 2: not UTF-8"),
        ("a: 1\nb: \x07", "line 2: a control character"),
        ("a: [1", "line 1, column 6: not valid YAML: expected ',' or ']', but got '<stream end>'"),
        ("a: b: c", "line 1, column 5: not valid YAML: mapping values are not allowed here"),
        ("a:\n\t- b", "line 2, column 1: not valid YAML: found character '\\t' that cannot start any token"),
        ("a: *sk-canary", "line 1, column 4: not valid YAML"),
        ("a: 1\n---\nb: 1", "line 2, column 1: not valid YAML: but found another document"),
        ('"\\UFFFFFFFF"', "not valid YAML: a number out of range in an escape or a directive"),
        ("a: !sk-canary b", "a: YAML tags are not used here, at line 1, column 4"),
        ("!sk-canary {a: b}", "YAML tags are not used here, at line 1, column 1"),
        ("a: !!python/name:os.system x", "a: YAML tags are not used here, at line 1, column 4"),
        ("a: !!set {b}", "a: YAML tags are not used here, at line 1, column 4"),
        ("a: !!binary aGk=", "a: YAML tags are not used here, at line 1, column 4"),
        ("a: !!int b", "a: not a value of its tag, at line 1, column 4"),
        ("a: !!bool sk-canary", "a: not a value of its tag, at line 1, column 4"),
        ("a: !!int ''", "a: not a value of its tag, at line 1, column 4"),
        (f"a: {'1' * 5000}", "a: not a value of its tag, at line 1, column 4"),
        ("1: a", "every key must be text; put it in quotes"),
        ("a: {yes: 1}", "a: every key must be text; put it in quotes"),
        ("a: {[b]: 1}", "a: every key must be text; put it in quotes"),
    ],
)
def test_what_is_refused_is_named_with_its_place(file: Path, content: str | bytes, problem: str) -> None:
    assert [problem] == problems_of(file, content)


def test_the_same_key_twice_is_a_problem(file: Path) -> None:
    content = "a: {b: 1, b: 2}\nc: 1\nc: 2"
    expected = [
        "c: the same key twice, again at line 3, column 1",
        "a.b: the same key twice, again at line 1, column 11",
    ]
    assert expected == problems_of(file, content)


def test_a_file_may_not_be_huge(file: Path) -> None:
    assert problems_of(file, "#" * (MAX_BYTES + 1)) == ["larger than 1 MiB; this cannot be a configuration"]


def test_an_endless_file_is_not_read_to_its_end() -> None:
    from pathlib import Path  # noqa: PLC0415 - elsewhere only a type

    with pytest.raises(ConfigError, match="larger than 1 MiB"):
        read(Path("/dev/zero"), ENV, [])


def test_aliases_cannot_multiply(file: Path) -> None:
    """A billion laughs ends after ten thousand."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    assert problems_of(file, "\n".join(lines)) == ["more than 10000 values, aliases counted as often as they are used"]


@pytest.mark.parametrize(
    "content", ["&a [*a]", "&a {b: *a}", "[" * 22 + "]" * 22, "[" * 5000, "{a: " * 5000, "- " * 5000]
)
def test_depth_is_bounded(file: Path, content: str) -> None:
    assert problems_of(file, content) == ["nested deeper than 20 levels"]


def test_a_mapping_that_holds_itself_is_bounded() -> None:
    endless: dict[str, object] = {}
    endless["a"] = endless
    with pytest.raises(ConfigError, match="nested deeper than 20 levels"):
        read(endless, ENV, [])


def test_a_mapping_reads_as_a_file_would() -> None:
    source = {"a": ("${HOME}", 1), "b": {"c": None}}
    assert read(source, ENV, []) == {"a": ["/home/me", 1], "b": {"c": None}}


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("${HOME}", "/home/me"),
        ("a${HOME}b${PORT}c", "a/home/meb8005c"),
        ("${EMPTY}", ""),
        ("${EMPTY:-x}", "x"),
        ("${NONE:-x}", "x"),
        ("${NONE:-}", ""),
        ("${HOME:-x}", "/home/me"),
        ("${NONE:-a:-b $c}", "a:-b $c"),
        ("$${HOME}", "${HOME}"),
        ("$$${HOME}", "$${HOME}"),
        ("$HOME $ $$", "$HOME $ $$"),
        ("${TRAP}", "${HOME}: {a: b}\n- c"),
    ],
)
def test_references_are_expanded_once(text: str, expanded: str) -> None:
    assert read({"a": text}, ENV, []) == {"a": expanded}


@pytest.mark.parametrize(
    ("text", "kind"), [("8005", str), ("$${A}", str), ("${PORT}", Expanded), ("${NONE:-1}", Expanded)]
)
def test_only_text_with_a_reference_counts_as_expanded(text: str, kind: type) -> None:
    value = read({"a": text}, ENV, [])
    assert isinstance(value, dict)
    assert kind is type(value["a"])


def test_keys_are_not_expanded() -> None:
    assert read({"${HOME}": 1}, ENV, []) == {"${HOME}": 1}


def test_an_unset_variable_is_a_problem() -> None:
    problems: list[Problem] = []
    read({"a": [{"b": "x ${NONE} ${OTHER}"}]}, ENV, problems)
    assert problems == [
        Problem("a[0].b", "the environment variable NONE is not set"),
        Problem("a[0].b", "the environment variable OTHER is not set"),
    ]


@pytest.mark.parametrize(
    "text", ["${", "${}", "${1A}", "${HOME", "${HOME:x}", "${HOME-x}", "${A:-${HOME}}", "${ HOME }"]
)
def test_a_malformed_reference_is_a_problem(text: str) -> None:
    problems: list[Problem] = []
    read({"a": text}, ENV, problems)
    assert problems == [Problem("a", "write ${NAME} or ${NAME:-default}, or $${ for a plain ${")]


@given(st.text())
def test_escaped_text_reads_as_itself(text: str) -> None:
    assert read({"a": escape(text)}, {}, []) == {"a": text}


@pytest.mark.parametrize(
    ("key", "path"),
    [("limit", "a.limit"), ("x-api-key", "a.x-api-key"), ("b\nc", "a.?"), ("k" * 101, "a.?"), (1, "a.?")],
)
def test_a_path_only_repeats_names(key: object, path: str) -> None:
    assert path == join("a", key)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200) | st.text("ab1 \n\t-:,[]{}&*!|>'\"%@`#?~$<.\\", max_size=60).map(str.encode))
def test_any_file_is_read_or_refused(file: Path, content: bytes) -> None:
    """Nothing but `ConfigError` ever comes out."""
    problems_of(file, content)
