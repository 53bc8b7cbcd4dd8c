"""JSON that stops in the middle: the tool arguments of an answer that hit its token limit, or a body cut by a capture.

It gives what the official SDKs show for such arguments (the ``partial_mode`` of the jiter parser), so that an assembled
message equals theirs:

- the end of the text closes every open container;
- an unfinished string, number, literal or key is left out;
- where a container goes on with neither a comma nor its end, it ends there, and the enclosing one is asked;
- what follows the outermost value is ignored.

Nesting beyond what `jsons.clean` keeps, and more values than anybody sends, count as the end of the text: a body made
to be slow to read must not hold up the others.
"""

from __future__ import annotations

import re
from typing import Any, Final

from sidestream.providers.jsons import DECODER, MAX_DEPTH, UNREADABLE

_SPACE: Final = re.compile(r"[ \t\n\r]*")
_HALF_NUMBER: Final = re.compile(r"-?\d+(?:\.(?!\d)|(?:\.\d+)?[eE](?![-+]?\d))")
_UNFINISHED_NUMBER: Final = re.compile(r"-?\d+(?:\.|(?:\.\d+)?[eE][-+]?)")
_LITERALS: Final = ("true", "false", "null", "NaN", "Infinity", "-Infinity")
_ESCAPE: Final = len(r"\uFFFF")
_MOST_VALUES: Final = 500_000


class _Cut(Exception):
    """The text ends inside a value."""


class _Broken(Exception):
    """This is no JSON."""


def parse_cut(text: str, *, keep_strings: bool = False) -> Any:
    """Read what there is of a cut value; `UNREADABLE` where that is nothing. Never raises.

    With `keep_strings` a string value in the making is kept as far as it goes.
    """
    reader = _Reader(text, keep_strings=keep_strings)
    try:
        return reader.read()
    except (_Cut, _Broken):
        return UNREADABLE


class _Reader:
    """A stack machine: recursion would end where the nesting is deep."""

    def __init__(self, text: str, *, keep_strings: bool) -> None:
        self._text = text
        self._keep_strings = keep_strings
        self._at = 0
        self._open: list[dict[str, Any] | list[Any]] = []
        self._fresh = False
        """Whether the innermost container has just begun, so that no comma is due."""

    def read(self) -> Any:
        top = self._begin(self._wanted())
        if top is None:
            return self._scalar()
        try:
            for _ in range(_MOST_VALUES):
                if not self._open or len(self._open) > MAX_DEPTH:
                    break
                self._step(self._open[-1])
        except _Cut:
            pass
        return top

    def _next(self) -> str:
        """The next character that is no space, without taking it; "" at the end of the text."""
        if match := _SPACE.match(self._text, self._at):
            self._at = match.end()
        return self._text[self._at : self._at + 1]

    def _begin(self, character: str) -> dict[str, Any] | list[Any] | None:
        """Enter the container that begins here, if one does."""
        if character not in {"{", "["}:
            return None
        container: dict[str, Any] | list[Any] = {} if character == "{" else []
        self._at += 1
        self._open.append(container)
        self._fresh = True
        return container

    def _step(self, container: dict[str, Any] | list[Any]) -> None:
        """Read the container's next member, or its end."""
        character = self._wanted()
        if character == ("}" if isinstance(container, dict) else "]"):
            self._at += 1
            self._leave()
            return
        if not self._fresh:
            if character != ",":
                self._leave()
                return
            self._at += 1
        self._fresh = False
        if isinstance(container, dict):
            key = self._key()
            container[key] = self._value()
        else:
            container.append(self._value())

    def _leave(self) -> None:
        self._open.pop()
        self._fresh = False

    def _wanted(self) -> str:
        """The next character, where the text must not end."""
        character = self._next()
        if not character:
            raise _Cut
        return character

    def _key(self) -> str:
        if self._wanted() != '"':
            raise _Broken
        key: str = self._scalar()
        if self._wanted() != ":":
            raise _Broken
        self._at += 1
        return key

    def _value(self) -> Any:
        character = self._wanted()
        container = self._begin(character)
        if container is not None:
            return container
        if character == '"' and self._keep_strings:
            return self._string()
        return self._scalar()

    def _scalar(self) -> Any:
        try:
            value, end = DECODER.raw_decode(self._text, self._at)
        except ValueError:
            rest = self._text[self._at : self._at + 10]
            if rest[0] == '"' or any(literal.startswith(rest) for literal in _LITERALS):
                raise _Cut from None
            raise _Broken from None
        if _HALF_NUMBER.match(self._text, self._at):
            raise _Cut if _UNFINISHED_NUMBER.fullmatch(self._text, self._at) else _Broken
        self._at = end
        return value

    def _string(self) -> Any:
        """A string, or what there is of it: what may be an unfinished escape at its end is left out."""
        try:
            return self._scalar()
        except _Cut:
            rest = self._text[self._at :]
        for length in range(len(rest), max(len(rest) - _ESCAPE, 0), -1):
            try:
                text, _ = DECODER.raw_decode(rest[:length] + '"')
            except ValueError:
                continue
            self._at = len(self._text)
            return text
        raise _Cut
