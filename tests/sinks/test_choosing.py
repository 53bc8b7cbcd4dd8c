from typing import Any

import pytest

from delivering import KnownKeys
from sidestream.options import Secret
from sidestream.sinks.choosing import Choosing
from sidestream.sinks.policy import KEYLESS, NO_KEY, REFUSED_KEY, REFUSED_OWN_KEY, Policy
from sidestream.sinks.visits import Visit
from sidestream.store.rows import Lane
from sidestream.testing import ListSink

A1, A2, B1, OURS = Lane("a", "1"), Lane("a", "2"), Lane("b", "1"), Lane("", "1")
POLICY = Policy(key_wait=2.0, refused_rest=300.0)


class Keyed(ListSink):
    needs_trace_key = True


@pytest.fixture
def keys() -> KnownKeys:
    return KnownKeys(a=Secret("key-a"), b=Secret("key-b"))


def choosing(keys: KnownKeys, sink: Any = None) -> Choosing:
    return Choosing(sink or ListSink(), keys, POLICY)


def chosen(choosing: Choosing, now: float = 0.0, free: int = 9) -> Visit:
    visit = Visit([], 0.0)
    choosing.choose(visit, free, now)
    return visit


def picked(visit: Visit) -> list[tuple[Lane, str]]:
    return [(pick.lane, pick.key) for pick in visit.picks]


def in_trouble(choosing: Choosing, lane: Lane, *blocked: Lane, until: float) -> None:
    """The breaker of the lane's key is open, and holds these back."""
    choosing.breakers.failed(lane.fingerprint, lane)
    choosing.breakers.hold(lane.fingerprint, lane, until)
    choosing.wake(blocked)
    assert not chosen(choosing, until - 1).picks


def test_lanes_are_picked_in_order_with_their_keys_as_long_as_there_is_room(keys: KnownKeys) -> None:
    engine = choosing(keys)
    engine.wake([A1, OURS, B1])
    assert [(A1, "a"), (OURS, "")] == picked(chosen(engine, free=2))
    assert [] == picked(chosen(engine, free=0))
    assert [(B1, "b")] == picked(chosen(engine, free=1))


def test_a_lane_whose_key_went_away_waits_for_it_though_it_was_woken_during_its_last_visit(keys: KnownKeys) -> None:
    """It was put in front of the same visit again and again."""
    engine = choosing(keys)
    engine.wake([A1])
    assert [(A1, "a")] == picked(chosen(engine))
    engine.wake([A1])  # too late for the visit
    engine.lanes.ready.append(A1)  # its attempt is over before the next visit
    del keys["a"]
    visit = chosen(engine, 5.0)
    assert (False, 7.0) == (bool(visit), engine.next_time(9))


def test_a_key_that_is_not_known_is_waited_for_once_and_then_done_without(keys: KnownKeys) -> None:
    engine = choosing(keys)
    engine.wake([Lane("c", "1")])
    assert not chosen(engine)
    assert not chosen(engine, 1.9)
    assert [(Lane("c", "1"), "")] == picked(chosen(engine, 2.0))


def test_a_key_that_comes_sets_free_what_waits_for_it(keys: KnownKeys) -> None:
    engine = choosing(keys)
    engine.wake([Lane("c", "1")])
    assert not chosen(engine)
    keys["c"] = Secret("key-c")
    engine.key_seen("c")
    visit = chosen(engine, 0.1)
    assert [(Lane("c", "1"), "c")] == picked(visit)
    assert [("c", [NO_KEY, REFUSED_OWN_KEY, REFUSED_KEY])] == visit.unparks


def test_where_every_trace_needs_its_key_those_without_are_parked(keys: KnownKeys) -> None:
    engine = choosing(keys, Keyed())
    engine.wake([Lane("c", "1"), OURS, A1])
    assert {"": KEYLESS} == chosen(engine).parks
    visit = chosen(engine, 2.0)
    assert ({"c": NO_KEY}, [Lane("c", "1")]) == (visit.parks, visit.passed)


def test_a_refused_key_parks_its_lanes_until_it_has_rested(keys: KnownKeys) -> None:
    engine = choosing(keys)
    engine.breakers.refused("a", 0.0, 300.0)
    engine.wake([A1])
    assert {"a": REFUSED_KEY} == chosen(engine, 299.0).parks
    engine.lanes.empty(A1)
    engine.lanes.looked()
    engine.wake([A1, A2])
    visit = chosen(engine, 300.0)
    assert ([(A1, "a")], [("a", [REFUSED_KEY, REFUSED_OWN_KEY])]) == (picked(visit), visit.unparks)


def test_the_configured_key_has_another_chance_by_itself(keys: KnownKeys) -> None:
    engine = choosing(keys)
    engine.breakers.refused("", 0.0, 300.0)
    assert 300.0 == engine.next_time(0)
    assert [(None, [REFUSED_OWN_KEY])] == chosen(engine, 300.0).unparks
    assert engine.next_time(0) is None


def test_a_wish_lets_a_refused_key_go_at_once(keys: KnownKeys) -> None:
    engine = choosing(keys)
    engine.breakers.refused("a", 0.0, 300.0)
    engine.reopen([A1])
    assert [(A1, "a")] == picked(chosen(engine, 1.0))


def test_of_a_key_in_trouble_one_lane_goes_ahead_when_it_is_time_and_there_is_room(keys: KnownKeys) -> None:
    engine = choosing(keys)
    in_trouble(engine, A1, A1, A2, until=10.0)
    assert [] == picked(chosen(engine, 10.0, free=0))
    assert [(A1, "a")] == picked(chosen(engine, 10.0))
    assert [] == picked(chosen(engine, 11.0))


def test_without_room_there_is_no_time_for_a_probe(keys: KnownKeys) -> None:
    """Else an engine with all its slots busy would look for something to do all the time."""
    engine = choosing(keys)
    in_trouble(engine, A1, A2, until=10.0)
    assert 10.0 == engine.next_time(1)
    assert engine.next_time(0) is None


def test_a_lane_that_is_due_without_room_is_ready_and_no_reason_to_wake_again(keys: KnownKeys) -> None:
    engine = choosing(keys)
    engine.lanes.defer(A1, 5.0)
    assert 5.0 == engine.next_time(0)
    assert not chosen(engine, 5.0, free=0)
    assert engine.next_time(0) is None
    assert [(A1, "a")] == picked(chosen(engine, 6.0))


def test_a_start_gives_another_chance_to_what_was_parked_for_a_key(keys: KnownKeys) -> None:
    for_keys = [("a", [NO_KEY, REFUSED_KEY]), ("b", [NO_KEY, REFUSED_KEY])]
    assert [(None, [REFUSED_OWN_KEY]), *for_keys] == choosing(keys, Keyed()).first()
    assert [(None, [REFUSED_OWN_KEY, NO_KEY, KEYLESS]), *for_keys] == choosing(keys).first()


def test_what_is_forgotten_holds_nothing_back(keys: KnownKeys) -> None:
    engine = choosing(keys)
    in_trouble(engine, A1, A2, until=10.0)
    engine.breakers.refused("b", 0.0, 300.0)
    engine.forget()
    assert engine.next_time(9) is None
    engine.wake([A1, A2, B1])
    assert [(A1, "a"), (A2, "a"), (B1, "b")] == picked(chosen(engine))
