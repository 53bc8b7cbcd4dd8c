"""The JSON API under everything that the viewer shows. Shapes are those of `sidestream.store.shapes`.

``GET /ui/api/openapi.json`` describes it all, made from the very table that the routes are made from
(`sidestream.viewer.openapi`).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import msgspec
from aiohttp import web

from sidestream.providers.decoding import decode
from sidestream.store.library import Library
from sidestream.store.rows import State
from sidestream.store.shapes import DeliveryCounts, DeliveryRow, ExchangeRecord, Unclear
from sidestream.viewer import openapi
from sidestream.viewer.backstage import BACKSTAGE
from sidestream.viewer.envelope import PAGE_HEADERS
from sidestream.viewer.queries import filter_from, flag_from, number_from, page_from, span_from, states_from, text_from

if TYPE_CHECKING:
    from sidestream.store.rows import Delivery
    from sidestream.store.shapes import TurnMessages
    from sidestream.traces.record import Record

_DAY: Final = 86400.0
_BUCKETS: Final = 60
_MOST_TURNS: Final = 500
_LONGEST_BODY: Final = 2 << 20
"""Bytes of a decoded body that are shown."""
_AGAIN: Final = frozenset({State.PARKED, State.DEAD, State.DELIVERED})

routes = web.RouteTableDef()


@routes.get("/ui/api/openapi.json")
async def _description(_request: web.Request) -> web.Response:
    return _json(openapi.description())


@routes.get("/ui/api/datasets")
async def _datasets(request: web.Request) -> web.Response:
    return _json(await request.app[BACKSTAGE].look(Library.datasets))


@routes.delete("/ui/api/datasets/{dataset}")
async def _delete_dataset(request: web.Request) -> web.Response:
    turns = await request.app[BACKSTAGE].delete(dataset=request.match_info["dataset"])
    return _counted("turns", turns, needed=True)


@routes.get("/ui/api/runs")
async def _runs(request: web.Request) -> web.Response:
    limit, before = page_from(request)
    wanted = filter_from(request)
    return _json(await request.app[BACKSTAGE].look(Library.runs, wanted, limit=limit, before=before))


@routes.get("/ui/api/runs/{run}")
async def _run(request: web.Request) -> web.Response:
    return _json(await request.app[BACKSTAGE].look(Library.run, request.match_info["run"]))


@routes.delete("/ui/api/runs/{run}")
async def _delete_run(request: web.Request) -> web.Response:
    return _counted("turns", await request.app[BACKSTAGE].delete(run=request.match_info["run"]), needed=True)


@routes.get("/ui/api/runs/{run}/messages")
async def _messages(request: web.Request) -> web.Response:
    first, count = number_from(request, "first", 1) or 1, number_from(request, "count", 1, _MOST_TURNS) or 100
    return _json(await request.app[BACKSTAGE].look(_said, request.match_info["run"], first, count))


@routes.post("/ui/api/runs/{run}/deliver")
async def _deliver(request: web.Request) -> web.Response:
    sink = text_from(request, "sink")
    if sink is None:
        raise Unclear("sink: the name of one of the configured sinks is needed")
    return _counted("turns", await request.app[BACKSTAGE].deliver(request.match_info["run"], sink))


@routes.get("/ui/api/running")
async def _running(request: web.Request) -> web.Response:
    return _json(await request.app[BACKSTAGE].running())


@routes.get("/ui/api/turns/{turn}")
async def _turn(request: web.Request) -> web.Response:
    backstage, turn = request.app[BACKSTAGE], request.match_info["turn"]
    try:
        return _json(await backstage.look(Library.turn, turn))
    except LookupError:
        return _json(await backstage.running_turn(turn))


@routes.get("/ui/api/turns/{turn}/record")
async def _record(request: web.Request) -> web.Response:
    return _json(await request.app[BACKSTAGE].look(_captured, request.match_info["turn"]))


@routes.get("/ui/api/search")
async def _search(request: web.Request) -> web.Response:
    limit, before = page_from(request)
    wanted = filter_from(request)
    if flag_from(request, "everything") is None:  # what is said in a branch is looked for as well
        wanted = msgspec.structs.replace(wanted, everything=True)
    words = text_from(request, "q") or ""
    return _json(await request.app[BACKSTAGE].look(Library.search, words, wanted, limit=limit, before=before))


@routes.get("/ui/api/overview")
async def _overview(request: web.Request) -> web.Response:
    since, until = span_from(request)
    until = time.time() if until is None else until
    since = until - _DAY if since is None else since
    buckets = number_from(request, "buckets", 1, 500) or _BUCKETS
    dataset = text_from(request, "dataset")
    return _json(await request.app[BACKSTAGE].look(Library.overview, dataset, since, until, buckets=buckets))


@routes.get("/ui/api/deliveries")
async def _deliveries(request: web.Request) -> web.Response:
    limit, _ = page_from(request)
    rows = await request.app[BACKSTAGE].look(
        Library.deliveries,
        states=states_from(request),
        sink=text_from(request, "sink"),
        dataset=text_from(request, "dataset"),
        limit=limit,
        before=number_from(request, "before"),
    )
    counts = await request.app[BACKSTAGE].look(Library.delivery_counts)
    return _json(DeliveryCounts(counts=counts, deliveries=[_row(each) for each in rows]))


@routes.post("/ui/api/redeliver")
async def _redeliver(request: web.Request) -> web.Response:
    states = states_from(request)
    if states is not None and not states <= _AGAIN:
        raise Unclear("state: expected one of dead, delivered, parked")
    count = await request.app[BACKSTAGE].redeliver(
        states=states or {State.PARKED, State.DEAD},
        sink=text_from(request, "sink"),
        dataset=text_from(request, "dataset"),
        exchange=text_from(request, "turn"),
    )
    return _counted("deliveries", count)


def _said(library: Library, run: str, first: int, count: int) -> list[TurnMessages]:
    """What turns of a run added; none beyond its end, and `LookupError` where there is no such run."""
    said = library.messages(run, first=first, count=count)
    if not said:
        library.summary(run)
    return said


def _captured(library: Library, turn: str) -> ExchangeRecord:
    return _shown(library.record(turn))


def _shown(record: Record) -> ExchangeRecord:
    bodies, cut = {}, {}
    for name, chunks, headers in (
        ("request", record.request_chunks, record.request_headers),
        ("response", record.response_chunks, record.response_headers),
    ):
        body = decode(b"".join(chunks), headers.get("content-encoding", ""), limit=_LONGEST_BODY)
        bodies[name] = body.data.decode("utf-8", "replace")
        cut[name] = body.problem == "too_large"
    return ExchangeRecord(
        id=record.id,
        dataset=record.dataset,
        provider=record.provider,
        method=record.method,
        path=record.path,
        request_headers=record.request_headers,
        request=bodies["request"],
        request_truncated=record.request_truncated or cut["request"],
        status=record.status,
        response_headers=record.response_headers,
        response=bodies["response"],
        response_truncated=record.response_truncated or cut["response"],
        chunk_sizes=[len(chunk) for chunk in record.response_chunks],
        chunk_times=list(record.response_times),
        outcome=record.outcome,
        error=record.error,
        started_at=record.started_at,
        duration=record.duration,
    )


def _row(delivery: Delivery) -> DeliveryRow:
    return DeliveryRow(
        id=delivery.id,
        state=delivery.state,
        sink=delivery.sink,
        dataset=delivery.lane.dataset,
        turn=delivery.exchange,
        attempts=delivery.attempts,
        due_at=delivery.due_at or None,
        reason=delivery.reason,
        remote=delivery.remote,
    )


def _counted(what: str, number: int, *, needed: bool = False) -> web.Response:
    if needed and not number:
        raise LookupError(what)
    return _json({what: number})


def _json(answer: Any) -> web.Response:
    return web.Response(body=msgspec.json.encode(answer), content_type="application/json", headers=PAGE_HEADERS)
