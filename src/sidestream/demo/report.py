"""What the demo proves in the end: the traces that arrived, and that no byte was changed on the way."""

from __future__ import annotations

import base64
import json
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from sidestream.demo.calls import sha256
from sidestream.demo.picture import size
from sidestream.demo.screen import BOLD, CYAN, DIM, GREEN, INDENT, RED, columns_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sidestream.demo.calls import Call
    from sidestream.demo.screen import Screen
    from sidestream.testing import PushedTrace

_DIGITS = 12


def show_setting(screen: Screen, provider_url: str, base_url: str, key: str, trace_key: str) -> None:
    """What is about to run, and the two strings that the gateway changes for an agent."""
    screen.line(screen.styled("An agent, a gateway, a provider", BOLD))
    screen.line(screen.styled("Nothing leaves this machine: the provider is scripted, the Explorer a stand-in.", DIM))
    screen.line()
    screen.paragraph("base URL", f"{provider_url}\n→ {base_url}")
    screen.paragraph("API key", f"{key}\n→ {key};invariant-auth={trace_key[:12]}…")
    screen.heading("The run", "as it streams")


def show_trace(screen: Screen, trace: PushedTrace, calls: int) -> None:
    """The whole run, message by message, and what is known of its turns."""
    screen.heading("The trace", f"{calls} calls, each with all of its history, became one at the Explorer")
    turns: list[dict[str, Any]] = []
    for message in trace.messages:
        texts = _lines_of(message)
        for label, text in zip_longest([message["role"]], texts, fillvalue=""):
            screen.paragraph(label, _cut(text, screen.width - INDENT), DIM if message["role"] == "thinking" else "")
        if "sidestream" in (facts := message.get("metadata") or {}):
            turns.append(facts)
    for facts in turns:
        turn, usage = facts["sidestream"], facts["usage"]
        screen.paragraph(
            f"turn {turn['turn']}",
            f"{turn['rule']} · {usage['input_tokens']} in, {usage['output_tokens']} out · {facts['stop_reason']}",
            DIM,
        )


def show_proof(screen: Screen, sent: Sequence[Call], seen: Sequence[Call]) -> bool:
    """Compare what the agent sent and received with what the provider received and sent; whether all is identical."""
    screen.heading("The proof", "size and SHA-256 of every body, at both ends")
    whole = bool(sent)
    screen.line(screen.styled(f"{'agent':>18}{'provider':>29}", DIM))
    for number, (ours, theirs) in enumerate(zip_longest(sent, seen), 1):
        for name in ("request", "response"):
            here, there = (bytes(getattr(end, name)) if end else b"" for end in (ours, theirs))
            same = here == there and ours is not None and theirs is not None
            whole = whole and same
            verdict = screen.styled("identical", GREEN) if same else screen.styled("DIFFERENT", RED)
            label = screen.styled(f"{number if name == 'request' else '':>3} {name:<8}", CYAN)
            screen.line(f"{label} {_body(here)}  {_body(there)}  {verdict}")
    return whole


def show_promises(screen: Screen, promises: Mapping[str, bool]) -> None:
    """Sentences, and whether each is true."""
    screen.line()
    for sentence, true in promises.items():
        screen.line(f"  {screen.styled('✓', GREEN) if true else screen.styled('✗ NOT TRUE:', RED)} {sentence}")


def _body(body: bytes) -> str:
    return f"{len(body):>7,} B  {sha256(body)[:_DIGITS]}"


def _lines_of(message: dict[str, Any]) -> list[str]:
    """A message in a few lines: the first of its content, its images, its tool calls."""
    content = message.get("content") or ""
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    text = " ".join(_part(part) for part in parts)
    if "tool_name" in message:
        text = f"{message['tool_name']} → {text}"
    calls = [call["function"] for call in message.get("tool_calls") or []]
    lines = [text] if text else []
    return lines + [f"{call['name']} {json.dumps(call['arguments'], ensure_ascii=False)}" for call in calls]


def _part(part: dict[str, Any]) -> str:
    if part["type"] == "text":
        first, *rest = str(part["text"]).split("\n")
        return f"{first} …" if rest else first
    kind, _, data = part["image_url"]["url"].removeprefix("data:").partition(";base64,")
    png = base64.b64decode(data)
    width, height = size(png)
    return f"[{kind}, {width}x{height}, {len(png)} bytes]"


def _cut(text: str, columns: int) -> str:
    if columns_of(text) <= columns:
        return text
    while columns_of(text) > columns - 2:
        text = text.rpartition(" ")[0] or text[:-1]
    return f"{text} …"
