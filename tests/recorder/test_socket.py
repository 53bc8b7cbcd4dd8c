"""The recorder's socket: for this user only, and whatever comes over it, the recorder goes on."""

from __future__ import annotations

import contextlib
import socket
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import msgspec
import pytest
from structlog.testing import capture_logs

from recording import Running, a_config, eventually, in_store, written
from sidestream.recorder.requests import Import
from sidestream.store.directory import Directory
from sidestream.traces.pushing import PushedTurn
from sidestream.viewer.envelope import MOUNT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

URL = "http://recorder"


@contextlib.asynccontextmanager
async def client(path: Path) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session:
        yield session


async def test_only_this_user_can_connect(tmp_path: Path) -> None:
    async with Running(a_config(tmp_path)) as running:
        await running.plane()
        about = Directory(tmp_path / "data").socket.stat()
        assert stat.S_ISSOCK(about.st_mode)
        assert 0o600 == stat.S_IMODE(about.st_mode)
        assert 0o700 == stat.S_IMODE((tmp_path / "data").stat().st_mode)


async def test_what_a_killed_recorder_left_is_replaced(tmp_path: Path) -> None:
    directory = Directory(tmp_path / "data")
    directory.prepare()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(directory.socket))
    async with Running(a_config(tmp_path)) as running, client(directory.socket) as session:
        await running.plane()
        async with session.get(f"{URL}/status") as answer:
            assert 0 == (await answer.json())["received"]


async def test_what_a_relay_lets_through_is_not_too_long_for_a_recorder(tmp_path: Path) -> None:
    async with Running(a_config(tmp_path)) as running, client(Directory(tmp_path / "data").socket) as session:
        await running.plane()
        long = "a" * ((1 << 16) - 100)
        async with session.get(f"{URL}/status?{long}", headers={"x-long": long}) as answer:
            assert 200 == answer.status


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Temporary files have a folder of their own, with a short name."""
    with tempfile.TemporaryDirectory(prefix="s") as folder:
        monkeypatch.setattr("sidestream.store.directory._ELSEWHERE", Path(folder))
        yield


@pytest.mark.usefixtures("temporary")
async def test_a_path_that_is_too_long_for_a_socket_is_elsewhere_and_private(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 100)
    directory = Directory(folder / "data")
    assert directory.path not in directory.socket.parents
    async with Running(a_config(folder)) as running, client(directory.socket) as session:
        await running.plane()
        assert 0o700 == stat.S_IMODE(directory.socket.parent.stat().st_mode)
        async with session.get(f"{URL}/status") as answer:
            assert 200 == answer.status


@pytest.mark.usefixtures("temporary")
async def test_a_directory_that_others_can_write_to_is_not_trusted_and_recording_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidestream.recorder.socket._RETRY", 0.02)
    folder = tmp_path / ("x" * 100)
    directory = Directory(folder / "data")
    directory.socket.parent.mkdir()
    directory.socket.parent.chmod(0o777)
    await written(folder, "a")
    with capture_logs() as logs:
        async with Running(a_config(folder)) as running:
            await running.plane()
            await eventually(lambda: in_store(folder))
            assert not directory.socket.exists()
            directory.socket.parent.chmod(0o700)
            await eventually(directory.socket.is_socket)
    assert 1 == sum(entry["event"] == "recorder_socket_unavailable" for entry in logs)


async def test_a_message_that_is_none_is_refused_and_the_connection_goes_on(tmp_path: Path) -> None:
    async with Running(a_config(tmp_path)) as running, client(Directory(tmp_path / "data").socket) as session:
        plane = await running.plane()
        with capture_logs() as logs:
            async with session.ws_connect(f"{URL}/link") as link:
                await link.send_bytes(b'{"keys": {"f1": "inv-1"}}')
                for bad in (b"", b"{", b'{"keys": {"f": 1}}', b'{"keys": {}, "canary": 1}', b"\xff" * 100, b"[" * 9999):
                    await link.send_bytes(bad)
                await link.send_str('{"keys": {"text": "inv-1"}}')
                await link.send_bytes(b'{"keys": {"f2": "inv-2"}}')
                await eventually(lambda: plane.keys.get("f2") is not None)
        assert {"f1", "f2"} == set(plane.keys.all())
        assert 6 == sum(entry["event"] == "link_message_refused" for entry in logs)
        assert "canary" not in str(logs)


async def test_a_message_that_is_too_large_ends_only_its_connection(tmp_path: Path) -> None:
    async with Running(a_config(tmp_path)) as running, client(Directory(tmp_path / "data").socket) as session:
        await running.plane()
        async with session.ws_connect(f"{URL}/link") as link:
            with contextlib.suppress(ConnectionError):
                await link.send_bytes(bytes(5 << 20))
            assert aiohttp.WSMsgType.CLOSE == (await link.receive(5)).type or link.closed
        async with session.get(f"{URL}/status") as answer:
            assert 200 == answer.status


@pytest.mark.parametrize("path", ["/redeliver", "/prune", "/reprocess", "/delete", "/import"])
@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b'{"nothing": 1}', b"\xff", b'{"states": ["none"]}', b'{"age": "x"}']
)
async def test_a_request_of_another_kind_is_refused(tmp_path: Path, path: str, body: bytes) -> None:
    async with Running(a_config(tmp_path)) as running, client(Directory(tmp_path / "data").socket) as session:
        await running.plane()
        async with session.post(URL + path, data=body) as answer:
            assert 400 == answer.status


async def test_a_store_that_cannot_be_used_now_is_said_in_the_answer(tmp_path: Path) -> None:
    async with Running(a_config(tmp_path)) as running, client(Directory(tmp_path / "data").socket) as session:
        plane = await running.plane()
        file = tmp_path / "data" / "store.db"

        def fail() -> None:
            plane.shelf.invoke("close")
            plane.shelf._store = None  # noqa: SLF001  # as after a failure
            for companion in file.parent.glob("store.db*"):
                companion.unlink()
            file.mkdir()

        await plane.shelf.call(fail)
        async with session.post(f"{URL}/prune", data=b"{}") as answer:
            assert 503 == answer.status
            assert str(file) in await answer.text()
        file.rmdir()
        async with session.post(f"{URL}/prune", data=b"{}") as answer:
            assert (200, {"exchanges": 0, "bytes": 0}) == (answer.status, await answer.json())


async def test_its_status_is_what_the_plane_has_counted(tmp_path: Path) -> None:
    await written(tmp_path, "a")
    async with Running(a_config(tmp_path)) as running, client(Directory(tmp_path / "data").socket) as session:
        plane = await running.plane()
        await eventually(lambda: in_store(tmp_path))
        async with session.get(f"{URL}/status") as answer:
            status = await answer.json()
        assert {"pid", *plane.snapshot()} == set(status)
        assert 1 == status["received"]


async def test_after_its_end_all_is_in_one_file_also_when_somebody_has_looked(tmp_path: Path) -> None:
    await written(tmp_path, "a")
    async with Running(a_config(tmp_path)) as running:
        await running.plane()
        await eventually(lambda: ["a"] == in_store(tmp_path))
        async with client(Directory(tmp_path / "data").socket) as session:
            async with session.get(f"{URL}{MOUNT}/ui/api/runs") as answer:
                assert 200 == answer.status
    assert ["store.db"] == sorted(path.name for path in (tmp_path / "data").glob("store.db*"))


async def test_turns_of_elsewhere_are_taken_in_once(tmp_path: Path) -> None:
    turn = PushedTurn(id="t1", dataset="d", messages=[{"role": "user", "content": "Hello"}], facts={})
    body = msgspec.json.encode(Import(turns=[turn]))
    async with Running(a_config(tmp_path)) as running, client(Directory(tmp_path / "data").socket) as session:
        await running.plane()
        answers = []
        for _ in range(2):
            async with session.post(f"{URL}/import", data=body) as answer:
                answers.append((answer.status, await answer.json()))
    expected = [(200, {"new": 1, "renamed": 0, "there": 0}), (200, {"new": 0, "renamed": 0, "there": 1})]
    assert expected == answers
