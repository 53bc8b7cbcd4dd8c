"""What tests put into a store."""

from __future__ import annotations

import math
from random import Random
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from conversing import Call, assistant, text, user
from sidestream.store.rows import Item, State
from sidestream.traces.record import Record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidestream.store.rows import Delivery
    from sidestream.store.store import Store
    from sidestream.traces.model import Reading

BEGAN = 1_790_000_000.0


class Clock:
    """The time, as a test says it is."""

    def __init__(self, now: float = BEGAN) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def a_record(identity: str = "x1", **changes: Any) -> Record:
    facts: dict[str, Any] = {
        "id": identity,
        "dataset": "demo",
        "provider": "anthropic",
        "method": "POST",
        "path": "/v1/messages",
        "request_headers": {"content-type": "application/json"},
        "request_chunks": (b'{"model": "m"}',),
        "status": 200,
        "response_headers": {"content-type": "text/event-stream"},
        "response_chunks": (b"event: ", b"", b"ping\n\n"),
        "response_times": (0.25, 0.5, 0.75),
        "outcome": "completed",
        "started_at": BEGAN,
        "duration": 1.0,
    }
    return Record(**facts | changes)


def a_reading(
    identity: str = "x1", words: str = "Hello", *, dataset: str = "demo", started_at: float = BEGAN, **facts: Any
) -> Reading:
    """A call of one message with a whole answer: a conversation of its own."""
    call = Call(identity, [user(words)], [text("Hi")], started_at, dataset=dataset, body={"system": "", "tools": []})
    return replace(call.reading(), **{"metadata": {"model": "m"}, **facts})


def an_item(identity: str = "x1", sinks: Sequence[str] = ("explorer",), **changes: Any) -> Item:
    record = a_record(identity, **changes)
    began = record.started_at if math.isfinite(record.started_at) else BEGAN
    reading = a_reading(identity, dataset=record.dataset, started_at=began)
    return Item(record, reading, None, sinks)


def a_run(name: str, turns: int, sinks: Sequence[str] = (), *, words: int = 60, began: float = BEGAN) -> list[Item]:
    """The calls of an agent that sends along all that was said before; `words` of each message are new."""
    random, items, messages = Random(name), list[Item](), list[dict[str, Any]]()
    for number in range(turns):
        asked, answered = (" ".join(f"{random.getrandbits(32):x}" for _ in range(words)) for _ in range(2))
        messages = [*messages, user(f"{number} {asked}")]
        content = [text(f"{number} {answered}")]
        call = Call(f"{name}-{number}", messages, content, began + number * 2)
        items.append(Item(call.record(), call.reading(), None, sinks))
        messages = [*messages, assistant(content)]
    return items


def stored(store: Store, *items: Item) -> list[Delivery]:
    """The deliveries of these items, committed one by one, in order."""
    for item in items:
        assert [item] == store.commit([item])
    return store.deliveries(limit=1_000_000)[::-1]


def moved(store: Store, delivery: Delivery, state: State, **changes: Any) -> None:
    """Save a delivery in another state."""
    delivery.state = state
    for name, value in changes.items():
        setattr(delivery, name, value)
    store.save([delivery])
