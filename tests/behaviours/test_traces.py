"""Every call under a dataset arrives as a correct trace, whatever became of it: at an Explorer and in a file."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import zstandard

from doubles import Witness
from rawhttp import connect, exchange, post
from sidestream.testing import FakeExplorer, ScriptedUpstream, gateway
from sidestream.testing.upstream import STREAM_HEAD, Connection, Received, chunk, response

FIXTURES = Path(__file__).parent.parent / "fixtures" / "anthropic"
KEY = "inv-" + "0123456789abcdef" * 4
WITNESSED = ["trace_export", "auth_split", "body_capture", "stream_tee", "doubles:Witness"]
HEADERS = f"x-api-key: sk-ant-canary;invariant-auth={KEY}\r\n"
REQUEST = json.dumps(
    {
        "model": "claude-test-1",
        "system": "Be brief.",
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 9,
        "stream": True,
    }
).encode()
ANSWER = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-test-1",
    "content": [{"type": "text", "text": "Hello."}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 3, "output_tokens": 5},
}


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


async def test_a_stream_arrives_at_the_explorer_and_in_the_file(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    stream = (FIXTURES / "text.sse").read_bytes()

    async def script(_received: Received, connection: Connection) -> None:
        await connection.send(STREAM_HEAD + chunk(stream) + chunk(b""))

    upstream.script = script
    file = tmp_path / "t.jsonl"
    async with FakeExplorer() as explorer:
        sinks = [{"explorer": {"url": explorer.url}}, {"jsonl": {"path": str(file)}}]
        async with gateway(upstream.url, sinks=sinks) as url:
            await exchange(url, post(REQUEST, headers=HEADERS))
            (pushed,) = await explorer.wait_for(1)
    (written,) = lines(file)
    assert ["system", "user", "assistant"] == [message["role"] for message in written["messages"]]
    assert ["Be brief.", "Hi"] == [message["content"] for message in written["messages"][:2]]
    facts = written["metadata"]
    assert written["messages"][-1]["metadata"] == {
        "id": facts_of(stream)["id"],
        **{name: facts[name] for name in ("model", "stop_reason", "usage")},
    }
    assert ("completed", True, "anthropic", True, written["id"]) == tuple(
        facts[name] for name in ("outcome", "message_complete", "provider", "via_gateway", "exchange")
    )
    assert 0 <= facts["time_to_first_byte"] <= facts["duration"] < 10
    assert (KEY, "my-agent") == (pushed.key, pushed.dataset)
    assert [message["content"] for message in written["messages"]] == [
        message["content"] for message in pushed.messages
    ]
    mark = {"exchange": written["id"], "attempt": 1, "trace": written["trace"], "turn": 1, "rule": "first"}
    assert mark == pushed.metadata["sidestream"]
    assert pushed.messages[-1]["metadata"]["usage"] == facts["usage"]


def facts_of(stream: bytes) -> dict[str, Any]:
    start = next(line for line in stream.splitlines() if b"message_start" in line and line.startswith(b"data:"))
    message: dict[str, Any] = json.loads(start.removeprefix(b"data:"))["message"]
    return message


@pytest.mark.parametrize(
    ("coding", "pack"), [("gzip", gzip.compress), ("zstd", zstandard.ZstdCompressor().compress), (None, bytes)]
)
async def test_an_answer_in_json_is_traced_however_it_was_encoded(
    upstream: ScriptedUpstream, tmp_path: Path, coding: str | None, pack: Any
) -> None:
    packed = pack(json.dumps(ANSWER).encode())

    async def script(_received: Received, connection: Connection) -> None:
        fields = [("Content-Type", "application/json"), *([("Content-Encoding", coding)] if coding else [])]
        await connection.send(response(packed, headers=fields))

    upstream.script = script
    file = tmp_path / "t.jsonl"
    async with gateway(upstream.url, sinks=[{"jsonl": {"path": str(file)}}]) as url:
        assert packed == (await exchange(url, post(REQUEST, headers=HEADERS))).body
    (trace,) = lines(file)
    assert {
        "role": "assistant",
        "content": "Hello.",
        "metadata": {name: ANSWER[name] for name in ("id", "model", "stop_reason", "usage")},
    } == trace["messages"][-1]


async def test_an_http_error_goes_to_the_file_and_not_to_the_explorer(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    async def script(_received: Received, connection: Connection) -> None:
        body = b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}'
        await connection.send(response(body, status="529 Overloaded"))

    upstream.script = script
    file = tmp_path / "t.jsonl"
    async with FakeExplorer() as explorer:
        sinks = [{"explorer": {"url": explorer.url}}, {"jsonl": {"path": str(file)}}]
        async with gateway(upstream.url, sinks=sinks) as url:
            await exchange(url, post(REQUEST, headers=HEADERS))
    assert [] == explorer.traces
    (trace,) = lines(file)
    assert (529, "completed", False) == tuple(
        trace["metadata"][name] for name in ("status", "outcome", "message_complete")
    )
    assert "overloaded_error" == trace["metadata"]["error"]["type"]
    assert ["system", "user"] == [message["role"] for message in trace["messages"]]


async def test_an_unreachable_provider_leaves_a_trace(unused_tcp_port: int, tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    async with gateway(f"http://127.0.0.1:{unused_tcp_port}", sinks=[{"jsonl": {"path": str(file)}}]) as url:
        await exchange(url, post(REQUEST, headers=HEADERS))
    (trace,) = lines(file)
    assert ("upstream_failed", False) == (trace["metadata"]["outcome"], trace["metadata"]["request_complete"])
    assert ["system", "user"] == [message["role"] for message in trace["messages"]]


@pytest.mark.parametrize(
    ("ending", "outcome"),
    [("reset", "upstream_failed"), ("close", "upstream_failed"), ("leave", "client_disconnected")],
)
async def test_a_stream_that_was_cut_or_abandoned_keeps_what_there_was(
    upstream: ScriptedUpstream, tmp_path: Path, ending: str, outcome: str
) -> None:
    stream = (FIXTURES / "text.sse").read_bytes()
    half = stream[: stream.index(b"event: content_block_stop")]

    async def script(_received: Received, connection: Connection) -> None:
        await connection.send(STREAM_HEAD + chunk(half))
        if ending == "leave":
            await connection.closed_by_peer()
        elif ending == "close":
            await connection.close()
        else:
            await connection.reset()

    upstream.script = script
    file = tmp_path / "t.jsonl"
    async with gateway(upstream.url, middlewares=WITNESSED, sinks=[{"jsonl": {"path": str(file)}}]) as url:
        async with connect(url) as client:
            await client.send(post(REQUEST, headers=HEADERS))
            if ending == "leave":
                await client.until(half[-30:])
            else:
                await client.rest()
        await Witness.ending()
    (trace,) = lines(file)
    assert (outcome, False) == (trace["metadata"]["outcome"], trace["metadata"]["message_complete"])
    if ending != "reset":
        assert trace["messages"][-1]["content"]


async def test_an_early_answer_leaves_a_trace_that_says_so(tmp_path: Path) -> None:
    async def script(_received: Received, connection: Connection) -> None:
        await connection.send(response(b'{"type":"error"}', status="413 Too Large"))

    file = tmp_path / "t.jsonl"
    async with ScriptedUpstream(script, early=True) as early:
        async with gateway(early.url, middlewares=WITNESSED, sinks=[{"jsonl": {"path": str(file)}}]) as url:
            async with connect(url) as client:
                head = post(REQUEST, headers=HEADERS).replace(b"Content-Length: ", b"Content-Length: 9")
                await client.send(head)
                assert 413 == (await client.answer()).status
            await Witness.ending()
    (trace,) = lines(file)
    assert (413, False) == (trace["metadata"]["status"], trace["metadata"]["request_complete"])


async def test_leaving_at_message_stop_is_a_whole_message(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    stream = (FIXTURES / "text.sse").read_bytes()

    async def script(_received: Received, connection: Connection) -> None:
        await connection.send(STREAM_HEAD + chunk(stream))
        await connection.closed_by_peer()

    upstream.script = script
    file = tmp_path / "t.jsonl"
    async with gateway(upstream.url, middlewares=WITNESSED, sinks=[{"jsonl": {"path": str(file)}}]) as url:
        async with connect(url) as client:
            await client.send(post(REQUEST, headers=HEADERS))
            await client.until(stream[-20:])
        await Witness.ending()
    (trace,) = lines(file)
    assert ("client_disconnected", True) == (trace["metadata"]["outcome"], trace["metadata"]["message_complete"])


async def test_a_capture_beyond_its_limit_is_truncated_and_says_so(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    stream = (FIXTURES / "text.sse").read_bytes()

    async def script(_received: Received, connection: Connection) -> None:
        await connection.send(STREAM_HEAD + chunk(stream) + chunk(b""))

    upstream.script = script
    file = tmp_path / "t.jsonl"
    chain = ["trace_export", "auth_split", {"body_capture": {"limit": 20}}, {"stream_tee": {"limit": 400}}]
    async with gateway(upstream.url, middlewares=chain, sinks=[{"jsonl": {"path": str(file)}}]) as url:
        answer = await exchange(url, post(REQUEST, headers=HEADERS))
    assert (stream, REQUEST) == (answer.body, bytes(upstream.requests[0].body))
    (trace,) = lines(file)
    assert ("completed", False) == (trace["metadata"]["outcome"], trace["metadata"]["message_complete"])
    assert trace["metadata"]["truncated"]


async def test_nothing_is_kept_without_a_dataset_nor_of_other_endpoints(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    file = tmp_path / "t.jsonl"
    async with gateway(upstream.url, sinks=[{"jsonl": {"path": str(file)}}]) as url:
        await exchange(url, post(REQUEST, headers=HEADERS, path="/api/v1/gateway/anthropic/v1/messages"))
        await exchange(url, post(REQUEST, headers=HEADERS, path="/api/v1/gateway/d/anthropic/v1/messages/count_tokens"))
        await exchange(url, post(REQUEST, headers="", path="/api/v1/gateway/d/anthropic/v1/messages"))
        health = await exchange(url, b"GET /api/v1/gateway/health HTTP/1.1\r\nHost: g\r\n\r\n", method="GET")
    assert not file.exists()
    report = json.loads(health.body)["relay"]
    assert {"missing_provider_key": 1} == report["rejected"]
    assert {"anthropic": {"200": {"completed": 2}, "none": {"rejected": 1}}} == report["exchanges"]


async def test_a_request_that_is_no_json_is_relayed_and_traced_as_far_as_it_goes(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    file = tmp_path / "t.jsonl"
    bodies = [b"\xff\xfe", b"", b"[" * 100_000, b'{"messages": [{"role": "user", "content": "\\ud83d"}]}', b"NaN"]
    async with gateway(upstream.url, sinks=[{"jsonl": {"path": str(file)}}]) as url:
        for body in bodies:
            await exchange(url, post(body, headers=HEADERS))
    assert bodies == [bytes(request.body) for request in upstream.requests]
    assert len(bodies) == len(lines(file))
