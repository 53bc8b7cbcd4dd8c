import pytest

from sidestream.errors import Retryable
from sidestream.testing import ListSink
from sidestream.traces.model import Trace

TRACE = Trace(id="x1", dataset="demo", messages=[], metadata={})


async def test_a_list_sink_keeps_what_it_is_given_and_fails_as_told() -> None:
    sink = ListSink()
    sink.failures.append(Retryable("not now"))
    await sink.start()
    sink.offer(TRACE, None)

    assert await sink.wait_for(1) == [TRACE]
    assert sink.counters.retried == 1
    await sink.stop(5)


async def test_waiting_in_vain_says_how_much_has_come() -> None:
    sink = ListSink()

    with pytest.raises(TimeoutError, match="0 of 1 traces"):
        await sink.wait_for(1, timeout=0.01)
