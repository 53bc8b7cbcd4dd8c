"""A run of an agent is one trace, with each message once, whichever framework the agent is built on."""

from __future__ import annotations

from typing import Any

import pytest

from agents import AGENTS, QUESTIONS, RESULTS, SYSTEM, Kept
from model_provider import ModelProvider
from sidestream.testing import gateway

RESENT = ["first", *["extends_tip"] * 4]
RULES = {
    "handwritten": RESENT,
    "tool_runner": RESENT,
    "tool_runner_with_threads": ["first", "continues_thread", "continues_thread", "extends_tip", "extends_tip"],
    "langchain": RESENT,
    "pydantic_ai": RESENT,
}
CONVERSATION = [
    ("system", SYSTEM),
    ("user", QUESTIONS[0]),
    ("thinking", "How wet is it?\nThe probe knows."),
    ("assistant", "I'll look at the soil."),
    ("call", "toolu_0001"),
    ("tool", RESULTS["read_probe"]),
    ("thinking", ""),
    ("assistant", "Dry: 18 %."),
    ("call", "toolu_0002"),
    ("assistant", "Better not wait."),
    ("call", "toolu_0003"),
    ("tool", RESULTS["forecast"]),
    ("tool", RESULTS["open_valve"]),
    ("thinking", "[redacted thinking]"),
    ("assistant", "The valve is open. No rain is coming.\n\n — 苔 🍵"),
    ("user", QUESTIONS[1]),
    ("assistant", "Tomorrow, too."),
    ("user", QUESTIONS[2]),
    ("assistant", "Good night."),
]


def told(messages: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Who says what, and the tool calls; an assistant's words without the white space at their ends."""
    return [part for message in messages for part in parts(message)]


def parts(message: dict[str, Any]) -> list[tuple[str, str]]:
    words = message["content"].strip() if message["role"] == "assistant" else message["content"]
    return [(message["role"], words), *(("call", call["id"]) for call in message.get("tool_calls", []))]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("framework", RULES)
async def test_a_run_is_one_trace_with_each_message_once(
    framework: str, streamed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANGSMITH_TRACING_V2", "false")
    async with ModelProvider() as provider, gateway(provider.url, sinks=["agents:Kept"]) as url:
        await AGENTS[framework](f"{url}/garden/anthropic", streamed=streamed)
        turns = await Kept.latest.wait_for(5)
    assert RULES[framework] == [turn.rule for turn in turns]
    assert [(turns[0].id, n) for n in range(1, 6)] == [(turn.trace, turn.number) for turn in turns]
    assert {"garden"} == {turn.dataset for turn in turns}
    assert CONVERSATION == told([message for turn in turns for message in turn.messages])
