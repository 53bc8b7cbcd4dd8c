"""How long the viewer takes with 100,000 turns in the store: pages, searches and their JSON, over HTTP, one at a time.

Makes the store (`many_turns`, minutes; kept in ``build/bench`` for the day), starts a real gateway on a copy of it, and
asks for each thing 200 times on a kept connection, after a few times that do not count. A time is the one from sending
the request to the last byte of the answer: relay, recorder and store together. ``make bench`` runs it and prints a
table; what takes longer than its goal at the 95th percentile is marked. Words on the command line have only those
asked for whose names have them all.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
import os
import platform
import shutil
import sqlite3
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode

import aiohttp

import many_turns
from gateway_process import GatewayProcess
from sidestream.store.library import Library
from sidestream.store.shapes import RunFilter

TIMES: Final = 200
_FIRST: Final = 5
"""Requests that do not count."""
_KEPT: Final = Path("build/bench")
_PAGE: Final = 100.0
"""Milliseconds that lists, searches and runs may take."""
_OPENED: Final = 50.0
_DEEP: Final = 30
"""Pages that a deep page is down from the first."""


class Case(NamedTuple):
    """What is asked for; `goal` is in milliseconds."""

    name: str
    path: str
    goal: float = _PAGE


class Found(NamedTuple):
    """How long it took, in milliseconds, and how much came."""

    milliseconds: list[float]
    size: int


def store() -> Path:
    """The store of today, made if it is not there yet."""
    path = _KEPT / f"many-turns-{time.strftime('%Y-%m-%d')}.db"
    if not path.exists():
        shutil.rmtree(_KEPT, ignore_errors=True)
        _KEPT.mkdir(parents=True)
        unfinished = path.with_suffix(".part")
        many_turns.make(unfinished, functools.partial(print, file=sys.stderr, flush=True))
        unfinished.rename(path)
    return path


async def cases(session: aiohttp.ClientSession) -> list[Case]:
    """All that is asked for. Pages and their JSON go by the same filters."""
    deep, runs = await _walked(session)
    short = next(run["id"] for run in runs if run["turns"] == many_turns.SHORT)
    long = next(run["id"] for run in runs if run["turns"] == many_turns.LONG)
    branch = next(run["id"] for run in runs if run["kind"] == "branch")
    async with session.get(f"/ui/api/runs/{short}") as reply:
        turn = (await reply.json())["turns"][-1]["id"]
    lists = {"newest": {}, "deep": {"before": deep}, **{f"by {name}": query for name, query in _filters()}}
    found = []
    for name, query in lists.items():
        found.append(Case(f"list, {name}", f"/?{urlencode(query)}"))
        found.append(Case(f"list, {name}, JSON", f"/ui/api/runs?{urlencode(query)}"))
    for name, query in _searches():
        found.append(Case(f"search, {name}", f"/?{urlencode(query)}"))
        found.append(Case(f"search, {name}, JSON", f"/ui/api/search?{urlencode(query)}"))
    for name, run in (("50 turns", short), ("200 turns", long), ("a branch", branch)):
        found.append(Case(f"run, {name}", f"/runs/{run}"))
        found.append(Case(f"run, {name}, JSON", f"/ui/api/runs/{run}"))
    found.append(Case("run, 200 turns, last page", f"/runs/{long}?from=151"))
    found.append(Case("run, 50 turns, messages, JSON", f"/ui/api/runs/{short}/messages"))
    found += [Case("turn", f"/turns/{turn}"), Case("turn, JSON", f"/ui/api/turns/{turn}")]
    found.append(Case("turn, as captured, JSON", f"/ui/api/turns/{turn}/record"))
    found += [Case(f"overview, {span}", f"/overview?span={span}") for span in ("24h", "7d", "30d")]
    found.append(Case("overview, 30d, one dataset", "/overview?span=30d&dataset=coding"))
    found.append(Case("overview, all, JSON", "/ui/api/overview?since=1000d"))
    found += [Case("deliveries", "/deliveries"), Case("deliveries, JSON", "/ui/api/deliveries")]
    found.append(Case("deliveries, none of a state", "/deliveries?state=dead"))
    found.append(Case("datasets, JSON", "/ui/api/datasets"))
    return found


def _filters() -> list[tuple[str, dict[str, str]]]:
    everything = {"dataset": "coding", "model": many_turns.MODELS[0], "tool": "read", "errors": "true", "since": "20d"}
    return [
        ("dataset", {"dataset": "coding"}),
        ("model", {"model": many_turns.MODELS[0]}),
        ("state", {"state": "failed"}),
        ("tool", {"tool": "ask"}),
        ("errors", {"errors": "true"}),
        ("no errors", {"errors": "false"}),
        ("time", {"since": "20d", "until": "10d"}),
        ("everything", {"everything": "true"}),
        ("five things", everything),
        ("a model of none", {"model": "none"}),
        ("a tool of none", {"tool": "none"}),
    ]


def _searches() -> list[tuple[str, dict[str, str]]]:
    return [
        ("a word everywhere", {"q": many_turns.COMMON}),
        ("a rare word", {"q": many_turns.RARE}),
        ("no such word", {"q": "aardvark"}),
        ("a phrase", {"q": '"balm barn"'}),
        ("the beginning of a word", {"q": "bal*"}),
        ("three words", {"q": "balm barn bemp"}),
        ("everywhere, by dataset", {"q": many_turns.COMMON, "dataset": "coding"}),
        (
            "everywhere, by four things",
            {"q": many_turns.COMMON, "model": many_turns.MODELS[0], "tool": "ask", "since": "9d"},
        ),
        ("everywhere, of no run", {"q": many_turns.COMMON, "model": "none"}),
        ("rare, by state", {"q": many_turns.RARE, "state": "failed"}),
    ]


async def _walked(session: aiohttp.ClientSession) -> tuple[str, list[dict[str, Any]]]:
    """What a deep page is asked for with, and the runs on the way there and after."""
    runs, places, before = list[dict[str, Any]](), list[str](), ""
    while len(places) < _DEEP or before:
        async with session.get("/ui/api/runs", params={"before": before, "everything": "true"}) as reply:
            found = await reply.json()
        runs += found["runs"]
        before = found["next"] or ""
        places.append(before)
    return places[_DEEP], runs


async def _ready(session: aiohttp.ClientSession) -> None:
    """Wait for the recorder, which starts beside the relay."""
    async with asyncio.timeout(60):
        while True:
            async with session.get("/ui/api/datasets") as reply:
                if reply.status == 200:
                    return
            await asyncio.sleep(0.1)


async def asked(session: aiohttp.ClientSession, case: Case, times: int) -> Found:
    """Ask for it so often."""
    took, size = [], 0
    for _ in range(_FIRST + times):
        began = time.perf_counter()
        async with session.get(case.path) as reply:
            size = len(await reply.read())
            took.append(1000 * (time.perf_counter() - began))
        if reply.status != 200:
            sys.exit(f"{case.name}: {reply.status}")
    return Found(took[_FIRST:], size)


def opened(path: Path, times: int) -> Found:
    """Open the library anew, and list the newest runs, as the first who looks makes it do; without HTTP."""
    took = []
    for _ in range(times):
        began = time.perf_counter()
        library = Library.open(path)
        library.runs(RunFilter())
        took.append(1000 * (time.perf_counter() - began))
        library.close()
    return Found(took, 0)


def row(name: str, found: Found, goal: float) -> str:
    """A line of the table."""
    ordered = sorted(found.milliseconds)
    p50, p95 = (ordered[math.ceil(len(ordered) * percent / 100) - 1] for percent in (50, 95))
    return (
        f"{name:<40}{p50:>9.1f}{p95:>9.1f}{ordered[-1]:>9.1f}{found.size / 1000:>9,.0f}  {'over' if p95 > goal else ''}"
    )


def machine() -> str:
    """Where and when this is."""
    model = platform.processor()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    return (
        f"{time.strftime('%Y-%m-%d %H:%M')}, {os.cpu_count()} processors ({model}), {platform.system()},"
        f" Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}"
    )


async def main() -> int:
    """Make, ask and print."""
    kept = store()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "data").mkdir(mode=0o700)
        shutil.copy(kept, folder / "data" / "store.db")
        async with GatewayProcess(folder, "http://127.0.0.1:9") as gateway:
            origin = gateway.url.partition("/api/")[0]
            async with aiohttp.ClientSession(origin) as session:
                await _ready(session)
                wanted = [case for case in await cases(session) if all(word in case.name for word in sys.argv[1:])]
                size = kept.stat().st_size / 1e6
                print(f"{machine()}\n{many_turns.TURNS:,} turns, {size:,.0f} MB; {TIMES} times each\n")
                print(f"{'':<40}{'p50 ms':>9}{'p95 ms':>9}{'max ms':>9}{'kB':>9}")
                print(row("open, and the newest runs (no HTTP)", opened(folder / "data" / "store.db", TIMES), _OPENED))
                for case in wanted:
                    print(row(case.name, await asked(session, case, TIMES), case.goal), flush=True)
            memory = gateway.memory()
            print("\nMB of memory: " + ", ".join(f"{kind} {each:,.0f}" for kind, each in memory.items()))
            await gateway.end()
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
