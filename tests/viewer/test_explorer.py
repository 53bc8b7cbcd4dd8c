"""Explorer's API: the official SDK and our own sink against it, and what it refuses."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import uuid
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from invariant_sdk.client import Client
from invariant_sdk.types.exceptions import InvariantAuthError, InvariantNotFoundError

from conversing import Call, text, user
from delivering import Bench, a_turn
from exploring import KEY, a_sink, an_append, found, opened
from growing import Agent, Growing
from sidestream.errors import Gone
from sidestream.sinks import policy
from sidestream.sinks.base import Found
from sidestream.store.library import Library
from sidestream.store.shapes import RunFilter, Tokens, TurnState
from stored import BEGAN, a_run
from viewing import Stage, staged, viewer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

HELLO = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
BEARER = {"Authorization": f"Bearer {KEY}"}


@asynccontextmanager
async def exploring(folder: Path, access: str = "open") -> AsyncIterator[tuple[Stage, str]]:
    async with staged(folder) as stage, viewer(stage, X_Sidestream_Access=access) as url:
        yield stage, url


async def in_sdk(url: str, call: Callable[[Client], Any]) -> Any:
    """What the official client makes of the API; it blocks, so it gets a thread."""
    client = Client(api_url=url, api_key=KEY)
    try:
        return await asyncio.to_thread(call, client)
    finally:
        client.session.close()


async def asked(
    url: str, path: str, body: Any = None, *, method: str = "POST", headers: dict[str, str] | None = None
) -> tuple[int, Any]:
    """Status and answer of a request; a body of bytes is sent as it is."""
    data = None if body is None else io.BytesIO(body if isinstance(body, bytes) else json.dumps(body).encode())
    async with (
        aiohttp.ClientSession() as client,
        client.request(
            method, f"{url}/api/v1/{path}", data=data, headers=BEARER if headers is None else headers
        ) as answer,
    ):
        return answer.status, await answer.json()


async def only_run(stage: Stage) -> Any:
    page = await stage.look(Library.runs, RunFilter())
    [run] = page.runs
    return run


async def said(stage: Stage, run: str) -> list[list[dict[str, Any]]]:
    return [[*turn.system, *turn.messages] for turn in await stage.look(Library.messages, run)]


async def test_the_sdk_pushes_a_trace_that_becomes_a_run(tmp_path: Path) -> None:
    async with exploring(tmp_path) as (stage, url):
        pushed = await in_sdk(
            url,
            lambda client: client.create_request_and_push_trace(
                messages=[HELLO], metadata=[{"name": "A greeting", "mine": 1}], dataset="demo"
            ),
        )
        run = await only_run(stage)
        assert (pushed.dataset, pushed.username, pushed.id) == ("demo", "local", [str(uuid.UUID(run.id))])
        assert (run.title, run.dataset, run.state, run.turns) == ("A greeting", "demo", TurnState.ANSWERED, 1)
        assert await said(stage, run.id) == [HELLO]


async def test_the_sdk_pushes_several_traces_without_a_dataset(tmp_path: Path) -> None:
    async with exploring(tmp_path) as (stage, url):
        pushed = await in_sdk(url, lambda client: client.create_request_and_push_trace(messages=[HELLO, HELLO[:1]]))
        assert (pushed.dataset, len(set(pushed.id))) == (None, 2)
        assert [each.name for each in await stage.look(Library.datasets)] == ["pushed"]


async def test_the_sdk_appends_messages_which_become_turns(tmp_path: Path) -> None:
    more = [{"role": "user", "content": "More", "timestamp": "2026-11-22T10:00:00+00:00"}]
    async with exploring(tmp_path) as (stage, url):
        pushed = await in_sdk(url, lambda client: client.create_request_and_push_trace(messages=[HELLO], dataset="d"))
        for _ in range(2):
            appended = await in_sdk(
                url, lambda client: client.create_request_and_append_messages(messages=more, trace_id=pushed.id[0])
            )
            assert appended == {"success": True}
        run = await only_run(stage)
        assert run.turns == 3
        assert await said(stage, run.id) == [HELLO, more, more]


async def test_the_sdk_is_told_that_a_trace_is_not_there(tmp_path: Path) -> None:
    async with exploring(tmp_path) as (_, url):
        with pytest.raises(InvariantNotFoundError):
            await in_sdk(
                url,
                lambda client: client.create_request_and_append_messages(messages=HELLO, trace_id=str(uuid.uuid4())),
            )


async def test_the_sdk_keeps_metadata_of_a_dataset(tmp_path: Path) -> None:
    def update(client: Client, metadata: dict[str, Any], **how: bool) -> Any:
        client.create_request_and_update_dataset_metadata("d", metadata=metadata, **how)
        return client.get_dataset_metadata("d", owner_username="local")

    async with exploring(tmp_path) as (_, url):
        with pytest.raises(InvariantNotFoundError):
            await in_sdk(url, lambda client: client.get_dataset_metadata("d"))
        await in_sdk(url, lambda client: client.create_request_and_push_trace(messages=[HELLO], dataset="d"))
        assert await in_sdk(url, lambda client: client.get_dataset_metadata("d")) == {}
        first = await in_sdk(url, lambda client: update(client, {"benchmark": "b", "accuracy": 12.5}))
        assert first == {"benchmark": "b", "accuracy": 12.5}
        tests = {"invariant.test_results": {"num_tests": 3}}
        second = await in_sdk(url, lambda client: update(client, {"accuracy": 5, **tests}))
        assert second == {"benchmark": "b", "accuracy": 5, **tests}
        assert await in_sdk(url, lambda client: update(client, {"name": "n"}, replace_all=True)) == {"name": "n"}


async def test_the_sdk_is_refused_with_a_key_that_is_not_known(tmp_path: Path) -> None:
    async with exploring(tmp_path) as (stage, url):
        stage.api_keys.create("laptop")
        with pytest.raises(InvariantAuthError):
            await in_sdk(url, lambda client: client.create_request_and_push_trace(messages=[HELLO]))


@pytest.mark.parametrize("access", ["open", "closed"])
async def test_a_key_that_was_made_here_opens_the_api(tmp_path: Path, access: str) -> None:
    async with exploring(tmp_path, access) as (stage, url):
        key = stage.api_keys.create("laptop")
        answer = await asked(url, "user/identity", method="GET", headers={"Authorization": f"Bearer {key}"})
        assert answer == (200, {"username": "local"})
        stage.api_keys.revoke("laptop")
        stage.api_keys.create("other")
        status, _ = await asked(url, "user/identity", method="GET", headers={"Authorization": f"Bearer {key}"})
        assert status == 401


@pytest.mark.parametrize(
    ("access", "headers", "expected"),
    [
        ("open", BEARER, 200),
        ("open", {"Authorization": "Bearer anything"}, 200),
        ("open", {}, 403),
        ("open", {"Authorization": KEY}, 401),
        ("open", {"Authorization": "Bearer "}, 401),
        ("closed", BEARER, 401),
        ("closed", {}, 403),
    ],
)
async def test_without_keys_the_api_is_for_those_who_may_do_anything(
    tmp_path: Path, access: str, headers: dict[str, str], expected: int
) -> None:
    async with exploring(tmp_path, access) as (_, url):
        status, _ = await asked(url, "user/identity", method="GET", headers=headers)
        assert expected == status


async def test_a_request_that_no_relay_has_passed_on_is_closed(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage, viewer(stage) as url:
        status, answer = await asked(url, "user/identity", method="GET")
        assert (status, "sidestream keys create" in answer["detail"]) == (401, True)


async def test_a_trace_reads_as_it_was_pushed(tmp_path: Path) -> None:
    system = [{"role": "system", "content": "Be brief."}]
    metadata = {"name": "N", "hierarchy_path": ["a", "b"], "model": 7, "usage": "none", "metadata": {"x": [1]}}
    notes = [{"content": "nice", "address": "messages.0"}]
    async with exploring(tmp_path) as (_, url):
        payload = {"messages": [[*system, *HELLO]], "metadata": [metadata], "annotations": [notes], "dataset": "d"}
        _, pushed = await asked(url, "push/trace", payload)
        status, trace = await asked(url, f"trace/{pushed['id'][0]}", method="GET")
        assert (status, trace["messages"], trace["dataset"]) == (200, [*system, *HELLO], "d")
        assert (trace["id"], trace["name"], trace["hierarchy_path"]) == (pushed["id"][0], "N", ["a", "b"])
        expected = metadata | {"annotations": notes}
        assert expected == {key: value for key, value in trace["extra_metadata"].items() if key in expected}
        assert await asked(url, f"trace/{uuid.UUID(trace['id']).hex}", method="GET") == (200, trace)


async def test_a_captured_run_reads_as_a_trace_and_is_not_appended_to(tmp_path: Path) -> None:
    async with exploring(tmp_path) as (stage, url):
        stage.add(*a_run("r", 60, words=2))
        _, trace = await asked(url, "trace/r-0", method="GET")
        roles = [message["role"] for message in trace["messages"]]
        assert roles == ["system", *["user", "assistant"] * 60]
        assert trace["extra_metadata"]["sidestream"] == {"exchange": "r-0", "trace": "r-0"}
        status, answer = await asked(url, "trace/r-0/messages", {"messages": HELLO})
        assert (status, "captured" in answer["detail"]) == (400, True)


async def test_a_dataset_lists_its_traces_however_many_there_are(tmp_path: Path) -> None:
    async with exploring(tmp_path) as (stage, url):
        names = [stage.store.push("d", HELLO, {"number": number}) for number in range(250)]
        stage.store.push("other", HELLO, {})
        _, traces = await asked(url, "dataset/byuser/local/d/traces", method="GET")
        assert sorted(str(uuid.UUID(name)) for name in names) == sorted(trace["id"] for trace in traces)
        assert sorted(trace["extra_metadata"]["number"] for trace in traces) == list(range(250))
        assert await asked(url, "dataset/byuser/local/d/policy", method="GET") == (200, {"policies": []})
        for path in ("dataset/byuser/local/none/traces", "dataset/byuser/somebody/d/traces"):
            assert await asked(url, path, method="GET") == (404, {"detail": "Dataset not found"})


REFUSED: list[tuple[Any, int]] = [
    ({}, 400),
    ({"messages": []}, 400),
    ({"messages": [[]]}, 400),
    ({"messages": ["x"]}, 400),
    ({"messages": [["x"]]}, 400),
    ({"messages": [[{"content": "x"}]]}, 400),
    ({"messages": [[{"role": 1}]]}, 400),
    ({"messages": [[{"role": "assistant", "tool_calls": [{}]}]]}, 400),
    ({"messages": [[{"role": "assistant", "tool_calls": [{"function": {"arguments": [1]}}]}]]}, 400),
    ({"messages": [HELLO], "metadata": []}, 200),
    ({"messages": [HELLO], "metadata": [{}, {}]}, 400),
    ({"messages": [HELLO], "metadata": ["x"]}, 400),
    ({"messages": [HELLO], "annotations": [[{"content": "x"}]]}, 400),
    ({"messages": [HELLO], "dataset": "a/b"}, 400),
    ({"messages": [HELLO], "dataset": 1}, 400),
    ({"messages": [HELLO] * 1001}, 413),
    ([], 400),
    (b"", 400),
    (b"{", 400),
    (b"\xff\xfe", 400),
    (b'{"messages": [[{"role": "user", "content": ' + b"[" * 100_000 + b"]" * 100_000 + b"}]]}", 400),
    (b'{"messages": [[{"role": "user", "content": "' + b"x" * (65 << 20) + b'"}]]}', 413),
]


async def test_what_cannot_be_a_push_is_refused_and_nothing_of_it_is_stored(tmp_path: Path) -> None:
    async with exploring(tmp_path) as (stage, url):
        statuses = [(await asked(url, "push/trace", body))[0] for body, _ in REFUSED]
        assert [expected for _, expected in REFUSED] == statuses
        assert (await only_run(stage)).turns == 1


async def test_what_no_parser_likes_is_stored_as_what_it_can_be(tmp_path: Path) -> None:
    """Half of a surrogate pair, numbers that JSON does not have, deep nesting, arguments as text."""
    odd = b'"\\ud83d", NaN, 1e400, 123456789012345678901234567890'
    deep = b"[" * 300 + b"]" * 300
    arguments = (
        b'[{"id": "1", "function": {"name": "f", "arguments": "{\\"a\\": 1}"}}, {"function": {"arguments": "{"}}]'
    )
    body = (
        b'{"messages": [[{"role": "user", "content": [%b, %b]}, {"role": "assistant", "tool_calls": %b}]],'
        b' "metadata": [{"name": "\\ud83d", "usage": {"input_tokens": 1e400}, "duration": NaN, "started_at": "x"}]}'
    ) % (odd, deep, arguments)
    async with exploring(tmp_path) as (_, url):
        status, pushed = await asked(url, "push/trace", body)
        assert status == 200
        _, trace = await asked(url, f"trace/{pushed['id'][0]}", method="GET")
        content = trace["messages"][0]["content"]
        assert content[:4] == ["\ufffd", "NaN", "Infinity", 123456789012345678901234567890]
        functions = [call["function"]["arguments"] for call in trace["messages"][1]["tool_calls"]]
        assert functions == [{"a": 1}, {"_raw": "{"}]


@pytest.mark.parametrize(
    ("encoding", "body", "expected"),
    [
        ("gzip", gzip.compress(json.dumps({"messages": [HELLO]}).encode()), 200),
        ("gzip", b"no gzip", 400),
        ("gzip", gzip.compress(b"{" + b" " * (65 << 20) + b"}", 1), 413),
        ("unheard-of", b"?", 415),
    ],
    ids=["packed", "not packed", "too large", "unheard of"],
)
async def test_compressed_bodies_are_read_within_limits(
    tmp_path: Path, encoding: str, body: bytes, expected: int
) -> None:
    async with exploring(tmp_path) as (_, url):
        status, _ = await asked(url, "push/trace", body, headers={**BEARER, "Content-Encoding": encoding})
        assert expected == status


async def test_what_another_sidestream_knows_of_its_turns_is_known_here(tmp_path: Path) -> None:
    """The explorer sink of one gateway against the API of another: models, tokens, times and messages arrive."""
    async with exploring(tmp_path) as (stage, url), opened(url) as sink:
        with Growing() as there:
            there.add(*Agent("q", BEGAN - 10).calls(3))
            for _ in range(3):
                delivery, turn = there.claim()
                policy.arrived(delivery, await sink.deliver(turn, None, 1))
                there.store.save([delivery])
        run = await only_run(stage)
        assert (run.model, run.turns, run.title, run.state) == ("claude-x", 3, "q1", TurnState.ANSWERED)
        assert run.tokens == Tokens(input=30, output=15)
        turns = (await stage.look(Library.run, run.id)).turns
        assert [(turn.started_at, turn.duration) for turn in turns] == [(BEGAN + 10 * n, 1) for n in range(3)]
        contents = [[message["content"] for message in turn] for turn in await said(stage, run.id)]
        assert contents == [["Be brief.", "q1", "Q1"], ["q2", "Q2"], ["q3", "Q3"]]


async def test_our_sink_finds_what_has_arrived_and_is_told_what_is_gone(tmp_path: Path) -> None:
    async with exploring(tmp_path) as (stage, url), opened(url) as sink:
        remote = await sink.deliver(a_turn("x1"), None, 1)
        assert remote is not None
        assert await found(url, a_turn("x1")) == Found(remote)
        assert await found(url, a_turn("x2")) is None
        second = an_append(remote, "x2")
        assert await found(url, second) is None
        assert await sink.deliver(second, None, 1) == remote
        assert await found(url, second) == Found(remote)
        gone = an_append(str(uuid.uuid4()), "x3")
        with pytest.raises(Gone):
            await sink.deliver(gone, None, 1)
        with pytest.raises(Gone):
            await found(url, gone)
        assert (await only_run(stage)).turns == 2


async def test_a_sink_in_mode_exchange_pushes_each_call_with_its_history(tmp_path: Path) -> None:
    async with exploring(tmp_path) as (stage, url), opened(url, mode="exchange") as sink:
        calls = [Call("x0", [user("q0")], [text("a0")], BEGAN), Call("x1", [user("q0")], [text("a1")], BEGAN + 9)]
        for call in calls:
            await sink.deliver(call.reading().turn(), None, 1)
        page = await stage.look(Library.runs, RunFilter())
        assert [(run.model, run.turns, run.started_at) for run in page.runs] == [
            ("claude-x", 1, BEGAN + 9),
            ("claude-x", 1, BEGAN),
        ]
        assert await found(url, calls[0].reading().turn(), mode="exchange") is not None


async def test_conversations_grow_here_over_restarts_and_begin_anew_where_they_were_deleted(tmp_path: Path) -> None:
    """The whole way: the engine that delivers, its rows, and the API of another gateway."""
    there, here, agent = tmp_path / "there.db", tmp_path / "here", Agent("q", BEGAN)
    here.mkdir()
    for turns, deleted in ((1, False), (2, False), (1, True)):
        bench = Bench(there)
        async with exploring(here) as (stage, url):
            if deleted:
                stage.store.prune(age=None, max_bytes=0)
            sink, call = a_sink(url), agent.call()
            await bench.run_of(sink, call)
            async with bench.delivering(sink):
                await bench.until({**dict(await bench.states()), call.id: "delivered"})
            run = await only_run(stage)
            assert turns == run.turns
            contents = [message["content"] for turn in await said(stage, run.id) for message in turn]
        await bench.close()
    assert contents == ["Be brief.", "q1", "Q1", "q2", "Q2", "q3", "Q3"]
