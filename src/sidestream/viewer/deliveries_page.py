"""Where traces stand on their way to the sinks, and the buttons that have them sent again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aiohttp import web

from sidestream.store.library import Library
from sidestream.store.rows import State
from sidestream.store.shapes import Unclear
from sidestream.viewer.backstage import BACKSTAGE
from sidestream.viewer.queries import LONGEST_PAGE, number_from, query_with, states_from, text_from
from sidestream.viewer.rendering import PAGE_HEADERS, base_of, page

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

routes = web.RouteTableDef()

_PAGE: Final = 100
_AGAIN: Final = (State.DELIVERED, State.PARKED, State.DEAD)
"""What can begin anew; the others are on their way."""


@routes.get("/deliveries")
async def deliveries(request: web.Request) -> web.Response:
    """Counts by sink, and rows of one ``state``, ``sink`` and ``dataset``, or all; ``before`` is a row's id."""
    backstage = request.app[BACKSTAGE]
    sink, dataset = text_from(request, "sink"), text_from(request, "dataset")
    states = states_from(request)
    limit = number_from(request, "limit", 1, LONGEST_PAGE) or _PAGE
    before = number_from(request, "before")
    found = await backstage.look(
        Library.deliveries, states=states, sink=sink, dataset=dataset, limit=limit + 1, before=before
    )
    shown = found[:limit]
    configured = backstage.sinks()
    counts = by_sink(configured, await backstage.look(Library.delivery_counts))
    return page(
        request,
        "deliveries.html",
        deliveries=shown,
        counts=counts,
        configured=configured,
        settled=_settled(counts, sink),
        states=list(State),
        state=next(iter(states), None) if states else None,
        sink=sink,
        dataset=dataset,
        datasets=[each.name for each in await backstage.look(Library.datasets)],
        again=_AGAIN,
        begun=number_from(request, "begun"),
        back=query_with(request, begun=None),
        before=before,
        newer=query_with(request, before=None, begun=None),
        older=query_with(request, before=str(shown[-1].id), begun=None) if len(found) > limit else None,
    )


@routes.post("/deliveries/redeliver")
async def redeliver(request: web.Request) -> web.Response:
    """Have deliveries of one ``state`` begin anew; of one ``sink``, ``dataset`` or ``exchange`` where that is given."""
    try:
        form = await request.post()
    except ValueError:
        raise Unclear("the form cannot be read") from None
    given = {name: value.strip() for name, value in form.items() if isinstance(value, str) and value.strip()}
    if given.get("state") not in _AGAIN:
        raise Unclear(f"state: expected one of {', '.join(_AGAIN)}")
    begun = await request.app[BACKSTAGE].redeliver(
        states={State(given["state"])},
        sink=given.get("sink"),
        dataset=given.get("dataset"),
        exchange=given.get("exchange"),
    )
    back = f"{base_of(request)}/deliveries{query_with(request, begun=str(begun))}"
    return web.Response(status=303, headers={**PAGE_HEADERS, "Location": back})


def by_sink(configured: Iterable[str], counts: Mapping[str, Mapping[str, int]]) -> dict[str, dict[State, int]]:
    """How many deliveries are in each state, of every sink that is configured, or has any; zeros too."""
    names = dict.fromkeys([*configured, *sorted(counts)])
    return {name: {state: counts.get(name, {}).get(state, 0) for state in State} for name in names}


def _settled(counts: Mapping[str, Mapping[State, int]], sink: str | None) -> dict[State, bool]:
    """Whether there is anything given up, or waiting for somebody, in this sink or any."""
    shown = [each for name, each in counts.items() if sink in {None, name}]
    return {state: any(each[state] for each in shown) for state in (State.DEAD, State.PARKED)}
