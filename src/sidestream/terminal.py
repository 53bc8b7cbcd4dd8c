"""Text on a terminal: what agents and models said is hostile there, too.

An escape sequence can move the cursor, rename the window or write to the clipboard; a change of direction shows what
does not stand there.
"""

from __future__ import annotations

import re
from typing import Final

from rich.console import Console

_UNSAFE: Final = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters but for tab and newline
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # changes of direction
    "\u2028\u2029"  # line ends that are none to those who count lines
    "\ud800-\udfff"  # halves of characters, which cannot be written at all
    "\U000e0000-\U000e007f"  # letters that nobody sees
    "]"
)


def clean_for_terminal(text: str) -> str:
    r"""The text with what a terminal would obey, or hide, made visible: ``\x1b``, ``\u202e``. Keeps ``\n`` and tabs."""
    return _UNSAFE.sub(lambda found: ascii(found[0])[1:-1], text)


def console(*, stderr: bool = False) -> Console:
    """Where to print to: styled and wrapped on a terminal (`NO_COLOR` is honoured), plain and as it comes elsewhere.

    Nothing in a text is taken for markup, an emoji's name or something to highlight.
    """
    out = Console(stderr=stderr, markup=False, emoji=False, highlight=False)
    out.soft_wrap = not out.is_terminal
    return out
