"""A destination in memory where traces grow, and agents whose calls are stored to be told there."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

from conversing import START, Call, Json, assistant, text, user
from sidestream.sinks import policy as rules
from sidestream.store.rows import Delivery, Item, Lane, State
from sidestream.store.store import Store
from sidestream.traces.model import Unit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidestream.traces.model import Turn

LANE = Lane("", "demo")
SINK = "explorer"


class Agent:
    """Says "a1", is answered "A1", and so on; each call a turn of one run."""

    def __init__(self, letter: str = "a", begun: float = START, history: Sequence[Json] = ()) -> None:
        self.history = list(history)
        self._letter = letter
        self._begun = begun
        self._said = 0

    def call(self, *, name: str = "", answer: bool = True, complete: bool = True, **facts: Any) -> Call:
        """The next call; without an answer it changes nothing, so that the one after it is the same request again."""
        words = f"{self._letter}{self._said + 1}"
        asked = [*self.history, user(words)]
        content = [text(words.upper())] if answer else None
        self._begun += 10
        call = Call(name or words, asked, content, self._begun, complete=complete, **facts)
        if answer and complete:
            self._said += 1
            self.history = [*asked, assistant(content or [])]
        return call

    def calls(self, number: int) -> list[Call]:
        return [self.call() for _ in range(number)]

    def fork(self, letter: str, turns: int) -> Agent:
        """Another one who goes on from what was said in so many turns."""
        return Agent(letter, self._begun, self.history[: 2 * turns])


class Growing:
    """A store, and what is told of it to a destination."""

    def __init__(self) -> None:
        self.store = Store.open(None)
        self.traces: dict[str, list[Json]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.store.close()

    def add(self, *calls: Call, sinks: Sequence[str] = (SINK,)) -> None:
        self.store.commit([Item(call.record(), call.reading(), None, sinks) for call in calls])

    def claim(self) -> tuple[Delivery, Turn]:
        """What is next, as it is about to be sent."""
        delivery = self.store.head(SINK, LANE)
        assert delivery is not None
        turn = self.store.turn(delivery, Unit.TRACE)
        rules.claim(delivery, 0.0, remote=turn.remote, told_until=turn.told_until)
        self.store.save([delivery])
        return delivery, turn

    def tell(self) -> Turn:
        """Deliver what is next."""
        delivery, turn = self.claim()
        remote = turn.remote or f"t{len(self.traces) + 1}"
        self.traces.setdefault(remote, []).extend(turn.messages)
        rules.arrived(delivery, remote)
        self.store.save([delivery])
        return turn

    def tell_all(self) -> None:
        while self.store.head(SINK, LANE) is not None:
            self.tell()

    def settle(self, state: State, reason: str | None = None) -> None:
        """Have what is next end otherwise."""
        delivery, _ = self.claim()
        self.store.save([replace(delivery, state=state, reason=reason)])

    @property
    def said(self) -> dict[str, list[str]]:
        """What each trace says, without the system prompt."""
        return {
            remote: [message["content"] for message in messages if message["content"] != "Be brief."]
            for remote, messages in self.traces.items()
        }

    @property
    def times(self) -> dict[str, list[str]]:
        return {remote: [each["timestamp"] for each in messages] for remote, messages in self.traces.items()}
