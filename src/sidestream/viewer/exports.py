"""A run as a file to take away: as a page by itself, a document, lines, or an OpenAI conversation."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Final

from aiohttp import web

from sidestream.store.library import Library
from sidestream.traces.exporting import FORMATS
from sidestream.viewer import export_page
from sidestream.viewer.backstage import BACKSTAGE
from sidestream.viewer.rendering import PAGE_HEADERS
from sidestream.viewer.streaming import streamed, turns_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sidestream.store.shapes import Run

_NOT_FOR_NAMES: Final = re.compile(r"[^A-Za-z0-9_-]")

routes = web.RouteTableDef()


@routes.get("/runs/{id}/export/html")
async def _page(request: web.Request) -> web.Response:
    backstage = request.app[BACKSTAGE]
    run = await backstage.look(Library.run, request.match_info["id"])
    turns = [turn async for turn in turns_of(backstage, run.summary.id)]
    body = await asyncio.to_thread(export_page.standalone, run, turns)
    return web.Response(body=body, headers=_headers(run, "html", "text/html; charset=utf-8"))


@routes.get("/runs/{id}/export/{format:json|jsonl|openai}")
async def _export(request: web.Request) -> web.StreamResponse:
    backstage = request.app[BACKSTAGE]
    run = await backstage.look(Library.run, request.match_info["id"])
    identity = run.summary.id
    export = FORMATS[request.match_info["format"]](run, await backstage.look(Library.origin, identity))

    async def pieces() -> AsyncIterator[bytes]:
        yield export.begin()
        async for turn in turns_of(backstage, identity):
            yield export.turn(turn)
        yield export.end()

    return await streamed(request, pieces(), _headers(run, export.suffix, export.media_type))


def _headers(run: Run, suffix: str, media_type: str) -> dict[str, str]:
    name = f"run-{_NOT_FOR_NAMES.sub('_', run.summary.id)}.{suffix}"
    return {**PAGE_HEADERS, "Content-Type": media_type, "Content-Disposition": f'attachment; filename="{name}"'}
