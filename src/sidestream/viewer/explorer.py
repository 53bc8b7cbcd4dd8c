"""Explorer's own API: what an Invariant Explorer answers to its SDK, and to an ``explorer`` sink, below ``/api/v1``.

Traces can be pushed and appended to, looked up and listed; datasets have metadata. What is pushed becomes a run as any
other here. What was captured here can be looked up as well, and not be appended to. A trace's id is a UUID, with
dashes. Everybody is one user, ``local``.

Where the real one answers a mistake with 500, hangs up, or comes to a standstill, this one says 400, or does it.
Compressed bodies are read. Annotations are kept in the metadata of their trace.
"""

from __future__ import annotations

import asyncio
import functools
import re
import uuid
from typing import TYPE_CHECKING, Any, Final

import msgspec
from aiohttp import web

from sidestream.store.library import Library
from sidestream.store.shapes import RunFilter
from sidestream.traces.exporting import Explorers, listed
from sidestream.traces.pushing import SNIPPETS
from sidestream.viewer.access import Standing
from sidestream.viewer.backstage import BACKSTAGE
from sidestream.viewer.envelope import ACCESS_HEADER
from sidestream.viewer.pushes import Refused, dataset_in, messages_in, notes_in, payload_of, pushes_in
from sidestream.viewer.rendering import PAGE_HEADERS
from sidestream.viewer.streaming import streamed, turns_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from sidestream.store.shapes import RunSummary
    from sidestream.viewer.backstage import Backstage

USER: Final = "local"
_TRACES: Final = 200
"""How many are looked up at a time."""
_BEARER: Final = re.compile(r"bearer ([!-~]{1,512})", re.IGNORECASE)
_INVALID: Final = "You must provide a valid API key."
_NO_KEYS: Final = "This gateway has no keys yet; make one with `sidestream keys create NAME`."
_HEADERS: Final = {**PAGE_HEADERS, "Content-Type": "application/json"}

routes = web.RouteTableDef()


def _with_key(
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """A handler for those who have a key; what it refuses is told as Explorer would."""

    @functools.wraps(handler)
    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            await _let_in(request)
            return await handler(request)
        except Refused as refused:
            return _json({"detail": str(refused)}, refused.status)

    return answer


@routes.get("/api/v1/user/identity")
@_with_key
async def _identity(_request: web.Request) -> web.Response:
    return _json({"username": USER})


@routes.post("/api/v1/push/trace")
@_with_key
async def _push(request: web.Request) -> web.Response:
    backstage = request.app[BACKSTAGE]
    payload = await payload_of(request)
    dataset, pushes = dataset_in(payload), pushes_in(payload)
    ids = [_shown(await backstage.push(dataset, push.messages, push.metadata)) for push in pushes]
    return _json({"id": ids, "dataset": payload.get("dataset"), "username": USER})


@routes.post("/api/v1/trace/{id}/messages")
@_with_key
async def _append(request: web.Request) -> web.Response:
    backstage, run = request.app[BACKSTAGE], _run_of(request)
    payload = await payload_of(request)
    messages, notes = messages_in(payload.get("messages")), notes_in(payload.get("annotations"))
    try:
        await backstage.push(SNIPPETS, messages, notes, trace=run)
    except LookupError:
        await _summary(backstage, run)
        raise Refused(400, "This trace was captured by the gateway; it cannot be appended to") from None
    return _json({"success": True})


@routes.get("/api/v1/trace/{id}")
@_with_key
async def _trace(request: web.Request) -> web.StreamResponse:
    """The whole trace; in pieces, for it may be large."""
    backstage = request.app[BACKSTAGE]
    run = await _summary(backstage, _run_of(request))
    facts = await backstage.look(_facts, run.id)
    shown = Explorers(run, facts, identity=_shown(run.id), user=USER)

    async def pieces() -> AsyncIterator[bytes]:
        yield shown.begin()
        async for turn in turns_of(backstage, run.id):
            yield shown.turn(turn)
        yield shown.end()

    return await streamed(request, pieces(), _HEADERS)


@routes.get("/api/v1/dataset/byuser/{user}/{dataset}/traces")
@_with_key
async def _traces(request: web.Request) -> web.StreamResponse:
    """All traces of a dataset, the newest first, without their messages; in pieces."""
    backstage = request.app[BACKSTAGE]
    wanted = RunFilter(dataset=await _dataset(request), everything=True)

    async def pieces() -> AsyncIterator[bytes]:
        page, before = await backstage.look(_page, wanted, None)
        yield b"[" + page
        while before is not None:
            page, before = await backstage.look(_page, wanted, before)
            yield b"," + page if page else b""
        yield b"]"

    return await streamed(request, pieces(), _HEADERS)


@routes.get("/api/v1/dataset/byuser/{user}/{dataset}/policy")
@_with_key
async def _policies(request: web.Request) -> web.Response:
    await _dataset(request)
    return _json({"policies": []})


@routes.get("/api/v1/dataset/metadata/{dataset}")
@_with_key
async def _metadata(request: web.Request) -> web.Response:
    dataset = await _dataset(request)
    return _json(await request.app[BACKSTAGE].look(Library.dataset_metadata, dataset))


@routes.put("/api/v1/dataset/metadata/{dataset}")
@_with_key
async def _describe(request: web.Request) -> web.Response:
    dataset = await _dataset(request)
    payload = await payload_of(request)
    metadata, replace = payload.get("metadata", {}), payload.get("replace_all", False)
    if not isinstance(metadata, dict):
        raise Refused(400, "metadata must be a dictionary")
    if not isinstance(replace, bool):
        raise Refused(400, "replace_all must be a boolean")
    return _json(await request.app[BACKSTAGE].describe(dataset, _told(metadata), replace=replace))


async def _let_in(request: web.Request) -> None:
    """Refuse whoever may not. Where there are keys, one of them is needed, however the gateway is reached."""
    header = request.headers.get("Authorization")
    if header is None:
        raise Refused(403, "Not authenticated")
    given, api_keys = _BEARER.fullmatch(header), request.app[BACKSTAGE].api_keys
    if given is None:
        raise Refused(401, _INVALID)
    if await asyncio.to_thread(api_keys.knows, given[1]):
        return
    if await asyncio.to_thread(api_keys.all):
        raise Refused(401, _INVALID)
    if request.headers.get(ACCESS_HEADER) != Standing.OPEN:
        raise Refused(401, _NO_KEYS)


async def _dataset(request: web.Request) -> str:
    """The dataset that is meant, if there is one."""
    wanted = request.match_info["dataset"]
    user = request.match_info.get("user") or request.query.get("owner_username") or USER
    datasets = await request.app[BACKSTAGE].look(Library.datasets)
    if user != USER or all(each.name != wanted for each in datasets):
        raise Refused(404, "Dataset not found")
    return wanted


async def _summary(backstage: Backstage, run: str) -> RunSummary:
    try:
        return await backstage.look(Library.summary, run)
    except LookupError:
        raise Refused(404, "Trace not found") from None


def _told(metadata: dict[str, Any]) -> dict[str, Any]:
    """Metadata without nulls: the SDK sends one for what its user does not say."""
    nested = {key: _told(value) if isinstance(value, dict) else value for key, value in metadata.items()}
    return {key: value for key, value in nested.items() if value is not None}


def _page(library: Library, wanted: RunFilter, before: str | None) -> tuple[bytes, str | None]:
    """Some traces, without brackets around them, and where to go on."""
    page = library.runs(wanted, limit=_TRACES, before=before)
    entries = [{**listed(run, _facts(library, run.id), identity=_shown(run.id)), "messages": []} for run in page.runs]
    return msgspec.json.encode(entries)[1:-1], page.next


def _facts(library: Library, run: str) -> dict[str, Any]:
    """What is known of the exchange that a run began with; nothing where that has been removed."""
    try:
        return library.facts(run)
    except LookupError:
        return {}


def _run_of(request: web.Request) -> str:
    """The run of this id, with dashes or without."""
    given = request.match_info["id"]
    try:
        return uuid.UUID(given).hex
    except ValueError:
        return given


def _shown(run: str) -> str:
    """The id of a run as a UUID; one that is none as it is."""
    try:
        return str(uuid.UUID(run))
    except ValueError:
        return run


def _json(payload: Any, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(payload), status=status, headers=_HEADERS)
