from __future__ import annotations

import math

import pytest

from hostile import HOSTILE, Page
from sidestream.viewer import rendering


def test_a_moment_can_be_read_without_a_script() -> None:
    expected = (
        '<time datetime="2026-09-21T14:13:20.000+00:00" data-style="" title="2026-09-21 14:13:20 UTC">'
        "2026-09-21 14:13:20</time>"
    )
    assert expected == rendering.moment(1_790_000_000)
    assert ">14:13</time>" in rendering.moment(1_790_000_000, "minutes")


@pytest.mark.parametrize("at", [math.nan, math.inf, 1e300, -1e18])
def test_a_moment_that_is_in_no_calendar_is_unknown(at: float) -> None:
    assert rendering.moment(at) == "<span>unknown</span>"


def test_markdown_is_laid_out() -> None:
    assert rendering.markdown("**a**\n\n| b |\n|---|\n| c |").startswith("<p><strong>a</strong></p>\n<table>")


@pytest.mark.parametrize(
    "text",
    [
        *HOSTILE,
        "[x](javascript:alert(1))",
        "[x](JaVaScRiPt:alert(1))",
        "[x](data:text/html,<script>alert(1)</script>)",
        "![x](https://evil.example/x.png)",
        "[x]: javascript:alert(1)\n\n[x]",
        '<https://evil.example/"onclick=alert(1)>',
    ],
)
def test_markdown_never_becomes_markup_of_its_author(text: str) -> None:
    wrong = Page(rendering.markdown(text)).wrong

    assert [each for each in wrong if not each.startswith("href=https://")] == []


def test_markdown_that_is_very_long_or_deep_is_shown_all_the_same() -> None:
    long, deep = "a" * 300_000, "> " * 5_000 + "b"

    assert long in rendering.markdown(long)
    assert "b" in rendering.markdown(deep)


def test_a_file_has_another_version_than_another() -> None:
    assert rendering.static_version("style.css") != rendering.static_version("viewer.js")
