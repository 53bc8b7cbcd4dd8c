"""Opening a page where somebody sees it: with a person at the terminal and a screen for windows, and nowhere else."""

from __future__ import annotations

import os
import sys
import webbrowser


def has_screen() -> bool:
    """Whether a browser would be seen, and nobody has set SIDESTREAM_DEMO_NO_BROWSER.

    Without a screen, a browser for text would take the terminal; through SSH, the window would be on the wrong machine.
    """
    unwanted = os.environ.get("SIDESTREAM_DEMO_NO_BROWSER") or os.environ.get("SSH_CONNECTION")
    if unwanted or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    return sys.platform == "darwin" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def show(url: str) -> bool:
    """Open a page in a browser, if somebody would see it; whether that was done."""
    return has_screen() and webbrowser.open(url)
