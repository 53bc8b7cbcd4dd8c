"""What the demo shows: labelled paragraphs that may still be growing, wrapped, styled on a terminal only."""

from __future__ import annotations

import io
import os
import re
import shutil
import unicodedata
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from typing import TextIO

DIM: Final = "2"
BOLD: Final = "1"
CYAN: Final = "36"
GREEN: Final = "32"
RED: Final = "1;31"

INDENT: Final = 13
"""Columns that the labels take."""

_NARROWEST: Final = 72
_WIDEST: Final = 100


class Screen:
    """Writes to `out`, `width` columns wide. `styled` is for a terminal."""

    def __init__(self, out: TextIO, *, width: int, styled: bool) -> None:
        self.width = width
        self._out = out
        self._styled = styled
        self._style = ""
        self._column = 0
        self._word = ""

    @classmethod
    def on(cls, out: TextIO) -> Self:
        """As `out` deserves: styles only on a terminal whose owner has not set NO_COLOR (https://no-color.org)."""
        if isinstance(out, io.TextIOWrapper):
            out.reconfigure(errors="replace")
        styled = out.isatty() and not os.environ.get("NO_COLOR")
        columns = shutil.get_terminal_size((_WIDEST, 24)).columns if out.isatty() else _WIDEST
        return cls(out, width=min(max(columns, _NARROWEST), _WIDEST), styled=styled)

    def heading(self, title: str, remark: str = "") -> None:
        """A line of its own after an empty one."""
        self._put("\n" + self.styled(title, BOLD) + (self.styled(f"  {remark}", DIM) if remark else "") + "\n")

    def line(self, text: str = "") -> None:
        """A line as it is."""
        self._put(text + "\n")

    def paragraph(self, label: str, text: str, style: str = "") -> None:
        """A whole paragraph."""
        self.begin(label, style)
        self.write(text)
        self.end()

    def begin(self, label: str, style: str = "") -> None:
        """Begin a paragraph; what is written next appears as it comes, word by word."""
        self._style = style
        self._column = INDENT
        self._put(self.styled(f"  {label:<{INDENT - 2}}", CYAN))

    def write(self, text: str) -> None:
        """Go on with it. Of the last word nothing is shown until it is known to be whole."""
        *words, self._word = re.split(r"(?<=\s)", self._word + text)
        for word in words:
            self._place(word)

    def end(self) -> None:
        """End it."""
        self._place(self._word)
        self._word = ""
        self._put("\n")

    def styled(self, text: str, style: str) -> str:
        """`text` in a style of ECMA-48, if there are styles here."""
        return f"\x1b[{style}m{text}\x1b[0m" if self._styled and style else text

    def _place(self, word: str) -> None:
        text = word.rstrip()
        if text and self._column > INDENT:
            if self._column + 1 + columns_of(text) > self.width:
                self._new_line()
            else:
                self._put(" ")
                self._column += 1
        self._put(self.styled(text, self._style) if text else "")
        self._column += columns_of(text)
        if "\n" in word:
            self._new_line()

    def _new_line(self) -> None:
        self._put("\n" + " " * INDENT)
        self._column = INDENT

    def _put(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()


def columns_of(text: str) -> int:
    """How many columns a terminal gives `text`."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)
