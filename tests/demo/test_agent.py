"""The agent runs to its end, straight at the provider, and keeps what it sent and received."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

import pytest

from sidestream.demo import DemoFailed
from sidestream.demo.agent import QUESTION, Agent
from sidestream.demo.provider import KEY, ScriptedProvider
from sidestream.demo.screen import Screen
from sidestream.demo.story import ANSWERS
from sidestream.testing.upstream import STREAM_HEAD, Connection, Received, chunk

if TYPE_CHECKING:
    from sidestream.testing import ScriptedUpstream


@pytest.fixture
def out() -> io.StringIO:
    return io.StringIO()


def agent(url: str, out: io.StringIO) -> Agent:
    return Agent(url, KEY, Screen(out, width=1000, styled=False))


async def test_it_runs_to_the_end_of_the_story(out: io.StringIO) -> None:
    async with ScriptedProvider(pace=0) as provider:
        running = agent(provider.url, out)
        assert ANSWERS[-1].content[0]["text"] == await running.run()
    assert [(call.request, call.response) for call in provider.calls] == [
        (call.request, call.response) for call in running.calls
    ]
    assert len(ANSWERS) == len(running.calls)


async def test_it_feeds_back_thinking_results_and_the_picture(out: io.StringIO) -> None:
    async with ScriptedProvider(pace=0) as provider:
        await agent(provider.url, out).run()
    history = json.loads(provider.calls[-1].request)["messages"]
    assert QUESTION == history[0]["content"]
    assert [answer.content for answer in ANSWERS[:-1]] == [message["content"] for message in history[1::2]]
    assert ["toolu_demo_1", "toolu_demo_2"] == [result["tool_use_id"] for result in history[2]["content"]]
    assert ["text", "image"] == [block["type"] for block in history[4]["content"][0]["content"]]


async def test_what_comes_is_shown(out: io.StringIO) -> None:
    async with ScriptedProvider(pace=0) as provider:
        await agent(provider.url, out).run()
    lines = out.getvalue().splitlines()
    assert f"  user       {QUESTION}" in lines
    assert f"  thinks     {ANSWERS[0].content[0]['thinking']}" in lines
    assert f"  says       {ANSWERS[0].content[1]['text']}" in lines
    assert '  calls      forecast {"place": "京都", "days": 3}' in lines
    assert "  gets       north gate, the last 7 days: [image/png]" in lines


async def test_a_refusal_ends_it_with_the_status(out: io.StringIO) -> None:
    async with ScriptedProvider(pace=0) as provider:
        running = Agent(provider.url, "sk-ant-other", Screen(out, width=100, styled=False))
        with pytest.raises(DemoFailed, match="call 1 was answered with status 401"):
            await running.run()


async def test_a_stream_that_breaks_off_ends_it(out: io.StringIO, upstream: ScriptedUpstream) -> None:
    async def script(_received: Received, connection: Connection) -> None:
        await connection.send(STREAM_HEAD + chunk(b"event: ping\n"))
        await connection.reset()

    upstream.script = script
    with pytest.raises(DemoFailed, match="call 1 broke off"):
        await agent(upstream.url, out).run()
