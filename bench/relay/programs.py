"""The two C programs beside this file: built, started, and asked."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import resource
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bench.relay import machine

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

BUILD: Final = Path(__file__).parents[2] / "build" / "bench"

_HERE: Final = Path(__file__).parent
_START: Final = 10.0


class BenchError(Exception):
    """The bench cannot go on; the text says why and what to do."""


def build() -> None:
    """Compile what has changed; `BenchError` without a compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    BUILD.mkdir(parents=True, exist_ok=True)
    for name in ("mock", "load"):
        newest = max((_HERE / source).stat().st_mtime for source in (f"{name}.c", "common.h"))
        program = BUILD / name
        if program.exists() and program.stat().st_mtime >= newest:
            continue
        if compiler is None:
            raise BenchError("the bench needs a C compiler: gcc is not on the path")
        unfinished = program.with_suffix(f".{os.getpid()}")
        command = [compiler, "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(unfinished), str(_HERE / f"{name}.c")]
        subprocess.run(command, check=True)  # noqa: S603  # our own source
        unfinished.rename(program)


def free_port() -> int:
    """One that nobody listens on at the moment."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def listening(port: int) -> bool:
    """Whether somebody listens there."""
    with socket.socket() as sock:
        sock.settimeout(1)
        return sock.connect_ex(("127.0.0.1", port)) == 0


def environment(**more: str) -> dict[str, str]:
    """Ours, without the proxies that it may name."""
    return {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")} | more


class Mock:
    """The provider and the Explorer, listening on `port`."""

    def __init__(self, port: int, pid: int) -> None:
        self.port = port
        self.pid = pid
        self.url = f"http://127.0.0.1:{port}"

    def stats(self) -> dict[str, int]:
        """What it has counted: ``messages``, ``streams_done``, ``traces``, ``appends``, …"""
        return fetch(self.port, "/stats")


@contextlib.contextmanager
def mock(folder: Path = BUILD) -> Iterator[Mock]:
    """Run the mock on the harness's core; `folder` has what it may be asked to answer with, byte for byte."""
    port = free_port()
    with machine.pinned(machine.HARNESS):
        process = subprocess.Popen([BUILD / "mock", str(port), str(folder)])  # noqa: S603  # our own program
    try:
        until = time.monotonic() + _START
        while not listening(port):
            if process.poll() is not None or time.monotonic() > until:
                raise BenchError("the mock does not start")
            time.sleep(0.01)
        yield Mock(port, process.pid)
    finally:
        process.kill()
        process.wait()


def load_command(port: int, path: str, headers: Sequence[str], options: Mapping[str, object]) -> list[str]:
    """The command of a load; `options` are those of load.c, by their letters."""
    command = [str(BUILD / "load"), "-p", str(port), "-u", path]
    for header in headers:
        command += ["-H", header]
    for name, value in options.items():
        command += [f"-{name}", str(value)]
    return command


def start_load(port: int, path: str, headers: Sequence[str], options: Mapping[str, object]) -> subprocess.Popen[bytes]:
    """Start a load on the harness's core; it prints JSON when it is done."""
    with machine.pinned(machine.HARNESS):
        return subprocess.Popen(load_command(port, path, headers, options), stdout=subprocess.PIPE)  # noqa: S603


def load(port: int, path: str, headers: Sequence[str], options: Mapping[str, object]) -> dict[str, Any]:
    """Run a load on the harness's core; what it printed, and its ``cpu`` in seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = start_load(port, path, headers, options)
    output, _ = process.communicate()
    if process.returncode:
        raise BenchError(f"the load ended with status {process.returncode}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {**json.loads(output), "cpu": used}


def fetch(port: int, path: str) -> dict[str, Any]:
    """A JSON document from this machine."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with contextlib.closing(connection):
        connection.request("GET", path)
        found: dict[str, Any] = json.load(connection.getresponse())
        return found


def health(port: int) -> dict[str, Any]:
    """What a sidestream counts."""
    return fetch(port, "/api/v1/gateway/health")


def restarts(port: int) -> int:
    """How many processes of a sidestream have died; it says so once it is less busy."""
    until = time.monotonic() + _START
    while "supervisor" not in (found := health(port)):
        if time.monotonic() > until:
            raise BenchError("the gateway does not say what it counts")
        time.sleep(0.1)
    return sum(found["supervisor"]["restarts"].values())
