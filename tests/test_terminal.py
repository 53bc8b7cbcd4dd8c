"""What is printed is text, whatever stands in it."""

from __future__ import annotations

import io
import sys

import pytest

from sidestream.terminal import clean_for_terminal, console


class Terminal(io.StringIO):
    """Says that it is one."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    return monkeypatch


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("Héllo\n\twörld ☕ 👩‍💻", "Héllo\n\twörld ☕ 👩‍💻"),
        ("\x1b[31mred\x1b]0;title\x07", r"\x1b[31mred\x1b]0;title\x07"),
        ("over\rwritten\b\x7f", r"over\rwritten\x08\x7f"),
        ("\x9b31m\x85", r"\x9b31m\x85"),
        ("\u202egnp.exe\u2066", r"\u202egnp.exe\u2066"),
        ("\ud800 \U000e0041", r"\ud800 \U000e0041"),
        ("a\u2028b", r"a\u2028b"),
    ],
)
def test_what_a_terminal_would_obey_or_hide_is_made_visible(said: str, shown: str) -> None:
    assert shown == clean_for_terminal(said)


def test_a_pipe_gets_plain_text_in_lines_as_long_as_they_are(environment: pytest.MonkeyPatch) -> None:
    environment.setattr(sys, "stdout", pipe := io.StringIO())
    console().print("[red]:smile: " + "word " * 60, style="bold red")
    assert "[red]:smile: " + "word " * 60 + "\n" == pipe.getvalue()


def test_a_terminal_gets_styles_unless_its_owner_wants_no_color(environment: pytest.MonkeyPatch) -> None:
    environment.setattr(sys, "stdout", styled := Terminal())
    console().print("Hi", style="red")
    environment.setenv("NO_COLOR", "1")
    environment.setattr(sys, "stdout", plain := Terminal())
    console().print("Hi", style="red")
    assert ("\x1b[31mHi\x1b[0m\n", "Hi\n") == (styled.getvalue(), plain.getvalue())
