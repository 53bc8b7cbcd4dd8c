from sidestream.sinks.breakers import Breakers
from sidestream.store.rows import Lane

A, B, C = (Lane("k", name) for name in "abc")


def opened(until: float = 10.0) -> Breakers:
    breakers = Breakers()
    breakers.failed("k", A)
    breakers.hold("k", A, until)
    return breakers


def test_without_a_failure_every_lane_may_go() -> None:
    assert all(Breakers().lets("k", lane, 0.0) for lane in (A, B))


def test_after_a_failure_nobody_may_go_and_then_one() -> None:
    breakers = opened()
    assert [breakers.lets("k", lane, 9.0) for lane in (A, B)] == [False, False]
    assert breakers.next_probe == 10.0
    assert breakers.probes(9.0) == []
    assert breakers.probes(10.0) == [A]
    assert breakers.lets("k", A, 10.0)
    assert not breakers.lets("k", C, 10.0)
    assert breakers.probes(99.0) == []
    assert breakers.next_probe is None


def test_another_key_is_not_concerned() -> None:
    assert opened().lets("other", B, 0.0)


def test_a_probe_that_fails_counts_on_and_those_under_way_before_do_not() -> None:
    breakers = opened()
    assert breakers.failed("k", B) == (1, False)
    breakers.lets("k", A, 10.0)
    assert breakers.failed("k", A) == (2, False)
    breakers.hold("k", A, 20.0)
    assert not breakers.lets("k", B, 19.0)
    assert breakers.lets("k", B, 20.0)


def test_a_probe_with_nothing_to_do_makes_room_for_another() -> None:
    breakers = opened()
    assert breakers.lets("k", A, 10.0)
    breakers.over(A, "k")
    assert breakers.lets("k", B, 10.0)


def test_success_lets_everybody_go_and_is_news_once() -> None:
    breakers = opened()
    breakers.lets("k", B, 0.0)
    closed, lanes = breakers.close("k")
    assert (closed, list(lanes), breakers.open) == (True, [B], 0)
    assert not breakers.close("k")[0]


def test_a_refused_key_rests_and_then_has_one_probe() -> None:
    breakers = opened()
    breakers.lets("k", B, 0.0)
    assert list(breakers.refused("k", 0.0, 300.0)) == [B]
    assert (breakers.rest("k"), breakers.open) == (300.0, 0)
    assert not breakers.rested("k", 299.0)
    assert breakers.rested("k", 300.0)
    assert breakers.rest("k") is None
    assert [breakers.lets("k", lane, 300.0) for lane in (A, B)] == [True, False]


def test_a_success_of_a_key_that_was_refused_meanwhile_does_not_end_its_rest() -> None:
    breakers = Breakers()
    breakers.refused("k", 0.0, 300.0)
    assert not breakers.close("k")[0]
    assert breakers.rest("k") == 300.0


def test_keys_that_somebody_makes_up_are_forgotten_after_their_rest() -> None:
    breakers = Breakers()
    breakers.refused("", 0.0, 300.0)
    for number in range(5000):
        breakers.refused(str(number), float(number), 300.0)
    assert len(breakers) <= 1001
    assert breakers.rest("") == 300.0
    assert breakers.rest("4999") == 5299.0


def test_a_key_that_is_forgiven_may_be_tried_at_once() -> None:
    breakers = Breakers()
    breakers.refused("k", 0.0, 300.0)
    assert not breakers.lets("k", A, 1.0)
    breakers.forgive("k")
    assert breakers.lets("k", A, 1.0)


def test_forgiving_changes_nothing_for_a_key_that_was_not_refused() -> None:
    breakers = Breakers()
    breakers.failed("k", A)
    breakers.hold("k", A, 10.0)
    breakers.forgive("k")
    assert not breakers.lets("k", A, 1.0)
