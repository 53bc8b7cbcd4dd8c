"""A run as one HTML file that stands by itself: no scripts, nothing to fetch, pictures inside; to be passed on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from markupsafe import Markup

from sidestream.viewer.conversation import views
from sidestream.viewer.rendering import STATIC, render
from sidestream.viewer.run_head import head

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidestream.store.shapes import Run, TurnMessages


def standalone(run: Run, turns: Sequence[TurnMessages]) -> bytes:
    """The file, in UTF-8. `turns` are all turns of the run, in order; nothing of them is left out."""
    shown = views(turns, longest=None)
    text = render("export.html", base="", standalone=True, alone=False, style=_style(), turns=shown, **head(run))
    return text.encode("utf-8", "replace")


def _style() -> Markup:
    """The viewer's own styles; nothing in them ends the element that they stand in."""
    return Markup("\n").join(Markup(STATIC.joinpath(name).read_text("utf-8")) for name in ("style.css", "run.css"))  # noqa: S704
