"""Whatever agents do, and in whatever order it becomes known, their runs are found again, and no two are joined."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hypothesis import given, settings
from hypothesis import strategies as st

from conversing import (
    START,
    Call,
    Conversed,
    Json,
    assistant,
    in_other_words,
    places,
    text,
    tool_result,
    tool_use,
    user,
)

if TYPE_CHECKING:
    from random import Random

ANNOUNCED = {"x-stainless-retry-count": "1"}
POOL = ["Solve the puzzle.", "What is two and two?", "Write a poem."]


@dataclass
class Agent:
    """One line of calls: a run, a branch of one, or a sub-agent."""

    trace: str
    history: list[Json] = field(default_factory=list)
    answered: list[tuple[list[Json], Call]] = field(default_factory=list)
    """After each whole answer: the history with it, and the call."""


class World:
    """Agents at work. What they do is random; where each of their calls belongs is written down."""

    def __init__(self, random: Random) -> None:
        self.calls: list[Call] = []
        self._random = random
        self._numbers = itertools.count(1)
        self._agents: list[Agent] = []

    def step(self) -> None:
        actions = [
            self._begin,
            *(
                [self._go_on] * 4 + [self._fork, self._delegate, self._be_cut, self._clear, self._go_on_twice]
                if self._agents
                else []
            ),
        ]
        self._random.choice(actions)()

    def _begin(self) -> None:
        self._agents.append(agent := Agent(""))
        if self._random.random() < 0.3:
            self._break_off(agent, user(f"Question number {next(self._numbers)}"))
        else:
            self._answered(agent, user(self._random.choice(POOL)))

    def _go_on(self) -> None:
        agent = self._random.choice(self._agents)
        asked = self._next(agent)
        for attempt in range(self._random.choice([0, 0, 0, 1, 2])):
            self._attempt(agent, asked, None, headers=self._announced() if attempt else {})
        if self._random.random() < 0.2:
            asked = self._next(agent)  # something else, after all
        self._answered(agent, asked, headers=self._announced())

    def _announced(self) -> dict[str, str]:
        return ANNOUNCED if self._random.random() < 0.5 else {}

    def _fork(self) -> None:
        """Go back to an earlier answer, and on from there in other words."""
        agent = self._random.choice(self._agents)
        history, call = self._random.choice(agent.answered)
        if call is agent.answered[-1][1]:
            return
        self._agents.append(branch := Agent("", list(history)))
        self._answered(branch, self._next(branch), left=call.id)

    def _delegate(self) -> None:
        """Have a sub-agent do something, while the call for it is open."""
        agent = self._random.choice(self._agents)
        task = f"Find out number {next(self._numbers)} for me."
        call = self._attempt(agent, self._next(agent), [tool_use(f"t{next(self._numbers)}", "agent", prompt=task)])
        self._take(agent, call)
        child = Agent("")
        self._answered(child, user(task), left=call.id)
        self._answered(child, self._next(child))
        self._agents.append(child)

    def _be_cut(self) -> None:
        """Break off in the middle of an answer; and do it again, or go on from what there is, or without it."""
        agent = self._random.choice(self._agents)
        self._break_off(agent, self._next(agent))

    def _break_off(self, agent: Agent, asked: Json) -> None:
        words = f"This is the long answer number {next(self._numbers)} that nobody hears".split()
        self._attempt(agent, asked, [text(" ".join(words))], complete=False)
        then = self._random.choice(["again", "from there", "without"])
        if then == "again":
            self._answered(agent, asked)
            return
        agent.history.append(asked)
        if then == "from there":
            agent.history.append(assistant([text(" ".join(words[: self._random.randint(3, len(words))]))]))
        self._answered(agent, user(f"Go on, number {next(self._numbers)}."))

    def _clear(self) -> None:
        """Clear what tools have answered, as clients do when the history has become long."""
        agent = self._random.choice(self._agents)
        agent.history = [*map(_cleared, agent.history[:-1]), *agent.history[-1:]]
        self._answered(agent, self._next(agent))

    def _go_on_twice(self) -> None:
        """Retry a call that was answered after all; and go on from both answers."""
        agent = self._random.choice(self._agents)
        asked, other = self._next(agent), Agent(agent.trace, list(agent.history))
        first = self._attempt(agent, asked, [text(f"Answer {next(self._numbers)}.")])
        second = self._attempt(other, asked, [text(f"Answer {next(self._numbers)}.")], headers=ANNOUNCED)
        self._take(agent, first)
        self._take(other, second)
        self._answered(agent, self._next(agent))
        branch = Agent("", other.history)
        self._answered(branch, self._next(branch), left=second.id)
        self._agents.append(branch)

    def _next(self, agent: Agent) -> Json:
        """What the agent says next: results of the tools that were called, or something new."""
        last = agent.history[-1]["content"] if agent.history else []
        called = [block["id"] for block in last if isinstance(block, dict) and block["type"] == "tool_use"]
        words = f"Result number {next(self._numbers)}"
        if called and agent.history[-1]["role"] == "assistant":
            return user(*(tool_result(identity, words) for identity in called))
        return user(words)

    def _answered(self, agent: Agent, asked: Json, **facts: Any) -> None:
        number = next(self._numbers)
        content = [text(f"Answer {number}.")]
        if self._random.random() < 0.5:
            content = [
                {"type": "thinking", "thinking": "Hm.", "signature": "abc"},
                *content,
                {"type": "server_tool_use", "id": f"s{number}", "name": "web_search", "input": {}},
                {"type": "web_search_tool_result", "tool_use_id": f"s{number}", "content": []},
                text("And more."),
                tool_use(f"t{number}", x=1.0, y=None),
            ]
        self._take(agent, self._attempt(agent, asked, content, **facts))

    def _attempt(self, agent: Agent, asked: Json, content: list[Json] | None, **facts: Any) -> Call:
        number = next(self._numbers)
        messages = in_other_words([*agent.history, asked], self._random)
        call = Call(f"c{number}", messages, content, START + 10 * number, **facts)
        call.asked = asked
        agent.trace = call.trace = agent.trace or call.id
        self.calls.append(call)
        return call

    def _take(self, agent: Agent, call: Call) -> None:
        """Have an answer in the history."""
        assert call.content is not None
        agent.history = [*agent.history, call.asked, assistant(call.content)]
        agent.answered.append((list(agent.history), call))


def _cleared(message: Json) -> Json:
    if isinstance(message["content"], str):
        return message
    blocks = [
        block | ({"content": "[cleared]"} if block["type"] == "tool_result" else {}) for block in message["content"]
    ]
    return message | {"content": blocks}


def run(random: Random, steps: int) -> World:
    world = World(random)
    for _ in range(steps):
        world.step()
    return world


def expected(world: World) -> dict[str, tuple[str, str | None]]:
    return {call.id: (call.trace, call.left) for call in world.calls}


@given(st.randoms(use_true_random=False), st.integers(1, 25))
@settings(max_examples=35)
def test_runs_are_found_again_in_order(random: Random, steps: int) -> None:
    world = run(random, steps)
    with Conversed() as known:
        known.add(*world.calls)
        assert expected(world) == places(known.turns)


@given(st.randoms(use_true_random=False), st.integers(1, 15))
@settings(max_examples=35)
def test_runs_are_found_again_in_any_order(random: Random, steps: int) -> None:
    world = run(random, steps)
    calls = list(world.calls)
    random.shuffle(calls)
    with Conversed() as known:
        known.add(*calls)
        assert expected(world) == places(known.turns)


@given(st.randoms(use_true_random=False), st.integers(1, 12))
@settings(max_examples=25)
def test_the_order_of_arrival_changes_nothing_at_all(random: Random, steps: int) -> None:
    world = run(random, steps)
    calls = list(world.calls)
    random.shuffle(calls)
    with Conversed() as in_order, Conversed() as shuffled:
        in_order.add(*world.calls)
        shuffled.add(*calls)
        assert in_order.turns == {call.id: shuffled.turns[call.id] for call in world.calls}
