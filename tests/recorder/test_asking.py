"""What the command line has changed: by the running recorder, or by itself where none runs."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from recording import REQUEST, Running, a_config, eventually, in_store, stored_records, written
from sidestream.errors import SidestreamError
from sidestream.recorder.asking import ask
from sidestream.recorder.requests import Delete, Prune, Redeliver, Reprocess
from sidestream.store.directory import Directory
from sidestream.store.rows import State
from sidestream.store.store import Store
from sidestream.testing import FakeExplorer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sidestream.config import Config
    from sidestream.recorder.requests import Change

DELIVERED = Redeliver(states=[State.DELIVERED])


async def answers(config: Config, change: Change) -> list[dict[str, Any]]:
    async with asyncio.timeout(15):
        return [answer async for answer in ask(config, change)]


@pytest.fixture
async def explorer() -> AsyncIterator[FakeExplorer]:
    async with FakeExplorer() as explorer:
        yield explorer


@pytest.fixture
async def config(tmp_path: Path, explorer: FakeExplorer) -> Config:
    """A directory whose exchanges ``a`` and ``b`` have been delivered to `explorer`."""
    config = a_config(tmp_path, [{"explorer": {"url": explorer.url, "api_key": "inv-" + "ab" * 32}}])
    await written(tmp_path, "a", "b")
    async with Running(config):
        await explorer.wait_for(2)
    return config


def counts(config: Config) -> dict[str, int]:
    store = Store.open_reader(Directory(_folder(config)).store)
    try:
        return {state: count for state, count in store.counts()["explorer"].items() if count}
    finally:
        store.close()


def _folder(config: Config) -> Path:
    return Directory(Path(config.recorder.dir)).path


async def test_without_a_recorder_it_is_done_here_and_the_next_recorder_sends(
    config: Config, explorer: FakeExplorer
) -> None:
    assert [{"count": 2}] == await answers(config, DELIVERED)
    assert {"pending": 2} == counts(config)
    async with Running(config):
        await explorer.wait_for(4)


async def test_a_running_recorder_sends_at_once(config: Config, explorer: FakeExplorer) -> None:
    async with Running(config) as running:
        await running.plane()
        assert [{"count": 2}] == await answers(config, DELIVERED)
        await explorer.wait_for(4)
        assert [{"count": 0}] == await answers(config, Redeliver(states=[State.DEAD]))


@pytest.mark.parametrize("recording", [True, False])
async def test_reading_again_sends_nothing_unless_told(config: Config, explorer: FakeExplorer, recording: bool) -> None:
    async with Running(config) as running:
        if recording:
            await running.plane()
        else:
            await running.end()
        silent = await answers(config, Reprocess())
        assert ({"done": 2, "total": 2, "failed": 0}, {"delivered": 2}) == (silent[-1], counts(config))
        await answers(config, Reprocess(dataset="nobody's", redeliver=True))
        assert {"delivered": 2} == counts(config)
        await answers(config, Reprocess(dataset="d", since=0.0, redeliver=True))
        if not recording:
            assert {"pending": 2} == counts(config)
    async with Running(config):
        await explorer.wait_for(4)


@pytest.mark.parametrize("recording", [True, False])
async def test_pruning_removes_what_is_done_with(config: Config, tmp_path: Path, recording: bool) -> None:
    async with Running(config) as running:
        if recording:
            await running.plane()
        else:
            await running.end()
        (answer,) = await answers(config, Prune(age=0.0))
        assert 2 == answer["exchanges"]
        assert [] == in_store(tmp_path)


@pytest.mark.parametrize("recording", [True, False])
async def test_deleting_removes_a_run_or_a_dataset(config: Config, tmp_path: Path, recording: bool) -> None:
    async with Running(config) as running:
        if recording:
            await running.plane()
        else:
            await running.end()
        assert [{"turns": 1, "purged": not recording}] == await answers(config, Delete(run="a"))
        assert ["b"] == in_store(tmp_path)
        assert [{"turns": 1, "purged": not recording}] == await answers(config, Delete(dataset="d"))
        assert [{"turns": 0, "purged": True}] == await answers(config, Delete(dataset="d"))
        assert [] == in_store(tmp_path)


async def test_a_lock_that_is_held_without_an_answer_is_said(config: Config) -> None:
    lock = Directory(_folder(config)).lock()
    assert lock is not None
    try:
        with pytest.raises(SidestreamError, match=r"a recorder holds .* but does not answer"):
            await answers(config, DELIVERED)
    finally:
        os.close(lock)


async def test_after_it_was_done_here_the_lock_is_free(config: Config) -> None:
    await answers(config, DELIVERED)
    lock = Directory(_folder(config)).lock()
    assert lock is not None
    os.close(lock)


async def test_without_a_store_there_is_nothing_to_change(tmp_path: Path) -> None:
    with pytest.raises(SidestreamError, match="there is no store in"):
        await answers(a_config(tmp_path), DELIVERED)
    assert not (tmp_path / "data").exists()


async def test_a_recorder_that_ends_in_the_middle_is_said(config: Config) -> None:
    path = Directory(_folder(config)).socket
    path.unlink(missing_ok=True)

    async def breaks_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n")
        writer.close()

    server = await asyncio.start_unix_server(breaks_off, path)
    with pytest.raises(SidestreamError, match="ended before it was done"):
        await answers(config, Reprocess())
    server.close()
    await server.wait_closed()


async def test_a_socket_that_somebody_else_could_have_made_is_not_asked(config: Config) -> None:
    folder = _folder(config)
    folder.chmod(0o777)
    with pytest.raises(SidestreamError, match="only this user can write"):
        await answers(config, DELIVERED)
    folder.chmod(0o700)


async def test_what_was_captured_is_read_again_and_not_changed(config: Config, tmp_path: Path) -> None:
    async with Running(config) as running:
        await running.plane()
        await eventually(lambda: len(in_store(tmp_path)) == 2)
        await answers(config, Reprocess())
    assert [(REQUEST,), (REQUEST,)] == [record.request_chunks for record in stored_records(tmp_path)]
