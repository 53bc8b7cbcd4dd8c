"""What a constructor takes, and plain data turned into just that.

The options of a plugin are the keyword-only parameters of its constructor, those of a section of the configuration the
fields of its dataclass. Their annotations say everything else: `convert` turns a value into what an annotation asks
for, or raises a `ValueError` that says what would be right. No message repeats a value: any value may be a secret.

Annotations may be `bool`, `int`, `float`, `str`, `Path` (``~`` is expanded), `Secret`, `Literal`, `list[T]`,
`tuple[T, ...]`, `dict[str, T]`, unions of these, and any class with a ``parse`` classmethod such as `Size`, `Duration`.
``Annotated[T, check]`` passes the converted value through the function ``check``, which may raise `ValueError`.

Conversion is strict (``"8005"`` is no number, `true` is no 1) but for text that came from the environment, where
everything is text: that may be a number or a flag, and where null is allowed, empty text is null.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import math
import types
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from sidestream.documents import Expanded, escape, join
from sidestream.errors import Problem
from sidestream.options import Duration, Secret, Size

REQUIRED = inspect.Parameter.empty

_UNIONS = (Union, types.UnionType)
_LISTS = (list, tuple, Sequence)
_MAPPINGS = (dict, Mapping)
_WORDS = {
    Any: "anything",
    int: "whole number",
    float: "number",
    str: "text",
    Path: "path",
    Secret: "secret",
    Size: "size",
    Duration: "duration",
    types.NoneType: "null",
}
_PLAIN: dict[Any, Any] = {
    bool: bool,
    int: int,
    float: int | float,
    str: str,
    Path: str | Path,
    Secret: str | Secret,
    types.NoneType: types.NoneType,
}
_FLAGS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


@dataclasses.dataclass(frozen=True, slots=True)
class Option:
    """One option: `annotation` is its resolved type, `default` is `REQUIRED` where there is none."""

    name: str
    annotation: Any
    default: Any

    @property
    def required(self) -> bool:
        """Whether it has no default."""
        return self.default is REQUIRED


def options_of(target: type) -> tuple[Option, ...]:
    """The options of a class; `TypeError` says what about its constructor cannot be configured."""
    constructor = inspect.getattr_static(target, "__init__")
    try:
        hints = get_type_hints(constructor, include_extras=True)
    except NameError as error:
        raise TypeError(f"the type {error.name!r} of an option cannot be found when it runs") from None
    options = []
    for name, parameter in list(inspect.signature(constructor).parameters.items())[1:]:
        if parameter.kind is parameter.KEYWORD_ONLY or dataclasses.is_dataclass(target):
            option = Option(name, hints.get(name, Any), parameter.default)
            type_text(option.annotation)
            options.append(option)
        elif parameter.kind is parameter.POSITIONAL_OR_KEYWORD and parameter.default is REQUIRED:
            raise TypeError(f"the parameter {name!r} of its constructor is not keyword-only")
    return tuple(options)


def read(options: Sequence[Option], given: Mapping[str, object], path: str, problems: list[Problem]) -> dict[str, Any]:
    """Every option with its value, converted, or its default. What does not fit is added to `problems` instead."""
    allowed = {option.name: option for option in options}
    problems += [Problem(join(path, name), unknown("option", name, allowed)) for name in given if name not in allowed]
    values: dict[str, Any] = {}
    for name, option in allowed.items():
        if name not in given:
            values[name] = option.default
            if option.required:
                problems.append(Problem(join(path, name), "required, but not given"))
            continue
        if dataclasses.is_dataclass(option.annotation):
            values[name] = _section(option, given[name], join(path, name), problems)
            continue
        try:
            # What a constructor takes as its default need not be something that a file can say.
            same = given[name] is option.default
            values[name] = given[name] if same else convert(option.annotation, given[name])
        except ValueError as error:
            problems.append(Problem(join(path, name), str(error)))
    return values


def _section(option: Option, value: object, path: str, problems: list[Problem]) -> Any:
    """An option that is a section of its own; nothing (a key whose lines are all comments) is all its defaults."""
    if value is not None and not isinstance(value, Mapping):
        problems.append(Problem(path, "expected a mapping of names to values"))
        return option.default
    before = len(problems)
    values = read(options_of(option.annotation), value or {}, path, problems)
    return option.annotation(**values) if len(problems) == before else option.default


def unknown(what: str, name: str, allowed: Iterable[str]) -> str:
    """The message for a mistyped name: the nearest right one, or all of them where none is near."""
    known = sorted(allowed)
    if near := difflib.get_close_matches(name, known, n=1):
        return f"unknown {what}, did you mean {near[0]!r}?"
    return f"unknown {what}; known: {', '.join(known) or 'none'}"


def convert(annotation: Any, value: object) -> Any:
    """`value` as what `annotation` asks for; `ValueError` says what would be right, without repeating the value."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _checked(annotation, value)
    if origin in _UNIONS:
        return _union(annotation, arguments, value)
    if origin is Literal:
        return _literal(annotation, arguments, value)
    if origin in _LISTS:
        if not isinstance(value, list | tuple):
            raise _expected(annotation)
        items = [convert(arguments[0], item) for item in value]
        return tuple(items) if origin is tuple else items
    if origin in _MAPPINGS:
        if not isinstance(value, Mapping):
            raise _expected(annotation)
        return {convert(arguments[0], key): convert(arguments[1], item) for key, item in value.items()}
    return _plain(annotation, value)


def type_text(annotation: Any) -> str:
    """An annotation in words: ``size``, ``auto, true or false``. `TypeError` for one that `convert` does not know."""
    words = ["mapping"] if dataclasses.is_dataclass(annotation) else _alternatives(annotation)
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def to_yaml(value: object) -> Any:
    """`value` as a file would give it: text for sizes, durations and paths, ``***`` for a secret."""
    if isinstance(value, Secret):
        return "***" if value else ""
    if isinstance(value, Size | Duration):
        return str(value)
    if isinstance(value, str | Path):
        return escape(str(value))
    if isinstance(value, Mapping):
        return {str(key): to_yaml(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_yaml(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float) else escape(str(value))


def _alternatives(annotation: Any) -> list[str]:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _alternatives(arguments[0])
    if origin in _UNIONS:
        return [word for argument in arguments for word in _alternatives(argument)]
    if origin is Literal:
        return [str(argument).lower() if isinstance(argument, bool) else str(argument) for argument in arguments]
    if origin in _LISTS and (origin is not tuple or arguments[1:] == (...,)):
        return [f"list of {type_text(arguments[0])}"]
    if origin in _MAPPINGS and arguments[0] is str:
        return [f"mapping of names to {type_text(arguments[1])}"]
    if annotation is bool:
        return ["true", "false"]
    if word := _WORDS.get(annotation):
        return [word]
    if isinstance(annotation, type) and hasattr(annotation, "parse"):
        return [annotation.__name__.lower()]
    raise TypeError(f"an option cannot be of type {getattr(annotation, '__name__', annotation)}")


def _expected(annotation: Any) -> ValueError:
    text = type_text(annotation)
    bare = annotation is bool or get_origin(annotation) in {*_UNIONS, Literal} or text in {"text", "null"}
    return ValueError(f"expected {text}" if bare else f"expected a {text}")


def _checked(annotation: Any, value: object) -> Any:
    kind, *checks = get_args(annotation)
    result = convert(kind, value)
    for check in checks:
        if inspect.isfunction(check):
            result = check(result)
    return result


def _union(annotation: Any, members: tuple[Any, ...], value: object) -> Any:
    if types.NoneType in members and (value is None or (isinstance(value, Expanded) and not value)):
        return None
    members = tuple(member for member in members if member is not types.NoneType)
    for member in members:
        try:
            return convert(member, value)
        except ValueError:
            if len(members) == 1:
                raise
    raise _expected(annotation)


def _literal(annotation: Any, members: tuple[Any, ...], value: object) -> Any:
    for member in members:
        same_type = type(member) is type(value) or (isinstance(member, str) and isinstance(value, str))
        if same_type and member == value:
            return member
        if isinstance(value, Expanded) and not isinstance(member, str) and _coerced(type(member), value) == member:
            return member
    raise _expected(annotation)


def _plain(annotation: Any, value: object) -> Any:
    if annotation is Any or (annotation is types.NoneType and value is None):
        return value
    if isinstance(value, Expanded):
        value = _coerced(annotation, value)
    if annotation in {str, Secret, Path} and isinstance(value, bool | int | float):
        raise ValueError("expected text; put it in quotes")
    if annotation in _PLAIN and not isinstance(value, _PLAIN[annotation]):
        raise _expected(annotation)
    if annotation in {int, float} and isinstance(value, bool):
        raise _expected(annotation)
    if annotation is float:
        return _float(cast("float", value))
    if annotation is Path:
        return _path(str(value))
    if annotation is Secret:
        return value if isinstance(value, Secret) else Secret(str(value))
    return annotation(value) if annotation in _PLAIN else annotation.parse(value)


def _coerced(kind: type, text: str) -> object:
    """Text from the environment as the number or flag that it may stand for."""
    if kind is bool:
        return _FLAGS.get(text.strip().lower(), text)
    try:
        if kind is int:
            return int(text)
        if kind is float:
            return float(text)
    except ValueError:
        return text
    return text


def _float(value: float) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError("expected a finite number")
    return number


def _path(value: str) -> Path:
    if not value or "\0" in value:
        raise ValueError("expected a path")
    try:
        return Path(value).expanduser()
    except RuntimeError:
        raise ValueError("whose home directory '~' is cannot be found out; write the whole path") from None
