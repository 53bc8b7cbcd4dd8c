"""The list of runs, those under way first, and what is found when somebody searches in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from aiohttp import web
from msgspec.structs import replace

from sidestream.errors import SidestreamError
from sidestream.store.library import Library
from sidestream.store.shapes import RunFilter, RunKind, RunSummary, Tokens, TurnState, Unclear
from sidestream.viewer.backstage import BACKSTAGE
from sidestream.viewer.queries import filter_from, page_from, query_with, text_from
from sidestream.viewer.rendering import page

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from sidestream.store.shapes import Running, RunPage
    from sidestream.viewer.backstage import Backstage

routes = web.RouteTableDef()

_SPANS: Final = {"1h": "last hour", "24h": "last 24 hours", "7d": "last 7 days", "30d": "last 30 days"}
_ANY: Final = {None, TurnState.RUNNING}


@routes.get("/")
async def runs(request: web.Request) -> web.Response:
    """Runs as wanted; messages, with words to look for as ``q``. ``X-Fragment: rows`` asks for the rows alone."""
    wanted, words = filter_from(request), text_from(request, "q")
    if words is not None:
        return await _found(request, words, wanted)
    limit, before = page_from(request)
    backstage = request.app[BACKSTAGE]
    found = await backstage.look(Library.runs, wanted, limit=limit, before=before)
    shown = rows_of(found, await _under_way(backstage, wanted), wanted, first=before is None)
    nothing = not shown and wanted == RunFilter() and before is None and not await backstage.look(Library.datasets)
    values: dict[str, Any] = {
        "runs": shown,
        "nothing": nothing,
        "filtered": wanted != RunFilter(),
        "before": before,
        "newer": query_with(request, before=None),
        "older": found.next and query_with(request, before=found.next),
    }
    if request.headers.get("X-Fragment") == "rows":
        return page(request, "_runs.html", **values)
    return page(request, "runs.html", **values, **await _form(request, wanted))


def rows_of(found: RunPage, under_way: Sequence[RunSummary], wanted: RunFilter, *, first: bool) -> list[RunSummary]:
    """The runs of a page, those under way marked, and all of these before the others on the `first` one."""
    live = {each.id: each for each in under_way}
    if not first:
        return [live.get(each.id, each) for each in found.runs]
    listed = {each.id for each in found.runs}
    ahead = [each for each in under_way if each.id in listed or _fits(each, wanted)]
    return ahead + [each for each in found.runs if each.id not in live]


def summary_of(running: Sequence[Running], stored: RunSummary | None) -> RunSummary:
    """A run in a line, of whose turns these are under way; `stored` is what there is of it already."""
    first, latest = running[0], running[-1]
    if stored is not None:
        return replace(
            stored, state=TurnState.RUNNING, turns=stored.turns + len(running), model=latest.model or stored.model
        )
    return RunSummary(
        id=first.run,
        dataset=first.dataset,
        title=first.title,
        kind=RunKind.RUN,
        model=latest.model,
        state=TurnState.RUNNING,
        started_at=first.started_at,
        ended_at=first.started_at,
        turns=len(running),
        tool_calls=0,
        tool_errors=0,
        errors=0,
        tokens=Tokens(),
        cost=None,
    )


async def _under_way(backstage: Backstage, wanted: RunFilter) -> list[RunSummary]:
    """The runs under way, the latest first; none where other states are wanted."""
    if wanted.state not in _ANY:
        return []
    try:
        running = await backstage.running()
    except SidestreamError:
        return []  # what is stored can be shown all the same
    turns: dict[str, list[Running]] = {}
    for each in running:
        turns.setdefault(each.run, []).append(each)
    stored = await backstage.look(_stored, turns)
    summaries = [summary_of(some, stored.get(run)) for run, some in turns.items()]
    return sorted(summaries, key=lambda run: -max(each.started_at for each in turns[run.id]))


def _stored(library: Library, runs: Collection[str]) -> dict[str, RunSummary]:
    """Those of some runs that there are."""
    found = {}
    for run in runs:
        try:
            found[run] = library.summary(run)
        except LookupError:
            continue
    return found


def _fits(run: RunSummary, wanted: RunFilter) -> bool:
    """Whether a run under way is wanted that the store did not list: it may be the first that happens there."""
    return (
        wanted.tool is None
        and wanted.dataset in {None, run.dataset}
        and wanted.model in {None, run.model}
        and wanted.errors in {None, bool(run.errors or run.tool_errors)}
        and (wanted.since is None or run.started_at >= wanted.since)
        and (wanted.until is None or run.started_at < wanted.until)
    )


async def _found(request: web.Request, words: str, wanted: RunFilter) -> web.Response:
    limit, before = page_from(request)
    hits, unclear, status = None, None, 200
    everywhere = replace(wanted, everything=True)  # also in what a list leaves out
    try:
        hits = await request.app[BACKSTAGE].look(Library.search, words, everywhere, limit=limit, before=before)
    except Unclear as error:
        unclear, status = str(error), 400
    return page(
        request,
        "hits.html",
        status=status,
        hits=hits,
        unclear=unclear,
        filtered=wanted != RunFilter(),
        before=before,
        newer=query_with(request, before=None),
        older=query_with(request, before=hits.next) if hits and hits.next else None,
        **await _form(request, wanted),
    )


async def _form(request: web.Request, wanted: RunFilter) -> dict[str, Any]:
    """What the form of both pages is filled in with."""
    datasets = [each.name for each in await request.app[BACKSTAGE].look(Library.datasets)]
    asked = {name: text_from(request, name) for name in ("q", "since", "until")}
    return {
        "wanted": wanted,
        "datasets": datasets,
        "states": list(TurnState),
        "spans": _SPANS,
        "asked": asked,
        "more": bool(wanted.model or wanted.tool or wanted.errors is not None or wanted.everything or wanted.until),
    }
