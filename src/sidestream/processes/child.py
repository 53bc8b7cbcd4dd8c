"""A child process as its supervisor has it: started, told what to do, listened to, and seen to its end.

A child is in a process group of its own, so that Ctrl-C on a terminal reaches the supervisor alone, which then ends
everything in order. It notices the supervisor's death by the end of their conversation.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import time
from typing import TYPE_CHECKING, Any, Literal

import structlog

from sidestream.processes.channel import Channel
from sidestream.stats import merge
from sidestream.tasks import spawn

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from sidestream.processes.channel import Document
    from sidestream.processes.hub import Hub

log = structlog.get_logger()

Kind = Literal["relay", "recorder"]

_LONGEST = 1 << 18
"""Bytes of a message from a child; a snapshot has a few kilobytes."""
_LAST_WORDS = 0.5
"""Seconds after its end in which what it said is still read."""


class Child:
    """One process, from its start to its end."""

    def __init__(self, kind: Kind, process: asyncio.subprocess.Process, channel: Channel, hub: Hub) -> None:
        self.kind: Kind = kind
        self.pid = process.pid
        self.ready = asyncio.Event()
        self.retired = asyncio.Event()
        """Whether it has let go of its sockets; also when it has ended."""
        self.ended = asyncio.Event()
        self.status = 0
        """Its exit status once it has ended; minus the number of the signal that killed it."""
        self.stats: dict[str, Any] = {}
        self.heard_at = time.monotonic()
        """When it said last what it counts, in monotonic seconds."""
        self._process = process
        self._channel = channel
        self._hub = hub
        self._expected = False
        self._reports: dict[int, asyncio.Event] = {}
        hub.born(self)
        spawn(self._attend(), name=f"{kind} {self.pid}")

    @classmethod
    async def start(
        cls, kind: Kind, command: Sequence[str], document: Document, sockets: Sequence[socket.socket], hub: Hub
    ) -> Self:
        """Start a process by `command`, which gets the numbers of its descriptors as options; `OSError` if that fails.

        It inherits `sockets`, and one end of the conversation, over which it is sent `document`.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            listening = [sock.fileno() for sock in sockets]
            options = ["--control", str(theirs.fileno())]
            for number in listening:
                options += ["--listen", str(number)]
            try:
                process = await asyncio.create_subprocess_exec(
                    *(*command, *options),
                    stdin=asyncio.subprocess.DEVNULL,
                    pass_fds=[theirs.fileno(), *listening],
                    process_group=0,
                )
            except BaseException:
                ours.close()
                raise
        try:
            ours.setblocking(False)
            channel = await Channel.over(ours, limit=_LONGEST)
        except BaseException:
            process.kill()
            ours.close()
            raise
        channel.send_line(document.encode())
        log.info("process_started", kind=kind, pid=process.pid)
        return cls(kind, process, channel, hub)

    async def started(self, seconds: float) -> bool:
        """Wait until it is ready, or has ended; one that is neither after so many seconds is killed."""
        tasks = [spawn(event.wait(), name="start") for event in (self.ready, self.ended)]
        try:
            done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
        if not done:
            log.error("process_hung", kind=self.kind, pid=self.pid)
            self._kill()
            await self.ended.wait()
        return self.ready.is_set() and not self.ended.is_set()

    async def reported(self, number: int) -> None:
        """Have it report, and wait until it has; `number` is any that was not used before."""
        arrived = self._reports[number] = asyncio.Event()
        try:
            self._channel.send("report", number=number)
            await arrived.wait()
        finally:
            self._reports.pop(number, None)

    def not_ready(self) -> None:
        """Have it say that it wants no more clients."""
        self._channel.send("not_ready")

    def retire(self) -> None:
        """Have it end when its last connection has."""
        self._expected = True
        self._channel.send("retire")

    def stop(self) -> None:
        """Have it come to an end."""
        self._expected = True
        self._channel.send("stop")

    def kill(self) -> None:
        """End it now."""
        self._expected = True
        self._kill()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def _attend(self) -> None:
        listening = spawn(self._listen(), name=f"{self.kind} {self.pid} control")
        returned = await self._process.wait()
        await asyncio.wait([listening], timeout=_LAST_WORDS)
        listening.cancel()
        await self._channel.close()
        self.status = returned
        self._say_ended()
        self._hub.died(self)
        self.retired.set()
        self.ended.set()
        for arrived in self._reports.values():
            arrived.set()

    async def _listen(self) -> None:
        async for message in self._channel.messages():
            kind, number = message["kind"], message.get("number")
            if kind == "ready":
                self.ready.set()
            elif kind == "retired":
                self.retired.set()
            elif kind == "stats" and isinstance(stats := message.get("stats"), dict):
                self.stats = merge(stats)
                self.heard_at = time.monotonic()
                if isinstance(number, int) and (arrived := self._reports.get(number)):
                    arrived.set()
            elif kind == "totals" and isinstance(number, int):
                spawn(self._answer(number), name="totals answer")

    async def _answer(self, number: int) -> None:
        totals = await self._hub.totals()
        if not self._channel.congested:
            self._channel.send("totals", number=number, totals=totals)

    def _say_ended(self) -> None:
        how = {"status": self.status} if self.status >= 0 else {"signal": _signal_name(-self.status)}
        if self._expected:
            log.info("process_ended", kind=self.kind, pid=self.pid, **how)
        else:
            log.error("process_died", kind=self.kind, pid=self.pid, **how)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
