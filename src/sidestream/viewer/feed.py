"""What happens, as it happens, for those who listen: a numbered list of events, of which the latest are kept.

An event's id is ``EPOCH-NUMBER``; the epoch is another one in each life of a recorder. Who comes back says which event
was the last, and is given what has come since. Where that cannot be had any more, ``reset`` comes first: whoever gets
that looks everything up anew. Events say what has changed, in few words; messages are never in them.

For one event loop. Nothing here waits for a listener: one that is too slow is let go, with a ``reset`` as its last.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

import msgspec
import structlog

from sidestream.errors import SidestreamError
from sidestream.ids import new_id

if TYPE_CHECKING:
    from collections.abc import Iterable

log = structlog.get_logger()

KEPT: Final = 1000
"""Events that can be had again; fewer, where they take more than `KEPT_BYTES`."""
KEPT_BYTES: Final = 4 << 20
QUEUE: Final = 256
"""Events that may wait for one listener."""
MOST_LISTENERS: Final = 64
_LARGEST: Final = 64 << 10
"""Bytes of an event; clients read lines, of which none may be long."""
_LINGER: Final = 60.0
"""Seconds for which one who has gone may come back; also after the start: then the one who has gone is of the recorder
before."""
_KINDS_FOR_THOSE_WHO_COME_BACK: Final = frozenset({"ended", "gone", "removed"})


class FeedFull(SidestreamError):
    """There are as many listeners as there may be, or the feed has ended."""


class Event(NamedTuple):
    """Something that has happened. What it concerns: None, or nothing, stands for everything."""

    number: int
    kind: str
    data: bytes
    """A JSON object."""
    dataset: str | None
    runs: frozenset[str]

    def id(self, epoch: str) -> str:
        """Its id in the feed of this epoch."""
        return f"{epoch}-{self.number}"


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What a listener wants to hear of; None stands for everything. ``reset`` comes in any case."""

    dataset: str | None = None
    run: str | None = None
    kinds: frozenset[str] | None = None

    def takes(self, event: Event) -> bool:
        """Whether it wants this one."""
        return (
            (self.kinds is None or event.kind in self.kinds or event.kind == "reset")
            and (self.dataset is None or event.dataset in {None, self.dataset})
            and (self.run is None or not event.runs or self.run in event.runs)
        )


class Feed:
    """The events of one recorder."""

    def __init__(self, epoch: str | None = None) -> None:
        self.epoch = epoch or new_id()
        self._number = 0
        self._kept: deque[Event] = deque()
        self._kept_bytes = 0
        self._listeners: set[Listener] = set()
        self._linger_until = time.monotonic() + _LINGER
        self._closed = False

    @property
    def listeners(self) -> int:
        """How many listen."""
        return len(self._listeners)

    def wants(self, kind: str) -> bool:
        """Whether anybody would hear of this, or may come back and ask for it."""
        if any(each.wanted.kinds is None or kind in each.wanted.kinds for each in self._listeners):
            return True
        return kind in _KINDS_FOR_THOSE_WHO_COME_BACK and time.monotonic() < self._linger_until

    def publish(self, kind: str, data: Any, *, dataset: str | None = None, runs: Iterable[str] = ()) -> None:
        """Tell all who want it. `data` becomes a JSON object; too large a one is told as ``reset``."""
        encoded = msgspec.json.encode(data)
        event = Event(self._number + 1, kind, encoded, dataset, frozenset(runs))
        if len(encoded) > _LARGEST:
            event = _reset(event.number)
        self._number = event.number
        self._keep(event)
        for listener in list(self._listeners):
            listener.tell(event)

    def reset(self) -> None:
        """Have all look everything up anew."""
        self.publish("reset", {})

    def listen(self, after: str | None = None, wanted: Wanted | None = None) -> Listener:
        """Listen from now on, or from behind the event with the id `after`; `FeedFull` if there are too many.

        "0" as `after` is the beginning of this feed: for who has waited for it.
        Use it in ``with``, so that it is known when it has gone.
        """
        if self._closed or len(self._listeners) >= MOST_LISTENERS:
            raise FeedFull("there are too many listeners" if not self._closed else "the recorder is stopping")
        listener = Listener(self, wanted or Wanted(), *self._missed(after), passed=self._number)
        self._listeners.add(listener)
        return listener

    def leave(self, listener: Listener) -> None:
        """This one does not listen any more."""
        if listener in self._listeners:
            self._listeners.discard(listener)
            self._linger_until = time.monotonic() + _LINGER

    def close(self) -> None:
        """Let all go, each after what it has not heard yet; nobody can listen from now on."""
        self._closed = True
        for listener in list(self._listeners):
            listener.end()

    def _keep(self, event: Event) -> None:
        self._kept.append(event)
        self._kept_bytes += len(event.data)
        while len(self._kept) > KEPT or self._kept_bytes > KEPT_BYTES:
            self._kept_bytes -= len(self._kept.popleft().data)

    def _missed(self, after: str | None) -> tuple[int, list[Event]]:
        """The number of the event that a listener knows, and what has come since."""
        if not after:
            return self._number, []
        epoch, _, number = (after if after != "0" else f"{self.epoch}-0").rpartition("-")
        oldest = self._kept[0].number if self._kept else self._number + 1
        if epoch == self.epoch and number.isascii() and number.isdigit() and len(number) < len(str(1 << 63)):
            known = int(number)
            if oldest - 1 <= known <= self._number:
                return known, [event for event in self._kept if event.number > known]
        since = oldest - 1
        return since, [_reset(since), *self._kept]  # what was before that, nobody knows; this much can still be told


class Listener:
    """One who listens: an iterator of events. It ends when it was too slow, or when the feed is closed."""

    def __init__(self, feed: Feed, wanted: Wanted, position: int, missed: Iterable[Event], *, passed: int) -> None:
        self.wanted = wanted
        self._feed = feed
        self._position = position
        """The number of the latest event that it has taken."""
        self._passed = passed
        """The number of the latest event, whether it wanted that or not."""
        self._queue = deque(event for event in missed if wanted.takes(event))
        self._woken = asyncio.Event()
        self._ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._feed.leave(self)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while not self._queue:
            if self._ended:
                raise StopAsyncIteration
            self._woken.clear()
            await self._woken.wait()
        event = self._queue.popleft()
        self._position = event.number
        return event

    @property
    def caught_up(self) -> str:
        """The id to come back with, so that nothing is missed, and as little as possible comes twice."""
        number = self._position if self._queue else self._passed
        return f"{self._feed.epoch}-{number}"

    def tell(self, event: Event) -> None:
        """Have it hear of this, if it wants to."""
        self._passed = event.number
        if not self.wanted.takes(event):
            return
        if len(self._queue) >= QUEUE:
            log.info("feed_listener_dropped", waiting=len(self._queue))
            self._queue.clear()
            event = _reset(event.number)
            self.end()
        self._queue.append(event)
        self._woken.set()

    def end(self) -> None:
        """Have it end, after what is still to be heard."""
        self._ended = True
        self._feed.leave(self)
        self._woken.set()


def _reset(number: int) -> Event:
    return Event(number, "reset", b"{}", None, frozenset())
