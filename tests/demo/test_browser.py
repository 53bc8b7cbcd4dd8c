"""A browser is opened where somebody sees it. That it is, on a terminal, is in test_run.py."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING, TextIO

import pytest

from sidestream.demo import browser

if TYPE_CHECKING:
    from collections.abc import Mapping


class Terminal(io.StringIO):
    """Text that a person reads."""

    def isatty(self) -> bool:
        return True


PIPE, TERMINAL, SCREEN = io.StringIO(), Terminal(), {"DISPLAY": ":7"}


@pytest.mark.parametrize(
    ("platform", "out", "env", "expected"),
    [
        ("linux", TERMINAL, SCREEN, True),
        ("linux", TERMINAL, {"WAYLAND_DISPLAY": "wayland-0"}, True),
        ("linux", TERMINAL, {}, False),
        ("linux", PIPE, SCREEN, False),
        ("linux", TERMINAL, {**SCREEN, "SSH_CONNECTION": "1"}, False),
        ("linux", TERMINAL, {**SCREEN, "SIDESTREAM_DEMO_NO_BROWSER": "1"}, False),
        ("darwin", TERMINAL, {}, True),
        ("darwin", PIPE, {}, False),
    ],
)
def test_a_browser_needs_somebody_at_a_screen(
    platform: str, out: TextIO, env: Mapping[str, str], monkeypatch: pytest.MonkeyPatch, *, expected: bool
) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SSH_CONNECTION", "SIDESTREAM_DEMO_NO_BROWSER"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(sys, "stdin", TERMINAL)
    monkeypatch.setattr(sys, "stdout", out)
    assert expected == browser.has_screen()


def test_where_nobody_sees_it_nothing_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDESTREAM_DEMO_NO_BROWSER", "1")
    assert not browser.show("http://127.0.0.1:1/")
