"""Agents as people build them, each on another framework.

Every agent is asked `QUESTIONS` in one conversation, and works through the tool calls of the model's first two answers
(`model_provider`): five calls in all. In which form a framework sends back what the model said is its own business, and
what these agents are for. A framework that is not installed skips its test, except in CI.

``PYTHONPATH=tests python -m agents`` records what they send in ``tests/fixtures/agents``.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import anthropic
import pytest
from anthropic import beta_async_tool

from model_provider import MODEL, ModelProvider
from sidestream.testing import ListSink

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

RECORDED: Final = Path(__file__).parent / "fixtures" / "agents"

KEY: Final = "sk-ant-agents"
SYSTEM: Final = "You look after a garden.\nBe brief."
QUESTIONS: Final = ("Does the bed by the north gate need water?", "Danke! Und morgen? ", "Gut.")
RESULTS: Final = {
    "read_probe": "soil: 18 %\nair: 31 °C\n",
    "forecast": '{"rain": [0.0, 1e-1], "note": "no \\"rain\\""}',
    "open_valve": "",
}


class Agent(Protocol):
    """A whole run of an agent, at a base URL; `streamed` or not."""

    __name__: str

    async def __call__(self, base_url: str, *, streamed: bool) -> None: ...


class Kept(ListSink):
    """A `ListSink` that a configuration can name as ``agents:Kept``; the latest is `latest`."""

    latest: Kept

    def __init__(self) -> None:
        super().__init__()
        Kept.latest = self


async def read_probe(bed: str, depth: float) -> str:
    """Read the moisture probe of a bed.

    Args:
        bed: which one
        depth: in centimetres
    """
    assert ("north gate", 2.0) == (bed, depth)
    return RESULTS["read_probe"]


async def forecast(place: str, days: int) -> str:
    """Tell how much rain is coming.

    Args:
        place: where
        days: how many
    """
    assert ("京都", 3) == (place, days)
    return RESULTS["forecast"]


async def open_valve(bed: str, minutes: int) -> str:
    """Water a bed.

    Args:
        bed: which one
        minutes: for how long
    """
    assert ('the "north" gate', 12) == (bed, minutes)
    return RESULTS["open_valve"]


TOOLS: Final[dict[str, Callable[..., Coroutine[Any, Any, str]]]] = {
    "read_probe": read_probe,
    "forecast": forecast,
    "open_valve": open_valve,
}
_THINKING: Final = {"type": "enabled", "budget_tokens": 1024}


def _client(base_url: str) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(api_key=KEY, base_url=base_url, max_retries=0)


async def handwritten(base_url: str, *, streamed: bool) -> None:
    """The official SDK, in the loop that its documentation shows."""
    questions: Iterator[Any] = iter(QUESTIONS)
    messages: list[Any] = [{"role": "user", "content": next(questions)}]
    tools = [beta_async_tool(tool).to_dict() for tool in TOOLS.values()]
    fields: dict[str, Any] = {"model": MODEL, "max_tokens": 2048, "system": SYSTEM, "thinking": _THINKING}
    async with _client(base_url) as client:
        while messages[-1]["content"]:
            answer = await _answer(client, streamed, **fields, tools=tools, messages=messages)
            calls = [block for block in answer.content if block.type == "tool_use"]
            results: list[Any] = [
                {"type": "tool_result", "tool_use_id": call.id, "content": await TOOLS[call.name](**call.input)}
                for call in calls
            ]
            messages.append({"role": "assistant", "content": answer.content})
            messages.append({"role": "user", "content": results or next(questions, [])})


async def _answer(client: anthropic.AsyncAnthropic, streamed: bool, **ask: Any) -> Any:
    if not streamed:
        return await client.messages.create(**ask)
    async with client.messages.stream(**ask) as stream:
        return await stream.get_final_message()


async def tool_runner(base_url: str, *, streamed: bool) -> None:
    """The SDK's own loop, without message threads."""
    await _run_tools(base_url, streamed, thread=False)


async def tool_runner_with_threads(base_url: str, *, streamed: bool) -> None:
    """The SDK's own loop as it is by default: the provider holds what was said, and requests do not repeat it."""
    await _run_tools(base_url, streamed)


async def _run_tools(base_url: str, streamed: bool, **options: Any) -> None:
    tools = [beta_async_tool(tool) for tool in TOOLS.values()]
    fields: dict[str, Any] = {"model": MODEL, "max_tokens": 2048, "system": SYSTEM, "thinking": _THINKING}
    messages: list[Any] = []
    async with _client(base_url) as client:
        for asked in QUESTIONS:
            messages.append({"role": "user", "content": asked})
            runner: Any = client.beta.messages.tool_runner(
                **fields, **options, tools=tools, messages=messages, stream=streamed
            )
            async for item in runner:
                answer = await item.get_final_message() if streamed else item
                results = await runner.generate_tool_call_response()
                messages += [answer.to_param(), *([results] if results else [])]


async def langchain(base_url: str, *, streamed: bool) -> None:
    """LangChain's agent, which is a graph of LangGraph's."""
    chat_models, agents = needed("langchain_anthropic"), needed("langchain.agents")
    model = chat_models.ChatAnthropic(
        model=MODEL,
        max_tokens=2048,
        thinking=_THINKING,
        api_key=KEY,
        base_url=base_url,
        max_retries=0,
        streaming=streamed,
    )
    agent = agents.create_agent(model, list(TOOLS.values()), system_prompt=SYSTEM)
    messages: list[Any] = []
    try:
        for asked in QUESTIONS:
            state = await agent.ainvoke({"messages": [*messages, {"role": "user", "content": asked}]})
            messages = state["messages"]
    finally:
        await model._async_client.close()  # noqa: SLF001 (it would be left to the garbage collector)


async def pydantic_ai(base_url: str, *, streamed: bool) -> None:
    """pydantic-ai's agent, which moves its cache breakpoints from call to call."""
    ai = needed("pydantic_ai")
    models, providers = needed("pydantic_ai.models.anthropic"), needed("pydantic_ai.providers.anthropic")
    async with _client(base_url) as client:
        model = models.AnthropicModel(MODEL, provider=providers.AnthropicProvider(anthropic_client=client))
        settings = {"max_tokens": 2048, "anthropic_thinking": _THINKING, "anthropic_cache_messages": True}
        agent = ai.Agent(model, instructions=SYSTEM, tools=list(TOOLS.values()), model_settings=settings)
        messages: Any = None
        for asked in QUESTIONS:
            handler = _drain if streamed else None
            result = await agent.run(asked, message_history=messages, event_stream_handler=handler)
            messages = result.all_messages()


async def _drain(_context: Any, events: Any) -> None:
    """A handler of events makes pydantic-ai ask for streams."""
    async for _ in events:
        pass


def needed(module: str) -> Any:
    """A module of a framework; where it is not installed the test is skipped, except in CI."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"{error.name} is not installed: pip install 'sidestream[test]'")


AGENTS: Final[dict[str, Agent]] = {
    agent.__name__: agent for agent in (handwritten, tool_runner, tool_runner_with_threads, langchain, pydantic_ai)
}


async def record(agent: Agent) -> None:
    """Write down what an agent asks, and what it is answered."""
    lines = ["{"]
    for manner, end in (("plain", "],"), ("streamed", "]}")):
        async with ModelProvider() as provider:
            await agent(provider.url, streamed=manner == "streamed")
        calls = [json.dumps({"asked": asked, "answer": answer}, ensure_ascii=False) for asked, answer in provider.calls]
        lines += [f'"{manner}": [', ",\n".join(calls), end]
    (RECORDED / f"{agent.__name__}.json").write_text("\n".join([*lines, ""]))


async def _record_all() -> None:
    for agent in AGENTS.values():
        await record(agent)


if __name__ == "__main__":
    asyncio.run(_record_all())
