"""Whatever an Explorer does to what it is sent, it arrives once, or is where an operator sees it."""

from __future__ import annotations

import asyncio
import json
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from rawhttp import exchange, post
from sidestream.errors import SidestreamError
from sidestream.recorder.asking import ask
from sidestream.recorder.requests import Redeliver
from sidestream.store.rows import State
from sidestream.store.store import Store
from sidestream.testing import FakeExplorer, gateway
from sidestream.testing.upstream import response

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sidestream.store.rows import Delivery
    from sidestream.testing import ScriptedUpstream
    from sidestream.testing.upstream import Connection, Received

KEY = "inv-" + "0123456789abcdef" * 4
OTHER = "inv-" + "fedcba9876543210" * 4


def settings(explorer: FakeExplorer, folder: Path, **options: Any) -> dict[str, Any]:
    sink = {"url": explorer.url, "settle": "100ms", "timeout": "500ms", **options}
    return {"sinks": [{"explorer": sink}], "recorder": {"mode": "thread", "dir": str(folder / "data"), "min_free": 0}}


async def call(url: str, key: str = KEY) -> None:
    answer = await exchange(url, post(b'{"messages": []}', headers=f"x-api-key: sk-ant;invariant-auth={key}\r\n"))
    assert answer.complete


class Chat:
    """Somebody who says "a1", is answered "A1", and so on, through the gateway at `url`."""

    def __init__(self, url: str, key: str = KEY) -> None:
        self.url = url
        self._key = key
        self._messages: list[dict[str, Any]] = []

    async def says(self, turns: int = 1) -> None:
        for _ in range(turns):
            number = len(self._messages) // 2 + 1
            self._messages.append({"role": "user", "content": f"a{number}"})
            headers = f"x-api-key: sk-ant;invariant-auth={self._key}\r\n"
            body = json.dumps({"model": "m", "messages": self._messages}).encode()
            assert (await exchange(self.url, post(body, headers=headers))).complete
            self._messages.append({"role": "assistant", "content": f"A{number}"})


async def answers(received: Received, connection: Connection) -> None:
    """As a provider that answers in capitals."""
    said = json.loads(bytes(received.body))["messages"][-1]["content"].upper()
    message: dict[str, Any] = {
        "type": "message",
        "id": f"msg_{said}",
        "role": "assistant",
        "model": "m",
        "stop_reason": "end_turn",
    }
    message |= {"content": [{"type": "text", "text": said}], "usage": {"input_tokens": 1, "output_tokens": 1}}
    await connection.send(response(json.dumps(message).encode()))


def said(explorer: FakeExplorer) -> list[list[str]]:
    return [[message["content"] for message in trace.messages] for trace in explorer.traces]


def run(turns: int) -> list[str]:
    return [f"{letter}{number}" for number in range(1, turns + 1) for letter in "aA"]


def rows(folder: Path) -> list[Delivery]:
    """The deliveries, oldest first."""
    try:
        with closing(Store.open_reader(folder / "data" / "store.db")) as store:
            return store.deliveries()[::-1]
    except SidestreamError:  # it is just being made
        return []


async def settled(folder: Path, *states: State) -> list[Delivery]:
    """The deliveries, once they are in these states."""
    found: list[Delivery] = []

    def arrived() -> bool:
        nonlocal found
        found = rows(folder)
        return [row.state for row in found] == list(states)

    await until(arrived)
    return found


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  # another thread's database
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("failure", "attempts"),
    [
        ({"drop": True, "store": True}, 1),
        ({"drop": True}, 2),
        ({"status": 500, "store": True}, 1),
        ({"status": 500}, 2),
        ({"status": 500, "times": 3}, 4),
        ({"hang": True, "store": True}, 1),
        ({"hang": True}, 2),
        ({"status": 503}, 2),
        ({"status": 429, "retry_after": 1}, 2),
        ({"status": 502, "times": 2}, 3),
    ],
    ids=str,
)
async def test_a_trace_arrives_once_whatever_happens_to_its_push(
    upstream: ScriptedUpstream, tmp_path: Path, failure: dict[str, Any], attempts: int
) -> None:
    async with FakeExplorer() as explorer:
        explorer.fail_next(**failure)
        async with gateway(upstream.url, **settings(explorer, tmp_path)) as url:
            await call(url)
            (row,) = await settled(tmp_path, State.DELIVERED)
        (trace,) = explorer.traces
    mark = {"exchange": row.exchange, "attempt": attempts, "trace": row.exchange, "turn": 1, "rule": "first"}
    assert mark == trace.metadata["sidestream"]
    assert (attempts, trace.id) == (row.attempts, row.remote)


@pytest.mark.parametrize("status", [400, 404, 413])
async def test_what_the_explorer_refuses_for_good_is_dead_and_holds_nothing_up(
    upstream: ScriptedUpstream, tmp_path: Path, status: int
) -> None:
    async with FakeExplorer() as explorer:
        explorer.fail_next(status)
        async with gateway(upstream.url, **settings(explorer, tmp_path)) as url:
            await call(url)
            await call(url)
            dead, _delivered = await settled(tmp_path, State.DEAD, State.DELIVERED)
        assert 1 == len(explorer.traces)
    assert str(status) in (dead.reason or "")


@pytest.mark.parametrize(
    ("failure", "attempts"),
    [
        ({"drop": True, "store": True}, 1),
        ({"drop": True}, 2),
        ({"status": 500, "store": True}, 1),
        ({"status": 500}, 2),
        ({"status": 500, "times": 3}, 4),
        ({"hang": True, "store": True}, 1),
        ({"hang": True}, 2),
        ({"status": 503}, 2),
        ({"status": 504, "store": True}, 1),
        ({"status": 429, "retry_after": 1}, 2),
        ({"status": 502, "times": 2}, 3),
    ],
    ids=str,
)
async def test_a_conversation_is_one_trace_whatever_happens_to_its_second_turn(
    upstream: ScriptedUpstream, tmp_path: Path, failure: dict[str, Any], attempts: int
) -> None:
    upstream.script = answers
    async with FakeExplorer() as explorer:
        explorer.fail_next(path="/messages", **failure)
        async with gateway(upstream.url, **settings(explorer, tmp_path)) as url:
            await Chat(url).says(4)
            found = await settled(tmp_path, *[State.DELIVERED] * 4)
        assert [run(4)] == said(explorer)
        assert not explorer.frozen
    assert {explorer.traces[0].id} == {row.remote for row in found}
    assert [1, attempts, 1, 1] == [row.attempts for row in found]


async def test_a_turn_that_is_refused_for_good_leaves_a_word_and_holds_nothing_up(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    upstream.script = answers
    async with FakeExplorer() as explorer:
        explorer.fail_next(413, path="/messages")
        async with gateway(upstream.url, **settings(explorer, tmp_path)) as url:
            await Chat(url).says(3)
            await settled(tmp_path, State.DELIVERED, State.DEAD, State.DELIVERED)
        note = "[turn 2 could not be delivered: Explorer answered 413: it is too large]"
        assert [["a1", "A1", note, "a3", "A3"]] == said(explorer)


async def test_a_conversation_whose_trace_was_deleted_goes_on_in_another_one_with_all_of_it(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    upstream.script = answers
    async with FakeExplorer() as explorer:
        async with gateway(upstream.url, **settings(explorer, tmp_path)) as url:
            chat = Chat(url)
            await chat.says(2)
            await settled(tmp_path, *[State.DELIVERED] * 2)
            explorer.traces.clear()
            await chat.says(2)
            await settled(tmp_path, *[State.DELIVERED] * 4)
        assert [run(4)] == said(explorer)


async def test_a_conversation_waits_for_the_explorer_and_goes_on_after_a_restart(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    upstream.script = answers
    async with FakeExplorer() as explorer:
        options = settings(explorer, tmp_path)
        async with gateway(upstream.url, **options) as url:
            chat = Chat(url)
            await chat.says()
            await settled(tmp_path, State.DELIVERED)
            await explorer.go_down()
            await chat.says()
            await settled(tmp_path, State.DELIVERED, State.RETRY_AT)
        await explorer.come_back()
        async with gateway(upstream.url, **options) as chat.url:
            await chat.says()
            await settled(tmp_path, *[State.DELIVERED] * 3)
        assert [run(3)] == said(explorer)


async def test_a_conversation_whose_key_is_refused_for_a_while_goes_on_in_its_trace(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    upstream.script = answers
    async with FakeExplorer() as explorer:
        options = settings(explorer, tmp_path)
        async with gateway(upstream.url, **options) as url:
            chat = Chat(url)
            await chat.says()
            await settled(tmp_path, State.DELIVERED)
            explorer.refused.add(KEY)
            await chat.says(2)
            await settled(tmp_path, State.DELIVERED, State.PARKED, State.PARKED)
            explorer.refused.clear()
            assert [{"count": 2}] == [each async for each in ask(loaded(options), Redeliver(states=[State.PARKED]))]
            await settled(tmp_path, *[State.DELIVERED] * 3)
        assert [run(3)] == said(explorer)


async def test_with_exchanges_each_call_is_a_trace_with_all_of_its_history(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    upstream.script = answers
    async with FakeExplorer() as explorer:
        async with gateway(upstream.url, **settings(explorer, tmp_path, mode="exchange")) as url:
            await Chat(url).says(3)
            await settled(tmp_path, *[State.DELIVERED] * 3)
        assert [run(1), run(2), run(3)] == said(explorer)


async def test_a_trace_of_an_explorer_that_always_fails_is_dead_after_twelve_times(
    upstream: ScriptedUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidestream.sinks.policy.Policy.wait", lambda *_: 0.01)
    async with FakeExplorer() as explorer:
        explorer.fail_next(500, times=12)
        async with gateway(upstream.url, **settings(explorer, tmp_path, settle="10ms")) as url:
            await call(url)
            (row,) = await settled(tmp_path, State.DEAD)
        assert [] == explorer.traces
    assert (12, 12) == (row.attempts, row.server_errors)


async def test_a_refused_key_parks_its_traces_a_new_key_works_and_redelivery_is_for_an_operator(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    async with FakeExplorer() as explorer:
        explorer.refused.add(KEY)
        options = settings(explorer, tmp_path)
        async with gateway(upstream.url, **options) as url:
            await call(url)
            await settled(tmp_path, State.PARKED)
            await call(url, OTHER)
            parked, _delivered = await settled(tmp_path, State.PARKED, State.DELIVERED)
            assert "the destination refused the key of the call" == parked.reason
            explorer.refused.clear()
            config = loaded(options)
            assert [{"count": 1}] == [answer async for answer in ask(config, Redeliver(states=[State.PARKED]))]
            await settled(tmp_path, State.DELIVERED, State.DELIVERED)
        assert {KEY, OTHER} == {trace.key for trace in explorer.traces}


def loaded(options: dict[str, Any]) -> Any:
    from sidestream import config  # noqa: PLC0415

    return config.load(options)


async def test_after_a_restart_a_trace_waits_until_its_key_is_seen_again(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    async with FakeExplorer() as explorer:
        options = settings(explorer, tmp_path)
        await explorer.go_down()
        async with gateway(upstream.url, **options) as url:
            await call(url)
            await settled(tmp_path, State.RETRY_AT)
        await explorer.come_back()
        async with gateway(upstream.url, **options) as url:
            (parked,) = await settled(tmp_path, State.PARKED)
            assert "the key of the call is not known any more" == parked.reason
            await call(url)
            await settled(tmp_path, State.DELIVERED, State.DELIVERED)
        assert [row.exchange for row in rows(tmp_path)] == explorer.exchanges()


async def test_after_a_restart_a_configured_key_delivers_what_waits(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    key_file = tmp_path / "key"
    key_file.write_text(f"{OTHER}\n")
    async with FakeExplorer() as explorer:
        await explorer.go_down()
        async with gateway(upstream.url, **settings(explorer, tmp_path)) as url:
            await call(url)
            await settled(tmp_path, State.RETRY_AT)
        await explorer.come_back()
        async with gateway(upstream.url, **settings(explorer, tmp_path, api_key_file=str(key_file))):
            await settled(tmp_path, State.DELIVERED)
        assert [OTHER] == [trace.key for trace in explorer.traces]
