"""The trace."""

from __future__ import annotations

import msgspec

from sidestream.traces.model import Trace


def test_a_trace_is_plain_json() -> None:
    trace = Trace(id="1", dataset="d", messages=[{"role": "user", "content": "Hi"}], metadata={"model": "m"})
    assert {
        "id": "1",
        "dataset": "d",
        "messages": [{"role": "user", "content": "Hi"}],
        "metadata": {"model": "m"},
    } == msgspec.json.decode(msgspec.json.encode(trace))
