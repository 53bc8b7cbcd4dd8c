import asyncio

import pytest

from sidestream.errors import Ambiguous, Gone, Retryable, Unauthorized, Undeliverable
from sidestream.sinks.explorer_appends import Appends


class Watch:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def appends(watch: Watch) -> Appends:
    return Appends(10.0, watch)


def test_one_after_the_other_may_go(appends: Appends) -> None:
    for _ in range(3):
        with appends.one("t1"):
            pass


def test_two_at_a_time_may_go_to_two_traces_and_not_to_one(appends: Appends) -> None:
    with appends.one("t1"), appends.one("t2"), pytest.raises(Retryable) as caught, appends.one("t1"):
        pytest.fail("it left")
    assert 10.0 == caught.value.after


@pytest.mark.parametrize("error", [Retryable("r"), Unauthorized("u"), Gone("g"), Undeliverable("n")])
def test_after_an_end_that_is_clear_the_next_may_go_at_once(appends: Appends, error: Exception) -> None:
    with pytest.raises(type(error)), appends.one("t1"):
        raise error
    with appends.one("t1"):
        pass


@pytest.mark.parametrize("error", [Ambiguous("a"), asyncio.CancelledError(), KeyError("defect"), TimeoutError()])
def test_after_an_end_that_was_not_seen_the_next_waits_until_the_destination_has_settled(
    appends: Appends, watch: Watch, error: BaseException
) -> None:
    with pytest.raises(type(error)), appends.one("t1"):
        raise error
    watch.now += 4
    with pytest.raises(Retryable) as caught, appends.one("t1"):
        pytest.fail("it left")
    assert 6.0 == caught.value.after
    watch.now += 6
    with appends.one("t1"):
        pass


def test_what_is_kept_does_not_grow_without_end(
    appends: Appends, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidestream.sinks.explorer_appends._MANY", 3)
    for number in range(10):
        watch.now += 20
        with pytest.raises(Ambiguous), appends.one(f"t{number}"):
            raise Ambiguous("lost")
    assert len(appends._until) <= 4  # noqa: SLF001
