"""What is measured: the way without a gateway, sidestream, and others to compare it with, as far as they are here."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final

import yaml

from bench.relay import machine, programs
from bench.relay.programs import BUILD, BenchError, Mock

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

TRACE_KEY: Final = "inv-" + "b" * 64

_PATH: Final = "/v1/messages"
_LITELLM_KEY: Final = "sk-bench-7d1f0a93c2b84e5f96a0"
_START: Final = 60.0
_END: Final = 30.0


@dataclass(frozen=True)
class Peer:
    """How a gateway is started, and called."""

    name: str
    command: tuple[str, ...] = ()
    version: str = ""
    path: str = _PATH
    headers: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    traced: bool = False
    """Whether it pushes a trace of each call to the mock."""
    slow: bool = False
    """Whether it is measured with fewer streams: it could not carry as many."""


class Running:
    """A peer that listens; one without a command is the mock itself."""

    def __init__(self, peer: Peer, port: int, process: subprocess.Popen[bytes] | None) -> None:
        self.peer = peer
        self.port = port
        self._process = process

    @property
    def alive(self) -> bool:
        """Whether the process that was started still runs."""
        return self._process is None or self._process.poll() is None

    def load(self, options: Mapping[str, object]) -> dict[str, object]:
        """Put a load on it (`programs.load`)."""
        return programs.load(self.port, self.peer.path, self.peer.headers, options)

    def pids(self) -> dict[str, list[int]]:
        """Its processes: ``relay``, and of sidestream ``recorder`` and ``supervisor``. The recorder is moved away."""
        kinds: dict[str, list[int]] = {"relay": [], "recorder": [], "supervisor": []}
        for pid, line in machine.tree(self._process.pid) if self._process else []:
            words = line.split()
            kind = "supervisor" if "sidestream" in words and "serve" in words else "relay"
            kinds["recorder" if "sidestream" in words and "recorder" in words else kind].append(pid)
        machine.move(kinds["recorder"], machine.HARNESS)
        return kinds

    def end(self) -> None:
        """End all of its processes."""
        if self._process is None:
            return
        pids = [each.pid for each in machine.tree(self._process.pid)]
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()


def start(peer: Peer, port: int, mock: Mock) -> Running:
    """Start a peer on the gateway's core, and warm it up; `BenchError` if it cannot serve."""
    if not peer.command:
        return Running(peer, mock.port, None)
    log = BUILD / f"{peer.name}.log"
    with log.open("wb") as output, machine.pinned(machine.GATEWAY):
        process = subprocess.Popen(  # noqa: S603  # a command of the table below
            peer.command, env=programs.environment(**peer.environment), stdout=output, stderr=output
        )
    running = Running(peer, port, process)
    try:
        _wait_for(running, log)
        running.load({"m": "closed", "c": 8, "n": 200, "t": 10, "w": 0})
        running.load({"m": "stream", "c": 8, "n": 24, "e": 20, "t": 10, "w": 0})
    except BaseException:
        running.end()
        raise
    return running


def _wait_for(running: Running, log: Path) -> None:
    until = time.monotonic() + _START
    while not _serves(running):
        if not running.alive or time.monotonic() > until:
            raise BenchError(f"{running.peer.name} does not serve; its output is in {log}")
        time.sleep(0.1)


def _serves(running: Running) -> bool:
    if not programs.listening(running.port):
        return False
    return running.load({"m": "closed", "n": 1, "t": 5, "w": 0})["done"] == 1


def found(names: list[str] | None, mock: Mock, tools: Path | None) -> tuple[list[tuple[Peer, int]], list[str]]:
    """The peers of these names (None: all) that are installed, with their ports; and of the others, why not."""
    there, missing = list[tuple[Peer, int]](), list[str]()
    for name in names or PEERS:
        if name not in PEERS:
            raise BenchError(f"there is no peer {name}; there are {', '.join(PEERS)}")
        port = programs.free_port()
        try:
            there.append((PEERS[name](port, mock, tools), port))
        except BenchError as error:
            missing.append(str(error))
    return there, missing


def _direct(_port: int, _mock: Mock, _tools: Path | None) -> Peer:
    return Peer("direct")


def _nginx(port: int, mock: Mock, tools: Path | None) -> Peer:
    """One worker, nothing buffered or logged, connections kept on both sides."""
    program = _program("nginx", tools, "no ratios without it")
    folder = _folder("nginx")
    temporary = " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("proxy", "fastcgi", "uwsgi", "scgi"))
    (folder / "nginx.conf").write_text(f"""
daemon off; worker_processes 1; pid {folder}/pid; error_log stderr crit;
events {{ worker_connections 8192; }}
http {{
  access_log off; keepalive_requests 10000000; client_body_buffer_size 512k; client_max_body_size 0;
  client_body_temp_path {folder}/body; {temporary}
  upstream mock {{ server 127.0.0.1:{mock.port}; keepalive 600; keepalive_requests 10000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096; tcp_nodelay on;
    location / {{
      proxy_pass http://mock; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
    }}
  }}
}}
""")
    command = (program, "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf"))
    return Peer("nginx", command, version=_said(program, "-v"))


def sidestream(name: str, port: int, mock: Mock, **sections: object) -> Peer:
    """All that it does by default, and its traces pushed to the mock; with further sections of the configuration."""
    folder = _folder(name)
    file = folder / "sidestream.yaml"
    config = {
        "upstreams": {"anthropic": {"url": mock.url}},
        "recorder": {"dir": str(folder / "data"), "min_free": 0, "flush": "1s"},
        "middlewares": ["trace_export", "auth_split", "body_capture", "stream_tee"],
        "sinks": [{"explorer": {"url": mock.url}}],
        **sections,
    }
    file.write_text(yaml.safe_dump(config))
    command = (sys.executable, "-m", "sidestream", "serve", "-c", str(file), "--port", str(port))
    return Peer(
        name,
        command,
        version=f"sidestream {metadata.version('sidestream')}, aiohttp {metadata.version('aiohttp')}",
        path="/api/v1/gateway/bench/anthropic" + _PATH,
        headers=(f"Invariant-Authorization: Bearer {TRACE_KEY}",),
        traced=True,
    )


def _litellm(port: int, mock: Mock, tools: Path | None) -> Peer:
    """Its pass-through, the fastest of its ways."""
    program = _program("litellm", tools)
    file = _folder("litellm") / "config.yaml"
    model = {"model": "anthropic/claude-sonnet-4-5-20250929", "api_base": mock.url, "api_key": "sk-ant-bench"}
    config = {
        "model_list": [{"model_name": "claude-sonnet-4-5-20250929", "litellm_params": model}],
        "litellm_settings": {"telemetry": False},
        "general_settings": {"master_key": _LITELLM_KEY},
    }
    file.write_text(yaml.safe_dump(config))
    return Peer(
        "litellm",
        (program, "--config", str(file), "--port", str(port), "--host", "127.0.0.1", "--num_workers", "1"),
        version=_installed(program, "litellm"),
        path="/anthropic" + _PATH,
        headers=(f"Authorization: Bearer {_LITELLM_KEY}",),
        environment={
            "ANTHROPIC_API_BASE": mock.url,
            "ANTHROPIC_API_KEY": "sk-ant-bench",
            "LITELLM_LOG": "ERROR",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        },
        slow=True,
    )


def _mitmproxy(port: int, mock: Mock, tools: Path | None) -> Peer:
    program = _program("mitmdump", tools)
    options = ("stream_large_bodies=1", f"confdir={_folder('mitmproxy')}")
    command = (program, "-q", "--mode", f"reverse:{mock.url}", "--listen-host", "127.0.0.1", "-p", str(port))
    version = _installed(program, "mitmproxy")
    return Peer(
        "mitmproxy", (*command, *(word for each in options for word in ("--set", each))), version=version, slow=True
    )


def _claude_tap(port: int, mock: Mock, tools: Path | None) -> Peer:
    program = _program("claude-tap", tools)
    folder = _folder("claude-tap")
    options = ("--tap-no-launch", "--tap-no-open", "--tap-no-live", "--tap-host", "127.0.0.1", "--tap-port", str(port))
    command = (program, *options, "--tap-target", mock.url, "--tap-output-dir", str(folder))
    home = {"HOME": str(folder), "XDG_DATA_HOME": str(folder)}
    version = _installed(program, "claude-tap")
    return Peer("claude-tap", command, version=version, environment=home, slow=True)


PEERS: Final[Mapping[str, Callable[[int, Mock, Path | None], Peer]]] = {
    "direct": _direct,
    "nginx": _nginx,
    "sidestream": lambda port, mock, _: sidestream("sidestream", port, mock),
    "sidestream-2": lambda port, mock, _: sidestream("sidestream-2", port, mock, server={"workers": 2}),
    "litellm": _litellm,
    "mitmproxy": _mitmproxy,
    "claude-tap": _claude_tap,
}
"""How each is set up; the last three are measured where they are installed."""


def _program(name: str, tools: Path | None, consequence: str = "") -> str:
    """Its path: under `tools`, each in a virtual environment of its own, or on the path."""
    places = [str(each.parent) for each in tools.glob(f"*/bin/{name}")] if tools else []
    program = shutil.which(name, path=os.pathsep.join([*places, os.environ.get("PATH", ""), "/usr/sbin"]))
    if program is None:
        raise BenchError(f"{name} is not installed" + (f": {consequence}" if consequence else ""))
    return program


def _folder(name: str) -> Path:
    folder = (BUILD / name).resolve()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _said(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # a peer
    return (done.stdout + done.stderr).strip().partition("\n")[0].removeprefix("nginx version: ")


def _installed(program: str, package: str) -> str:
    """The version of a package in the virtual environment of a program."""
    python = Path(program).resolve().parent / "python"
    if not python.exists():
        return package
    code = f"import importlib.metadata, json; print(json.dumps(importlib.metadata.version({package!r})))"
    said = _said(str(python), "-c", code)
    try:
        return f"{package} {json.loads(said)}"
    except ValueError:
        return package
