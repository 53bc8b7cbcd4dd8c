"""A provider that answers, and agents that call it through the gateway and know when they saw a clean end."""

from __future__ import annotations

import asyncio
import json
import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rawhttp import PATH, exchange, post
from sidestream.testing.upstream import STREAM_HEAD, Connection, Received, chunk, response

if TYPE_CHECKING:
    from gateway_process import GatewayProcess

PROVIDER_KEY = "sk-ant-canary-of-the-provider"
TRACE_KEY = "inv-" + "c0ffee42" * 8
DATASETS = 4

MESSAGE: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-test-1",
    "content": [{"type": "text", "text": "Done."}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 1, "output_tokens": 1},
}


async def provider(received: Received, connection: Connection) -> None:
    """Answer with a message, streamed or not as the request says."""
    asked = json.loads(bytes(received.body))
    if not asked.get("stream"):
        await connection.send(response(json.dumps(MESSAGE).encode()))
        return
    await connection.send(STREAM_HEAD)
    for event in _events():
        await connection.send(chunk(event))
        await asyncio.sleep(0.005)
    await connection.send(chunk(b""))


def _events() -> list[bytes]:
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {**MESSAGE, "content": [], "stop_reason": None}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *(
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": part}}
            for part in ("D", "o", "n", "e", ".")
        ),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 1}},
        {"type": "message_stop"},
    ]
    return [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events]


@dataclass
class Calls:
    """What the agents saw."""

    sent: int = 0
    clean: dict[str, float] = field(default_factory=dict)
    """When (monotonic seconds) the client of each exchange saw its clean end, by its marker."""
    failed: int = 0
    """Calls that were refused, broken off, or not answered with 200."""


async def agents(gateway: GatewayProcess, calls: Calls, count: int, stop: asyncio.Event, most: int = 1 << 62) -> None:
    """`count` agents that call one after the other, until told to stop or `most` calls have been made."""

    async def agent(number: int) -> None:
        turn = 0
        path = PATH.replace("my-agent", f"agent-{number % DATASETS}")
        headers = f"x-api-key: {PROVIDER_KEY}\r\nInvariant-Authorization: Bearer {TRACE_KEY}\r\nConnection: close\r\n"
        while not stop.is_set() and calls.sent < most:
            turn += 1
            marker = f"marker-{number}-{turn}-{random.getrandbits(64):016x}"
            messages = [{"role": "user", "content": marker}]
            body = {"model": "claude-test-1", "max_tokens": 9, "stream": turn % 2 == 0, "messages": messages}
            calls.sent += 1
            try:
                answer = await exchange(gateway.url, post(json.dumps(body).encode(), path=path, headers=headers))
            except (OSError, TimeoutError, asyncio.IncompleteReadError):
                calls.failed += 1
                await asyncio.sleep(0.02)
                continue
            if answer.complete and answer.status == 200:
                calls.clean[marker] = time.monotonic()
            else:
                calls.failed += 1
                await asyncio.sleep(0.02)

    await asyncio.gather(*(agent(number) for number in range(count)))
