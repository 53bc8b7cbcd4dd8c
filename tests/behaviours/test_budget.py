"""What a chunk costs on its way, counted: calls of functions, tasks, timers, parsed JSON and copies.

Nothing is timed. The gateway runs on asyncio's own event loop, whose Python functions can be counted; provider and
client take turns in another thread, so that each chunk passes by itself.
"""

from __future__ import annotations

import asyncio
import gc
import re
import socket
import sys
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import sidestream
from rawhttp import PATH, connect, post
from sidestream.testing import gateway

if TYPE_CHECKING:
    from types import FrameType

    from sidestream.testing import ScriptedUpstream

FEW, MANY = 20, 120
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
OWN = str(Path(sidestream.__file__).parent)
CALLS = 26
"""Of sidestream's own functions for each chunk. The nine that are only awaited through, from the handler to the relay,
are among them."""


class Calls:
    """Counts what is called in this thread: builtins and functions by name, and sidestream's own apart."""

    def __init__(self) -> None:
        self.all: Counter[str] = Counter()
        self.own: Counter[str] = Counter()

    def __enter__(self) -> Self:
        sys.setprofile(self._called)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _called(self, frame: FrameType, event: str, what: Any) -> None:
        code = frame.f_code
        if event == "call":
            self.all[code.co_qualname] += 1
            self.own[code.co_qualname] += code.co_filename.startswith(OWN)
        elif event == "c_call":
            self.all[f"{what.__module__}.{what.__qualname__}"] += 1


class Provider:
    """Sends a chunk whenever the client has the one before; it plays both, and blocks."""

    def __init__(self, chunks: int, size: int, path: str) -> None:
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.listening.settimeout(10)
        self.url = f"http://127.0.0.1:{self.listening.getsockname()[1]}"
        self.chunks = chunks
        self.size = size
        self.path = path
        self.peaks: list[int] = []
        """Bytes that were taken at most while each chunk passed."""

    def run(self, gateway: str) -> None:
        with self.listening, socket.create_connection(("127.0.0.1", urlsplit(gateway).port or 0), 10) as client:
            client.sendall(post(b"{}", path=self.path))
            upstream, _ = self.listening.accept()
            with upstream:
                upstream.settimeout(10)
                upstream.recv(1 << 16)
                upstream.sendall(HEAD)
                self._stream(upstream, client)

    def _stream(self, upstream: socket.socket, client: socket.socket) -> None:
        chunk = b"%x\r\n%s\r\n" % (self.size, b"x" * self.size)
        buffer = bytearray(1 << 16)
        client.recv_into(buffer)  # the head
        for _ in range(self.chunks):
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            upstream.sendall(chunk)
            left = len(chunk)
            while left:
                left -= client.recv_into(buffer)
            self.peaks.append(tracemalloc.get_traced_memory()[1] - before)
        upstream.sendall(b"0\r\n\r\n")
        client.recv_into(buffer)


async def stream(folder: Path, chunks: int, size: int = 150, path: str = PATH) -> tuple[Calls, int]:
    """What is called while so many chunks pass, and the memory that one of them takes meanwhile, at least."""
    provider = Provider(chunks, size, path)
    recorder = {"mode": "external", "dir": str(folder), "min_free": 0}
    async with gateway(provider.url, recorder=recorder) as url:
        with Calls() as calls:
            await asyncio.to_thread(provider.run, url)
    return calls, min(provider.peaks)


async def per_chunk(folder: Path) -> tuple[Counter[str], Counter[str]]:
    """What comes with every chunk, and how often: all calls, and sidestream's own."""
    few, _ = await stream(folder / "few", FEW)
    many, _ = await stream(folder / "many", MANY)

    def each(less: Counter[str], more: Counter[str]) -> Counter[str]:
        return Counter({name: round((more[name] - less[name]) / (MANY - FEW)) for name in more})

    return +each(few.all, many.all), +each(few.own, many.own)


async def test_a_chunk_makes_no_task_no_timer_and_parses_nothing(tmp_path: Path) -> None:
    calls, _ = await per_chunk(tmp_path)
    assert 1 == calls["StreamWriter.write"], "the chunks did not pass one by one"
    unwanted = re.compile(r"task|call_later|call_at|TimerHandle|json|loads|parse|decode", re.IGNORECASE)
    assert {} == {name: count for name, count in calls.items() if unwanted.search(name)}


async def test_a_chunk_costs_no_more_calls_than_it_did(tmp_path: Path) -> None:
    _, own = await per_chunk(tmp_path)
    assert CALLS >= own.total(), own


async def test_a_chunk_is_not_copied_for_its_observers(tmp_path: Path) -> None:
    size = 40_000
    tracemalloc.start()
    try:
        _, recorded = await stream(tmp_path, 20, size)
        _, passed = await stream(tmp_path, 20, size, path="/api/v1/gateway/anthropic/v1/messages")
    finally:
        tracemalloc.stop()
    assert 1 >= round((recorded - passed) / size), "it may be kept until it is written down, once"


async def test_an_exchange_leaves_nothing_for_the_garbage_collector(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    recorder = {"mode": "external", "dir": str(tmp_path), "min_free": 0}
    async with gateway(upstream.url, recorder=recorder) as url, connect(url) as client:

        async def exchange() -> None:
            await client.send(post(b"{}"))
            await client.answer()
            await asyncio.sleep(0)

        await exchange()
        gc.collect()
        gc.disable()
        try:
            for _ in range(10):
                await exchange()
            assert 10 > gc.collect()
        finally:
            gc.enable()
