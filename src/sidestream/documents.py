"""From a YAML file, or a mapping of somebody's own, to plain data: the part of configuration that knows no option.

It bounds what a file can cost (size, depth, aliases), refuses what YAML leaves undefined or PyYAML lets pass (duplicate
keys, tags, keys that are not text), and expands ``${NAME}`` in strings. Expansion comes after YAML has been parsed, so
no value from the environment can add a key. What the keys *mean* is not known here.

A file may hold secrets, so no message quotes a value, nor a key that does not look like a name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import yaml

from sidestream.errors import ConfigError, Problem
from sidestream.sources import fetch

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

MAX_VALUES = 10_000
MAX_DEPTH = 20

_TAG = "tag:yaml.org,2002:"
_NAME = re.compile(r"[\w.:-]{1,100}", re.ASCII)
_REFERENCE = re.compile(r"\$\$\{|\$\{(?:([A-Za-z_]\w*)(?::-([^{}]*))?\})?", re.ASCII)
_QUOTED = re.compile(r"'(<[a-z ]+>|[^\w\s]|\\t)'", re.ASCII)


class Expanded(str):
    """A string that the environment had a part in. All its values are text, so it may stand for a number or a flag."""

    __slots__ = ()


def join(path: str, key: object) -> str:
    """The path of `key` inside of `path`; a key that does not look like a name is not repeated."""
    name = key if isinstance(key, str) and _NAME.fullmatch(key) else "?"
    return f"{path}.{name}" if path else name


def read(source: Path | bytes | Mapping[str, object] | None, env: Mapping[str, str], problems: list[Problem]) -> object:
    """The plain data of a file, of a file's bytes, or of a mapping, expanded; None for an empty file.

    What leaves the rest readable is added to `problems`; `ConfigError` means that there is nothing to go on with.
    """
    document: object = source
    if source is not None and not isinstance(source, Mapping):
        document = _compose(_text(source if isinstance(source, bytes) else fetch(source)))
    return _Walk(env, problems).value(document, "", 0)


def escape(text: str) -> str:
    """`text` as it has to be written in a file, so that reading gives it back."""
    return text.replace("${", "$${")


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _refused(f"line {line}", "not UTF-8") from None


def _compose(text: str) -> yaml.Node | None:
    try:
        node: yaml.Node | None = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise _refused(f"line {line}", "a control character") from None
    except yaml.MarkedYAMLError as error:
        problem = error.problem or ""
        hint = f": {problem}" if "'" not in _QUOTED.sub("", problem) else ""
        raise _refused(_where(error.problem_mark), f"not valid YAML{hint}") from None
    except (ValueError, OverflowError):
        raise _refused("", "not valid YAML: a number out of range in an escape or a directive") from None
    except RecursionError:
        raise _refused("", f"nested deeper than {MAX_DEPTH} levels") from None
    return node


def _where(mark: yaml.Mark | None) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}" if mark else ""


def _refused(path: str, message: str) -> ConfigError:
    return ConfigError([Problem(path, message)])


class _Walk:
    """One walk over a document: nodes become plain data, references are expanded, and all of it is bounded."""

    def __init__(self, env: Mapping[str, str], problems: list[Problem]) -> None:
        self._env = env
        self._problems = problems
        self._left = MAX_VALUES

    def value(self, value: object, path: str, depth: int) -> object:
        self._left -= 1
        if self._left < 0:
            raise _refused("", f"more than {MAX_VALUES} values, aliases counted as often as they are used")
        if depth > MAX_DEPTH:
            raise _refused("", f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(value, yaml.Node):
            value = self._node(value, path)
        if isinstance(value, str):
            return self._expand(value, path)
        if isinstance(value, Mapping):
            return self._mapping(value.items(), path, depth)
        if isinstance(value, list | tuple):
            return [self.value(item, f"{path}[{index}]", depth + 1) for index, item in enumerate(value)]
        return value

    def _mapping(self, items: Iterable[tuple[object, object]], path: str, depth: int) -> dict[str, object]:
        found: dict[str, object] = {}
        for key, item in items:
            if not isinstance(key, str):
                self._report(path, "every key must be text; put it in quotes")
                continue
            found[key] = self.value(item, join(path, key), depth + 1)
        return found

    def _node(self, node: yaml.Node, path: str) -> object:
        """One level of a node: a scalar's value, or a list or dict of nodes."""
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
            return node.value
        if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
            return self._pairs(node, path)
        self._unknown_tag(node, path)
        return None

    def _pairs(self, node: yaml.MappingNode, path: str) -> dict[object, yaml.Node]:
        pairs: dict[object, yaml.Node] = {}
        for key_node, value_node in node.value:
            key = self._scalar(key_node, path) if isinstance(key_node, yaml.ScalarNode) else ()
            if key in pairs:
                self._report(join(path, key), f"the same key twice, again at {_where(key_node.start_mark)}")
            pairs[key] = value_node
        return pairs

    def _scalar(self, node: yaml.ScalarNode, path: str) -> object:
        kind = node.tag.removeprefix(_TAG)
        if kind in {"str", "timestamp", "merge", "value"} or (kind in {"int", "float"} and ":" in node.value):
            return node.value  # YAML 1.1's dates and base-60 numbers are only ever accidents here
        if kind not in {"int", "float", "bool", "null"}:
            self._unknown_tag(node, path)
            return None
        try:
            return yaml.constructor.SafeConstructor().construct_object(node)
        except (ValueError, LookupError, OverflowError):
            self._report(path, f"not a value of its tag, at {_where(node.start_mark)}")
            return None

    def _unknown_tag(self, node: yaml.Node, path: str) -> None:
        self._report(path, f"YAML tags are not used here, at {_where(node.start_mark)}")

    def _expand(self, text: str, path: str) -> str:
        references = 0

        def replace(match: re.Match[str]) -> str:
            nonlocal references
            if match[0] == "$${":
                return "${"
            references += 1
            if match[1] is None:
                self._report(path, "write ${NAME} or ${NAME:-default}, or $${ for a plain ${")
                return ""
            value = self._env.get(match[1])
            if value or (value is not None and match[2] is None):
                return value
            if match[2] is None:
                self._report(path, f"the environment variable {match[1]} is not set")
            return match[2] or ""

        expanded = _REFERENCE.sub(replace, text)
        return Expanded(expanded) if references else expanded

    def _report(self, path: str, message: str) -> None:
        self._problems.append(Problem(path, message))
