"""The model that the agents of `agents` talk to: a provider on loopback that knows one conversation.

It speaks the Messages API plainly, streaming and not, and holds message threads; pieces cut where it hurts are tested
elsewhere.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import json
import re
from typing import TYPE_CHECKING, Any, Final, Self

from aiohttp import web

from sidestream.testing import running

if TYPE_CHECKING:
    from collections.abc import Iterator

MODEL: Final = "claude-test-1"
_PIECES: Final = re.compile(r".{1,9}", re.DOTALL)


def _thinking(text: str) -> dict[str, Any]:
    signature = base64.b64encode(hashlib.sha512(text.encode()).digest()).decode()
    return {"type": "thinking", "thinking": text, "signature": signature}


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "tool_use", "name": name, "input": arguments, "caller": {"type": "direct"}}


ANSWERS: Final = (
    [
        _thinking("How wet is it?\nThe probe knows."),
        _text("\n\n"),
        _text("I'll look at the soil.\n\n"),
        _call("read_probe", bed="north gate", depth=2.0),
    ],
    [
        _thinking(""),
        _text(" Dry: 18 %. "),
        _call("forecast", place="京都", days=3),
        _text("Better not wait."),
        _call("open_valve", bed='the "north" gate', minutes=12),
    ],
    [
        {"type": "redacted_thinking", "data": "RG9uZS4="},
        _text("The valve is open. "),
        _text("No rain is coming.\n\n — 苔 🍵\n"),
    ],
    [_text("Tomorrow, too.\n")],
    [_text("Good night.")],
)
"""What the model says, call by call."""


class ModelProvider:
    """``async with ModelProvider() as provider:`` serves at `url`, and keeps each request's body, with its answer, in
    `calls`.

    Which answer it gives is decided by how many answers the conversation has: in the request, or before it in a message
    thread. Every tool call has an id of its own.
    """

    def __init__(self) -> None:
        self.url = ""
        self.calls: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self._ids = itertools.count(1)
        self._held: dict[str, int] = {}
        """How many answers the message threads have that are held here, by the id of the latest."""
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/v1/messages", self._messages)
        self.url = await self._stack.enter_async_context(running(app, shutdown_timeout=1.0))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _messages(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        before = self._held.get((body.get("thread") or {}).get("previous_message_id", ""), 0)
        answered = before + sum(message["role"] == "assistant" for message in body["messages"])
        message = self._message(ANSWERS[answered])
        self._held[message["id"]] = answered + 1
        self.calls.append((body, message))
        if not body.get("stream"):
            return web.json_response(message)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        await response.write(stream(message))
        await response.write_eof()
        return response

    def _message(self, content: list[dict[str, Any]]) -> dict[str, Any]:
        blocks = [
            block | {"id": f"toolu_{next(self._ids):04}"} if block["type"] == "tool_use" else block for block in content
        ]
        return {
            "id": f"msg_{len(self.calls) + 1:04}",
            "type": "message",
            "role": "assistant",
            "model": MODEL,
            "content": blocks,
            "stop_reason": "tool_use" if blocks[-1]["type"] == "tool_use" else "end_turn",
            "stop_sequence": None,
            "usage": {"input_tokens": 100, "output_tokens": 20},
        }


def stream(message: dict[str, Any]) -> bytes:
    """The body of a streamed answer."""
    return b"".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in _events(message))


def _events(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    end = {"stop_reason": message["stop_reason"], "stop_sequence": None}
    yield {"type": "message_start", "message": message | {"content": [], "stop_reason": None}}
    for index, block in enumerate(message["content"]):
        empty, deltas = _taken_apart(block)
        yield {"type": "content_block_start", "index": index, "content_block": empty}
        for delta in deltas:
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    yield {"type": "message_delta", "delta": end, "usage": {"output_tokens": 20}}
    yield {"type": "message_stop"}


def _taken_apart(block: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A block as it starts, and the deltas that fill it."""
    kind = block["type"]
    if kind == "redacted_thinking":
        return block, []
    if kind == "tool_use":
        pieces = ["", *_PIECES.findall(json.dumps(block["input"]))]
        return block | {"input": {}}, [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
    deltas = [{"type": f"{kind}_delta", kind: piece} for piece in _PIECES.findall(block[kind])]
    if kind == "thinking":
        deltas.append({"type": "signature_delta", "signature": block["signature"]})
    return block | ({kind: "", "signature": ""} if kind == "thinking" else {kind: ""}), deltas
