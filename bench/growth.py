"""What a long run costs: an agent of 200 turns that resends its history with every call, through a real gateway.

Prints how the bytes grow that are stored and pushed, beside what they would be with one trace per call, and whether the
recorder keeps up with 50 such turns per second. ``make growth`` runs it; it takes half a minute.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import random
import sqlite3
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec
import zstandard
from aiohttp import web

from gateway_process import GatewayProcess
from sidestream.errors import SidestreamError
from sidestream.providers import PROVIDERS
from sidestream.store.store import Store
from sidestream.testing import FakeExplorer

TURNS: Final = 200
PER_SECOND: Final = 50
SHOWN: Final = (50, 100, 150, 200)
KEY: Final = "inv-" + "a" * 64
WORDS: Final = [f"{a}{b}{c}" for a in "bdfgk" for b in "aeiou" for c in ("lm", "st", "rn", "nd", "mp", "ck")]
TICK: Final = os.sysconf("SC_CLK_TCK")


def words(count: int, source: random.Random) -> str:
    return " ".join(source.choices(WORDS, k=count))


class Model:
    """Answers each call with a text and a tool call; keeps the requests."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self._source = random.Random(1)
        self._numbers = itertools.count(1)

    async def answer(self, request: web.Request) -> web.Response:
        self.requests.append(await request.read())
        number = next(self._numbers)
        message = {
            "id": f"msg_{number}",
            "type": "message",
            "role": "assistant",
            "model": "claude-sonnet-4-5",
            "content": [
                {"type": "text", "text": words(40, self._source)},
                {"type": "tool_use", "id": f"toolu_{number}", "name": "read", "input": {"path": f"src/{number}.py"}},
            ],
            "stop_reason": "tool_use",
            "usage": {"input_tokens": 300 * number, "output_tokens": 120},
        }
        return web.json_response(message)


async def run(url: str, turns: int) -> list[float]:
    """One agent; its calls begin 50 times a second, or as fast as they are answered. When each was over."""
    source = random.Random(2)
    messages: list[dict[str, Any]] = [{"role": "user", "content": f"Repair the program. {words(100, source)}"}]
    over = []
    begun = time.monotonic()
    headers = {"x-api-key": "sk-ant-growth", "invariant-authorization": f"Bearer {KEY}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        for turn in range(turns):
            await asyncio.sleep(max(begun + turn / PER_SECOND - time.monotonic(), 0))
            body = {"model": "claude-sonnet-4-5", "max_tokens": 1000, "system": "Be brief.", "messages": messages}
            async with session.post(f"{url}/v1/messages", data=json.dumps(body).encode()) as reply:
                content = (await reply.json())["content"]
            over.append(time.monotonic())
            result = {"type": "tool_result", "tool_use_id": content[1]["id"], "content": words(240, source)}
            messages += [{"role": "assistant", "content": content}, {"role": "user", "content": [result]}]
    return over


def stored(folder: Path) -> int:
    """How many exchanges are in the store."""
    try:
        store = Store.open_reader(folder / "data" / "store.db")
    except SidestreamError:
        return 0
    try:
        return store.count()
    finally:
        store.close()


def cpu_of(pids: list[int]) -> float:
    """Seconds of CPU that processes have used."""
    used = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(fields[11]) + int(fields[12]) for fields in used) / TICK


async def measured(folder: Path, mode: str, turns: int) -> dict[str, Any]:
    """One run with the Explorer's sink in this mode."""
    model = Model()
    app = web.Application(client_max_size=1 << 30)
    app.router.add_post("/v1/messages", model.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    upstream = f"http://127.0.0.1:{runner.addresses[0][1]}"
    async with FakeExplorer() as explorer:
        explorer.append_seconds = 0.0
        sinks = [{"explorer": {"mode": mode, "url": explorer.url}}]
        async with GatewayProcess(folder, upstream, sinks=sinks) as gateway:
            recorder = gateway.children("recorder")
            begun = cpu_of(recorder)
            agent = asyncio.create_task(run(f"{gateway.url}", turns))
            behind = 0
            while not agent.done():
                await asyncio.sleep(0.1)
                behind = max(behind, len(model.requests) - await asyncio.to_thread(stored, folder))
            over = await agent
            while await asyncio.to_thread(stored, folder) < turns:
                await asyncio.sleep(0.01)
            in_store = time.monotonic()
            await explorer.wait_for_requests(turns, 60)
            cpu = cpu_of(recorder) - begun
            await gateway.end()
    await runner.cleanup()
    return {
        "traces": len(explorer.traces),
        "pushed": list(itertools.accumulate(explorer.sizes)),
        "requests": model.requests,
        "stored": kept(folder),
        "file": sum(file.stat().st_size for file in (folder / "data").glob("store.db*")),
        "rate": turns / (over[-1] - over[0]),
        "behind": behind,
        "late": in_store - over[-1],
        "cpu": cpu / turns,
    }


def kept(folder: Path) -> list[int]:
    """Bytes in the store after each turn: captures and what was understood."""
    with contextlib.closing(sqlite3.connect(f"file:{folder}/data/store.db?mode=ro", uri=True)) as database:
        return list(itertools.accumulate(size for (size,) in database.execute("SELECT stored FROM exchanges")))


def alone(requests: list[bytes]) -> list[int]:
    """Bytes after each turn if each call were kept by itself: its request, and all of its messages, compressed."""
    squeeze = zstandard.ZstdCompressor(level=3).compress
    sizes = []
    for request in requests:
        understood = PROVIDERS["anthropic"].understand(request=request, response=b"", content_type="", status=200)
        sizes.append(len(squeeze(request)) + len(squeeze(msgspec.json.encode(understood.messages))))
    return list(itertools.accumulate(sizes))


def row(name: str, values: list[int]) -> str:
    shown = "".join(f"{values[turn - 1] / 1000:>12,.0f}" for turn in SHOWN if turn <= len(values))
    return f"{name:<44}{shown}"


async def main() -> int:
    """Run, print, and say whether it is as promised."""
    with tempfile.TemporaryDirectory() as name:
        folders = [Path(name, mode) for mode in ("conversation", "exchange")]
        for folder in folders:
            folder.mkdir()
        conversation, exchange = [await measured(folder, folder.name, TURNS) for folder in folders]
    raw = list(itertools.accumulate(map(len, conversation["requests"])))
    separate = alone(conversation["requests"])
    print(f"{TURNS} turns, the last request {len(conversation['requests'][-1]) / 1000:,.0f} kB; kB after turn")
    print(f"{'':<44}" + "".join(f"{turn:>12}" for turn in SHOWN))
    print(row("requests, raw", raw))
    print(row("stored, captures included", conversation["stored"]))
    print(row("  one trace per call, computed", separate))
    print(row("pushed, mode: conversation", conversation["pushed"]))
    print(row("  mode: exchange", exchange["pushed"]))
    for mode, result in (("conversation", conversation), ("exchange", exchange)):
        print(
            f"{mode}: {result['traces']} traces; {result['rate']:.0f} turns/s, the store at most {result['behind']}"
            f" turns behind, and done {1000 * result['late']:.0f} ms after the last answer; store file"
            f" {result['file'] / 1000:,.0f} kB; recorder {1000 * result['cpu']:.1f} ms of CPU per turn"
        )
    linear = all(
        values[-1] < 2.5 * values[TURNS // 2 - 1] for values in (conversation["stored"], conversation["pushed"])
    )
    return 0 if linear and conversation["traces"] == 1 else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
