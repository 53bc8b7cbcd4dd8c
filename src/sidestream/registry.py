"""Finds the plugins that a configuration names, checks their options and their order, and builds them.

A plugin is named by the entry point (group ``sidestream.middlewares`` or ``sidestream.sinks``) that an installed
distribution gives it, or as ``package.module:Name``. A middleware is a class, constructed with its options, whose
instances are called as aiohttp calls a middleware; or it is such a callable itself
(``async def mw(request, handler)``), and takes none. A sink is a subclass of `sidestream.sinks.base.Sink`. Options are
the keyword-only parameters of a constructor (`sidestream.signatures`). A constructor only remembers its options: it
opens nothing, and a `ValueError` that it raises is shown to whoever wrote the configuration.

A middleware's class may say where in the chain it works. Both attributes hold names as they stand in YAML:

- ``inside_of: tuple[str, ...]``: each of these, where configured, must come before (be outside of) it;
- ``needs: tuple[str, ...]``: each of these must be configured, after (inside of) it.
"""

from __future__ import annotations

import collections
import difflib
import importlib
import inspect
import re
from dataclasses import dataclass, field, replace
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Literal, cast, overload

from sidestream.errors import ConfigError, Problem
from sidestream.options import Secret
from sidestream.signatures import Option, options_of, read, to_yaml, type_text, unknown
from sidestream.sinks.base import Sink
from sidestream.tasks import where

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidestream.wire.chain import Middleware

_MIDDLEWARE = "`async def middleware(request, handler)`"

Kind = Literal["middlewares", "sinks"]

_REFERENCE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*", re.ASCII)


@dataclass(frozen=True, slots=True)
class PluginSpec:
    """One entry of ``middlewares`` or ``sinks``: its name, its options, and its place for messages."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    path: str = ""


@dataclass(frozen=True, slots=True)
class OptionInfo:
    """One option of a plugin, for people. `default_text` is as YAML has it; empty for a required one."""

    name: str
    type_text: str
    default_text: str
    required: bool


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """One plugin that is installed. `origin` is its distribution with the version."""

    name: str
    origin: str
    target: str
    summary: str
    options: list[OptionInfo]


@dataclass(frozen=True, slots=True)
class _Plugin:
    name: str
    """Its entry point's name, also where the configuration has ``package.module:Name``."""
    target: Any
    options: tuple[Option, ...]


def resolve(kind: Kind, specs: Sequence[PluginSpec], problems: list[Problem]) -> tuple[PluginSpec, ...]:
    """`specs` with every option converted and every default filled in. Whatever is wrong is added to `problems`."""
    resolved = []
    plugins: list[tuple[PluginSpec, _Plugin]] = []
    for spec in specs:
        try:
            plugin = _find(kind, spec.name)
        except LookupError as error:
            problems.append(Problem(spec.path or spec.name, str(error.args[0])))
            continue
        plugins.append((spec, plugin))
        options = read(plugin.options, spec.options, spec.path or spec.name, problems)
        resolved.append(replace(spec, options=options))
    if kind == "middlewares" and len(plugins) == len(specs):
        problems += _misplaced(plugins)
    return tuple(resolved)


@overload
def build(kind: Literal["middlewares"], specs: Sequence[PluginSpec]) -> list[Middleware]: ...
@overload
def build(kind: Literal["sinks"], specs: Sequence[PluginSpec]) -> list[Sink]: ...
def build(kind: Kind, specs: Sequence[PluginSpec]) -> list[Middleware] | list[Sink]:
    """The plugins themselves, in order; `ConfigError` has every problem found."""
    problems: list[Problem] = []
    resolved = resolve(kind, specs, problems)
    if problems:
        raise ConfigError(problems)
    built: list[Any] = []
    for spec in resolved:
        target = _find(kind, spec.name).target
        try:
            built.append(target(**spec.options) if inspect.isclass(target) else target)
        except ValueError as error:
            problems.append(Problem(spec.path or spec.name, _redacted(str(error), spec.options)))
        except (Exception, SystemExit) as error:  # noqa: BLE001 (somebody else's code)
            text = f"its constructor failed: {type(error).__name__} at {where(error)}"
            problems.append(Problem(spec.path or spec.name, text))
    if problems:
        raise ConfigError(problems)
    if kind == "sinks":
        _tell_apart(built)
    return built


def _tell_apart(sinks: Sequence[Sink]) -> None:
    """Deliveries go by their sink's name, so the second of a kind is ``jsonl-2``."""
    names = collections.Counter[str]()
    for sink in sinks:
        names[sink.name] += 1
        if names[sink.name] > 1:
            sink.name = f"{sink.name}-{names[sink.name]}"


def build_all(middlewares: Sequence[PluginSpec], sinks: Sequence[PluginSpec]) -> tuple[list[Middleware], list[Sink]]:
    """Both kinds; `ConfigError` has the problems of both."""
    problems: list[Problem] = []
    chain: list[Middleware] = []
    try:
        chain = build("middlewares", middlewares)
    except ConfigError as error:
        problems += error.problems
    try:
        destinations = build("sinks", sinks)
    except ConfigError as error:
        raise ConfigError(problems + error.problems) from None
    if problems:
        raise ConfigError(problems)
    return chain, destinations


def describe(kind: Kind) -> list[PluginInfo]:
    """Everything installed, by name. A plugin that cannot be loaded says so in its summary."""
    return [_info(kind, entry) for _, entries in sorted(_installed(kind).items()) for entry in entries]


def _installed(kind: Kind) -> dict[str, list[EntryPoint]]:
    found: dict[str, list[EntryPoint]] = {}
    for entry in entry_points(group=f"sidestream.{kind}"):
        found.setdefault(entry.name, []).append(entry)
    return found


def _origin(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.module


def _info(kind: Kind, entry: EntryPoint) -> PluginInfo:
    try:
        plugin = _load(kind, entry.name, entry.value)
    except LookupError as error:
        return PluginInfo(entry.name, _origin(entry), entry.value, f"Cannot be used: {error.args[0]}", [])
    summary, _, _ = (inspect.getdoc(plugin.target) or "").partition("\n")
    options = [
        OptionInfo(
            option.name, type_text(option.annotation), "" if option.required else _scalar(option), option.required
        )
        for option in plugin.options
    ]
    return PluginInfo(entry.name, _origin(entry), entry.value, summary, options)


def _scalar(option: Option) -> str:
    value = to_yaml(option.default)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return '""' if value == "" else str(value)


def _find(kind: Kind, name: str) -> _Plugin:
    """The plugin of that name; `LookupError` says why there is none."""
    installed = _installed(kind)
    if ":" in name:
        names = [entry.name for entries in installed.values() for entry in entries if entry.value == name]
        return _load(kind, names[0] if names else name, name)
    entries = installed.get(name, [])
    if not entries:
        raise LookupError(unknown(kind.removesuffix("s"), name, installed))
    if len({entry.value for entry in entries}) > 1:
        raise LookupError(
            f"{' and '.join(map(_origin, entries))} both have one of this name; "
            f"write {' or '.join(entry.value for entry in entries)}"
        )
    return _load(kind, name, entries[0].value)


def _load(kind: Kind, name: str, reference: str) -> _Plugin:
    target = _imported(reference)
    problem = _not_a_sink(target) if kind == "sinks" else _not_a_middleware(target)
    if problem:
        raise LookupError(problem)
    try:
        return _Plugin(name, target, options_of(target) if inspect.isclass(target) else ())
    except TypeError as error:
        raise LookupError(f"cannot be configured: {error}") from None


def _imported(reference: str) -> Any:
    if not _REFERENCE.fullmatch(reference):
        raise LookupError("expected the name of an installed one, or package.module:Name")
    module, _, attributes = reference.partition(":")
    try:
        target: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and f"{module}.".startswith(f"{error.name}."):
            raise LookupError(f"there is no module {error.name} (is it installed, or on PYTHONPATH?)") from None
        raise LookupError(f"cannot be imported: {error}") from None
    except (ImportError, SyntaxError) as error:
        raise LookupError(f"cannot be imported: {error}".partition("\n")[0]) from None
    except (Exception, SystemExit) as error:  # noqa: BLE001 (somebody else's code)
        raise LookupError(f"cannot be imported: {type(error).__name__} at {where(error)}") from None
    for attribute in attributes.split("."):
        if not hasattr(target, attribute):
            near = difflib.get_close_matches(attribute, dir(target), n=1)
            raise LookupError(f"{module} has no {attribute}" + (f", did you mean {near[0]!r}?" if near else ""))
        target = getattr(target, attribute)
    return target


def _not_a_sink(target: object) -> str:
    if not (inspect.isclass(target) and issubclass(target, Sink)):
        return "is not a sink: expected a subclass of sidestream.sinks.base.Sink"
    return _abstract(target)


def _not_a_middleware(target: Any) -> str:
    if inspect.isfunction(target):
        return "" if inspect.iscoroutinefunction(target) else f"is not a middleware: expected {_MIDDLEWARE}, or a class"
    kind = target if inspect.isclass(target) else type(target)
    called = next((vars(base)["__call__"] for base in kind.__mro__ if "__call__" in vars(base)), None)
    if not inspect.iscoroutinefunction(called):
        return f"is not a middleware: expected {_MIDDLEWARE}, or a class that calls itself like that"
    return _abstract(kind)


def _abstract(target: type) -> str:
    missing = sorted(getattr(target, "__abstractmethods__", ()))
    return f"is not finished: it does not define {', '.join(missing)}" if missing else ""


def _misplaced(plugins: Sequence[tuple[PluginSpec, _Plugin]]) -> list[Problem]:
    """Everything wrong with the order of the chain, outermost first."""
    problems = []
    places: dict[str, int] = {}
    for place, (spec, plugin) in enumerate(plugins):
        if plugin.name in places:
            problems.append(Problem(spec.path or spec.name, f"{plugin.name} is there twice; remove one"))
        places.setdefault(plugin.name, place)
    for spec, plugin in plugins:
        own, path = places[plugin.name], spec.path or spec.name
        problems += [
            Problem(path, f"must be inside of {outer}: move {outer} before {plugin.name}")
            for outer in _names(plugin.target, "inside_of")
            if places.get(outer, -1) > own
        ]
        for inner in _names(plugin.target, "needs"):
            if inner not in places:
                problems.append(Problem(path, f"needs {inner} inside of it: add {inner} after {plugin.name}"))
            elif places[inner] < own:
                problems.append(Problem(path, f"needs {inner} inside of it: move {inner} after {plugin.name}"))
    return problems


def _names(target: object, attribute: str) -> tuple[str, ...]:
    return cast("tuple[str, ...]", getattr(target, attribute, ()))


def _redacted(message: str, options: dict[str, Any]) -> str:
    """The constructor's own words on one line, without any secret that it may have quoted."""
    for value in options.values():
        if isinstance(value, Secret) and value:
            message = message.replace(value.reveal(), "***")
    return " ".join(message.split())
