from sidestream.sinks.lanes import Lanes
from sidestream.store.rows import Lane

A, B = Lane("k", "a"), Lane("k", "b")


def looked_at(lanes: Lanes, lane: Lane) -> None:
    lanes.wake(lane)
    assert lanes.ready.popleft() == lane
    lanes.look_at([lane])


def test_a_lane_is_ready_once_however_often_it_is_woken() -> None:
    lanes = Lanes()
    for lane in (A, B, A, B):
        lanes.wake(lane)
    assert list(lanes.ready) == [A, B]


def test_a_lane_that_was_found_empty_is_forgotten_until_it_is_woken_again() -> None:
    lanes = Lanes()
    looked_at(lanes, A)
    lanes.empty(A)
    lanes.looked()
    assert not lanes.ready
    lanes.wake(A)
    assert list(lanes.ready) == [A]


def test_a_lane_woken_while_it_is_looked_at_is_looked_at_again() -> None:
    for end in (Lanes.empty, lambda lanes, lane: lanes.wait(lane, 9.0)):
        lanes = Lanes()
        looked_at(lanes, A)
        lanes.wake(A)
        end(lanes, A)
        lanes.looked()
        assert list(lanes.ready) == [A]


def test_a_lane_that_is_deferred_waits_even_if_it_was_woken_while_it_was_looked_at() -> None:
    lanes = Lanes()
    looked_at(lanes, A)
    lanes.wake(A)
    lanes.defer(A, 9.0)
    assert (list(lanes.ready), lanes.next_due) == ([], 9.0)


def test_what_woke_a_lane_is_forgotten_when_the_look_is_over() -> None:
    lanes = Lanes()
    looked_at(lanes, A)
    lanes.wake(A)
    lanes.looked()
    lanes.wait(A, 9.0)
    assert (list(lanes.ready), lanes.next_due) == ([], 9.0)


def test_a_lane_waits_until_it_is_due_and_new_rows_do_not_change_that() -> None:
    lanes = Lanes()
    looked_at(lanes, A)
    lanes.wait(A, 9.0)
    lanes.looked()
    lanes.wake(A)
    lanes.fall_due(8.0)
    assert (list(lanes.ready), lanes.next_due) == ([], 9.0)
    lanes.fall_due(9.0)
    assert (list(lanes.ready), lanes.next_due) == ([A], None)


def test_a_lane_with_rows_opened_again_does_not_wait() -> None:
    lanes = Lanes()
    looked_at(lanes, A)
    lanes.wait(A, 9.0)
    lanes.looked()
    lanes.wake(A, reopened=True)
    lanes.fall_due(9.0)
    assert list(lanes.ready) == [A]
