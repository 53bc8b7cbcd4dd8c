"""Anthropic requests and answers as trace messages, in the shapes that an Invariant Explorer shows best.

One Anthropic message becomes several trace messages where a trace needs them apart: thinking, tool results, and text
that follows a tool call stand alone. No trace message is made of two. The input is cleaned JSON of whatever shape a
client or provider sent; nothing in it raises.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from sidestream.providers.anthropic.blocks import TOOL_USES
from sidestream.providers.anthropic.identity import compaction_of, known_by, outline_of
from sidestream.providers.anthropic.rendering import (
    REDACTED_THINKING,
    WORDS,
    Json,
    blocks,
    failed,
    image,
    in_words,
    kind_of,
    result_text,
    string,
)
from sidestream.providers.base import Said
from sidestream.providers.digests import digest_of
from sidestream.providers.jsons import text_of

if TYPE_CHECKING:
    from collections.abc import Mapping

_SERVER: Final = "anthropic"
"""Who runs the tools that are not the client's and not an MCP server's."""
_ANSWER_FACTS: Final = ("id", "model", "stop_reason", "usage")
_MOST_UNKNOWN_TYPES: Final = 32


_Name = tuple[str, str]
"""Of a tool that was called, and of its server."""


class Read(msgspec.Struct, frozen=True):
    """A message of a request, read; and what that has to do with other messages."""

    said: Said
    digest: bytes
    calls: dict[str, _Name]
    """The tool calls in it, by id."""
    told: dict[str, _Name | None]
    """What was known, where it is about calls before it."""
    unknown: tuple[str, ...]
    """The types of blocks in it that no rule knows."""


class Conversion:
    """Trace messages in the making: `add_request`, then `add_answer`; the results are in `system, asked, answer`.

    `unknown` counts the block types that no rule knows. Their messages show a placeholder with the block's JSON.
    """

    def __init__(self) -> None:
        self.system: list[Json] = []
        """The system prompt: one message, or none."""
        self.asked: list[Said] = []
        """Each message of the request."""
        self.digests: list[bytes] = []
        """Of each of these by itself (`sidestream.providers.digests.digest_of`)."""
        self.answer: Said | None = None
        self.unknown: dict[str, int] = {}
        self._tools: dict[str, _Name] = {}
        """The latest tool call with an id; ids can repeat within one history."""
        self._calls: dict[str, _Name] = {}
        """Those of the message that is being read, and below what it is told of others, and what nobody knows in it."""
        self._told: dict[str, _Name | None] = {}
        self._noted: list[str] = []
        self._shown: list[Json] = []
        """The trace messages of the message that is being read."""
        self._run = _Run("user")
        self._host: Json | None = None
        """The assistant message that a tool call now joins."""

    def add_request(self, request: Json) -> None:
        """System prompt and history."""
        self.system = system_of(request.get("system"))
        history = request.get("messages")
        for message in history if isinstance(history, list) else []:
            self.add_message(message)

    def add_message(self, message: Any) -> Read:
        """The next message of a history; what was read is given back, to be recalled with a later request."""
        self._begin()
        if not isinstance(message, dict):
            self._note("message")
            message = {"role": "user", "content": string(message)}  # shown as what it is
        role = message.get("role")
        role = role if isinstance(role, str) and role else "user"
        said = self._said(role, message.get("content"), {})
        self.asked.append(said)
        self.digests.append(digest_of(said))
        return Read(said, self.digests[-1], self._calls, self._told, tuple(self._noted))

    def recall(self, read: Read) -> bool:
        """Add a message that was read before; False, and nothing, where it has to be read anew in this history."""
        if any(self._tools.get(identity) != name for identity, name in read.told.items()):
            return False
        for kind in read.unknown:
            self._note(kind)
        self._tools |= read.calls
        self.asked.append(read.said)
        self.digests.append(read.digest)
        return True

    def add_answer(self, answer: Json, raw_inputs: Mapping[int, str]) -> None:
        """The answer; its last message carries the provider's facts as `metadata`.

        `raw_inputs` has the text of tool arguments that are not whole JSON, by place in the content.
        """
        self._begin()
        self.answer = self._said("assistant", answer.get("content"), raw_inputs)
        facts = {key: answer[key] for key in _ANSWER_FACTS if key in answer}
        last = self.answer.shown[-1]
        last["metadata"] = last.get("metadata", {}) | facts

    def _begin(self) -> None:
        """What was noted of the last message is now that message's."""
        self._calls, self._told, self._noted = {}, {}, []

    def _said(self, role: str, content: Any, raw_inputs: Mapping[int, str]) -> Said:
        self._shown = []
        self._run = _Run(role)
        self._host = None
        for place, block in enumerate(blocks(content)):
            self._block(block, raw_inputs.get(place))
        self._flush()
        text, units = known_by(role, content)
        shown = self._shown or [{"role": role, "content": ""}]
        return Said(
            role=role,
            shown=shown,
            text=text,
            units=units,
            outline=outline_of(role, content),
            compaction=compaction_of(content),
        )

    def _block(self, block: Json, raw_input: str | None) -> None:
        kind = kind_of(block)
        if kind == "text":
            self._run.say(string(block.get("text")), block.get("citations"))
        elif kind == "image":
            self._run.show(image(block))
        elif kind in {"thinking", "redacted_thinking"}:
            self._stand_alone(_thinking(block))
        elif kind in TOOL_USES:
            self._call(block, kind, raw_input)
        elif kind == "tool_result" or kind.endswith("_tool_result"):
            self._stand_alone(self._result(block, kind))
        else:
            if kind not in WORDS:
                self._note(kind)
            self._run.show(in_words(block))

    def _note(self, kind: str) -> None:
        self._noted.append(kind)
        if kind in self.unknown or len(self.unknown) < _MOST_UNKNOWN_TYPES:
            self.unknown[kind] = self.unknown.get(kind, 0) + 1

    def _flush(self) -> None:
        """End the run of text and images, if there is one."""
        message = self._run.message()
        if message is None:
            return
        self._shown.append(message)
        self._host = message if message["role"] == "assistant" else None
        self._run = _Run(self._run.role)

    def _stand_alone(self, message: Json) -> None:
        self._flush()
        self._shown.append(message)
        self._host = None

    def _call(self, block: Json, kind: str, raw_input: str | None) -> None:
        """Add a tool call to the text before it and the calls beside it."""
        self._flush()
        if self._host is None:
            self._host = {"role": "assistant", "content": ""}
            self._shown.append(self._host)
        name, identity = string(block.get("name")), string(block.get("id"))
        call: Json = {
            "id": identity,
            "type": "function",
            "function": {"name": name, "arguments": _arguments(block.get("input"), raw_input)},
        }
        server = _SERVER if kind == "server_tool_use" else string(block.get("server_name"))
        origin = {} if kind == "tool_use" else {"origin": kind, "server": server}
        metadata = origin | ({"caller": block["caller"]} if block.get("caller") is not None else {})
        if metadata:
            call["metadata"] = metadata
        self._host.setdefault("tool_calls", []).append(call)
        self._tools[identity] = self._calls[identity] = (name, server)

    def _result(self, block: Json, kind: str) -> Json:
        identity, content = string(block.get("tool_use_id")), block.get("content")
        called = self._tools.get(identity)
        if identity not in self._calls:
            self._told[identity] = called
        name, server = called or ("", "")
        error = block.get("is_error") is True
        metadata: Json = {}
        if kind == "tool_result":
            shown = self._result_content(content)
        else:
            shown = result_text(content)
            error = error or failed(content)
            name = name or kind.removesuffix("_tool_result")
            metadata["server"] = server or ("mcp" if kind == "mcp_tool_result" else _SERVER)
        message: Json = {"role": "tool", "tool_call_id": identity, "content": shown}
        if error:
            name = f"{name} (error)".lstrip()
            metadata["is_error"] = True
        return message | ({"tool_name": name} if name else {}) | ({"metadata": metadata} if metadata else {})

    def _result_content(self, content: Any) -> str | list[Json]:
        """A client tool's result: a string, or parts where it holds images."""
        run = _Run("tool")
        for block in blocks(content):
            kind = kind_of(block)
            if kind not in WORDS:
                self._note(kind)
            run.show(image(block) if kind == "image" else in_words(block))
        return run.content()


class _Run:
    """Text and images that stand side by side in one message."""

    def __init__(self, role: str) -> None:
        self.role = role
        self._parts: list[Json] = []
        self._joints: list[str] = []
        self._prose = False
        self._images = False
        self._citations: list[Any] = []

    def say(self, text: str, citations: Any) -> None:
        """Text of the conversation. An assistant's is one text, into however many blocks its citations have cut it."""
        self._add({"type": "text", "text": text}, "" if self._prose and self.role == "assistant" else "\n")
        self._prose = True
        if isinstance(citations, list):
            self._citations.extend(map(_readable_citation, citations))

    def show(self, part: Json | str) -> None:
        """An image, or something in words that is not the conversation's own text: on lines of its own."""
        self._images = self._images or not isinstance(part, str)
        self._add({"type": "text", "text": part} if isinstance(part, str) else part, "\n")
        self._prose = False

    def content(self) -> str | list[Json]:
        """One string, or parts if there is an image among them."""
        if self._images:
            return self._parts
        pieces = (
            piece for joint, part in zip(self._joints, self._parts, strict=True) for piece in (joint, part["text"])
        )
        return "".join(pieces)

    def message(self) -> Json | None:
        """The run as a message; None if it is empty."""
        if not self._parts:
            return None
        message: Json = {"role": self.role, "content": self.content()}
        return message | {"citations": self._citations} if self._citations else message

    def _add(self, part: Json, joint: str) -> None:
        self._joints.append(joint if self._parts else "")
        self._parts.append(part)


def system_of(content: Any) -> list[Json]:
    """The system prompt as trace messages: one, or none."""
    text = "\n".join(map(in_words, blocks(content)))
    return [{"role": "system", "content": text}] if text else []


def _thinking(block: Json) -> Json:
    if block.get("type") == "redacted_thinking":
        return {"role": "thinking", "content": REDACTED_THINKING}
    message: Json = {"role": "thinking", "content": string(block.get("thinking"))}
    signature = block.get("signature")
    return message | {"signature": signature} if signature else message


def _readable_citation(citation: Any) -> Any:
    if not isinstance(citation, dict):
        return citation
    return {key: value for key, value in citation.items() if not key.startswith("encrypted")}


def _arguments(value: Any, raw: str | None) -> Json:
    """A call's arguments: always an object, since an Explorer takes nothing else."""
    if raw is not None:
        return {"_raw": raw}
    if isinstance(value, dict):
        return value
    return {} if value is None else {"_raw": value if isinstance(value, str) else text_of(value)}
