"""A run's family as a list that reads as a tree: each member behind the one that it left, or was called from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sidestream.store.shapes import Related, Run

DEEPEST: Final = 8
"""How far members are indented."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """A run of the family."""

    related: Related
    depth: int
    """0 for the one that all began with; at most `DEEPEST`."""
    current: bool
    below: bool
    """Whether it is the current run, or came of it."""


def members(run: Run) -> list[Member]:
    """All members; none for a run that is by itself."""
    if len(run.related) < 2:
        return []
    known = {each.run.id for each in run.related}
    above: dict[str | None, list[Related]] = {}
    for each in run.related:
        parent = each.run.parent if each.run.parent in known and each.run.parent != each.run.id else None
        above.setdefault(parent, []).append(each)
    found: list[Member] = []
    todo = [(each, 0, False) for each in reversed(above.pop(None, []))]
    while todo:
        each, depth, below = todo.pop()
        current = each.run.id == run.summary.id
        below = below or current
        found.append(Member(related=each, depth=min(depth, DEEPEST), current=current, below=below))
        todo += [(child, depth + 1, below) for child in reversed(above.pop(each.run.id, []))]
    return found
