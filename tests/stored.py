"""What tests put into a store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sidestream.store.rows import Item, State
from sidestream.traces.model import Trace
from sidestream.traces.record import Record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidestream.store.rows import Delivery
    from sidestream.store.store import Store


class Clock:
    """The time, as a test says it is."""

    def __init__(self, now: float = 1_790_000_000.0) -> None:
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
        "started_at": 1_790_000_000.0,
        "duration": 1.0,
    }
    return Record(**facts | changes)


def a_trace(identity: str = "x1", text: Any = "Hello", **changes: Any) -> Trace:
    facts = {"dataset": "demo", "messages": [{"role": "user", "content": text}], "metadata": {"model": "m"}}
    return Trace(**{"id": identity} | facts | changes)


def an_item(identity: str = "x1", sinks: Sequence[str] = ("explorer",), **changes: Any) -> Item:
    record = a_record(identity, **changes)
    return Item(record, a_trace(identity, dataset=record.dataset), None, sinks)


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
