"""A model provider on loopback that plays the demo's story, and keeps every byte it got and gave.

It speaks the Messages API's event stream as the real one does: pings, empty first deltas, padding before the last
brace, text as UTF-8 here and as escapes there. Its pieces are cut where it hurts a relay that looks inside: within a
character, within an escape, and between the two newlines that end an event, so that no piece ends where an event does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from typing import TYPE_CHECKING, Any, Final, Self

from aiohttp import web

from sidestream.demo.calls import Call
from sidestream.demo.story import ANSWERS, MODEL, Answer
from sidestream.testing import running

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY: Final = "sk-ant-demo"
"""The API key that it takes."""

_SECONDS_TO_FIRST_BYTE: Final = 0.2
_SECONDS_PER_PIECE: Final = 0.014
_TENDER: Final = re.compile(rb"[\xc2-\xf4]|\\|\n(?=\n)")
"""Ends where a cut is nasty: after the first byte of a character, after a backslash, before an event's blank line."""
_PIECES_OF_TEXT: Final = re.compile(r".{1,11}", re.DOTALL)
_PIECES_OF_JSON: Final = re.compile(r".{1,7}", re.DOTALL)


class ScriptedProvider:
    """``async with ScriptedProvider() as provider:`` serves at `url`; `calls` are those answered so far.

    `pace` stretches its pauses: 1 is about as a model writes, 0 is without any.
    """

    def __init__(self, *, pace: float = 1.0) -> None:
        self.url = ""
        self.calls: list[Call] = []
        self._pace = pace
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/v1/messages", self._messages)
        self.url = await self._stack.enter_async_context(running(app, handler_cancellation=True, shutdown_timeout=1.0))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _messages(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        call = Call(request.path_qs, list(request.headers.items()), body)
        self.calls.append(call)
        answer = _answer_to(body)
        if answer is None:
            return _refusal(call, 400, "invalid_request_error", "this provider knows one conversation only")
        if request.headers.get("x-api-key") != KEY:
            return _refusal(call, 401, "authentication_error", "invalid x-api-key")
        await self._pause(_SECONDS_TO_FIRST_BYTE)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        response.headers["request-id"] = f"req_demo_{len(self.calls)}"
        await response.prepare(request)
        for piece in pieces(stream(answer)):
            await response.write(piece)
            call.response += piece
            await self._pause(_SECONDS_PER_PIECE)
        await response.write_eof()
        return response

    async def _pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds * self._pace)


def stream(answer: Answer) -> bytes:
    """The whole body of an answer: its events, framed."""
    return b"".join(_framed(number, event) for number, event in enumerate(_events(answer)))


def pieces(body: bytes) -> Iterator[bytes]:
    """`body` in the pieces in which it is sent."""
    start = 0
    for match in _TENDER.finditer(body):
        yield body[start : match.end()]
        start = match.end()
    yield body[start:]


def _answer_to(body: bytes) -> Answer | None:
    """The next answer of the story, by how many the history has already; None if that is not our story."""
    try:
        turn = sum(message["role"] == "assistant" for message in json.loads(body)["messages"])
    except (ValueError, TypeError, KeyError):
        return None
    return ANSWERS[turn] if turn < len(ANSWERS) else None


def _refusal(call: Call, status: int, kind: str, message: str) -> web.Response:
    body = json.dumps({"type": "error", "error": {"type": kind, "message": message}}).encode()
    call.response += body
    return web.Response(status=status, body=body, content_type="application/json")


def _framed(number: int, event: dict[str, Any]) -> bytes:
    text = json.dumps(event, separators=(",", ":"), ensure_ascii=number % 3 == 0)
    return f"event: {event['type']}\ndata: {text[:-1]}{' ' * (number % 5)}}}\n\n".encode()


def _events(answer: Answer) -> Iterator[dict[str, Any]]:
    usage = {
        "input_tokens": answer.input_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": 1,
        "service_tier": "standard",
    }
    message: dict[str, Any] = {
        "id": f"msg_demo_{ANSWERS.index(answer) + 1}",
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage,
    }
    yield {"type": "message_start", "message": message}
    for index, block in enumerate(answer.content):
        empty, deltas = _taken_apart(block)
        yield {"type": "content_block_start", "index": index, "content_block": empty}
        if index == 0:
            yield {"type": "ping"}
        for delta in deltas:
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    yield {
        "type": "message_delta",
        "delta": {"stop_reason": answer.stop_reason, "stop_sequence": None},
        "usage": {"output_tokens": answer.output_tokens},
    }
    yield {"type": "message_stop"}


def _taken_apart(block: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A block as it starts, and the deltas that fill it."""
    match block["type"]:
        case "thinking":
            deltas = [
                {"type": "thinking_delta", "thinking": text} for text in _PIECES_OF_TEXT.findall(block["thinking"])
            ]
            return block | {"thinking": "", "signature": ""}, [
                *deltas,
                {"type": "signature_delta", "signature": block["signature"]},
            ]
        case "text":
            return block | {"text": ""}, [
                {"type": "text_delta", "text": text} for text in _PIECES_OF_TEXT.findall(block["text"])
            ]
        case _:
            arguments = json.dumps(block["input"], ensure_ascii=False)
            return block | {"input": {}}, [
                {"type": "input_json_delta", "partial_json": text} for text in ("", *_PIECES_OF_JSON.findall(arguments))
            ]
