"""A process that delivers is killed at any moment, again and again; in the end each turn has arrived once."""

import asyncio
import json
import random
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from delivering import Bench, a_turn
from growing import Agent
from sidestream.options import Secret
from sidestream.sinks.base import Sink
from sidestream.sinks.explorer import Explorer
from sidestream.sinks.jsonl import Jsonl
from sidestream.testing import FakeExplorer

KEY = "inv-" + "a" * 64
NUMBER = 200
KILLS = 5
CHILD = """
import asyncio, sys
from pathlib import Path
from delivering import Bench, SOON
from sidestream.options import Secret
from sidestream.sinks.explorer import Explorer
from sidestream.sinks.jsonl import Jsonl

async def main():
    kind, place, key, store = sys.argv[1:]
    sink = Explorer(url=place, api_key=Secret(key)) if kind == "explorer" else Jsonl(path=place)
    deliver = sink.deliver

    async def told(*args):
        print(flush=True)
        return await deliver(*args)

    sink.deliver = told
    await Bench(Path(store)).engine(sink, SOON).start()
    await asyncio.Event().wait()

asyncio.run(main())
"""


def dataset(number: int) -> str:
    return f"d{number % 3}"


def names(of: int | None = None) -> Iterator[str]:
    return (f"x{number:03}" for number in range(NUMBER) if of is None or number % 3 == of)


async def deliver_and_be_killed(sink: Sink, place: str, store: Path) -> None:
    """Deliver many turns to `sink`, each of a trace of its own."""
    bench = Bench(store)
    await bench.add(sink, *(a_turn(name, dataset=dataset(number)) for number, name in enumerate(names())))
    await bench.close()
    await be_killed(sink, place, store, list(names()))


async def be_killed(sink: Sink, place: str, store: Path, wanted: list[str]) -> None:
    """Deliver what is in the store, with `KILLS` processes that are killed and one that is not."""
    for _ in range(KILLS):
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", CHILD, sink.name, place, KEY, str(store)),
            cwd=Path(__file__).parents[1],
            stdout=asyncio.subprocess.PIPE,
        )
        assert child.stdout
        for _ in range(random.randint(1, len(wanted) // 8)):
            assert await child.stdout.readline()
        child.kill()
        await child.wait()
    bench = Bench(store)
    assert "pending" in dict(await bench.states()).values()
    async with bench.delivering(sink):
        await bench.until(dict.fromkeys(wanted, "delivered"), 20)
    await bench.close()


@pytest.mark.timeout(60)
async def test_a_turn_arrives_once_at_explorer_however_often_the_process_is_killed(tmp_path: Path) -> None:
    async with FakeExplorer() as explorer:
        sink = Explorer(url=explorer.url, api_key=Secret(KEY))
        await deliver_and_be_killed(sink, explorer.url, tmp_path / "store.db")

        for number in range(3):
            assert explorer.exchanges(f"d{number}") == list(names(number))


@pytest.mark.timeout(60)
async def test_runs_are_whole_and_in_order_at_explorer_however_often_the_process_is_killed(tmp_path: Path) -> None:
    async with FakeExplorer() as explorer:
        explorer.append_seconds = 0.005
        sink = Explorer(url=explorer.url, api_key=Secret(KEY))
        calls = [replace(call, id=f"{call.id}-{n}", dataset=dataset(n)) for n in range(3) for call in Agent().calls(40)]
        bench = Bench(tmp_path / "store.db")
        await bench.run_of(sink, *calls)
        await bench.close()
        await be_killed(sink, explorer.url, tmp_path / "store.db", [call.id for call in calls])

        said = [[message["content"] for message in trace.messages[1:]] for trace in explorer.traces]
        assert [[f"{letter}{turn}" for turn in range(1, 41) for letter in "aA"]] * 3 == said
        assert not explorer.frozen


@pytest.mark.timeout(60)
async def test_a_turn_is_written_once_however_often_the_process_is_killed(tmp_path: Path) -> None:
    file = tmp_path / "traces.jsonl"
    await deliver_and_be_killed(Jsonl(path=str(file)), str(file), tmp_path / "store.db")

    traces = [json.loads(line) for line in file.read_text().splitlines()]
    for number in range(3):
        assert [trace["id"] for trace in traces if trace["dataset"] == f"d{number}"] == list(names(number))
