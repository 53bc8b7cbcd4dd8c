"""One turn in all detail: what went over the wire, what changed since the turn before, and why the cache missed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from aiohttp import web

from sidestream.store.library import Library
from sidestream.traces import comparing
from sidestream.traces.conversation import BEGINNINGS, Rule
from sidestream.viewer import captured, curl
from sidestream.viewer.backstage import BACKSTAGE
from sidestream.viewer.conversation import pictures, views
from sidestream.viewer.rendering import PAGE_HEADERS, page
from sidestream.viewer.run_head import page_of

if TYPE_CHECKING:
    from sidestream.store.shapes import TurnMessages
    from sidestream.traces.record import Record
    from sidestream.viewer.backstage import Backstage
    from sidestream.viewer.conversation import TurnView

routes = web.RouteTableDef()

_LONGEST: Final = 1_000_000
"""Characters of one text on the page of its turn."""
_ALONE: Final = BEGINNINGS - {Rule.EXTENDS_EARLIER}
"""The rules of turns that go on from no other, so that there is nothing to compare them with."""


class _Seen(NamedTuple):
    """What is stored of a turn, and of those around it."""

    turn: TurnMessages
    record: Record | None
    before: TurnMessages | None
    """The turn that it goes on from, or tries again."""
    record_before: Record | None
    around: list[TurnMessages]
    """The turns of the run from the one before to the one behind, itself included."""


class _Comparison(NamedTuple):
    """A turn beside the one that it goes on from."""

    before: TurnMessages
    changes: comparing.Changes
    prefix: comparing.Prefix
    causes: list[comparing.Cause]
    since: float
    """Seconds from the beginning of the one to that of the other."""


@routes.get("/turns/{exchange}")
async def turn(request: web.Request) -> web.Response:
    """A turn, stored or under way."""
    seen = await _seen(request.app[BACKSTAGE], request.match_info["exchange"])
    return await asyncio.to_thread(_shown, request, seen)


@routes.get("/turns/{exchange}/images/{place:[0-9]{1,6}}")
async def picture(request: web.Request) -> web.Response:
    """A picture in a turn's messages."""
    seen = await _turn(request.app[BACKSTAGE], request.match_info["exchange"])
    found = (await asyncio.to_thread(pictures, seen))[int(request.match_info["place"]) :][:1]
    if not found or not found[0][1]:
        raise LookupError("there is no such picture")
    media_type, data = found[0]
    return web.Response(body=data, content_type=media_type, headers=PAGE_HEADERS)


async def _turn(backstage: Backstage, exchange: str) -> TurnMessages:
    try:
        return await backstage.look(Library.turn, exchange)
    except LookupError:
        return await backstage.running_turn(exchange)


async def _seen(backstage: Backstage, exchange: str) -> _Seen:
    try:
        return await backstage.look(_look, exchange)
    except LookupError:
        running = await backstage.running_turn(exchange)
        return _Seen(running, None, None, None, [running])


def _look(library: Library, exchange: str) -> _Seen:
    found = library.turn(exchange)
    first = max(1, found.turn.number - 1)
    around = library.messages(found.turn.run, first=first, count=found.turn.number + 2 - first)
    name = found.turn.retry_of or (found.turn.parent if found.turn.rule not in _ALONE else None)
    before = _turn_or_none(library, name)
    return _Seen(found, _record_or_none(library, exchange), before, _record_or_none(library, name), around)


def _turn_or_none(library: Library, exchange: str | None) -> TurnMessages | None:
    try:
        return library.turn(exchange) if exchange is not None else None
    except LookupError:
        return None


def _record_or_none(library: Library, exchange: str | None) -> Record | None:
    try:
        return library.record(exchange) if exchange is not None else None
    except LookupError:
        return None


def _shown(request: web.Request, seen: _Seen) -> web.Response:
    return page(
        request,
        "turn.html",
        standalone=False,
        alone=True,
        page_of=page_of,
        view=_view(seen),
        facts=seen.turn.facts,
        **_neighbours(seen),
        **_wire(seen.record),
        comparison=_compared(seen),
        before=seen.before,
    )


def _view(seen: _Seen) -> TurnView:
    turns = seen.around or [seen.turn]
    return next(view for view in views(turns, longest=_LONGEST) if view.turn.id == seen.turn.turn.id)


def _neighbours(seen: _Seen) -> dict[str, Any]:
    number = seen.turn.turn.number
    by_number = {each.turn.number: each.turn.id for each in seen.around}
    return {"previous": by_number.get(number - 1), "next": by_number.get(number + 1)}


def _wire(record: Record | None) -> dict[str, Any]:
    if record is None:
        return {"record": None, "stream": None, "command": None, "no_command": ""}
    command, no_command = None, ""
    try:
        command = curl.command(record, captured.request_body(record))
    except curl.NoCommand as error:
        no_command = str(error)
    return {
        "record": record,
        "request_body": captured.request(record),
        "response_body": captured.response(record),
        "stream": captured.stream(record),
        "command": command,
        "no_command": no_command,
    }


def _compared(seen: _Seen) -> _Comparison | None:
    """None where there is nothing to compare with, or one of the requests is not there, or not all of it."""
    if seen.record is None or seen.before is None or seen.record_before is None:
        return None
    now, before = captured.request_json(seen.record), captured.request_json(seen.record_before)
    if now is None or before is None:
        return None
    prefix = comparing.prefix(before, now)
    return _Comparison(
        before=seen.before,
        changes=comparing.changes(before, now),
        prefix=prefix,
        causes=comparing.causes(prefix, _sent(seen.before), _sent(seen.turn)),
        since=seen.turn.turn.started_at - seen.before.turn.started_at,
    )


def _sent(turn: TurnMessages) -> comparing.Sent:
    told, tokens = turn.facts.get("usage"), turn.turn.tokens
    known = isinstance(told, dict) and bool(told)
    return comparing.Sent(
        model=turn.turn.model,
        started_at=turn.turn.started_at,
        time_to_first_byte=turn.turn.time_to_first_byte,
        input=tokens.input if known else None,
        cache_read=tokens.cache_read if known else None,
        cache_written=tokens.cache_written if known else None,
    )
