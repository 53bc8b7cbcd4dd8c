"""What a sink is told: each message once, in order, and never what would come before something told already."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import pytest

from conversing import START, Call, text, user
from growing import LANE, SINK, Agent, Growing
from sidestream.store.dispatch import _TOLD
from sidestream.store.rows import State
from sidestream.traces.model import Origin, Unit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidestream.traces.model import Turn


@pytest.fixture
def told() -> Iterator[Growing]:
    with Growing() as told:
        yield told


def words(turn: Turn) -> list[str]:
    return [message["content"] for message in turn.messages]


def told_of(told: Growing, unit: Unit) -> list[list[str]]:
    return [words(told.store.turn(delivery, unit)) for delivery in told.store.deliveries()[::-1]]


# By themselves


def test_exchanges_are_told_whole_and_turns_with_what_they_added(told: Growing) -> None:
    told.add(*Agent().calls(2))

    assert [["Be brief.", "a1", "A1"], ["Be brief.", "a1", "A1", "a2", "A2"]] == told_of(told, Unit.EXCHANGE)
    assert [["Be brief.", "a1", "A1"], ["a2", "A2"]] == told_of(told, Unit.TURN)


def test_of_a_retry_only_the_answer_is_told_where_the_first_attempt_has_been(told: Growing) -> None:
    agent = Agent()
    told.add(agent.call(name="x", complete=False), agent.call(name="y"))

    assert [["Be brief.", "a1", "A1"], ["A1"]] == told_of(told, Unit.TURN)


def test_it_does_not_matter_which_of_two_attempts_was_stored_first(told: Growing) -> None:
    agent = Agent()
    told.add(*reversed([agent.call(name="x", complete=False), agent.call(name="y")]))

    assert [["A1"], ["Be brief.", "a1", "A1"]] == told_of(told, Unit.TURN)


def test_of_a_retry_all_is_told_where_the_first_attempt_was_not_to_be(told: Growing) -> None:
    agent = Agent()
    told.add(agent.call(name="x", answer=False), sinks=["another"])
    told.add(agent.call(name="y"))

    retry = told.store.deliveries(sink=SINK)[0]
    assert ["Be brief.", "a1", "A1"] == words(told.store.turn(retry, Unit.TURN))


def test_what_is_not_there_cannot_be_told(told: Growing) -> None:
    told.add(Agent().call())
    delivery, _ = told.claim()
    delivery.sequence = 99
    for unit in Unit:
        with pytest.raises(LookupError):
            told.store.turn(delivery, unit)


# Where traces grow


def test_the_first_turn_begins_a_trace_and_the_others_are_put_behind_it(told: Growing) -> None:
    told.add(*Agent().calls(3))
    turns = [told.tell() for _ in range(3)]

    assert [None, "t1", "t1"] == [turn.remote for turn in turns]
    assert [["Be brief.", "a1", "A1"], ["a2", "A2"], ["a3", "A3"]] == [words(turn) for turn in turns]
    assert [1, 2, 3] == [turn.number for turn in turns]


def test_messages_have_the_time_at_which_the_call_began_and_answers_that_at_which_it_ended(told: Growing) -> None:
    told.add(Call("x", [user("a1"), user("a2")], [text("A")], START + 0.25, seconds=1.5))
    turn = told.tell()

    began, ended = "2026-09-21T14:13:20.250000+00:00", "2026-09-21T14:13:21.750000+00:00"
    just = [began, began.replace("250000", "250001"), began.replace("250000", "250002"), ended]
    assert just == [message["timestamp"] for message in turn.messages]
    assert int((START + 1.75) * 1e6) == turn.told_until


@pytest.mark.parametrize("later", [-1000.0, 0.0, 1000.0])
def test_times_rise_within_a_trace_whatever_the_clock_did(told: Growing, later: float) -> None:
    agent = Agent()
    told.add(agent.call())
    told.tell()
    second = agent.call()
    second.begun += later
    told.add(second)
    if told.store.head(SINK, LANE) is not None:
        told.tell_all()

    for times in told.times.values():
        assert sorted(set(times)) == times


def test_times_rise_beyond_what_was_sent_and_did_not_arrive(told: Growing) -> None:
    agent = Agent()
    told.add(agent.call())
    told.tell()
    told.add(agent.call())
    _, lost = told.claim()
    told.settle(State.RETRY_AT)
    again = told.tell()

    assert again.messages[0]["timestamp"] > lost.messages[-1]["timestamp"]
    assert again.remote == lost.remote == "t1"


@pytest.mark.parametrize("state", [State.DEAD, State.PARKED])
def test_in_place_of_what_could_not_be_delivered_there_is_a_word_about_it(told: Growing, state: State) -> None:
    told.add(*Agent().calls(3))
    told.tell()
    told.settle(state, "too large")
    told.tell()

    note = "[turn 2 could not be delivered: too large]"
    assert {"t1": ["a1", "A1", note, "a3", "A3"]} == told.said
    assert "system" == told.traces["t1"][3]["role"]


def test_what_the_sink_was_never_to_be_told_is_told_with_what_follows_it(told: Growing) -> None:
    first, second, third = Agent().calls(3)
    told.add(first)
    told.add(second, sinks=["another"])
    told.add(third)
    told.tell_all()

    assert {"t1": ["a1", "A1", "a2", "A2", "a3", "A3"]} == told.said


def test_where_nothing_was_told_of_a_trace_all_that_is_known_begins_one(told: Growing) -> None:
    calls = Agent().calls(4)
    told.add(calls[0], calls[1], sinks=["another"])
    told.add(*calls[2:])
    turn = told.tell()

    assert ["Be brief.", "a1", "A1", "a2", "A2", "a3", "A3"] == words(turn)
    assert (None, 3, "a1") == (turn.remote, turn.number, turn.trace)


def test_a_trace_whose_first_turn_could_not_be_delivered_still_begins_with_the_system_prompt(told: Growing) -> None:
    told.add(*Agent().calls(2))
    told.settle(State.DEAD, "why")
    turn = told.tell()

    assert ["Be brief.", "[turn 1 could not be delivered: why]", "a2", "A2"] == words(turn)


def test_where_earlier_turns_have_been_removed_a_trace_begins_with_a_word_about_that(told: Growing) -> None:
    agent = Agent()
    told.add(agent.call())
    told.tell()
    told.add(agent.call())
    told.store.prune(age=None, max_bytes=1, most=1)
    turn = told.tell()

    assert ["Be brief.", "[what was said before has been removed]", "a2", "A2"] == words(turn)


def test_a_turn_that_comes_to_be_told_after_what_follows_it_becomes_a_branch(told: Growing) -> None:
    told.add(*Agent().calls(3))
    told.tell()
    told.settle(State.PARKED, "unclear")
    told.tell()
    told.store.redeliver(states=[State.PARKED])
    late = told.tell()

    assert (None, ["a2", "A2"]) == (late.remote, words(late))
    assert Origin(kind="branch", trace="a1", turn="a1", number=1, path=["a1"]) == late.origin
    assert {"t1": ["a1", "A1", "[turn 2 could not be delivered: unclear]", "a3", "A3"], "t2": ["a2", "A2"]} == told.said


def test_a_branch_begins_with_what_it_added_and_says_what_it_left(told: Growing) -> None:
    agent = Agent()
    told.add(*agent.calls(3))
    told.add(*agent.fork("b", 1).calls(2))
    turns = [told.tell() for _ in range(5)]

    assert {"t1": ["a1", "A1", "a2", "A2", "a3", "A3"], "t2": ["b1", "B1", "b2", "B2"]} == told.said
    assert Origin(kind="branch", trace="a1", turn="a1", number=1, path=["a1"]) == turns[3].origin
    assert (None, "t2") == (turns[3].remote, turns[4].remote)


def test_a_retry_adds_its_answer_to_what_was_told_of_an_earlier_attempt(told: Growing) -> None:
    agent = Agent()
    told.add(agent.call(), agent.call(name="x", complete=False), agent.call(name="y"), agent.call())
    told.tell_all()

    assert {"t1": ["a1", "A1", "a2", "A2", "A2", "a3", "A3"]} == told.said


def test_a_retry_of_what_was_not_told_says_all_of_it(told: Growing) -> None:
    agent = Agent()
    told.add(agent.call())
    told.add(agent.call(name="x", complete=False), sinks=["another"])
    told.add(agent.call(name="y"), agent.call())
    told.tell_all()

    assert {"t1": ["a1", "A1", "a2", "A2", "a3", "A3"]} == told.said


def test_a_retry_without_an_answer_still_says_something(told: Growing) -> None:
    """An Explorer takes no empty append, and the last message tells which turn it was."""
    agent = Agent()
    told.add(agent.call(name="x", answer=False), agent.call(name="y", answer=False), agent.call(name="z"))
    told.tell_all()

    assert {"t1": ["a1", "[nothing was said]", "A1"]} == told.said


def test_where_the_trace_is_gone_all_begins_anew(told: Growing) -> None:
    told.add(*Agent().calls(3))
    told.tell()
    told.tell()
    told.store.forget_remote(SINK, "t1")
    turn = told.tell()

    assert (None, ["Be brief.", "a1", "A1", "a2", "A2", "a3", "A3"]) == (turn.remote, words(turn))


def test_in_memory_of_what_was_told_before_only_a_word_is_left(told: Growing) -> None:
    told.add(*Agent().calls(2))
    told.tell()
    told.store.discard_finished(keep=10)
    told.store.forget_remote(SINK, "t1")

    assert ["[turn 1 is not kept any more]", "a2", "A2"] == [word for word in words(told.tell()) if word != "Be brief."]


def test_where_an_unclear_turn_is_looked_for_is_where_it_was_sent(told: Growing) -> None:
    told.add(*Agent().calls(2))
    told.tell()
    _, sent = told.claim()
    told.store.expire_leases(SINK)
    delivery = told.store.head(SINK, LANE)
    assert delivery is not None

    looked_for = told.store.turn(delivery, Unit.TRACE)
    assert ("t1", "a2", sent.told_until) == (looked_for.remote, looked_for.id, looked_for.told_until)


def test_nothing_is_put_behind_a_place_where_another_may_be_under_way(told: Growing) -> None:
    """An operator has the second delivered again while the third may or may not be there."""
    told.add(*Agent().calls(3))
    told.tell()
    told.settle(State.DEAD, "why")
    told.claim()
    told.store.expire_leases(SINK)
    told.store.redeliver(states=[State.DEAD])
    late = told.tell()

    assert ("a2", None) == (late.id, late.remote)


def test_what_was_told_before_it_is_told_again_is_told_behind_it(told: Growing) -> None:
    told.add(*Agent().calls(2))
    told.tell_all()
    told.store.redeliver(states=[State.DELIVERED], exchange="a2")
    told.tell()

    assert {"t1": ["a1", "A1", "a2", "A2", "a2", "A2"]} == told.said
    assert sorted(set(told.times["t1"])) == told.times["t1"]


def test_a_whole_trace_that_is_told_again_is_another_one(told: Growing) -> None:
    told.add(*Agent().calls(3))
    told.tell_all()
    told.store.redeliver(states=[State.DELIVERED])
    told.tell_all()

    once = ["a1", "A1", "a2", "A2", "a3", "A3"]
    assert {"t1": once, "t2": once} == told.said


def test_each_sink_has_traces_of_its_own(told: Growing) -> None:
    first, second = Agent().calls(2)
    told.add(first, sinks=["another"])
    told.add(second)

    assert ["Be brief.", "a1", "A1", "a2", "A2"] == words(told.tell())


def test_turns_that_were_stored_in_another_order_are_told_in_their_own(told: Growing) -> None:
    told.add(*reversed(Agent().calls(5)))
    told.tell_all()

    assert {"t1": [f"{letter}{n}" for n in range(1, 6) for letter in "aA"]} == told.said


def test_a_damaged_turn_does_not_keep_those_after_it_from_being_told(told: Growing) -> None:
    told.add(*Agent().calls(3))
    told.tell()
    told.settle(State.DEAD, "damaged")
    database = told.store._database  # noqa: SLF001
    with database.transaction():
        database.run("DELETE FROM deliveries WHERE sequence = 2")
        database.run("UPDATE contents SET content = x'ff' WHERE id IN (SELECT content FROM said WHERE sequence = 2)")

    assert ["[turn 2 cannot be read]", "a3", "A3"] == words(told.tell())


def test_what_was_told_is_looked_up_by_its_turn_and_not_among_all_that_was_ever_told(told: Growing) -> None:
    database = told.store._database  # noqa: SLF001
    plan = [step for *_, step in database.rows(f"EXPLAIN QUERY PLAN {_TOLD}", SINK, 1, 1, 1)]
    assert ["SEARCH deliveries USING INDEX sqlite_autoindex_deliveries_1 (sequence=? AND sink=?)"] == [
        step for step in plan if "deliveries" in step
    ]


class World:
    """Agents who go on, are not answered, try again and go back; and deliveries that end in all ways."""

    def __init__(self, told: Growing, random: Random) -> None:
        self.spoken: dict[str, int] = {}
        """What was said first comes first."""
        self._told = told
        self._random = random
        self._agents = [Agent("a"), Agent("b", START + 3)]

    def calls(self, letter: str) -> None:
        """Some calls of one agent, which become known in any order."""
        agent = self._random.choice(self._agents)
        calls = [agent.call(name=f"{letter}-{n}", answer=self._random.random() > 0.2) for n in range(3)]
        for asked in (call.messages[-1]["content"] for call in calls):
            for word in (asked, asked.upper()):
                self.spoken.setdefault(word, len(self.spoken))
        self._random.shuffle(calls)
        self._told.add(*calls)
        if self._random.random() < 0.5:
            self._agents.append(agent.fork(letter, self._random.randint(1, 3)))

    def deliveries(self) -> None:
        match self._random.choice(["told", "told", "dead", "parked", "wait", "again", "gone"]):
            case "told":
                self._told.tell_all()
            case "dead" | "parked" as state if self._told.store.head(SINK, LANE) is not None:
                self._told.settle(State(state), "why")
            case "again":
                self._told.store.redeliver(states=[State.DEAD, State.PARKED])
            case "gone":
                self._told.store.forget_remote(SINK, f"t{len(self._told.traces)}")


@pytest.mark.parametrize("seed", range(40))
def test_whatever_becomes_of_deliveries_each_trace_is_in_order_and_says_nothing_twice(told: Growing, seed: int) -> None:
    world = World(told, Random(seed))
    for letter in "cdefgh":
        world.calls(letter)
        world.deliveries()
    told.tell_all()
    for trace in told.said.values():
        own = [word for word in trace if not word.startswith("[")]
        assert sorted(set(own), key=world.spoken.__getitem__) == own
    for times in told.times.values():
        assert sorted(set(times)) == times
