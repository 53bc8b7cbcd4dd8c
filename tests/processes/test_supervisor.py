"""The supervisor with scripted children: who is started, restarted, told what, and in which order it all ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from sidestream.errors import ConfigError, SidestreamError
from sidestream.processes.channel import Document
from sidestream.processes.keeper import Backoff
from sidestream.processes.plan import NotChecked
from sidestream.processes.supervisor import Programs, Supervisor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, MutableMapping

SCRIPT = Path(__file__).with_name("scripted_child.py")
ORDINARY: dict[str, Any] = {}


class Running:
    """A supervisor in this process."""

    def __init__(self, file: Path, port: int, task: asyncio.Task[int], events: list[MutableMapping[str, Any]]) -> None:
        self.file = file
        self.port = port
        self.task = task
        self.events = events

    def logged(self, event: str) -> list[MutableMapping[str, Any]]:
        return [entry for entry in self.events if entry["event"] == event]

    async def until(self, event: str, count: int = 1) -> MutableMapping[str, Any]:
        await eventually(lambda: len(self.logged(event)) >= count)
        return self.logged(event)[-1]

    async def ask(self) -> tuple[int, str]:
        """The pid and the name of a relay that takes a connection."""
        async with asyncio.timeout(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            pid, _, name = (await reader.read()).decode().partition(" ")
            writer.close()
        return int(pid), name

    async def end(self, number: int = signal.SIGTERM) -> int:
        os.kill(os.getpid(), number)
        async with asyncio.timeout(10):
            return await self.task

    async def reload(self, script: dict[str, Any], outcome: str) -> MutableMapping[str, Any]:
        self.file.write_text(json.dumps(script))
        count = len(self.logged(outcome)) + 1
        os.kill(os.getpid(), signal.SIGHUP)
        return await self.until(outcome, count)


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  # of other processes, which set no event of ours
            await asyncio.sleep(0.005)


@pytest.fixture
def events() -> Iterator[list[MutableMapping[str, Any]]]:
    with structlog.testing.capture_logs() as entries:
        yield entries


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "script.json"


def supervisor(file: Path, script: dict[str, Any], **backoff: float) -> Supervisor:
    file.write_text(json.dumps(script))
    command = (sys.executable, str(SCRIPT))
    programs = Programs(
        plan=(*command, "plan"),
        relay=(*command, "relay"),
        recorder=(*command, "recorder"),
        backoff=Backoff(**{"first": 0.01, "longest": 0.05, **backoff}),
    )
    return Supervisor(Document(str(file), file.read_bytes()), programs)


@contextlib.asynccontextmanager
async def running(
    file: Path, events: list[MutableMapping[str, Any]], script: dict[str, Any], **backoff: float
) -> AsyncIterator[Running]:
    task = asyncio.ensure_future(supervisor(file, script, **backoff).run())
    try:
        await eventually(lambda: task.done() or any(entry["event"] == "gateway_started" for entry in events))
        assert not task.done(), task
        base = next(entry["base_url"] for entry in events if entry["event"] == "gateway_started")
        yield Running(file, int(re.findall(r":(\d+)/p", base)[0]), task, events)
    finally:
        task.cancel()
        await asyncio.wait([task])
    assert not [pid for entry in events if entry["event"] == "process_started" if alive(pid := entry["pid"])]


def alive(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


async def test_it_says_that_it_is_ready_once_and_ends_in_order(
    file: Path, events: list[MutableMapping[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    async with running(file, events, {"plan": {"workers": 2}, "name": "first"}) as gateway:
        assert "first" == (await gateway.ask())[1]
        assert 0 == await gateway.end()
    out = f"sidestream is ready. Base URL for an SDK:  http://127.0.0.1:{gateway.port}/p/my-agent/anthropic\n"
    assert out == capsys.readouterr().out
    names = [(entry["event"], entry.get("kind")) for entry in events]
    assert 3 == len(gateway.logged("process_started"))
    assert [
        ("draining_started", None),
        ("process_ended", "relay"),
        ("process_ended", "relay"),
        ("process_ended", "recorder"),
        ("gateway_stopped", None),
    ] == names[names.index(("draining_started", None)) :]


@pytest.mark.parametrize("mode", ["thread", "external", "none"])
async def test_only_the_process_mode_has_a_recorder_process(
    file: Path, events: list[MutableMapping[str, Any]], mode: str
) -> None:
    async with running(file, events, {"plan": {"mode": mode}}) as gateway:
        assert ["relay"] == [entry["kind"] for entry in gateway.logged("process_started")]


@pytest.mark.parametrize("kind", ["relay", "recorder"])
async def test_what_is_killed_is_started_again_and_the_rest_goes_on(
    file: Path, events: list[MutableMapping[str, Any]], kind: str
) -> None:
    async with running(file, events, ORDINARY) as gateway:
        started = gateway.logged("process_started")
        victim = next(entry["pid"] for entry in started if entry["kind"] == kind)
        os.kill(victim, signal.SIGKILL)
        died = await gateway.until("process_died")
        assert (kind, victim, "SIGKILL") == (died["kind"], died["pid"], died["signal"])
        assert kind == (await gateway.until("process_started", 3))["kind"]
        assert await gateway.ask()
        assert 0 == await gateway.end()


async def test_what_keeps_dying_is_started_ever_more_slowly_and_the_gateway_still_ends(
    file: Path, events: list[MutableMapping[str, Any]]
) -> None:
    async with running(file, events, {"recorder": "die"}) as gateway:
        died = await gateway.until("process_died", 4)
        assert ("recorder", 4) == (died["kind"], died["status"])
        assert await gateway.ask()
        assert 0 == await gateway.end()


@pytest.mark.parametrize("kind", ["relay", "recorder"])
async def test_one_that_does_not_start_ends_all_with_its_status(
    file: Path, events: list[MutableMapping[str, Any]], kind: str
) -> None:
    other = {"relay": "recorder", "recorder": "relay"}[kind]
    assert 2 == await supervisor(file, {kind: "refuse", other: "hang"}).run()
    assert not [entry for entry in events if entry["event"] == "gateway_started"]
    assert not [pid for entry in events if entry["event"] == "process_started" if alive(pid := entry["pid"])]


async def test_one_that_hangs_at_its_start_is_killed(file: Path, events: list[MutableMapping[str, Any]]) -> None:
    assert 1 == await supervisor(file, {"relay": "hang"}, start=0.5).run()
    assert ["process_hung"] == [entry["event"] for entry in events if entry["log_level"] == "error"][:1]


async def test_a_command_that_cannot_be_run_is_an_error(file: Path, events: list[MutableMapping[str, Any]]) -> None:
    file.write_text("{}")
    programs = Programs(plan=(sys.executable, str(SCRIPT), "plan"), relay=("/no/such/program",), recorder=("/no",))
    assert 1 == await Supervisor(Document(str(file), file.read_bytes()), programs).run()
    assert "process_not_started" in [entry["event"] for entry in events]


async def test_a_bad_configuration_is_refused_with_its_problems(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"^a\.b: no$"):
        await supervisor(file, {"problems": [{"path": "a.b", "message": "no"}]}).run()
    with pytest.raises(SidestreamError, match=r"^cannot$"):
        await supervisor(file, {"error": "cannot"}).run()
    with pytest.raises(NotChecked) as raised:
        await supervisor(file, {"garbage": True}).run()
    assert 3 == raised.value.status


async def test_a_signal_during_the_start_ends_everything(file: Path, events: list[MutableMapping[str, Any]]) -> None:
    task = asyncio.ensure_future(supervisor(file, {"relay": "hang"}).run())
    await eventually(lambda: "process_started" in [entry["event"] for entry in events])
    os.kill(os.getpid(), signal.SIGTERM)
    assert 0 == await asyncio.wait_for(task, 10)
    assert not [pid for entry in events if entry["event"] == "process_started" if alive(pid := entry["pid"])]


async def test_what_does_not_obey_is_killed(file: Path, events: list[MutableMapping[str, Any]]) -> None:
    script = {"plan": {"drain": -3.4, "flush": -0.9}, "relay": "deaf", "recorder": "deaf"}
    async with running(file, events, script) as gateway:
        assert 0 == await gateway.end()
    assert ["relay", "recorder"] == [entry["kind"] for entry in gateway.logged("process_overstayed")]


async def test_a_reload_replaces_the_relays_and_leaves_the_recorder(
    file: Path, events: list[MutableMapping[str, Any]]
) -> None:
    async with running(file, events, {"name": "old"}) as gateway:
        old, _ = await gateway.ask()
        finished = await gateway.reload({"name": "new", "plan": {"workers": 2}}, "reload_finished")
        assert (2, False) == (finished["workers"], finished["recorder_restarted"])
        await eventually(lambda: not alive(old))
        assert "new" == (await gateway.ask())[1]
        assert ["relay"] == [entry["kind"] for entry in gateway.logged("process_ended")]
        os.kill((await gateway.ask())[0], signal.SIGKILL)
        await gateway.until("process_started", 5)
        assert {"new"} == {(await gateway.ask())[1] for _ in range(5)}
        assert 0 == await gateway.end()


async def test_the_recorder_starts_anew_when_what_concerns_it_has_changed(
    file: Path, events: list[MutableMapping[str, Any]]
) -> None:
    async with running(file, events, ORDINARY) as gateway:
        finished = await gateway.reload({"plan": {"digest": "e"}}, "reload_finished")
        assert finished["recorder_restarted"]
        await gateway.until("process_ended", 2)
        kinds = [entry["kind"] for entry in gateway.logged("process_started")]
        assert {"relay": 2, "recorder": 2} == {kind: kinds.count(kind) for kind in kinds}
        assert not gateway.logged("process_died")
        assert 0 == await gateway.end()


@pytest.mark.parametrize(
    ("script", "paths"),
    [
        ({"problems": [{"path": "a.b", "message": "no"}]}, ["a.b"]),
        ({"garbage": True}, [""]),
        ({"relay": "refuse"}, [""]),
        ({"plan": {"port": 1, "host": "::1", "directory": "/e", "mode": "none"}}, ["server.host", "server.port"]),
    ],
)
async def test_a_reload_that_cannot_work_is_refused_and_the_old_goes_on(
    file: Path, events: list[MutableMapping[str, Any]], script: dict[str, Any], paths: list[str]
) -> None:
    async with running(file, events, {"name": "old"}) as gateway:
        before = await gateway.ask()
        refused = await gateway.reload(script, "reload_refused")
        assert paths == [problem["path"] for problem in refused["problems"]][:2]
        assert before == await gateway.ask()
        await gateway.reload({"name": "new"}, "reload_finished")
        assert 0 == await gateway.end()


async def test_a_file_that_has_gone_is_no_reload(file: Path, events: list[MutableMapping[str, Any]]) -> None:
    async with running(file, events, ORDINARY) as gateway:
        file.unlink()
        os.kill(os.getpid(), signal.SIGHUP)
        refused = await gateway.until("reload_refused")
        assert "there is no such file" == refused["problems"][0]["message"]
        os.mkfifo(file)
        os.kill(os.getpid(), signal.SIGHUP)
        refused = await gateway.until("reload_refused", 2)
        assert "regular file" in refused["problems"][0]["message"]


async def test_many_hangups_at_once_are_few_reloads(file: Path, events: list[MutableMapping[str, Any]]) -> None:
    async with running(file, events, {"name": "old"}) as gateway:
        os.kill(os.getpid(), signal.SIGHUP)
        await gateway.until("reload_started")
        for _ in range(5):
            os.kill(os.getpid(), signal.SIGHUP)
            await asyncio.sleep(0)
        await gateway.until("reload_finished", 2)
        assert 0 == await gateway.end()
    assert 2 == len(gateway.logged("reload_started"))


async def test_a_signal_during_a_reload_leaves_nothing_behind(
    file: Path, events: list[MutableMapping[str, Any]]
) -> None:
    async with running(file, events, ORDINARY) as gateway:
        await gateway.reload({"relay": "hang"}, "process_started")
        assert 0 == await gateway.end()


async def test_a_child_that_talks_nonsense_harms_nobody(file: Path, events: list[MutableMapping[str, Any]]) -> None:
    async with running(file, events, {"relay": "babble"}) as gateway:
        assert await gateway.ask()
        assert 1 == len(gateway.logged("control_message_refused"))
        assert 0 == await gateway.end()


PROGRAM = """
import asyncio, sys
from pathlib import Path
from sidestream import logs
from sidestream.processes.channel import Document
from sidestream.processes.supervisor import Programs, Supervisor

command, file = (sys.executable, sys.argv[1]), Path(sys.argv[2])
writer = logs.configure(process="supervisor")
programs = Programs(*((*command, kind) for kind in ("plan", "relay", "recorder")))
status = asyncio.run(Supervisor(Document(str(file), file.read_bytes()), programs).run())
writer.flush(1)
sys.exit(status)
"""


def spawned(file: Path, script: dict[str, Any]) -> subprocess.Popen[bytes]:
    """A supervisor in a process of its own, with scripted children."""
    file.write_text(json.dumps(script))
    command = [sys.executable, "-c", PROGRAM, str(SCRIPT), str(file)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def started(process: subprocess.Popen[bytes]) -> tuple[list[int], int]:
    """The children's pids and the port, from the log of a supervisor that is ready."""
    assert process.stderr is not None
    pids = []
    for line in process.stderr:
        entry = json.loads(line)
        if entry["event"] == "process_started":
            pids.append(entry["pid"])
        elif entry["event"] == "gateway_started":
            return pids, int(re.findall(r":(\d+)/p", entry["base_url"])[0])
    raise AssertionError("not started")


async def test_a_second_signal_kills_everything_at_once(file: Path) -> None:
    with spawned(file, {"plan": {"drain": 3600}, "relay": "deaf"}) as process:
        pids, _port = started(process)
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        assert b"draining_started" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        assert 128 + signal.SIGTERM == await asyncio.to_thread(process.wait, 10)
    await eventually(lambda: not any(map(alive, pids)))


async def test_when_it_is_killed_its_children_end_and_the_port_is_free(file: Path) -> None:
    with spawned(file, ORDINARY) as process:
        pids, port = started(process)
        process.kill()
    await eventually(lambda: not any(map(alive, pids)))
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", port))
        sock.listen()


async def test_when_its_terminal_goes_it_ends_in_order(file: Path, tmp_path: Path) -> None:
    """With a terminal that is still there, a hangup is a reload."""
    file.write_text("{}")
    program = tmp_path / "program.py"
    program.write_text("import os, sys\nos.login_tty(int(sys.argv.pop()))\n" + PROGRAM)
    terminal, its_end = os.openpty()
    command = [sys.executable, str(program), str(SCRIPT), str(file), str(its_end)]
    process = await asyncio.create_subprocess_exec(*command, pass_fds=[its_end], start_new_session=True)
    os.close(its_end)

    def read_until(word: bytes) -> bytes:
        seen = b""
        while word not in seen:
            seen += os.read(terminal, 1 << 16)
        return seen

    pids = re.findall(rb"kind=relay pid=(\d+)", plain(await asyncio.to_thread(read_until, b"gateway_started")))
    process.send_signal(signal.SIGHUP)
    await asyncio.to_thread(read_until, b"reload_finished")
    os.close(terminal)
    assert 0 == await asyncio.wait_for(process.wait(), 10)
    assert pids
    assert not any(alive(int(pid)) for pid in pids)


def plain(text: bytes) -> bytes:
    """Without colours."""
    return re.sub(rb"\x1b\[[\d;]*m", b"", text)


def test_it_is_small() -> None:
    """None of what only its children need is imported."""
    program = "import sys; import sidestream.cli, sidestream.processes.supervisor; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"aiohttp", "uvloop", "yaml", "sidestream.config", "sidestream.registry"} & set(done.stdout.split())
