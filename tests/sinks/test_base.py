from typing import Any

import msgspec
import pytest

from delivering import Bench, a_turn
from sidestream.errors import Ambiguous
from sidestream.options import Secret
from sidestream.sinks.base import Sink, encoded
from sidestream.traces.model import Turn, Unit


class Plain(Sink):
    """The least that a sink can be; its constructor calls no other."""

    def __init__(self) -> None:
        self.got: list[str] = []

    async def deliver(self, turn: Turn, credential: Secret | None, attempt: int) -> str | None:  # noqa: ARG002
        self.got.append(turn.id)
        return None


async def test_a_sink_with_nothing_but_deliver_works() -> None:
    bench, sink = Bench(), Plain()
    await bench.add(sink, a_turn("x1"))
    async with bench.delivering(sink):
        await bench.until({"x1": "delivered"})
    await bench.close()

    assert sink.got == ["x1"]


def test_a_sink_has_the_name_of_its_class_unless_it_says_another() -> None:
    class Named(Plain):
        name = "other"

    class Heir(Named):
        pass

    assert (Plain.name, Named.name, Heir.name) == ("plain", "other", "heir")


def test_by_default_a_sink_takes_every_trace_one_at_a_time_and_needs_no_key() -> None:
    sink = Plain()
    assert (sink.accepts(a_turn()), sink.concurrency, sink.needs_trace_key, sink.per_key) == (True, 1, False, True)
    assert sink.unit is Unit.TURN


async def test_by_default_a_sink_cannot_tell_what_has_arrived() -> None:
    with pytest.raises(Ambiguous):
        await Plain().find(a_turn(), None)


def test_a_sink_without_deliver_is_refused() -> None:
    class Nothing(Sink):
        pass

    with pytest.raises(TypeError, match="deliver"):
        Nothing()  # type: ignore[abstract]


@pytest.mark.parametrize("messages", [[], [{"role": "user"}], [{"a": 1}, {"b": "ü"}]])
def test_messages_are_encoded_as_one_array(messages: list[dict[str, Any]]) -> None:
    assert msgspec.json.decode(encoded(messages)) == messages
