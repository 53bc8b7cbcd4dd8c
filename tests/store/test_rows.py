from __future__ import annotations

from sidestream.store.rows import OPEN, Lane, Position, State


def test_the_names_of_states_lie_in_databases_and_must_not_change() -> None:
    assert {"pending", "sending", "retry_at", "delivered", "parked", "dead"} == {state.value for state in State}


def test_what_waits_for_somebody_or_is_over_holds_nothing_back() -> None:
    assert {State.DELIVERED, State.PARKED, State.DEAD} == set(State) - OPEN


def test_positions_are_ordered_as_they_are_in_the_journal() -> None:
    expected = [Position(1, 500), Position(2, 0), Position(2, 7), Position(10, 0)]
    assert expected == sorted([Position(10, 0), Position(2, 7), Position(1, 500), Position(2, 0)])


def test_a_lane_is_known_by_what_it_holds() -> None:
    assert {Lane("", "d"): 1} == {Lane(fingerprint="", dataset="d"): 1}
