"""What a relay has of the trace plane, in each mode: exchanges over real sockets, and what is left at the end."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from rawhttp import exchange, post
from recording import Running, a_config, eventually, in_store, stored_records
from sidestream.store.directory import Directory
from sidestream.testing import FakeExplorer, gateway

if TYPE_CHECKING:
    from pathlib import Path

    from sidestream.testing import ScriptedUpstream

BODY = b'{"messages": [{"role": "user", "content": "Hello"}]}'
BODIES = [b'{"messages": [{"role": "user", "content": "Hello %d"}]}' % number for number in range(3)]
KEY = "inv-" + "cd" * 32
WITH_KEY = f"x-api-key: sk-canary\r\nInvariant-Authorization: Bearer {KEY}\r\n"


def recorder(folder: Path, mode: str, **options: Any) -> dict[str, Any]:
    return {"mode": mode, "dir": str(folder / "data"), "min_free": 0, **options}


async def health(url: str) -> dict[str, Any]:
    answer = await exchange(url, b"GET /api/v1/gateway/health HTTP/1.1\r\nHost: g\r\n\r\n", method="GET")
    report: dict[str, Any] = json.loads(answer.body)
    return report


@pytest.mark.parametrize("mode", ["none", "thread"])
async def test_calls_arrive_with_their_own_keys(upstream: ScriptedUpstream, tmp_path: Path, mode: str) -> None:
    async with FakeExplorer() as explorer:
        sinks = [{"explorer": {"url": explorer.url}}]
        async with gateway(upstream.url, sinks=sinks, recorder=recorder(tmp_path, mode)) as url:
            for body in BODIES:
                assert 200 == (await exchange(url, post(body, headers=WITH_KEY))).status
            await explorer.wait_for(3)
            numbers = (await health(url))["recorder"]
            assert (3, 3, 1) == (numbers["received"], numbers["understood"], numbers["gauges"]["keys"])
    assert (mode == "thread") == (tmp_path / "data").exists()


def test_a_relay_whose_recorder_is_elsewhere_loads_nothing_of_it() -> None:
    code = "import sys, sidestream.processes.relay; print(*{'jinja2', 'markdown_it', 'sqlite3'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert "" == done.stdout.strip()


async def test_an_external_recorder_gets_exchanges_and_keys(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    async with FakeExplorer() as explorer:
        sinks = [{"explorer": {"url": explorer.url}}]
        async with gateway(upstream.url, sinks=sinks, recorder=recorder(tmp_path, "external")) as url:
            assert 200 == (await exchange(url, post(BODIES[0], headers=WITH_KEY))).status
            assert "recorder" not in await health(url)
            for number in (1, 2):
                async with Running(a_config(tmp_path, sinks)):
                    await explorer.wait_for(number)
                assert 200 == (await exchange(url, post(BODIES[number], headers=WITH_KEY))).status
    assert 2 == len(in_store(tmp_path))  # the last one came when no recorder was there
    assert KEY.encode() not in b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())


async def test_what_is_undelivered_at_the_end_is_in_the_store(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    async with gateway(
        upstream.url, sinks=[{"recording:Blocked": {}}], recorder=recorder(tmp_path, "thread", flush="0s")
    ) as url:
        await exchange(url, post(BODY))
        await eventually(lambda: in_store(tmp_path))
    assert ["completed"] == [record.outcome for record in stored_records(tmp_path)]


async def test_without_a_journal_what_is_undelivered_at_the_end_is_counted_and_logged(
    upstream: ScriptedUpstream,
) -> None:
    with capture_logs() as logs:
        async with gateway(
            upstream.url, sinks=[{"recording:Blocked": {}}], recorder={"mode": "none", "flush": "100ms"}
        ) as url:
            for _ in range(3):
                await exchange(url, post(BODY))
    assert [(3, "shutdown")] == [(e["count"], e["reason"]) for e in logs if e["event"] == "traces_lost"]


@pytest.mark.parametrize("mode", ["none", "thread", "external"])
async def test_nothing_is_lost_without_a_word_when_all_is_well(
    upstream: ScriptedUpstream, tmp_path: Path, mode: str
) -> None:
    with capture_logs() as logs:
        async with gateway(upstream.url, recorder=recorder(tmp_path, mode)) as url:
            for _ in range(3):
                await exchange(url, post(BODY))
    assert [] == [entry for entry in logs if entry["log_level"] in {"warning", "error"}]
    assert "sk-canary" not in str(logs)


async def test_beyond_the_memory_there_is_calls_are_relayed_and_counted(upstream: ScriptedUpstream) -> None:
    async with gateway(upstream.url, recorder={"mode": "none", "memory": "100B"}) as url:
        first = await exchange(url, post(BODY + bytes(200)))
        second = await exchange(url, post(BODY))
        numbers = (await health(url))["relay"]
    assert [200, 200] == [first.status, second.status]
    assert 1 <= numbers["dropped"]["memory"]


async def test_a_thread_beside_another_recorder_leaves_it_the_work(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    async with Running(a_config(tmp_path)) as first:
        await first.plane()
        async with gateway(upstream.url, recorder=recorder(tmp_path, "thread")) as url:
            await exchange(url, post(BODY))
            await eventually(lambda: in_store(tmp_path))
            assert "recorder" not in await health(url)


async def test_two_gateways_on_one_directory_share_a_recorder(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    settings = recorder(tmp_path, "thread")
    async with gateway(upstream.url, recorder=settings) as one, gateway(upstream.url, recorder=settings) as two:
        await asyncio.gather(*(exchange(url, post(BODY)) for url in (one, two) for _ in range(3)))
        await eventually(lambda: len(in_store(tmp_path)) == 6)


async def test_a_key_file_that_is_damaged_is_said_and_relaying_goes_on(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    directory = Directory(tmp_path / "data")
    directory.prepare()
    (directory.path / "fingerprint.key").write_bytes(b"short")
    with capture_logs() as logs:
        async with gateway(upstream.url, recorder=recorder(tmp_path, "external")) as url:
            assert 200 == (await exchange(url, post(BODY, headers=WITH_KEY))).status
            assert 1 == (await health(url))["relay"]["captured"]
    assert "fingerprint_key_unavailable" in {entry["event"] for entry in logs}
