"""The relay's connection to the recorder: Explorer keys go over it, and all of them again after a reconnect.

Nothing waits for it. Without a recorder the relay goes on, and tells it later.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import aiohttp
import msgspec
import structlog

from sidestream.store.directory import private_parent
from sidestream.tasks import spawn, where

if TYPE_CHECKING:
    from pathlib import Path

    from sidestream.options import Secret

log = structlog.get_logger()

_FIRST_RETRY = 0.05
_LONGEST_RETRY = 1.0
_LASTING = 1.0
"""Seconds after which a connection counts as one that worked."""
_HEARTBEAT = 10.0
_KEYS_PER_MESSAGE = 100
"""Even with keys as long as a header field may be, fewer bytes than the recorder takes in one message."""
_MOST_KEYS = 10_000


class Link:
    """Keeps a connection to the socket at `path`; `tell` may be called at any time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._all: dict[str, Secret] = {}
        self._new: dict[str, Secret] = {}
        self._something = asyncio.Event()
        self._ending = False
        self._complained = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to connect."""
        self._task = spawn(self._run(), name="recorder link")

    def expect_end(self) -> None:
        """The recorder is about to end; that is nothing to complain of."""
        self._ending = True

    async def stop(self) -> None:
        """Let go of the connection."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def tell(self, fingerprint: str, key: Secret) -> None:
        """Have the recorder know of a key."""
        self._all.pop(fingerprint, None)  # the most recent is the last
        self._all[fingerprint] = key
        self._new[fingerprint] = key
        if len(self._all) > _MOST_KEYS:
            oldest = next(iter(self._all))
            del self._all[oldest]
            self._new.pop(oldest, None)
        self._something.set()

    async def _run(self) -> None:
        connected = False
        wait = _FIRST_RETRY
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(path=str(self._path))) as session:
            while True:
                try:
                    await asyncio.to_thread(private_parent, self._path)  # keys are for nobody else
                    async with session.ws_connect("http://recorder/link", heartbeat=_HEARTBEAT) as socket:
                        connected = True
                        since = time.monotonic()
                        self._new = dict(self._all)
                        await self._talk(socket)
                        if time.monotonic() - since > _LASTING:
                            wait = _FIRST_RETRY
                except (aiohttp.ClientError, OSError):
                    pass
                except Exception as error:  # noqa: BLE001  # the top of a background worker
                    self._complain(error)
                if connected and not self._ending:
                    log.warning("recorder_lost")
                connected = False
                await asyncio.sleep(wait)
                wait = min(2 * wait, _LONGEST_RETRY)

    def _complain(self, error: Exception) -> None:
        if not self._complained:
            self._complained = True
            log.error("recorder_link_failed", error=type(error).__name__, where=where(error))

    async def _talk(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        """Send what there is to tell, until the connection ends."""
        ended = spawn(_ended(socket), name="recorder link's end")
        try:
            while not ended.done():
                while self._new:
                    some = dict(list(self._new.items())[:_KEYS_PER_MESSAGE])
                    keys = {fingerprint: key.reveal() for fingerprint, key in some.items()}
                    await socket.send_bytes(msgspec.json.encode({"keys": keys}))
                    for fingerprint in some:
                        self._new.pop(fingerprint, None)
                self._something.clear()
                told = spawn(self._something.wait(), name="recorder link's news")
                try:
                    await asyncio.wait((ended, told), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    told.cancel()
        finally:
            ended.cancel()


async def _ended(socket: aiohttp.ClientWebSocketResponse) -> None:
    async for _message in socket:
        pass
