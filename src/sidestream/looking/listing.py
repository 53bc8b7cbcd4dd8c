"""Runs and hits in lists: tables for terminals, fields for other programs."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final

from rich.cells import cell_len
from rich.text import Text

from sidestream.figures import count, duration, money
from sidestream.looking.output import (
    GAP,
    Page,
    clock,
    local,
    one_line,
    print_fields,
    print_json,
    remark,
    styled_state,
    tokens_in,
)
from sidestream.store.shapes import RunKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sidestream.looking.output import Cell
    from sidestream.store.library import Library
    from sidestream.store.shapes import Hit, RunFilter, RunSummary

_AT_ONCE: Final = 200
_SHORTEST_ID: Final = 12
"""Ids begin with the time; so many digits tell milliseconds."""
_NARROWEST_TITLE: Final = 28
_WIDEST_CELL: Final = 26

_COLUMNS: Final[dict[str, Callable[[RunSummary], Cell]]] = {
    "STARTED": lambda run: (clock(run.started_at), "dim"),
    "STATE": lambda run: styled_state(run.state),
    "TURNS": lambda run: (count(run.turns), ""),
    "COST": lambda run: (money(run.cost), ""),
    "DATASET": lambda run: (run.dataset, ""),
    "MODEL": lambda run: (run.model or "-", ""),
    "TOKENS": lambda run: (f"{count(tokens_in(run.tokens))} → {count(run.tokens.output)}", ""),
    "TIME": lambda run: (duration(run.ended_at - run.started_at), ""),
    "TOOLS": lambda run: (_tools(run), "red" if run.tool_errors else ""),
}
"""What stands beside the id and the title; where there is no room for all, the first ones do."""
_ORDER: Final = ("STARTED", "RUN", "TITLE", "DATASET", "MODEL", "TURNS", "TOOLS", "TOKENS", "COST", "TIME", "STATE")
_RIGHT: Final = {"TURNS", "TOOLS", "TOKENS", "COST", "TIME"}


def show_runs(library: Library, wanted: RunFilter, limit: int, *, as_json: bool) -> None:
    """The newest `limit` runs as wanted."""
    page = Page()
    found = _runs(library, wanted, limit)
    chosen = itertools.islice(found, limit)
    if as_json:
        for run in chosen:
            print_json(run)
    elif page.styled:
        _table(page, list(chosen))
    else:
        for run in chosen:
            print_fields(_fields(run))
    if next(found, None) is not None:
        remark(f"there are older ones than these {limit}: --limit")


def show_hits(library: Library, words: str, wanted: RunFilter, limit: int, *, as_json: bool) -> bool:
    """The newest `limit` messages with these words; whether there are any."""
    page = Page()
    found = _hits(library, words, wanted, limit)
    first = list(itertools.islice(found, 1))
    chosen = itertools.chain(first, itertools.islice(found, limit - 1))
    if as_json:
        for hit in chosen:
            print_json(hit)
    elif page.styled:
        _by_run(page, list(chosen))
    else:
        for hit in chosen:
            print_fields((hit.run.id, str(hit.number), hit.role, "".join(piece.text for piece in hit.snippet)))
    if not first:
        remark("nothing was found")
    if next(found, None) is not None:
        remark(f"there are older ones than these {limit}: --limit")
    return bool(first)


def _runs(library: Library, wanted: RunFilter, limit: int) -> Iterator[RunSummary]:
    """All of them, newest first; fetched as they are needed."""
    before: str | None = None
    while True:
        page = library.runs(wanted, limit=min(limit + 1, _AT_ONCE), before=before)
        yield from page.runs
        before = page.next
        if before is None:
            return


def _hits(library: Library, words: str, wanted: RunFilter, limit: int) -> Iterator[Hit]:
    before: str | None = None
    indexing = 0
    while True:
        page = library.search(words, wanted, limit=min(limit + 1, _AT_ONCE), before=before)
        if page.indexing > indexing:
            indexing = page.indexing
            remark(f"{indexing} texts that are stored cannot be found yet")
        yield from page.hits
        before = page.next
        if before is None:
            return


def _fields(run: RunSummary) -> tuple[str, ...]:
    began = local(run.started_at)
    return (
        run.id,
        began.isoformat(timespec="seconds") if began else "",
        run.state,
        run.kind,
        run.dataset,
        run.model or "",
        str(run.turns),
        str(run.tool_calls),
        str(run.errors),
        str(tokens_in(run.tokens)),
        str(run.tokens.output),
        "" if run.cost is None else f"{run.cost:.6f}",
        f"{run.ended_at - run.started_at:.3f}",
        run.title,
    )


def _table(page: Page, runs: Sequence[RunSummary]) -> None:
    if not runs:
        remark("there are no such runs")
        return
    cells = {name: [cell(run) for run in runs] for name, cell in _COLUMNS.items()}
    cells["RUN"] = [(identity, "cyan") for identity in _short([run.id for run in runs])]
    cells["TITLE"] = [(_title(run), "") for run in runs]
    widths = {
        name: max(map(cell_len, [name, *(one_line(text) for text, _ in column)])) for name, column in cells.items()
    }
    shown, room = _chosen(widths, page.out.width)
    widest = {at: room if name == "TITLE" else _WIDEST_CELL for at, name in enumerate(shown) if name != "RUN"}
    rows = [[(name, "bold") for name in shown], *zip(*(cells[name] for name in shown), strict=True)]
    page.table(rows, right=[at for at, name in enumerate(shown) if name in _RIGHT], widths=widest)
    if left := [name.lower() for name in _ORDER if name not in shown]:
        remark(f"a wider terminal shows {', '.join(left)}, too")


def _chosen(widths: dict[str, int], room: int) -> tuple[list[str], int]:
    """The columns that there is room for, in order, and how wide the title can be."""
    chosen = {"RUN", "TITLE"}
    room -= widths["RUN"] + GAP
    for name in _COLUMNS:
        width = min(widths[name], _WIDEST_CELL) + GAP
        if room - width < min(widths["TITLE"], _NARROWEST_TITLE):
            break
        chosen.add(name)
        room -= width
    return [name for name in _ORDER if name in chosen], max(room, _NARROWEST_TITLE)


def _short(identities: Sequence[str]) -> list[str]:
    """The beginnings that tell these ids apart."""
    several, length = set(identities), _SHORTEST_ID
    while len({identity[:length] for identity in several}) < len(several):
        length += 1
    return [identity[:length] for identity in identities]


def _title(run: RunSummary) -> str:
    title = run.title or "(untitled)"
    return title if run.kind == RunKind.RUN else f"{run.kind}: {title}"


def _tools(run: RunSummary) -> str:
    return f"{count(run.tool_calls)} ({count(run.tool_errors)} failed)" if run.tool_errors else count(run.tool_calls)


def _by_run(page: Page, hits: Sequence[Hit]) -> None:
    """Hits below the runs that they are in."""
    runs: dict[str, list[Hit]] = {}
    for hit in hits:
        runs.setdefault(hit.run.id, []).append(hit)
    short = _short([hit[0].run.id for hit in runs.values()])
    for identity, (first, *rest) in zip(short, runs.values(), strict=True):
        run = first.run
        page.line((_title(run), "bold"), "  ", (identity, "cyan"), (f"  {run.dataset}  {clock(run.started_at)}", "dim"))
        for hit in (first, *rest):
            said = [(one_line(piece.text), "bold red" if piece.hit else "") for piece in hit.snippet]
            page.put(Text.assemble((f"turn {hit.number} {one_line(hit.role)}: ", "dim"), *said), 2)
        page.line()
