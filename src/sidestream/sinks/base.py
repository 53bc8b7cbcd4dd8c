"""A destination of what agents and models say: the one small class that a new one subclasses.

A sink knows how to deliver one turn of a conversation, and how to find out whether an earlier attempt arrived. It
holds no queue: deliveries are rows of the store, and when what is tried again is the business of
`sidestream.sinks.delivery`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import msgspec

from sidestream.errors import Ambiguous
from sidestream.traces.model import Unit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sidestream.options import Secret
    from sidestream.traces.model import Message, Turn


class Found(NamedTuple):
    """A turn that has arrived before; `remote` is what the destination calls its trace, where it says so."""

    remote: str | None = None


class Sink(ABC):
    """One destination. A subclass writes `deliver`, and its options as keyword-only constructor parameters.

    There is no constructor to call. Each turn is delivered at least once; `find` makes that exactly once.
    """

    name: str
    """The class's name in lower case, unless something better is set."""
    unit: Unit = Unit.TURN
    """What is delivered at a time: what a call added, the same for traces that grow there, or all of the call."""
    concurrency: int = 1
    """Deliveries at the same time. Turns of one key and dataset are always delivered one after the other."""
    settle: float = 10.0
    """Seconds for which the destination may still be busy with a request whose end was not seen."""
    per_key: ClassVar[bool] = True
    """Whether the key of a call decides where its turn goes: then a key in trouble does not hold up the others."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "name" not in vars(cls):
            cls.name = cls.__name__.lower()

    @property
    def needs_trace_key(self) -> bool:
        """Whether only turns of calls that brought a key along can be delivered."""
        return False

    def accepts(self, turn: Turn) -> bool:  # noqa: ARG002 (for subclasses)
        """Whether this sink wants a call at all. `turn` is the call by itself, with all of its history."""
        return True

    async def open(self) -> None:  # noqa: B027 (optional)
        """Acquire what `deliver` needs; before the first delivery, again and again until it succeeds."""

    async def close(self) -> None:  # noqa: B027 (optional)
        """Release it; called once, after the last delivery, and given a second."""

    @abstractmethod
    async def deliver(self, turn: Turn, credential: Secret | None, attempt: int) -> str | None:
        """Deliver `turn`; returns what the destination calls its trace, if it says so.

        Raises `Retryable` (certainly not delivered, later it may be), `Ambiguous` (nobody knows whether it was),
        `Unauthorized` (not with this key), `Gone` (`Turn.remote` is not there any more) or `Undeliverable` (never),
        with messages free of secrets and raw input.
        `credential` is the key that the call brought along, None if there is none or it is not known any more.
        `attempt` counts from 1.
        """

    async def find(self, turn: Turn, credential: Secret | None) -> Found | None:  # noqa: ARG002 (for subclasses)
        """Whether an earlier attempt, of which nobody knows, did arrive. None: it did not, and is sent again.

        Raises `Retryable` when the destination cannot be asked now, `Gone` when it does not have `Turn.remote` any
        more, and `Ambiguous` when it cannot be told, as by default: such a turn is parked until a person decides.
        """
        raise Ambiguous("the sink cannot tell what has arrived")


def encoded(messages: Iterable[Message], encode: Callable[[Message], bytes] = msgspec.json.encode) -> bytes:
    """The messages as a JSON array.

    They are encoded one by one, because an encoder in C holds the GIL for as long as one call takes: with tens of
    megabytes in a single call, the event loop would stall although this runs in a thread. Joining bytes releases it.
    """
    items = [encode(message) for message in messages]
    return b"".join((b"[", b",".join(items), b"]"))
