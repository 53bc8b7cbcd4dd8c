"""A scripted agent: the client's side of the demo, as anybody's agent would be written.

It knows of the gateway only that its base URL and its key are other ones. It keeps every byte it sent and received.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from sidestream.demo import DemoFailed, tools
from sidestream.demo.calls import Call
from sidestream.demo.screen import BOLD, DIM
from sidestream.providers import sse
from sidestream.providers.anthropic.assembler import Assembler

if TYPE_CHECKING:
    from sidestream.demo.screen import Screen

SYSTEM: Final = "You look after the moss garden of a small temple. Look before you water."
QUESTION: Final = "The moss by the north gate looks tired. Should we water it today?"

_MOST_CALLS: Final = 10
_SECONDS_PER_CALL: Final = 20
_SHOWN: Final = {"thinking": ("thinks", DIM), "text": ("says", BOLD), "tool_use": ("calls", "")}
_PIECES: Final = ("thinking", "text", "partial_json")


class Agent:
    """Talks to the Messages API at `base_url` with `api_key`; shows on `screen` what comes, as it comes."""

    def __init__(self, base_url: str, api_key: str, screen: Screen) -> None:
        self.calls: list[Call] = []
        self._base_url = base_url
        self._api_key = api_key
        self._screen = screen

    async def run(self) -> str:
        """Ask the question, run the tools the model calls until it is done; its last words."""
        history: list[dict[str, Any]] = [{"role": "user", "content": QUESTION}]
        self._screen.paragraph("user", QUESTION)
        timeout = aiohttp.ClientTimeout(total=_SECONDS_PER_CALL)
        async with aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session:
            while len(self.calls) < _MOST_CALLS:
                answer = await self._ask(session, history)
                content = answer["content"]
                if answer["stop_reason"] != "tool_use":
                    return "".join(block["text"] for block in content if block["type"] == "text")
                results = [self._run_tool(block) for block in content if block["type"] == "tool_use"]
                history += [{"role": "assistant", "content": content}, {"role": "user", "content": results}]
        raise DemoFailed(f"the model was not done after {_MOST_CALLS} calls")

    async def _ask(self, session: aiohttp.ClientSession, history: list[dict[str, Any]]) -> dict[str, Any]:
        """One call, streamed; the message it told."""
        body = {
            "model": "claude-demo-1",
            "max_tokens": 1024,
            "stream": True,
            "system": SYSTEM,
            "tools": tools.definitions(),
            "messages": history,
        }
        call = Call(
            f"{self._base_url}/v1/messages",
            [
                ("x-api-key", self._api_key),
                ("anthropic-version", "2023-06-01"),
                ("content-type", "application/json"),
            ],
            json.dumps(body, ensure_ascii=False).encode(),
        )
        self.calls.append(call)
        self._screen.line(self._screen.styled(f"\n  call {len(self.calls)}", DIM))
        decoder, assembler = sse.Decoder(), Assembler()
        try:
            async with session.post(call.target, headers=call.headers, data=call.request) as response:
                async for chunk in response.content.iter_any():
                    call.response += chunk
                    for event in decoder.feed(chunk):
                        assembler.feed(event)
                        self._show(json.loads(event.data))
        except TimeoutError:
            raise DemoFailed(f"call {len(self.calls)} took longer than {_SECONDS_PER_CALL} s") from None
        except aiohttp.ClientError as error:
            raise DemoFailed(f"call {len(self.calls)} broke off: {type(error).__name__}") from error
        told = assembler.result()
        if response.status != 200 or told.message is None or not told.complete:
            raise DemoFailed(f"call {len(self.calls)} was answered with status {response.status} and no whole message")
        return told.message

    def _show(self, event: dict[str, Any]) -> None:
        match event["type"]:
            case "content_block_start":
                block = event["content_block"]
                self._screen.begin(*_SHOWN[block["type"]])
                self._screen.write(f"{block['name']} " if "name" in block else "")
            case "content_block_delta":
                self._screen.write("".join(event["delta"].get(name, "") for name in _PIECES))
            case "content_block_stop":
                self._screen.end()

    def _run_tool(self, call: dict[str, Any]) -> dict[str, Any]:
        content = tools.run(call["name"], call["input"])
        shown = content if isinstance(content, str) else " ".join(map(_in_words, content))
        self._screen.paragraph("gets", shown)
        return {"type": "tool_result", "tool_use_id": call["id"], "content": content}


def _in_words(block: dict[str, Any]) -> str:
    return str(block["text"]) if block["type"] == "text" else f"[{block['source']['media_type']}]"
