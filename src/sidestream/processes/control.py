"""A child's end of the conversation with its supervisor: what it is told to do, and what it has counted.

What the orders mean is its owner's business: they are events here, to be waited for. A process that somebody started
by hand has no supervisor; then only signals give orders, and the totals are its own.

SIGTERM and SIGINT mean the same as the order to stop, and so does the death of the supervisor. A second signal ends
the process at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
from typing import TYPE_CHECKING, Any

import structlog

from sidestream.errors import SidestreamError
from sidestream.processes.channel import Channel, Document, first_line
from sidestream.stats import merge
from sidestream.tasks import spawn, where

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

log = structlog.get_logger()

_REPORT_EVERY = 1.0
_PATIENCE = 1.0
"""Seconds that the supervisor has for an answer; it asks its children for 0.3 s at most."""


class Control:
    """Orders from a supervisor, and reports to it."""

    def __init__(self, sock: socket.socket | None = None) -> None:
        """Talk over `sock`, one end of a pair; None where there is no supervisor."""
        self.stats: Callable[[], Mapping[str, Any]] = dict
        """To be set: what this process counts, as a nested mapping of names to numbers (see `sidestream.stats`)."""
        self.unready = asyncio.Event()
        """Orders: say that no new work is welcome, though it still is done."""
        self.retiring = asyncio.Event()
        """Orders: take on no new connection, and end when the last one has."""
        self.stopping = asyncio.Event()
        """Orders: come to an end."""
        self._sock = sock
        self._channel: Channel | None = None
        self._last: dict[str, Any] = {}
        self._sent: dict[str, Any] = {}
        self._failed = False
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[object]] = {}

    @property
    def supervised(self) -> bool:
        """Whether there is, or was, a supervisor."""
        return self._sock is not None

    def document(self) -> Document:
        """The configuration that the supervisor sends first; blocks, so ask before `attached`.

        `SidestreamError` if the supervisor is gone.
        """
        if self._sock is None:
            return Document()
        self._sock.setblocking(True)
        try:
            return Document.decode(first_line(self._sock))
        except (EOFError, OSError):
            raise SidestreamError("the supervisor is gone") from None

    @contextlib.asynccontextmanager
    async def attached(self) -> AsyncIterator[None]:
        """Heed orders and signals as long as this context lasts, and report; the last report is made at its end."""
        with self._heeding_signals():
            if self._sock is None:
                yield
                return
            self._sock.setblocking(False)
            self._channel = channel = await Channel.over(self._sock)
            tasks = [
                spawn(self._listen(channel), name="control"),
                spawn(self._report_regularly(channel), name="control reports"),
            ]
            try:
                yield
            finally:
                self._report(channel)
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
                await channel.close()

    def ready(self) -> None:
        """Tell the supervisor that work can be done from now on."""
        if self._channel is not None:
            self._channel.send("ready")

    def retired(self) -> None:
        """Tell the supervisor that no new connection is taken any more."""
        if self._channel is not None:
            self._channel.send("retired")

    async def totals(self) -> dict[str, Any]:
        """What all processes have counted, as `sidestream.stats.Totals`.

        Where no supervisor answers: this process's own under ``relay``, and nothing else.
        """
        if self._channel is not None and not self.stopping.is_set():
            number = next(self._numbers)
            self._asked[number] = answer = asyncio.get_running_loop().create_future()
            self._channel.send("totals", number=number)
            try:
                async with asyncio.timeout(_PATIENCE):
                    if isinstance(totals := await answer, dict):
                        return totals
            except TimeoutError:
                pass
            finally:
                del self._asked[number]
        return {"relay": self._snapshot()}

    async def _listen(self, channel: Channel) -> None:
        async for message in channel.messages():
            self._obey(channel, message)
        if not self.stopping.is_set():
            log.warning("supervisor_lost")
            self.stopping.set()

    def _obey(self, channel: Channel, message: Mapping[str, Any]) -> None:
        kind, number = message["kind"], message.get("number")
        if kind == "report":
            self._report(channel, number=number)
        elif kind == "totals" and isinstance(number, int) and (answer := self._asked.get(number)):
            if not answer.done():
                answer.set_result(message.get("totals"))
        elif event := {"not_ready": self.unready, "retire": self.retiring, "stop": self.stopping}.get(kind):
            event.set()

    async def _report_regularly(self, channel: Channel) -> None:
        while True:
            await asyncio.sleep(_REPORT_EVERY)
            if not channel.congested and self._snapshot() != self._sent:
                self._report(channel)

    def _report(self, channel: Channel, **about: Any) -> None:
        self._sent = self._snapshot()
        channel.send("stats", stats=self._sent, **about)

    def _snapshot(self) -> dict[str, Any]:
        try:
            self._last = merge(self.stats())
        except Exception as error:  # noqa: BLE001  # whoever counts: the orders must still be heard
            if not self._failed:
                self._failed = True
                log.error("stats_failed", error=type(error).__name__, where=where(error))
        return self._last

    @contextlib.contextmanager
    def _heeding_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        received = 0

        def heed(number: int) -> None:
            nonlocal received
            received += 1
            if received > 1:
                os._exit(128 + number)
            self.stopping.set()

        heeded = [signal.SIGTERM, signal.SIGINT]
        if self.supervised:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the supervisor's business
        else:
            heeded.append(signal.SIGHUP)
        for number in heeded:
            loop.add_signal_handler(number, heed, number)
        try:
            yield
        finally:
            for number in heeded:
                loop.remove_signal_handler(number)
