"""A run, to be read from top to bottom: its figures, its time line, and what was said and done, turn by turn."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import quote

from aiohttp import web

from sidestream.store.library import Library
from sidestream.store.shapes import Run, RunKind, RunSummary, Tokens, TurnState, Unclear
from sidestream.viewer.backstage import BACKSTAGE
from sidestream.viewer.conversation import views
from sidestream.viewer.family import members
from sidestream.viewer.rendering import base_of, page
from sidestream.viewer.run_head import PAGE, head, page_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidestream.store.shapes import Running, TurnMessages
    from sidestream.viewer.backstage import Backstage
    from sidestream.viewer.conversation import TurnView

routes = web.RouteTableDef()

FORMATS: Final = {
    "html": "HTML, one file to pass on",
    "json": "JSON, everything",
    "jsonl": "JSONL, a line per turn",
    "openai": "JSON, as OpenAI's messages",
}
"""What a run can be exported as."""


class _Window(NamedTuple):
    """Turns of a run that are shown, from number `first` on."""

    first: int
    turns: list[TurnView]
    earlier: int | None
    """The number that the page before begins with."""
    later: int | None
    live: bool
    """Whether the end of the run is on this page."""


@routes.get("/runs/{run}")
async def run(request: web.Request) -> web.Response:
    """A run; ``from`` is the number of the first turn that is shown, ``turn`` an exchange that is to be among them."""
    backstage = request.app[BACKSTAGE]
    found, under_way = await _run(backstage, request.match_info["run"])
    window = await _window(backstage, found, under_way, _first(request, found))
    values = head(found) | {
        "standalone": False,
        "alone": False,
        "window": window,
        "sinks": backstage.sinks(),
        "formats": FORMATS,
        "sent": _sent(request, backstage.sinks()),
    }
    return await asyncio.to_thread(page, request, "run.html", **values)


@routes.get("/runs/{run}/header")
async def header(request: web.Request) -> web.Response:
    """The figures, the time line and the family alone."""
    found, _ = await _run(request.app[BACKSTAGE], request.match_info["run"])
    return await asyncio.to_thread(page, request, "_run_head.html", standalone=False, **head(found))


@routes.get("/runs/{run}/turns/{exchange}/fragment")
async def fragment(request: web.Request) -> web.Response:
    """One turn alone; with ``before``, the turn before it too, in which results may be shown now."""
    backstage, name, exchange = request.app[BACKSTAGE], request.match_info["run"], request.match_info["exchange"]
    turns = await _turn_and_before(backstage, name, exchange)
    shown = await asyncio.to_thread(views, turns)
    wanted = shown if "before" in request.query else shown[-1:]
    return await asyncio.to_thread(
        page, request, "_turns.html", standalone=False, alone=False, page_of=page_of, turns=wanted
    )


@routes.post("/runs/{run}/deliver")
async def deliver(request: web.Request) -> web.Response:
    """Have the run delivered to the sink that the form names."""
    backstage, name = request.app[BACKSTAGE], request.match_info["run"]
    sink = (await request.post()).get("sink")
    if not isinstance(sink, str) or sink not in backstage.sinks():
        raise Unclear("sink: there is none of this name")
    await backstage.look(Library.summary, name)
    count = await backstage.deliver(name, sink)
    place = backstage.sinks().index(sink)
    raise web.HTTPSeeOther(f"{base_of(request)}/runs/{quote(name, safe='')}?delivered={count}&sink={place}")


@routes.get("/runs/{run}/delete")
async def confirm(request: web.Request) -> web.Response:
    """Ask whether the run is to be removed."""
    found, _ = await _run(request.app[BACKSTAGE], request.match_info["run"])
    below = [each for each in members(found) if each.below and not each.current]
    return page(request, "delete.html", run=found.summary, below=below)


@routes.post("/runs/{run}/delete")
async def delete(request: web.Request) -> web.Response:
    """Remove the run, with its branches and children."""
    backstage, name = request.app[BACKSTAGE], request.match_info["run"]
    await backstage.look(Library.summary, name)
    await backstage.delete(run=name)
    raise web.HTTPSeeOther(f"{base_of(request)}/")


async def _run(backstage: Backstage, name: str) -> tuple[Run, list[Running]]:
    """A run, and those of its turns that are under way; one whose first turn is still running counts."""
    under_way = [each for each in await backstage.running() if each.run == name]
    try:
        found = await backstage.look(Library.run, name)
    except LookupError:
        if not under_way:
            raise
        return _begun(name, under_way), under_way
    stored = {turn.id for turn in found.turns}
    return found, [each for each in under_way if each.id not in stored]


def _begun(name: str, under_way: Sequence[Running]) -> Run:
    """A run of which nothing is stored yet."""
    first = under_way[0]
    summary = RunSummary(
        id=name,
        dataset=first.dataset,
        title=first.title,
        kind=RunKind.RUN,
        model=first.model,
        state=TurnState.RUNNING,
        started_at=first.started_at,
        ended_at=first.started_at,
        turns=0,
        tool_calls=0,
        tool_errors=0,
        errors=0,
        tokens=Tokens(),
        cost=None,
    )
    return Run(summary=summary, turns=[], related=[])


def _first(request: web.Request, found: Run) -> int:
    """The number of the first turn that is wanted."""
    if exchange := request.query.get("turn"):
        number = next((turn.number for turn in found.turns if turn.id == exchange), len(found.turns))
        return page_of(number)
    told = request.query.get("from", "1")
    if not told.isascii() or not told.isdigit() or len(told) > 9:
        raise Unclear("from: expected the number of a turn")
    return max(1, int(told))


async def _window(backstage: Backstage, found: Run, under_way: Sequence[Running], first: int) -> _Window:
    total = len(found.turns)
    after = first + PAGE
    turns: list[TurnMessages] = []
    if total:
        around = max(1, first - 1)  # a result may be in the turn behind, a call in the one before
        turns = await backstage.look(Library.messages, found.summary.id, first=around, count=after + 1 - around)
    live = total < after
    if live:
        turns += await _running(backstage, under_way)
    shown = await asyncio.to_thread(views, turns)
    wanted = [view for view in shown if first <= view.turn.number < after or view.turn.state is TurnState.RUNNING]
    return _Window(first, wanted, max(1, first - PAGE) if first > 1 else None, None if live else after, live)


async def _running(backstage: Backstage, under_way: Sequence[Running]) -> list[TurnMessages]:
    """What there is of the turns under way; one that has just ended is left to the next event."""
    turns = []
    for each in under_way:
        try:
            turns.append(await backstage.running_turn(each.id))
        except LookupError:
            continue
    return turns


async def _turn_and_before(backstage: Backstage, name: str, exchange: str) -> list[TurnMessages]:
    """A turn, stored or under way, behind the one before it in its run."""
    try:
        stored = await backstage.look(Library.turn, exchange)
    except LookupError:
        now = await backstage.running_turn(exchange)
        if name not in {now.turn.run, exchange}:
            raise
        number = now.turn.number - 1
        return [*await _numbered(backstage, name, number), now]
    if stored.turn.run != name:
        raise LookupError(exchange)
    return [*await _numbered(backstage, name, stored.turn.number - 1), stored]


async def _numbered(backstage: Backstage, name: str, number: int) -> list[TurnMessages]:
    if number < 1:
        return []
    try:
        return await backstage.look(Library.messages, name, first=number, count=1)
    except LookupError:
        return []


def _sent(request: web.Request, sinks: Sequence[str]) -> tuple[int, str] | None:
    """What a delivery that was just asked for comes to: turns, and the sink's name."""
    count, place = request.query.get("delivered", ""), request.query.get("sink", "")
    if not (count.isascii() and count.isdigit() and place.isascii() and place.isdigit() and len(count + place) < 12):
        return None
    return (int(count), sinks[int(place)]) if int(place) < len(sinks) else None
