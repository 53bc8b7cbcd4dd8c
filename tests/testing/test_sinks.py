import pytest
from msgspec.structs import replace

from delivering import Bench, a_turn
from sidestream.errors import Retryable
from sidestream.sinks.base import Found
from sidestream.testing import ListSink


async def test_a_list_sink_keeps_what_it_is_given_and_fails_as_told() -> None:
    bench, sink = Bench(), ListSink()
    sink.failures.append(Retryable("not now"))
    await bench.add(sink, a_turn("x1"))
    async with bench.delivering(sink):
        (kept,) = await sink.wait_for(1)
    await bench.close()

    assert (sink.attempts, sink.credentials) == ([2], [None])
    assert a_turn("x1") == replace(kept, weight=0)


async def test_a_list_sink_knows_what_it_has() -> None:
    sink = ListSink()
    await sink.deliver(a_turn("x1"), None, 1)

    assert await sink.find(a_turn("x1"), None) == Found()
    assert await sink.find(a_turn("x2"), None) is None


async def test_waiting_in_vain_says_how_much_has_come() -> None:
    with pytest.raises(TimeoutError, match="0 of 1 turns"):
        await ListSink().wait_for(1, timeout=0.01)
