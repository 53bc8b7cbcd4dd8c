"""Turns under way, as far as they have come: looked at only when somebody asks.

What there is so far of an exchange is read as if it were all. The run that it seems to go on with is found by the same
rules as when it is stored. Where much of one is there, it is not read again as often.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, TypeVar

import msgspec
import structlog

from sidestream.recorder.ingestion import understood
from sidestream.store.library import Library
from sidestream.store.shapes import Running, TurnMessages, TurnState, TurnSummary
from sidestream.traces.conversation import BEGINNINGS
from sidestream.traces.measures import measure, tool_calls, tool_results
from sidestream.traces.model import title_of
from sidestream.traces.spool import SpoolError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Collection, Mapping

    from sidestream.providers.base import Provider
    from sidestream.recorder.ingestion import Ingestion, Source
    from sidestream.store.desk import Desk
    from sidestream.store.predicting import Prediction
    from sidestream.traces.gathering import Glimpse
    from sidestream.traces.model import Message, Reading
    from sidestream.traces.record import Record

T = TypeVar("T")

log = structlog.get_logger()

MOST: Final = 200
"""Turns that are listed; those that began last."""
_PAUSE: Final = 0.25
"""Seconds for which what was read of an exchange is good enough; or so many times as long as reading it took:"""
_PATIENCE: Final = 4
_SETTLED: Final = 1.0
"""Seconds after which what its turn follows has come into the store, if it comes at all: relays write a little late."""
_MOST_READ: Final = 16
"""Exchanges whose messages are kept for the next who asks."""


class Place(msgspec.Struct, frozen=True):
    """What is known of a turn under way besides its bytes."""

    prediction: Prediction | None
    """None where not enough of the request is there to tell, or where it cannot be understood."""
    model: str | None = None
    title: str = ""


@dataclass(slots=True)
class _Kept(Generic[T]):
    """Something read, and until when that is good enough."""

    value: T
    of: tuple[int, ...]
    """What it was read of, in bytes."""
    until: float

    def serves(self, of: tuple[int, ...]) -> bool:
        return self.of == of or time.monotonic() < self.until


class UnderWay:
    """The turns under way in `source`, which `ingestion` reads."""

    def __init__(self, source: Source, ingestion: Ingestion, desk: Desk, providers: Mapping[str, Provider]) -> None:
        self._source = source
        self._ingestion = ingestion
        self._desk = desk
        self._providers = providers
        self._first_seen: dict[str, float] = {}
        self._places: dict[str, _Kept[Place]] = {}
        self._turns: dict[str, _Kept[TurnMessages]] = {}
        self._reading = asyncio.Lock()
        self._cut = False

    async def running(self) -> list[Running]:
        """All of them, or the latest `MOST`, in order of their beginnings."""
        glimpses = await self._ingestion.peek(self._source.glimpses)
        glimpses.sort(key=lambda glimpse: glimpse.begin.started_at)
        self.forget_others({glimpse.begin.id for glimpse in glimpses})
        if (cut := len(glimpses) > MOST) and not self._cut:
            log.info("turns_under_way_cut", count=len(glimpses), listed=MOST)
        self._cut = cut
        return [running_of(glimpse, await self.place(glimpse)) for glimpse in glimpses[-MOST:]]

    async def turn(self, exchange: str) -> TurnMessages:
        """What there is so far of one of them; `LookupError` if it is not under way, or cannot be understood."""
        async with self._reading:
            for glimpse in await self._ingestion.peek(self._source.glimpses):
                if glimpse.begin.id == exchange:
                    break
            else:
                raise LookupError(exchange)
            size = (glimpse.request_bytes, glimpse.response_bytes, glimpse.answering)
            kept = self._turns.pop(exchange, None)
            if kept is None or not kept.serves(size):
                kept = await self._kept(size, self._turn(exchange, await self.place(glimpse)))
            self._turns[exchange] = kept
            while len(self._turns) > _MOST_READ:
                del self._turns[next(iter(self._turns))]
            return kept.value

    async def place(self, glimpse: Glimpse) -> Place:
        """What is known of it; looked up again while more of its request comes, and while it has just begun."""
        identity, now = glimpse.begin.id, time.monotonic()
        begun = self._first_seen.setdefault(identity, now)
        stored = 0 if now - begun > _SETTLED else self._ingestion.received
        size = (glimpse.request_bytes, stored)
        kept = self._places.get(identity)
        if kept is None or not kept.serves(size):
            kept = self._places[identity] = await self._kept(size, self._place(identity))
        return kept.value

    def forget_others(self, open_: Collection[str]) -> None:
        """Let go of what is known of all but these."""
        for known in (self._first_seen, self._places, self._turns):
            for identity in known.keys() - set(open_):
                del known[identity]

    @staticmethod
    async def _kept(of: tuple[int, ...], work: Awaitable[T]) -> _Kept[T]:
        began = time.monotonic()
        value = await work
        now = time.monotonic()
        return _Kept(value, of, now + max(_PAUSE, _PATIENCE * (now - began)))

    async def _place(self, identity: str) -> Place:
        try:
            record = await self._partial(identity)
        except LookupError:
            return Place(None)
        asked = msgspec.structs.replace(record, response_chunks=(), response_times=())
        reading = await self._understood(asked)
        if reading is None:
            return Place(None)
        model = measure(reading.metadata, answered=False).model
        if "request" in reading.metadata.get("extras", {}):
            return Place(None, model)  # it is still arriving
        prediction = await self._desk.look(Library.predict, reading)
        return Place(prediction, model, _title(reading, prediction))

    async def _turn(self, exchange: str, place: Place) -> TurnMessages:
        record = await self._partial(exchange)
        reading = await self._understood(record)
        if reading is None:
            raise LookupError(exchange)
        return _so_far(record, reading, place.prediction)

    async def _partial(self, exchange: str) -> Record:
        try:
            return await self._ingestion.peek(self._source.partial, exchange)
        except SpoolError as error:  # the next read finds that out, and what to do
            raise LookupError(exchange) from error

    async def _understood(self, record: Record) -> Reading | None:
        reading, _ = await asyncio.to_thread(understood, record, self._providers)
        return reading


def running_of(glimpse: Glimpse, place: Place) -> Running:
    """A turn under way in a line."""
    begin = glimpse.begin
    return Running(
        id=begin.id,
        run=place.prediction.run if place.prediction is not None else begin.id,
        dataset=begin.dataset,
        model=place.model,
        title=place.title,
        started_at=begin.started_at,
        request_bytes=glimpse.request_bytes,
        response_bytes=glimpse.response_bytes,
        answering=glimpse.answering,
    )


def _title(reading: Reading, prediction: Prediction) -> str:
    if prediction.rule not in BEGINNINGS:
        return ""
    return title_of(message for said in reading.asked[prediction.known :] for message in said.shown)


def _so_far(record: Record, reading: Reading, prediction: Prediction | None) -> TurnMessages:
    known = prediction.known if prediction is not None else 0
    asked = [message for said in reading.asked[known:] for message in said.shown] if prediction is not None else []
    answer = [message for message in (reading.answer.shown if reading.answer is not None else []) if _says(message)]
    shows_system = prediction is not None and (prediction.begins or "system" in prediction.changed)
    return TurnMessages(
        turn=_summary(record, reading, prediction, asked, answer),
        system=reading.system if shows_system else [],
        messages=[*asked, *answer],
        answered=len(answer),
        facts=reading.metadata,
        changed=prediction.changed if prediction is not None else [],
    )


def _says(message: Message) -> bool:
    """Whether there is anything yet in a message of an answer that has begun."""
    return bool(message.get("content") or message.get("tool_calls"))


def _summary(
    record: Record, reading: Reading, prediction: Prediction | None, asked: list[Message], answer: list[Message]
) -> TurnSummary:
    measured = measure(reading.metadata, answered=bool(answer))
    return TurnSummary(
        id=record.id,
        run=prediction.run if prediction is not None else record.id,
        number=prediction.number if prediction is not None else 1,
        rule=str(prediction.rule) if prediction is not None else "",
        parent=prediction.parent if prediction is not None else None,
        retry_of=prediction.retry_of if prediction is not None else None,
        state=TurnState.RUNNING,
        status=measured.status,
        model=measured.model,
        stop_reason=measured.stop_reason,
        started_at=record.started_at,
        duration=record.duration,
        time_to_first_byte=measured.first_byte,
        tokens_per_second=None,
        tokens=measured.tokens,
        cost=None,
        tools=[call.name for call in tool_calls(answer)],
        tool_errors=sum(result.failed for result in tool_results(asked)),
    )
