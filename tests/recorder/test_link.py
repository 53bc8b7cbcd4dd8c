"""Keys on their way from a relay to the recorder: again after each reconnect, and to nobody else."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from structlog.testing import capture_logs

from recording import Running, a_config, eventually
from sidestream.options import Secret
from sidestream.recorder.link import Link
from sidestream.store.directory import Directory

if TYPE_CHECKING:
    from pathlib import Path


async def test_keys_told_before_and_after_the_recorder_came_reach_it(tmp_path: Path) -> None:
    config = a_config(tmp_path)
    link = Link(Directory(tmp_path / "data").socket)
    link.start()
    link.tell("before", Secret("inv-1"))
    async with Running(config) as running:
        plane = await running.plane()
        await eventually(lambda: plane.keys.get("before") is not None)
        link.tell("after", Secret("inv-clé-鍵"))
        await eventually(lambda: plane.keys.get("after") is not None)
        assert {"before": "inv-1", "after": "inv-clé-鍵"} == {k: v.reveal() for k, v in plane.keys.all().items()}
    await link.stop()


async def test_all_keys_are_sent_again_to_the_next_recorder(tmp_path: Path) -> None:
    config = a_config(tmp_path)
    link = Link(Directory(tmp_path / "data").socket)
    link.start()
    link.tell("f", Secret("inv-canary"))
    with capture_logs() as logs:
        for _ in range(2):
            async with Running(config) as running:
                plane = await running.plane()
                await eventually(lambda: plane.keys.get("f") is not None)  # noqa: B023  # awaited here
        await eventually(lambda: sum(entry["event"] == "recorder_lost" for entry in logs) == 2)
    await link.stop()
    assert "canary" not in str(logs)


async def test_an_end_that_is_expected_is_not_complained_of(tmp_path: Path) -> None:
    link = Link(Directory(tmp_path / "data").socket)
    link.start()
    link.tell("f", Secret("inv-1"))
    with capture_logs() as logs:
        async with Running(a_config(tmp_path)) as running:
            plane = await running.plane()
            await eventually(lambda: plane.keys.get("f") is not None)
            link.expect_end()
        await link.stop()
    assert "recorder_lost" not in {entry["event"] for entry in logs}


async def test_many_long_keys_reach_the_recorder(tmp_path: Path) -> None:
    """Whatever clients send, no message is larger than the recorder takes."""
    link = Link(Directory(tmp_path / "data").socket)
    for number in range(1000):
        link.tell(str(number), Secret("k" * 8000 + str(number)))
    link.start()
    async with Running(a_config(tmp_path)) as running:
        plane = await running.plane()
        await eventually(lambda: len(plane.keys) == 1000)
    await link.stop()


async def test_no_more_keys_are_kept_than_the_recorder_would_keep(tmp_path: Path) -> None:
    link = Link(Directory(tmp_path / "data").socket)
    for number in range(10_050):
        link.tell(str(number), Secret(str(number)))
    link.start()
    async with Running(a_config(tmp_path)) as running:
        plane = await running.plane()
        await eventually(lambda: plane.keys.get("10049") is not None)
        assert (10_000, None) == (len(plane.keys), plane.keys.get("49"))
    await link.stop()


async def test_keys_are_not_sent_to_a_socket_that_somebody_else_could_have_made(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    connected = asyncio.Event()

    async def impostor(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.set()
        writer.close()

    server = await asyncio.start_unix_server(impostor, folder / "recorder.sock")
    link = Link(folder / "recorder.sock")
    link.tell("f", Secret("inv-1"))
    with capture_logs() as logs:
        link.start()
        await eventually(lambda: "recorder_link_failed" in {entry["event"] for entry in logs})
    assert not connected.is_set()
    folder.chmod(0o700)
    async with asyncio.timeout(10):
        await connected.wait()
    await link.stop()
    server.close()
    await server.wait_closed()
