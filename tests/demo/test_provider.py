"""The scripted provider's streams are hard to read, and read right."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from sidestream.demo.provider import KEY, ScriptedProvider, pieces, stream
from sidestream.demo.story import ANSWERS, MODEL, Answer
from streams import assemble, comparable, sdk_message

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

every_answer = pytest.mark.parametrize("answer", ANSWERS, ids=["1", "2", "3", "4"])


@pytest.fixture
async def provider() -> AsyncIterator[ScriptedProvider]:
    async with ScriptedProvider(pace=0) as provider:
        yield provider


async def post(provider: ScriptedProvider, body: Any, key: str = KEY) -> tuple[int, bytes]:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{provider.url}/v1/messages", json=body, headers={"x-api-key": key}) as response,
    ):
        return response.status, await response.read()


@every_answer
def test_a_stream_assembles_to_its_answer(answer: Answer) -> None:
    told = assemble(*pieces(stream(answer)))
    assert told.complete
    assert {} == told.extras
    assert told.message is not None
    assert answer.content == told.message["content"]
    assert (MODEL, answer.stop_reason) == (told.message["model"], told.message["stop_reason"])
    assert (answer.input_tokens, answer.output_tokens) == (
        told.message["usage"]["input_tokens"],
        told.message["usage"]["output_tokens"],
    )


@every_answer
def test_the_official_sdk_reads_the_same(answer: Answer) -> None:
    assert sdk_message(stream(answer)) == comparable(assemble(stream(answer)).message)


@every_answer
def test_pieces_are_the_stream_and_none_ends_where_an_event_does(answer: Answer) -> None:
    *most, last = pieces(stream(answer))
    assert stream(answer) == b"".join([*most, last])
    assert [] == [piece for piece in most if piece.endswith(b"\n\n")]
    assert b"\n" == last


def test_pieces_tear_characters_and_escapes() -> None:
    cut = [piece for answer in ANSWERS for piece in pieces(stream(answer))]
    assert any(piece[-1] >= 0xF0 for piece in cut), "no character of four bytes"
    assert any(piece.endswith(b"\\") for piece in cut)
    assert any(piece.startswith(b"u") for piece in cut), "no \\uXXXX"


async def test_it_keeps_every_byte_it_got_and_gave(provider: ScriptedProvider) -> None:
    body = {"messages": [{"role": "user", "content": "京都?"}]}
    status, received = await post(provider, body)
    assert (200, stream(ANSWERS[0])) == (status, received)
    (call,) = provider.calls
    assert (json.dumps(body).encode(), received) == (call.request, bytes(call.response))
    assert ("x-api-key", KEY) in call.headers
    assert call.mentions(KEY)
    assert not call.mentions("inv-")


async def test_the_history_says_which_answer_is_next(provider: ScriptedProvider) -> None:
    history = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert (200, stream(ANSWERS[1])) == await post(provider, {"messages": history})


@pytest.mark.parametrize(
    ("expected", "body", "key"),
    [
        ((401, "authentication_error"), {"messages": []}, "sk-ant-other"),
        ((400, "invalid_request_error"), {"messages": [{"role": "assistant"}] * 4}, KEY),
        ((400, "invalid_request_error"), {}, KEY),
        ((400, "invalid_request_error"), [], KEY),
    ],
)
async def test_another_story_or_another_key_is_refused(
    provider: ScriptedProvider, expected: tuple[int, str], body: Any, key: str
) -> None:
    status, received = await post(provider, body, key)
    assert expected == (status, json.loads(received)["error"]["type"])
    assert received == provider.calls[0].response
