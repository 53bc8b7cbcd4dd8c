"""trace_export: hands over what was captured, and nothing that is secret."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from rawhttp import connect, exchange, post
from recording import Running as RunningRecorder
from recording import a_config, eventually, in_store, stored_records
from sidestream.errors import ConfigError
from sidestream.testing import gateway
from sidestream.testing.upstream import STREAM_HEAD, Connection, Received, chunk, response

if TYPE_CHECKING:
    from pathlib import Path

    from sidestream.testing import ScriptedUpstream
    from sidestream.traces.record import Record

SECRETS = "x-api-key: sk-canary\r\nInvariant-Authorization: Bearer inv-canary\r\nCookie: canary\r\n"


@pytest.mark.parametrize(
    ("chain", "message"),
    [
        (["trace_export", "auth_split"], "body_capture"),
        (["trace_export", "auth_split", "body_capture"], "stream_tee"),
        (["auth_split", "body_capture", "stream_tee", "trace_export"], "trace_export"),
        (["trace_export", "body_capture", "auth_split", "stream_tee"], "auth_split"),
    ],
)
async def test_an_order_that_cannot_work_is_refused(upstream: ScriptedUpstream, chain: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        async with gateway(upstream.url, middlewares=chain):
            pass


async def test_a_failing_handover_changes_nothing_for_the_client(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    """A sink that cannot write is the trace plane's trouble alone."""
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    sink = {"jsonl": {"path": str(in_the_way / "t.jsonl")}}
    async with gateway(upstream.url, sinks=[sink], recorder={"mode": "none", "flush": 0}) as url:
        for _ in range(3):
            assert 200 == (await exchange(url, post())).status
        health = await exchange(url, b"GET /api/v1/gateway/health HTTP/1.1\r\nHost: g\r\n\r\n", method="GET")
    assert 3 == json.loads(health.body)["relay"]["captured"]


async def recorded(tmp_path: Path, upstream: ScriptedUpstream, *requests: bytes, **config: Any) -> list[Record]:
    """The exchanges that come of these requests, one after the other, in the store."""
    settings = {"mode": "external", "dir": str(tmp_path / "data"), "min_free": 0}
    async with gateway(upstream.url, recorder=settings, **config) as url:
        for request in requests:
            await exchange(url, request)
    async with RunningRecorder(a_config(tmp_path)) as running:
        await running.plane()
        await running.end()
    return stored_records(tmp_path)


async def test_an_exchange_is_recorded_as_it_was_on_the_wire(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    async def script(_received: Received, connection: Connection) -> None:
        await connection.send(STREAM_HEAD + chunk(b"one") + chunk(b"two") + chunk(b""))

    upstream.script = script
    (record,) = await recorded(tmp_path, upstream, post(b'{"a": 1}', headers=SECRETS))
    assert ("my-agent", "anthropic", "POST", "/v1/messages") == (
        record.dataset,
        record.provider,
        record.method,
        record.path,
    )
    assert (b'{"a": 1}', b"onetwo") == (b"".join(record.request_chunks), b"".join(record.response_chunks))
    assert (200, "completed", None, True) == (record.status, record.outcome, record.error, record.exact)
    assert 0 <= (record.time_to_first_byte or -1) <= record.duration
    assert 32 == len(record.fingerprint)


async def test_no_secret_is_written_anywhere(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    with capture_logs() as logs:
        await recorded(tmp_path, upstream, post(headers=SECRETS), post(headers=SECRETS + "X-Note: canary\r\n"))
    written = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert b"canary" not in written
    assert "canary" not in str(logs)


async def test_calls_with_one_key_have_one_fingerprint_and_those_without_have_none(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    records = await recorded(
        tmp_path,
        upstream,
        post(headers=SECRETS),
        post(headers=SECRETS),
        post(headers=SECRETS.replace("inv-canary", "inv-other")),
        post(),
    )
    first, second, other, none = [record.fingerprint for record in records]
    assert (first, "") == (second, none)
    assert first not in {other, ""}


async def test_what_the_gateway_answers_itself_is_not_recorded(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    records = await recorded(
        tmp_path, upstream, post(headers=""), post(path="/api/v1/gateway/my-agent/anthropic/v1/models")
    )
    assert [] == records


async def test_an_upstream_that_breaks_off_is_recorded_with_its_outcome(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    async def script(_received: Received, connection: Connection) -> None:
        await connection.send(STREAM_HEAD + chunk(b"one"))
        await connection.close()

    upstream.script = script
    (record,) = await recorded(tmp_path, upstream, post())
    assert ("upstream_failed", "UpstreamFailed", b"one") == (
        record.outcome,
        record.error,
        b"".join(record.response_chunks),
    )


async def test_captures_that_reach_their_limit_say_so_and_are_counted(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    async def script(_received: Received, connection: Connection) -> None:
        await connection.send(response(bytes(100)))

    upstream.script = script
    chain = ["trace_export", "auth_split", {"body_capture": {"limit": "10B"}}, {"stream_tee": {"limit": "20B"}}]
    settings = {"mode": "thread", "dir": str(tmp_path / "data"), "min_free": 0}
    async with gateway(upstream.url, recorder=settings, middlewares=chain) as url:
        answer = await exchange(url, post(bytes(50)))
        assert bytes(100) == answer.body
        await eventually(lambda: in_store(tmp_path))
        health = await exchange(url, b"GET /api/v1/gateway/health HTTP/1.1\r\nHost: g\r\n\r\n", method="GET")
    (record,) = stored_records(tmp_path)
    assert (True, True, 30) == (record.request_truncated, record.response_truncated, record.size)
    assert {"request": 1, "response": 1} == json.loads(health.body)["relay"]["truncated"]


async def test_a_key_with_other_letters_is_refused_before_anything_is_recorded(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    head = "x-api-key: sk-1\r\nInvariant-Authorization: Bearer inv-clé-鍵\r\n"
    assert [] == await recorded(tmp_path, upstream, post(headers=head))
    assert [] == upstream.requests


async def test_an_exchange_is_seen_in_the_journal_while_it_lasts(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    go_on = asyncio.Event()

    async def script(_received: Received, connection: Connection) -> None:
        await connection.send(STREAM_HEAD + chunk(b"marker"))
        await go_on.wait()
        await connection.send(chunk(b""))

    def journaled() -> bool:
        return any(b"marker" in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())

    upstream.script = script
    settings = {"mode": "external", "dir": str(tmp_path / "data"), "min_free": 0}
    async with gateway(upstream.url, recorder=settings) as url, connect(url) as client:
        await client.send(post())
        await client.until(b"marker\r\n")
        await eventually(journaled)
        go_on.set()
        await client.until(b"0\r\n\r\n")
