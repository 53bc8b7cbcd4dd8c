"""Paragraphs wrap as they grow; styles are for terminals."""

from __future__ import annotations

import io
import os
import pty
from typing import TYPE_CHECKING

import pytest

from sidestream.demo.screen import DIM, Screen, columns_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TextIO


def shown(*pieces: str, width: int = 30, styled: bool = False) -> str:
    out = io.StringIO()
    screen = Screen(out, width=width, styled=styled)
    screen.begin("says", DIM)
    for piece in pieces:
        screen.write(piece)
    screen.end()
    return out.getvalue()


def test_a_paragraph_wraps_beside_its_label() -> None:
    assert "  says       twenty columns,\n             then the next\n" == shown("twenty columns, then the next")


def test_how_the_text_came_does_not_show() -> None:
    text = "twenty columns, then\nthe next and 京都 京都 京都 京都"
    assert shown(text) == shown(*text)


def test_a_word_appears_once_it_is_whole() -> None:
    out = io.StringIO()
    screen = Screen(out, width=80, styled=False)
    screen.begin("says")
    screen.write("whole wo")
    assert out.getvalue().endswith("  whole")
    screen.write("rd ")
    assert out.getvalue().endswith("  whole word")


def test_a_wide_character_takes_two_columns() -> None:
    assert 7 == columns_of("a 京都 ")
    assert "  says       京都 京都 京都\n             京都\n" == shown("京都 京都 京都 京都")


def test_styles_are_closed_again() -> None:
    assert "\x1b[36m  says       \x1b[0m\x1b[2mhm\x1b[0m\n" == shown("hm", styled=True)


@pytest.fixture
def terminal() -> Iterator[TextIO]:
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb"), os.fdopen(theirs, "w", encoding="ascii") as terminal:
        yield terminal


def test_a_terminal_gets_styles_unless_its_owner_wants_none(terminal: TextIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[2mx\x1b[0m" == Screen.on(terminal).styled("x", DIM)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "x" == Screen.on(terminal).styled("x", DIM)


def test_a_pipe_gets_no_styles() -> None:
    assert "x" == Screen.on(io.StringIO()).styled("x", DIM)


def test_what_the_encoding_lacks_is_replaced() -> None:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="latin-1")
    Screen.on(out).line("für 京都")
    assert "für ??\n".encode("latin-1") == raw.getvalue()
