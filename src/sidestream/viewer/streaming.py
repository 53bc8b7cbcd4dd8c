"""Answers that are written as they are looked up, for what may be larger than memory should have to hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aiohttp import web

from sidestream.store.library import Library

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from sidestream.store.shapes import TurnMessages
    from sidestream.viewer.backstage import Backstage

_TURNS: Final = 50
"""How many are looked up at a time."""


async def turns_of(backstage: Backstage, run: str) -> AsyncIterator[TurnMessages]:
    """All turns of a run, in order."""
    first = 1
    while page := await backstage.look(Library.messages, run, first=first, count=_TURNS):
        for turn in page:
            yield turn
        first += len(page)


async def streamed(
    request: web.Request, pieces: AsyncIterator[bytes], headers: Mapping[str, str]
) -> web.StreamResponse:
    """Answer with `pieces`. What fails before the first one can be told; after that, the transfer is broken off."""
    first = await anext(pieces, b"")
    answer = web.StreamResponse(headers=headers)
    await answer.prepare(request)
    try:
        await answer.write(first)
        async for piece in pieces:
            await answer.write(piece)
        await answer.write_eof()
    except BaseException:
        if request.transport is not None:  # or what is said instead would be written into the middle of it
            request.transport.abort()
        raise
    return answer
