"""Turns are shown as they end, for as long as somebody looks: by whatever recorder, to a person or to a program."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import sys
import warnings
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import yaml
from click.testing import CliRunner

from conversing import START, assistant, text, tool_result, tool_use, user
from conversing import Call as Made
from journaling import ROOMY
from recording import a_call, eventually, told
from sidestream.cli import main
from sidestream.store.directory import Directory
from sidestream.store.journal import Journal
from sidestream.store.library import Library
from sidestream.store.rows import Item
from sidestream.store.store import Store
from sidestream.tailing import Follower, _Lines, _Reading
from sidestream.tasks import spawn
from watching import answering, watched

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import pytest

    from sidestream.store.shapes import RunSummary, TurnMessages, TurnSummary
    from watching import Watched

RECORDER = """
import asyncio, sys
from pathlib import Path
from watching import record

asyncio.run(record(Path(sys.argv[1]), lambda: print("ready", flush=True)))
"""


class Heard:
    """Remembers what there was to print."""

    kinds = "began,ended,gone,removed"

    def __init__(self) -> None:
        self.events: list[str] = []
        self.turns: list[tuple[str, list[str]]] = []

    def event(self, kind: str, data: str) -> None:  # noqa: ARG002
        self.events.append(kind)

    def ended(self, run: RunSummary, turn: TurnSummary, messages: TurnMessages | None) -> None:  # noqa: ARG002
        said = messages.messages if messages is not None else []
        self.turns.append((turn.id, [message["content"] for message in said]))


@asynccontextmanager
async def following(recorder: Watched, folder: Path, **wanted: str | None) -> AsyncIterator[Heard]:
    """What is heard of a recorder, from now on."""
    directory, heard = Directory(folder / "data"), Heard()
    async with answering(recorder.plane, recorder.desk, directory.socket):
        follower = Follower(directory, heard, **{"dataset": None, "run": None, **wanted})
        task = spawn(follower.run(), name="follower")
        await eventually(lambda: recorder.plane.feed.listeners)
        yield heard
        task.cancel()
        await asyncio.wait([task])


def of_an_agent() -> list[Made]:
    """Two turns, with all that may be in them."""
    asked = [user("Look it up.")]
    called = [{"type": "thinking", "thinking": "Hm.", "signature": "s"}, text("Yes."), tool_use("t1", path="a b", n=3)]
    result = user(tool_result("t1", "\x1b[31mred\u202e"))
    return [
        Made("x1", asked, called, START),
        Made("x2", [*asked, assistant(called), result], [text("y" * 5000)], START + 10),
    ]


def stored(folder: Path, *calls: Made) -> list[tuple[RunSummary, TurnMessages]]:
    """Runs and turns as the recorder tells of them."""
    file = folder / "store.db"
    store = Store.open(file)
    store.commit([Item(call.record(), call.reading(), None, ()) for call in calls])
    store.close()
    library = Library.open(file)
    turns = [library.turn(call.id) for call in calls]
    found = [(library.summary(turn.turn.run), turn) for turn in turns]
    library.close()
    return found


async def test_each_turn_is_shown_when_it_has_ended_with_what_it_added(tmp_path: Path) -> None:
    async with watched(tmp_path) as recorder, following(recorder, tmp_path) as heard:
        for number in (1, 2):
            await recorder.call(number)
        await eventually(lambda: len(heard.turns) == 2)
    assert [("call-1", ["What is 1?", "It is 1."]), ("call-2", ["What is 2?", "It is 2."])] == heard.turns


async def test_only_the_run_that_is_wanted_is_shown(tmp_path: Path) -> None:
    async with watched(tmp_path) as recorder, following(recorder, tmp_path, run="call-1") as heard:
        recorder.end(told(recorder.journal, "other", outcome=None, started_at=5.0))
        await recorder.call(1)
        await eventually(lambda: heard.turns)
    assert ["call-1"] == [name for name, _ in heard.turns]


async def test_who_stops_following_leaves_no_connection_behind(tmp_path: Path) -> None:
    gc.disable()
    try:
        async with watched(tmp_path) as recorder, following(recorder, tmp_path):
            await recorder.call(1)
        with warnings.catch_warnings(record=True, action="always") as left:
            gc.collect()
    finally:
        gc.enable()
    assert [] == [str(warning.message) for warning in left]


async def test_a_turn_whose_messages_are_not_there_any_more_is_shown_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (run, turn), *_ = stored(tmp_path, *of_an_agent())
    monkeypatch.setenv("TZ", "UTC")
    _Reading().ended(run, turn.turn, None)
    assert "Look it up.  turn 1" in (said := capsys.readouterr().out)
    assert "  what was said is not there any more\n" in said


def test_a_person_is_shown_what_was_said_and_nothing_that_a_terminal_would_obey(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printer = _Reading()
    for run, turn in stored(tmp_path, *of_an_agent()):
        printer.ended(run, turn.turn, turn)
    first, second = [part.split("\n") for part in capsys.readouterr().out.strip().split("\n\n")]
    assert ["  user: Look it up.", "  assistant: Yes.", '  → look(path="a b", n=3)'] == first[1:]
    assert first[0].endswith("  demo  Look it up.  turn 1 · answered · claude-x · 10 → 5 tokens · 1.0 s")
    assert [r"  tool look: \x1b[31mred\u202e", f"  assistant: {'y' * 4000}… 1,000 more characters"] == second[1:]


def test_a_program_is_given_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for run, turn in stored(tmp_path, *of_an_agent()):
        _Lines.ended(run, turn.turn, turn)
    _Lines.event("gone", '{"id": "x3"}')
    first, second, third = map(json.loads, capsys.readouterr().out.splitlines())
    assert ("ended", "x1", "x1", "thinking") == (
        first["event"],
        first["run"]["id"],
        first["turn"]["id"],
        first["messages"][1]["role"],
    )
    assert (2, 5000) == (second["turn"]["number"], len(second["messages"][-1]["content"]))
    assert {"event": "gone", "id": "x3"} == third


def test_a_run_that_is_not_there_is_refused(tmp_path: Path) -> None:
    directory = Directory(tmp_path / "data")
    directory.prepare()
    stored(directory.path, *of_an_agent())
    file = tmp_path / "sidestream.yaml"
    file.write_text(yaml.safe_dump({"recorder": {"dir": str(directory.path)}}))
    result = CliRunner().invoke(main, ["tail", "-c", str(file), "--run", "beef"])
    assert (1, "Error: ") == (result.exit_code, result.output[:7])


class Tail:
    """``sidestream tail --json`` on ``folder/data``, with its output in a pipe."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def start(self) -> None:
        file = self._folder / "sidestream.yaml"
        file.write_text(yaml.safe_dump({"recorder": {"dir": str(self._folder / "data")}}))
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "sidestream", "tail", "-c", str(file), "--json"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=1 << 20,
        )

    async def ended(self) -> str:
        """The id of the next turn that it says has ended."""
        assert self.process.stdout is not None
        async with asyncio.timeout(20):
            while (said := json.loads(await self.process.stdout.readline()))["event"] != "ended":
                pass
        return str(said["turn"]["id"])

    async def remark(self) -> str:
        """The next line of its standard error."""
        assert self.process.stderr is not None
        async with asyncio.timeout(20):
            return (await self.process.stderr.readline()).decode()


async def started(folder: Path) -> asyncio.subprocess.Process:
    """A recorder in a process of its own, ready."""
    recorder = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", RECORDER, str(folder)),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=asyncio.subprocess.PIPE,
    )
    assert recorder.stdout is not None
    async with asyncio.timeout(20):
        assert b"ready\n" == await recorder.stdout.readline()
    return recorder


async def killed(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.wait()


async def test_it_goes_on_where_it_was_with_the_next_recorder_and_ends_quietly(tmp_path: Path) -> None:
    """Nobody runs yet; then a recorder does, is killed without a word, and another one takes its place."""
    directory = Directory(tmp_path / "data")
    directory.prepare()
    journal = Journal(directory.journal, strict=False, **ROOMY)
    journal.start()
    tail = Tail(tmp_path)
    await tail.start()
    processes = [tail.process]
    try:
        assert "no recorder runs on" in await tail.remark()
        processes.append(recorder := await started(tmp_path))
        call(journal, 1)
        assert "call-1" == await tail.ended()
        await killed(recorder)
        call(journal, 2)  # by when nobody reads
        assert "waiting" in await tail.remark()
        processes.append(await started(tmp_path))
        call(journal, 3)
        assert ["call-2", "call-3"] == [await tail.ended(), await tail.ended()]
        assert "something may be missing here" in await tail.remark()
        tail.process.send_signal(signal.SIGINT)
        assert (130, b"") == (await tail.process.wait(), (await tail.process.communicate())[1])
    finally:
        for process in processes:
            await killed(process)
        await journal.stop(5)


def call(journal: Journal, number: int) -> None:
    body, answer = a_call(number)
    told(journal, f"call-{number}", body=body, answer=answer, started_at=1000.0 + 10 * number)
