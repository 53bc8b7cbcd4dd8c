"""Damage of every sort between two starts, or in the middle of a run: it opens again, and goes on."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from chaos.left import all_delivered, left_in
from gateway_process import GatewayProcess
from rawhttp import connect, exchange, post
from sidestream.store.store import Store
from sidestream.testing.upstream import STREAM_HEAD, Connection, Received, chunk

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from sidestream.testing import ScriptedUpstream

EVENT = b'event: ping\ndata: {"type": "ping"}\n\n'


@pytest.fixture
async def gateway(tmp_path: Path, upstream: ScriptedUpstream) -> AsyncIterator[GatewayProcess]:
    sinks = [{"jsonl": {"path": str(tmp_path / "traces.jsonl")}}]
    async with GatewayProcess(tmp_path, upstream.url, sinks=sinks) as gateway:
        yield gateway


def marked(marker: str) -> bytes:
    return post(json.dumps({"messages": [{"role": "user", "content": marker}]}).encode())


async def test_a_relay_killed_in_mid_stream_leaves_an_interrupted_trace(
    gateway: GatewayProcess, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    async def script(_received: Received, connection: Connection) -> None:
        await connection.send(STREAM_HEAD + chunk(EVENT))
        await connection.closed_by_peer()

    upstream.script = script
    async with connect(gateway.url) as client:
        await client.send(marked("m"))
        await client.until(EVENT)
        await until_journaled(gateway)
        await gateway.kill("relay")
        await client.closed()
    await until((tmp_path / "traces.jsonl").exists)
    (trace,) = map(json.loads, (tmp_path / "traces.jsonl").read_text().splitlines())
    assert ("interrupted", 200, False) == tuple(
        trace["metadata"][name] for name in ("outcome", "status", "message_complete")
    )


async def until_journaled(gateway: GatewayProcess) -> None:
    """Wait until the event has been written down."""
    await until(lambda: any(EVENT in path.read_bytes() for path in gateway.data.glob("journal/*/*.seg")))


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what other processes do."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  # they set no event here
            await asyncio.sleep(0.02)


async def test_a_store_that_is_damaged_between_two_starts_is_set_aside(gateway: GatewayProcess) -> None:
    await exchange(gateway.url, marked("before"))
    assert await all_delivered(gateway, 10, "jsonl")
    await gateway.end()
    for companion in ("store.db-wal", "store.db-shm"):
        (gateway.data / companion).unlink(missing_ok=True)
    (gateway.data / "store.db").write_bytes(b"this is no database" * 1000)
    await gateway.start()
    await exchange(gateway.url, marked("after"))
    assert await all_delivered(gateway, 10, "jsonl")
    await gateway.end()
    assert {"after": 1} == left_in(gateway.data).markers
    assert 1 == len(list(gateway.data.glob("store.db.corrupt-*[0-9]")))


async def test_a_store_that_opens_and_turns_out_to_be_damaged_is_set_aside(gateway: GatewayProcess) -> None:
    await exchange(gateway.url, marked("before"))
    assert await all_delivered(gateway, 10, "jsonl")
    await gateway.end()
    store = gateway.data / "store.db"
    with store.open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * (store.stat().st_size - 100))
    await gateway.start()
    await exchange(gateway.url, marked("after"))
    assert await all_delivered(gateway, 20, "jsonl")
    await gateway.end()
    assert "after" in left_in(gateway.data).markers
    assert 1 == len(list(gateway.data.glob("store.db.corrupt-*[0-9]")))


async def test_a_damaged_segment_is_set_aside_and_the_others_are_read(gateway: GatewayProcess) -> None:
    await gateway.kill("all")
    gateway.config["recorder"]["mode"] = "external"
    await gateway.start()
    for marker in ("one", "two", "three"):
        await exchange(gateway.url, marked(marker))
    await gateway.end()
    (segment,) = (path for path in gateway.data.glob("journal/*/*.seg") if b"two" in path.read_bytes())
    data = bytearray(segment.read_bytes())
    data[data.index(b"two")] ^= 1
    segment.write_bytes(data)
    gateway.config["recorder"]["mode"] = "process"
    await gateway.start()
    await exchange(gateway.url, marked("four"))
    await gateway.until("segment_set_aside")
    assert await all_delivered(gateway, 10, "jsonl")
    await gateway.end()
    kept = left_in(gateway.data).markers
    assert {"one", "four"} <= kept.keys()
    assert "two" not in kept
    assert 1 == len(list((gateway.data / "corrupt").iterdir()))


async def test_after_two_signals_everything_opens_again(gateway: GatewayProcess, upstream: ScriptedUpstream) -> None:
    async def script(_received: Received, connection: Connection) -> None:
        await connection.send(STREAM_HEAD + chunk(EVENT))
        await connection.closed_by_peer()

    upstream.script = script
    async with connect(gateway.url) as client:
        await client.send(marked("m"))
        await client.until(EVENT)
        await until_journaled(gateway)
        assert gateway.process is not None
        gateway.process.send_signal(signal.SIGTERM)
        await gateway.until("draining_started")
        assert 128 + signal.SIGTERM == await gateway.end()
    await gateway.start()
    assert await all_delivered(gateway, 10, "jsonl")
    await gateway.end()
    left = left_in(gateway.data)
    assert ({"m": 1}, True) == (left.markers, left.sound)
    assert left.outcomes.keys() <= {"interrupted", "cancelled", "client_disconnected"}


async def test_a_newer_store_is_refused_and_not_touched_while_the_relay_goes_on(gateway: GatewayProcess) -> None:
    await gateway.end()
    with closing(sqlite3.connect(gateway.data / "store.db")) as connection:
        ((version,),) = connection.execute("PRAGMA user_version").fetchall()
        connection.execute("PRAGMA user_version = 99")
        connection.commit()
    before = (gateway.data / "store.db").read_bytes()
    await gateway.start()
    assert (await exchange(gateway.url, marked("m"))).complete
    await gateway.until("store_unavailable")
    await gateway.end()
    assert before == (gateway.data / "store.db").read_bytes()
    with closing(sqlite3.connect(gateway.data / "store.db")) as connection:
        connection.execute(f"PRAGMA user_version = {version}")
        connection.commit()
    await gateway.start()
    assert await all_delivered(gateway, 10, "jsonl")
    await gateway.end()
    with closing(Store.open_reader(gateway.data / "store.db")) as store:
        assert 1 == store.count()
