"""Options from constructors, and values from plain data."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional, Union

import pytest

from sidestream.documents import Expanded
from sidestream.errors import Problem
from sidestream.options import Duration, Secret, Size
from sidestream.signatures import REQUIRED, Option, convert, options_of, read, to_yaml, type_text, unknown

if TYPE_CHECKING:
    from decimal import Decimal


def even(value: int) -> int:
    if value % 2:
        raise ValueError("expected an even number")
    return value


class Colour:
    """An option type of somebody's own."""

    @classmethod
    def parse(cls, value: object) -> Colour:
        if value != "red":
            raise ValueError("expected red")
        return cls()


class Plugin:
    def __init__(self, *, url: str, limit: Size = Size(5), flag: Literal["auto"] | bool = "auto") -> None: ...


class Unannotated:
    def __init__(self, *, anything=None, **more) -> None: ...  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN003


@dataclass(frozen=True)
class Section:
    port: Annotated[int, even]
    host: str = "localhost"


AUTO = Literal["auto"] | bool


def test_options_are_the_keyword_only_parameters() -> None:
    expected = (Option("url", str, REQUIRED), Option("limit", Size, Size(5)), Option("flag", AUTO, "auto"))
    assert expected == options_of(Plugin)


def test_without_annotation_anything_goes() -> None:
    assert options_of(Unannotated) == (Option("anything", Any, None),)


def test_the_options_of_a_section_are_its_fields() -> None:
    expected = (Option("port", Annotated[int, even], REQUIRED), Option("host", str, "localhost"))
    assert expected == options_of(Section)


def test_a_class_without_a_constructor_has_no_options() -> None:
    assert options_of(type("Bare", (), {})) == ()


class Positional:
    def __init__(self, url: str) -> None: ...


class Unresolvable:
    def __init__(self, *, price: Decimal) -> None: ...


class Unsupported:
    def __init__(self, *, price: complex) -> None: ...


class Untyped:
    def __init__(self, *, names: list) -> None: ...  # type: ignore[type-arg]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Positional, "the parameter 'url' of its constructor is not keyword-only"),
        (Unresolvable, "the type 'Decimal' of an option cannot be found when it runs"),
        (Unsupported, "an option cannot be of type complex"),
        (Untyped, "an option cannot be of type list"),
    ],
)
def test_a_constructor_that_cannot_be_configured(kind: type, message: str) -> None:
    with pytest.raises(TypeError) as caught:
        options_of(kind)
    assert message == str(caught.value)


@pytest.mark.parametrize(
    ("annotation", "value", "expected"),
    [
        (bool, True, True),
        (int, 5, 5),
        (float, 5, 5.0),
        (float, 0.5, 0.5),
        (str, "text", "text"),
        (str, "", ""),
        (Any, [1], [1]),
        (Path, "/a/b", Path("/a/b")),
        (Path, Path("/a"), Path("/a")),
        (Size, "1KiB", Size(1024)),
        (Size, 1024, Size(1024)),
        (Duration, "1m", Duration(60)),
        (Duration, 1, Duration(1)),
        (Secret, "key", Secret("key")),
        (Secret, Secret("key"), Secret("key")),
        (Literal["a", 1], "a", "a"),
        (Literal["a", 1], 1, 1),
        (AUTO, "auto", "auto"),
        (AUTO, False, False),
        (list[str], ["a"], ["a"]),
        (Sequence[int], (1, 2), [1, 2]),
        (tuple[int, ...], [1, 2], (1, 2)),
        (dict[str, int], {"a": 1}, {"a": 1}),
        (Mapping[str, list[Size]], {"a": ["1kB"]}, {"a": [Size(1000)]}),
        (Size | None, None, None),
        (Size | None, "1kB", Size(1000)),
        (Optional[str], "a", "a"),  # noqa: UP045 - both spellings are to work
        (Union[int, str], "5", "5"),  # noqa: UP007
        (None, None, None),
        (Annotated[int, even, "a note"], 2, 2),
    ],
)
def test_values_that_fit(annotation: Any, value: object, expected: object) -> None:
    kind = type(None) if annotation is None else annotation
    result = convert(kind, value)
    assert (expected, type(expected)) == (result, type(result))


def test_a_type_of_somebodys_own_parses() -> None:
    assert isinstance(convert(Colour, "red"), Colour)


@pytest.mark.parametrize(
    ("annotation", "value", "message"),
    [
        (bool, 1, "expected true or false"),
        (bool, "true", "expected true or false"),
        (int, True, "expected a whole number"),
        (int, 1.0, "expected a whole number"),
        (int, "5", "expected a whole number"),
        (int, None, "expected a whole number"),
        (float, True, "expected a number"),
        (float, "0.5", "expected a number"),
        (float, float("nan"), "expected a finite number"),
        (float, 10**400, "expected a finite number"),
        (str, 5, "expected text; put it in quotes"),
        (str, True, "expected text; put it in quotes"),
        (str, None, "expected text"),
        (str, ["a"], "expected text"),
        (str, b"a", "expected text"),
        (Secret, 5, "expected text; put it in quotes"),
        (Secret, None, "expected a secret"),
        (Path, "", "expected a path"),
        (Path, "a\0b", "expected a path"),
        (Path, "~nobody-of-this-name/x", "whose home directory '~' is cannot be found out; write the whole path"),
        (Size, "many", "expected a size such as 32MiB, 500kB or a number of bytes"),
        (Size, "9" * 400, "expected a size such as 32MiB, 500kB or a number of bytes"),
        (Duration, "9" * 400, "expected a duration such as 20s, 500ms, 15m or a number of seconds"),
        (Duration, 10**400, "expected a duration such as 20s, 500ms, 15m or a number of seconds"),
        (Size | None, True, "expected a size such as 32MiB, 500kB or a number of bytes"),
        (Literal["a", 1], True, "expected a or 1"),
        (Literal["a", "b", True], "c", "expected a, b or true"),
        (AUTO, "maybe", "expected auto, true or false"),
        (list[str], "a", "expected a list of text"),
        (list[str], [1], "expected text; put it in quotes"),
        (dict[str, Size], [], "expected a mapping of names to size"),
        (int | str, None, "expected whole number or text"),
        (None, 1, "expected null"),
        (Colour, "blue", "expected red"),
        (Annotated[int, even], 1, "expected an even number"),
    ],
)
def test_values_that_do_not_fit(annotation: Any, value: object, message: str) -> None:
    kind = type(None) if annotation is None else annotation
    with pytest.raises(ValueError) as caught:
        convert(kind, value)
    assert message == str(caught.value)


@pytest.mark.parametrize(
    ("annotation", "text", "expected"),
    [
        (int, " 5 ", 5),
        (float, "0.5", 0.5),
        (bool, "True", True),
        (bool, "0", False),
        (str, "5", "5"),
        (Secret, "5", Secret("5")),
        (Size, "1024", Size(1024)),
        (AUTO, "auto", "auto"),
        (AUTO, "no", False),
        (Literal[5, "a"], "5", 5),
        (int | None, "", None),
        (Secret | None, "", None),
        (Secret, "", Secret("")),
        (int | str, "5", 5),
        (list[int], ["5"], [5]),
    ],
)
def test_text_from_the_environment_may_be_a_number_or_a_flag(annotation: Any, text: Any, expected: object) -> None:
    given = [Expanded(item) for item in text] if isinstance(text, list) else Expanded(text)
    result = convert(annotation, given)
    assert (expected, type(expected)) == (result, type(result))


@pytest.mark.parametrize(("annotation", "text"), [(int, ""), (int, "5.0"), (float, "nan"), (bool, "2"), (AUTO, "5")])
def test_text_from_the_environment_must_fit_all_the_same(annotation: Any, text: str) -> None:
    with pytest.raises(ValueError, match=r"^expected "):
        convert(annotation, Expanded(text))


def test_reading_fills_in_defaults() -> None:
    problems: list[Problem] = []
    values = read(options_of(Plugin), {"url": "x", "limit": "1kB"}, "sinks[0].x", problems)
    assert (values, problems) == ({"url": "x", "limit": Size(1000), "flag": "auto"}, [])


def test_reading_reports_everything() -> None:
    problems: list[Problem] = []
    read(options_of(Plugin), {"limit": "sk-canary", "flg": 1, "zzz": 2}, "sinks[0].x", problems)
    assert problems == [
        Problem("sinks[0].x.flg", "unknown option, did you mean 'flag'?"),
        Problem("sinks[0].x.zzz", "unknown option; known: flag, limit, url"),
        Problem("sinks[0].x.url", "required, but not given"),
        Problem("sinks[0].x.limit", "expected a size such as 32MiB, 500kB or a number of bytes"),
    ]


class Marked:
    NOTHING = object()

    def __init__(self, *, mark: int = NOTHING) -> None: ...  # type: ignore[assignment]


def test_a_default_need_not_be_what_a_file_can_say() -> None:
    problems: list[Problem] = []
    values = read(options_of(Marked), {"mark": Marked.NOTHING}, "", problems)
    assert (values, problems) == ({"mark": Marked.NOTHING}, [])


def test_nothing_is_known() -> None:
    assert unknown("option", "limit", []) == "unknown option; known: none"


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (bool, "true or false"),
        (int, "whole number"),
        (Size, "size"),
        (AUTO, "auto, true or false"),
        (Secret | None, "secret or null"),
        (list[Size | None], "list of size or null"),
        (tuple[str, ...], "list of text"),
        (dict[str, Duration], "mapping of names to duration"),
        (Colour, "colour"),
        (Any, "anything"),
        (Annotated[int, even], "whole number"),
    ],
)
def test_types_in_words(annotation: Any, text: str) -> None:
    assert text == type_text(annotation)


@pytest.mark.parametrize("annotation", [tuple[int, str], dict[int, str], list, object, 5, list[complex]])
def test_types_that_no_option_can_have(annotation: Any) -> None:
    with pytest.raises(TypeError, match="an option cannot be of type"):
        type_text(annotation)


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Size(32 << 20), "32MiB"),
        (Duration(0.25), "250ms"),
        (Duration(90), "90s"),
        (Duration(1234567.5), "1234567.5s"),
        (Duration(0.0001234567), "0.0001234567s"),
        (Secret("sk-canary"), "***"),
        (Secret(""), ""),
        (Path("/a"), "/a"),
        ("${A}", "$${A}"),
        (None, None),
        (True, True),
        (0.5, 0.5),
        ({"a": [Size(1)], "b": Secret("x")}, {"a": ["1B"], "b": "***"}),
        ((1, "a"), [1, "a"]),
    ],
)
def test_values_as_a_file_would_give_them(value: object, plain: object) -> None:
    result = to_yaml(value)
    assert (plain, type(plain)) == (result, type(result))


def test_required_is_no_default() -> None:
    assert REQUIRED is inspect.Parameter.empty
    assert (Option("a", int, REQUIRED).required, Option("a", int, None).required) == (True, False)


@dataclass(frozen=True)
class Outer:
    """A section with another one in it."""

    name: str = "n"
    inner: Section = Section(8000)


def outer(given: object) -> tuple[dict[str, Any], list[Problem]]:
    problems: list[Problem] = []
    return read(options_of(Outer), {"inner": given}, "outer", problems), problems


def test_a_section_within_a_section_is_read_as_one() -> None:
    assert ({"name": "n", "inner": Section(80, "h")}, []) == outer({"port": 80, "host": "h"})


def test_a_section_within_a_section_fills_in_its_own_defaults() -> None:
    assert ({"name": "n", "inner": Section(80, "localhost")}, []) == outer({"port": 80})


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({}, Problem("outer.inner.port", "required, but not given")),
        (None, Problem("outer.inner.port", "required, but not given")),
        (8, Problem("outer.inner", "expected a mapping of names to values")),
        ("port", Problem("outer.inner", "expected a mapping of names to values")),
    ],
)
def test_a_section_within_a_section_that_is_wrong_is_told_with_its_path(given: object, problem: Problem) -> None:
    values, problems = outer(given)
    assert ([problem], Section(8000)) == (problems, values["inner"])


def test_each_problem_of_a_section_within_a_section_is_told() -> None:
    _, problems = outer({"port": 3, "hots": "h"})
    assert ["outer.inner.hots", "outer.inner.port"] == sorted(problem.path for problem in problems)


def test_a_section_is_a_mapping_in_words() -> None:
    assert "mapping" == type_text(Section)


def test_a_section_within_a_section_becomes_plain_data() -> None:
    assert {"retention": {"age": "3s", "key": "***"}} == to_yaml(
        {"retention": {"age": Duration(3), "key": Secret("canary")}}
    )
