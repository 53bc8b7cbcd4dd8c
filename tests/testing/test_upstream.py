"""The scripted upstream: exact bytes, both ways."""

from __future__ import annotations

from typing import TYPE_CHECKING

import aiohttp
import pytest

from sidestream.testing.upstream import STREAM_HEAD, Connection, Received, chunk

if TYPE_CHECKING:
    from sidestream.testing import ScriptedUpstream


async def test_it_keeps_what_it_was_sent_and_answers_an_empty_200(upstream: ScriptedUpstream) -> None:
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{upstream.url}/a?b=1", data=b"body", headers={"X-One": "1"}) as answer:
            assert (200, b"") == (answer.status, await answer.read())
    (request,) = upstream.requests
    assert ("POST", "/a?b=1", b"body", ["1"]) == (
        request.method,
        request.target,
        bytes(request.body),
        request.header("x-one"),
    )


async def test_it_says_what_its_script_says_and_breaks_off_as_told(upstream: ScriptedUpstream) -> None:
    async def script(_received: Received, connection: Connection) -> None:
        await connection.send(STREAM_HEAD + chunk(b"half"))
        await connection.reset()

    upstream.script = script
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientError):
            async with session.get(upstream.url) as answer:
                await answer.read()
