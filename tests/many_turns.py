"""A store of 100,000 turns, as a recorder would have it: agents' calls, understood, committed and indexed.

What is in it follows from a seed, but for the times, which end now. Agents run one after the other and some at once,
use tools, resend their history with every call, fail now and then, and some are sent back to an earlier turn.
"""

from __future__ import annotations

import itertools
import json
import random
import time
from typing import TYPE_CHECKING, Any, Final

from sidestream.providers import PROVIDERS
from sidestream.store.rows import Item, State
from sidestream.store.store import Store
from sidestream.traces.record import Record
from sidestream.traces.understanding import understand

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SEED: Final = 7
TURNS: Final = 100_000
LONG: Final = 200
"""Turns of a long run; there are as many of those as `_LONG_RUNS`."""
SHORT: Final = 50
DAYS: Final = 29.5
DATASETS: Final = ("support", "coding", "research", "nightly", "evals", "demo")
MODELS: Final = ("claude-sonnet-4-5", "claude-opus-4-1", "claude-haiku-4-5")
TOOLS: Final = ("read", "write", "edit", "bash", "grep", "glob", "fetch", "search", "plan", "test", "commit", "ask")
COMMON: Final = "balm"
"""A word of nearly every message."""
RARE: Final = "quokka"
"""A word of three of them."""
_LONG_RUNS: Final = 10
_BRANCHES: Final = 120
_AT_ONCE: Final = 20
_SOUNDS: Final = tuple(f"{a}{b}{c}" for a in "bdfgklmprstvz" for b in "aeiou" for c in ("lm", "st", "rn", "nd", "mp"))
_VOCABULARY: Final = (*_SOUNDS, *(f"{a}{b}" for a, b in itertools.product(_SOUNDS, repeat=2)))[:20_000]
_WEIGHTS: Final = tuple(itertools.accumulate(1 / rank for rank in range(1, len(_VOCABULARY) + 1)))
_DEFINITIONS: Final = [
    {"name": name, "description": f"To {name}.", "input_schema": {"type": "object"}} for name in TOOLS
]


class Agent:
    """A run: `call` is its next turn. Turns are about twelve seconds apart."""

    def __init__(self, number: int, began: float, turns: int) -> None:
        self.began = began
        self.left = turns
        self._random = random.Random(f"{SEED} {number}")
        self._number = number
        self._dataset = self._random.choice(DATASETS)
        self._model = self._random.choice(MODELS)
        self._calls = 0
        self._messages: list[bytes] = []
        self._ask({"type": "text", "text": f"Task {number}: {self._words()}"})

    def call(self) -> Item:
        """The next turn, as the recorder hands it to the store."""
        self._calls += 1
        self.left -= 1
        identity = f"{self._number:016x}{self._calls:016x}"
        fate = self._random.random()
        content = self._content(identity, ends=not self.left)
        seconds = self._random.lognormvariate(1.2, 0.7)
        record = Record(
            id=identity,
            dataset=self._dataset,
            provider="anthropic",
            method="POST",
            path="/v1/messages",
            request_headers={"content-type": "application/json"},
            request_chunks=(self._request(),),
            status=529 if fate < 0.02 else 200,
            response_headers={"content-type": "application/json"},
            response_chunks=(self._failure() if fate < 0.02 else self._answer(identity, content),),
            response_times=(seconds,),
            outcome="completed",
            started_at=self.began + 12.0 * self._calls,
            time_to_first_byte=seconds / 4,
            duration=seconds,
        )
        if fate >= 0.02:
            self._go_on(content)
        return Item(record, understand(record, PROVIDERS["anthropic"]), None, ("explorer",))

    def branch(self, turns: int) -> None:
        """Go back to half of what was said, and on from there in other words."""
        self._messages = self._messages[: len(self._messages) // 4 * 2]
        self._ask({"type": "text", "text": f"No, otherwise: {self._words()}"})
        self.left = turns

    def _words(self) -> str:
        return " ".join(self._random.choices(_VOCABULARY, cum_weights=_WEIGHTS, k=self._random.randint(50, 130)))

    def _ask(self, block: dict[str, Any]) -> None:
        self._messages.append(json.dumps({"role": "user", "content": [block]}).encode())

    def _content(self, identity: str, *, ends: bool) -> list[dict[str, Any]]:
        rare = f" {RARE}" if self._calls == 20 and self._number in {100, 800, 1500} else ""
        said = {"type": "text", "text": self._words() + rare}
        if ends or self._random.random() < 0.15:
            return [said]
        tool = self._random.choices(TOOLS, weights=range(len(TOOLS), 0, -1))[0]
        arguments = {"path": f"src/{self._random.choice(_VOCABULARY)}.py", "lines": self._random.randint(1, 400)}
        return [said, {"type": "tool_use", "id": f"toolu_{identity}", "name": tool, "input": arguments}]

    def _go_on(self, content: list[dict[str, Any]]) -> None:
        self._messages.append(json.dumps({"role": "assistant", "content": content}).encode())
        if content[-1]["type"] == "text":
            self._ask({"type": "text", "text": self._words()})
            return
        failed = {"is_error": True} if self._random.random() < 0.05 else {}
        self._ask({"type": "tool_result", "tool_use_id": content[-1]["id"], "content": self._words()} | failed)

    def _request(self) -> bytes:
        head = {"model": self._model, "max_tokens": 8000, "system": "Be brief.", "tools": _DEFINITIONS, "messages": []}
        return json.dumps(head).encode().removesuffix(b"]}") + b", ".join(self._messages) + b"]}"

    def _answer(self, identity: str, content: list[dict[str, Any]]) -> bytes:
        message = {
            "id": f"msg_{identity}",
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": content,
            "stop_reason": content[-1]["type"].replace("text", "end_turn"),
            "usage": {
                "input_tokens": self._random.randint(10, 900),
                "cache_read_input_tokens": 300 * len(self._messages),
                "cache_creation_input_tokens": 300,
                "output_tokens": self._random.randint(100, 400),
            },
        }
        return json.dumps(message).encode()

    def _failure(self) -> bytes:
        return b'{"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}'


def make(path: Path, tell: Callable[[str], None], turns: int = TURNS) -> None:
    """Make the store at `path`; `tell` is told how far it is."""
    store = Store.open(path)
    began, done = time.monotonic(), 0
    try:
        for items in _calls(time.time() - DAYS * 86400, turns):
            store.commit(items)
            _deliver(store, len(items))
            done += len(items)
            if done // 5000 != (done - len(items)) // 5000:
                tell(f"{done:,} turns after {time.monotonic() - began:.0f} s")
        while store.index(1 << 20):
            while store.merge_index(256):
                pass
        tell(f"indexed after {time.monotonic() - began:.0f} s")
    finally:
        store.close()


def _deliver(store: Store, number: int) -> None:
    """Have the latest deliveries arrive, as most do."""
    deliveries = store.deliveries(limit=number)
    for delivery in deliveries:
        delivery.state = State.DELIVERED
        delivery.attempts = 1
    store.save(deliveries)


def _calls(since: float, turns: int) -> Iterator[list[Item]]:
    """Calls in the order in which they come, so many at once as there are agents."""
    source = random.Random(SEED)
    long = _LONG_RUNS * turns // TURNS
    branches = _BRANCHES * turns // TURNS
    short = (turns - long * LONG) // SHORT - branches
    lengths = [LONG] * long + [SHORT] * short
    source.shuffle(lengths)
    starts = sorted(since + source.random() * DAYS * 86400 for _ in lengths)
    agents = [Agent(number, *each) for number, each in enumerate(zip(starts, lengths, strict=True))]
    leaving = set(source.sample([agent for agent in agents if agent.left == SHORT], branches))
    for first in range(0, len(agents), _AT_ONCE):
        running = agents[first : first + _AT_ONCE]
        again = [agent for agent in running if agent in leaving]
        yield from _until_done(running)
        for agent in again:
            agent.branch(SHORT)
        yield from _until_done(again)


def _until_done(agents: list[Agent]) -> Iterator[list[Item]]:
    while running := [agent for agent in agents if agent.left]:
        yield [agent.call() for agent in running]
