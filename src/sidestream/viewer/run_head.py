"""What stands above a run's turns: its figures, its time line, its family. Pure."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from sidestream.viewer.family import members
from sidestream.viewer.timeline import timeline

if TYPE_CHECKING:
    from sidestream.store.shapes import Run

PAGE: Final = 50
"""Turns of a page."""


def head(run: Run) -> dict[str, Any]:
    """What the template `_run_head.html` is given."""
    models = dict.fromkeys(turn.model for turn in run.turns if turn.model)
    return {
        "run": run.summary,
        "models": list(models) or [model for model in [run.summary.model] if model],
        "timeline": timeline(run, time.time()),
        "numbers": {turn.id: turn.number for turn in run.turns},
        "family": members(run),
        "family_left": run.related_left,
        "page_of": page_of,
    }


def page_of(number: int) -> int:
    """The number of the turn that the page with this one begins with."""
    return max(0, number - 1) // PAGE * PAGE + 1
