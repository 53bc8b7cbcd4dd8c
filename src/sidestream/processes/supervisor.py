"""The one process that stays: it owns the listening sockets, starts relays and the recorder, and restarts what dies.

It must outlive everything, so it does next to nothing: no HTTP, no plugin, no parser. A configuration is checked by a
child (`sidestream.processes.plan`), relayed and recorded by others; here are only the order of things, and signals:

- SIGTERM, SIGINT: an orderly end in stages; a second one ends everything at once;
- SIGHUP: a new generation of relays with the file as it is now, while the old one finishes what it has begun.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import stat
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from sidestream import logs
from sidestream.errors import ConfigError, Problem, SidestreamError
from sidestream.processes import listening, plan
from sidestream.processes.hub import Hub
from sidestream.processes.keeper import Backoff, Keeper
from sidestream.processes.plan import NotChecked
from sidestream.sources import fetch
from sidestream.store.directory import Directory
from sidestream.tasks import spawn, where

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator, Sequence

    from sidestream.processes.channel import Document
    from sidestream.processes.child import Kind
    from sidestream.processes.plan import Plan

log = structlog.get_logger()

_LAST_LINES = 1.0
"""Seconds that the last log lines have at the end."""
_TO_END_STREAMS = 3.5
"""Seconds that a relay has beyond ``server.drain``: to stop accepting, to cut streams, to write down their ends."""
_TO_FLUSH = 1.0
"""Seconds that a recorder has beyond ``recorder.flush``."""
_TO_RETIRE = 2.0
"""Seconds that old relays have to let go of the sockets, before a reload counts as finished."""
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # what every interface is called, from here
_UNCHANGEABLE = {
    "host": "server.host",
    "port": "server.port",
    "directory": "recorder.dir",
    "mode": "recorder.mode",
}


def _python(command: str) -> tuple[str, ...]:
    """``sidestream COMMAND`` with this Python, which finds modules in the working directory only if this one does."""
    here = {"", str(Path.cwd())}
    safe = () if here & set(sys.path) else ("-P",)
    return (sys.executable, *safe, "-m", "sidestream", command)


@dataclass(frozen=True)
class Programs:
    """What is started. Each command is given numbers of descriptors as further options."""

    plan: Sequence[str] = field(default_factory=lambda: _python("plan"))
    relay: Sequence[str] = field(default_factory=lambda: _python("relay"))
    recorder: Sequence[str] = field(default_factory=lambda: _python("recorder"))
    backoff: Backoff = field(default_factory=Backoff)


def serve(document: Document) -> int:
    """Run the gateway until SIGTERM or Ctrl-C; returns the exit status.

    `ConfigError` if the configuration cannot work, another `SidestreamError` if the gateway cannot start.
    """
    writer = logs.configure(process="supervisor")
    try:
        return asyncio.run(Supervisor(document, Programs()).run())
    except NotChecked as error:
        return error.status
    finally:
        writer.flush(_LAST_LINES)


class Supervisor:
    """A gateway's life."""

    def __init__(self, document: Document, programs: Programs) -> None:
        self._document = document
        self._programs = programs
        self._plan: Plan
        self._hub = Hub()
        self._sockets: list[socket.socket] = []
        self._relays: list[Keeper] = []
        self._recorder: Keeper | None = None
        self._stopping = asyncio.Event()
        self._hangup = asyncio.Event()
        self._starting: asyncio.Task[object] | None = None
        self._terminal = _has_terminal() and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN

    async def run(self) -> int:
        """Start, serve, and end in order; the exit status."""
        with self._heeding_signals():
            try:
                self._starting = asyncio.current_task()
                status = await self._start()
                self._starting = None
                if status == 0:
                    await self._serve()
                    log.info("gateway_stopped")
                return status
            except asyncio.CancelledError:
                if self._stopping.is_set():
                    return 0
                raise
            finally:
                self._starting = None
                await self._kill_all()
                self._close_sockets()

    async def _start(self) -> int:
        """Everything up and ready; else the status of the process that could not start."""
        self._plan = await plan.ask(self._programs.plan, self._document)
        self._sockets = listening.bind(self._plan.host, self._plan.port)
        relays = self._generation(self._document, self._plan.workers)
        keepers = list(relays)
        if self._plan.mode == "process":
            recorder = self._keeper("recorder", self._programs.recorder, self._document)
            self._recorder = recorder
            keepers.append(recorder)
        if status := await _start_all(keepers):
            return status
        self._relays = relays
        self._hub.workers = len(relays)
        for keeper in keepers:
            keeper.keep()
        return 0

    async def _serve(self) -> None:
        _say_ready(self._plan, self._sockets[0].getsockname()[1])
        reloading = spawn(self._reload_at_hangups(), name="reload")
        await self._stopping.wait()
        reloading.cancel()
        await asyncio.wait([reloading])
        await self._stop()

    async def _stop(self) -> None:
        """The end, in stages; whatever overstays is killed."""
        limits = self._plan
        log.info("draining_started", limit_seconds=limits.drain)
        recorder = self._recorder.release() if self._recorder else None
        for keeper in self._relays:
            keeper.release()
        for child in self._hub.children("relay"):
            child.not_ready()
        await asyncio.sleep(limits.notice)
        self._close_sockets()
        for child in self._hub.children("relay"):
            child.stop()
        flush = limits.flush if limits.mode in {"thread", "none"} else 0.0
        await self._end("relay", limits.drain + flush + _TO_END_STREAMS)
        if recorder is not None:
            recorder.stop()
            await self._end("recorder", limits.flush + _TO_FLUSH)

    async def _end(self, kind: Kind, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._hub.none_left(kind)
        except TimeoutError:
            for child in self._hub.children(kind):
                log.error("process_overstayed", kind=kind, pid=child.pid)
                child.kill()
            await self._hub.none_left(kind)

    async def _kill_all(self) -> None:
        for child in self._hub.children():
            child.kill()
        await self._hub.none_left()

    def _close_sockets(self) -> None:
        for sock in self._sockets:
            sock.close()

    def _generation(self, document: Document, workers: int) -> list[Keeper]:
        return [self._keeper("relay", self._programs.relay, document) for _ in range(workers)]

    def _keeper(self, kind: Kind, command: Sequence[str], document: Document) -> Keeper:
        sockets = self._sockets if kind == "relay" else ()
        return Keeper(kind, command, document, sockets, self._hub, self._programs.backoff)

    async def _reload_at_hangups(self) -> None:
        """Several hangups while one is being heeded are heeded once."""
        while True:
            await self._hangup.wait()
            self._hangup.clear()
            log.info("reload_started")
            try:
                await self._reload()
            except ConfigError as error:
                log.error("reload_refused", problems=[asdict(problem) for problem in error.problems])
            except SidestreamError as error:
                log.error("reload_refused", problems=[{"path": "", "message": str(error)}])
            except Exception as error:  # noqa: BLE001  # the top of a worker: the old generation goes on
                log.error("reload_failed", error=type(error).__name__, where=where(error))

    async def _reload(self) -> None:
        document = self._document.with_data(_read_again(self._document))
        new, old = await plan.ask(self._programs.plan, document), self._plan
        if changed := [path for name, path in _UNCHANGEABLE.items() if getattr(new, name) != getattr(old, name)]:
            raise ConfigError([Problem(path, "cannot change while the gateway runs; restart it") for path in changed])
        await self._replace_relays(document, new.workers)
        self._document, self._plan = document, new
        renewed = self._recorder is not None and new.digest != old.digest
        if self._recorder is not None:
            self._recorder.document = document
            if renewed:
                await self._recorder.renew(old.flush + _TO_FLUSH)
        log.info("reload_finished", workers=new.workers, recorder_restarted=renewed)

    async def _replace_relays(self, document: Document, workers: int) -> None:
        """A new generation takes over, and the old one retires; or none, if one of the new ones does not start."""
        relays = self._generation(document, workers)
        status = 1
        try:
            status = await _start_all(relays)
        finally:
            if status != 0:
                for child in filter(None, (keeper.release() for keeper in relays)):
                    child.kill()
        if status != 0:
            raise SidestreamError("a relay did not start with it; the log says why")
        old, self._relays = self._relays, relays
        self._hub.workers = len(relays)
        for keeper in relays:
            keeper.keep()
        retiring = [child for child in (keeper.release() for keeper in old) if child is not None]
        for child in retiring:
            child.retire()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_TO_RETIRE):
                for child in retiring:
                    await child.retired.wait()

    @contextlib.contextmanager
    def _heeding_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._told_to_stop, number)
        loop.add_signal_handler(signal.SIGHUP, self._hung_up)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(number)

    def _told_to_stop(self, number: int) -> None:
        if self._stopping.is_set():
            for child in self._hub.children():
                child.kill()
            os._exit(128 + number)
        self._stopping.set()
        if self._starting is not None:
            self._starting.cancel()

    def _hung_up(self) -> None:
        if self._terminal and not _has_terminal():  # nobody wants a reload by closing a window
            if not self._stopping.is_set():
                self._told_to_stop(signal.SIGHUP)
        else:
            self._hangup.set()


async def _start_all(keepers: Sequence[Keeper]) -> int:
    """0 as soon as all are ready; the exit status of the first that is not, or 1."""
    starting = {spawn(keeper.start(), name="start"): keeper for keeper in keepers}
    try:
        while starting:
            done, _ = await asyncio.wait(starting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                child = starting.pop(task).child
                if not task.result():
                    return max(child.status, 1) if child is not None else 1
    finally:
        for task in starting:
            task.cancel()
    return 0


def _read_again(document: Document) -> bytes | None:
    if document.file is None:
        return None
    file = Path(document.file)
    with contextlib.suppress(OSError, ValueError):  # `fetch` says it better
        if not stat.S_ISREG(file.stat().st_mode):
            raise SidestreamError("the configuration did not come from a regular file; it cannot be read again")
    return fetch(file)


def _has_terminal() -> bool:
    """Whether the terminal that this process was started from, if it was, is still there."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _say_ready(current: Plan, port: int) -> None:
    base = f"http://{_in_url(current.host)}:{port}{current.prefix}"
    here = _in_url(_WILDCARDS.get(current.host, current.host))
    with contextlib.suppress(OSError, ValueError):  # nobody has to read it
        print(f"sidestream is ready. Base URL for an SDK:  {base}/my-agent/anthropic", flush=True)  # noqa: T201
        if current.viewer:
            print(f"What agents do is shown at:  http://{here}:{port}/{_login(current)}", flush=True)  # noqa: T201
    log.info("gateway_started", base_url=base)


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _login(current: Plan) -> str:
    """Where a browser gets in; a token that was made for it is told here, to whoever started this, and nowhere else."""
    if current.viewer != "made":
        return ""
    try:
        return f"login?token={Directory(Path(current.directory)).viewer_token()}"
    except OSError:
        return "login"
