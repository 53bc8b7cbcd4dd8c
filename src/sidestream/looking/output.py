"""How it is printed: words and numbers in lines and paragraphs, as styled text or as JSON.

What agents and models said goes through `sidestream.terminal`, whichever way it takes.
"""

from __future__ import annotations

import sys
import textwrap
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Final

import click
import msgspec
from rich.markdown import Heading, Markdown, TextElement
from rich.segment import Segment
from rich.text import Text

from sidestream.terminal import clean_for_terminal, console

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

    from sidestream.store.shapes import Tokens

Cell = tuple[str, str]
"""A text and its style."""

GAP: Final = 2
"""Columns between two columns of a table."""
STATES: Final = {"running": "cyan", "refused": "yellow", "cut": "yellow", "abandoned": "yellow", "failed": "red"}
"""The style of a state that is worth a look."""

_ANY: Final[Mapping[int, int]] = MappingProxyType({})
_NARROWEST: Final = 20
_LONGEST_MARKDOWN: Final = 200_000


class Page:
    """Lines and paragraphs on standard output: styled and wrapped on a terminal, plain and as they are elsewhere."""

    def __init__(self) -> None:
        self.out = console()
        self.styled = self.out.is_terminal

    def line(self, *parts: str | Cell, indent: int = 0) -> None:
        """One line of texts, each alone or with its style; nothing in them begins another."""
        cells = [(part, "") if isinstance(part, str) else part for part in parts]
        self.put(Text.assemble(*((one_line(text), style) for text, style in cells)), indent)

    def text(self, text: str, indent: int = 0, style: str = "") -> None:
        """Text as it was laid out."""
        self.put(Text(clean_for_terminal(text), style), indent)

    def prose(self, text: str, indent: int = 0) -> None:
        """What is mostly Markdown."""
        if not self.styled or len(text) > _LONGEST_MARKDOWN:
            self.text(text, indent)
        else:
            self.put(_Markdown(clean_for_terminal(text), hyperlinks=False), indent)

    def table(
        self, rows: Sequence[Sequence[Cell]], *, right: Collection[int] = (), widths: Mapping[int, int] = _ANY
    ) -> None:
        """Rows whose columns stand below each other, those of `right` at their right; cut at `widths` on a terminal."""
        lines = [[Text(one_line(text), style) for text, style in row] for row in rows]
        wanted = [max(cell.cell_len for cell in column) for column in zip(*lines, strict=True)]
        for line in lines:
            for at, (cell, width) in enumerate(zip(line, wanted, strict=True)):
                most = min(width, widths.get(at, width)) if self.styled else width
                cell.truncate(most, overflow="ellipsis")
                cell.align("right" if at in right else "left", most)
            joined = Text(" " * GAP).join(line)
            joined.rstrip()
            self.put(joined)

    def put(self, what: RenderableType, indent: int = 0) -> None:
        """Anything, so far from the left."""
        if isinstance(what, Text) and not self.styled:
            click.echo(textwrap.indent(what.plain, " " * indent))
        else:
            self.out.print(_Indented(what, indent))


class _Indented:
    """Something further to the right, without spaces at the ends of its lines.

    What is put together while it is laid out is cleaned once more: Markdown can spell any character.
    """

    def __init__(self, inner: RenderableType, indent: int) -> None:
        self._inner = inner
        self._indent = indent

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = max(_NARROWEST, options.max_width - self._indent)
        for line in console.render_lines(self._inner, options.update(width=width), pad=False):
            while line and not line[-1].text.strip():
                line.pop()
            yield Segment(" " * self._indent if line else "")
            for number, (text, style, _) in enumerate(line, 1):
                yield Segment(clean_for_terminal(text if number < len(line) else text.rstrip()), style)
            yield Segment.line()


class _Code(TextElement):
    """A block of code as it is: to colour it would be to parse it, in whatever language it claims to be."""

    style_name = "markdown.code_block"

    def __rich_console__(self, _console: Console, _options: ConsoleOptions) -> RenderResult:
        text = self.text.copy()
        text.rstrip()
        yield _Indented(text, 2)


class _Heading(Heading):
    LEVEL_ALIGN: ClassVar = dict.fromkeys(Heading.LEVEL_ALIGN, "left")


class _Markdown(Markdown):
    elements: ClassVar = Markdown.elements | {"fence": _Code, "code_block": _Code, "heading_open": _Heading}


def print_json(value: Any) -> None:
    """A line of JSON; no character in it does anything to a terminal."""
    text = msgspec.json.encode(value).decode()
    if clean_for_terminal(text) != text:
        text = "".join(letter if clean_for_terminal(letter) == letter else _escaped(letter) for letter in text)
    click.echo(text)


def print_fields(fields: Iterable[str]) -> None:
    """A line of fields, for other programs."""
    click.echo("\t".join(map(one_line, fields)))


def remark(text: str) -> None:
    """Something about what is shown, beside it."""
    click.echo(text, err=True)


def one_line(text: str) -> str:
    """Text with nothing in it that would end a line or a field."""
    return clean_for_terminal(text.translate(_ENDS))


def local(at: float) -> datetime | None:
    """A moment in the time zone of this machine; None if no calendar has it."""
    try:
        return datetime.fromtimestamp(at).astimezone()
    except (ValueError, OverflowError, OSError):
        return None


def clock(at: float) -> str:
    """``2026-11-22 14:00:05``, here."""
    then = local(at)
    return then.strftime("%Y-%m-%d %H:%M:%S") if then else "unknown"


def tokens_in(tokens: Tokens) -> int:
    """All that a model was given, from wherever."""
    return tokens.input + tokens.cache_read + tokens.cache_written


def styled_state(state: str) -> Cell:
    """A state and its style."""
    return state, STATES.get(state, "green")


def use_what_can_be_written() -> None:
    """Have standard output write an escape for what the encoding of standard output lacks."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")


_ENDS: Final = str.maketrans({"\t": " ", "\n": " ", "\r": " "})


def _escaped(letter: str) -> str:
    units = letter.encode("utf-16-be")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
