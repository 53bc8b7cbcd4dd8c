import json
from typing import Any

import pytest

from sidestream.errors import Ambiguous
from sidestream.sinks.explorer_trace import TurnSearch


def found(data: bytes, size: int = 1 << 20, exchange: str = "x1") -> bool:
    search = TurnSearch(exchange)
    for at in range(0, len(data), size):
        search.feed(data[at : at + size])
    search.end()
    return search.found


def a_trace(*messages: Any, **more: Any) -> dict[str, Any]:
    return {"id": "t", "messages": [{"role": "user", "content": "Hello"}, *messages], "extra_metadata": {}} | more


def a_mark(exchange: str) -> dict[str, Any]:
    return {"role": "a", "content": "", "metadata": {"sidestream": {"turn": 2, "exchange": exchange}, "is_error": True}}


@pytest.mark.parametrize("size", [1, 7, 64, 1 << 20])
@pytest.mark.parametrize("options", [{}, {"indent": 4}, {"separators": (",", ":")}])
def test_a_turn_is_found_by_its_last_message_wherever_the_pieces_end(size: int, options: Any) -> None:
    data = json.dumps(a_trace(a_mark("x0"), a_mark("x1"), {"role": "user", "content": "x" * 2000}), **options).encode()
    assert found(data, size)


def test_another_turn_is_not_this_one() -> None:
    assert not found(json.dumps(a_trace(a_mark("x0"), a_mark("x11"), a_mark("0x1"))).encode())


@pytest.mark.parametrize("ensure_ascii", [False, True])
def test_a_text_that_speaks_of_it_is_not_it(ensure_ascii: bool) -> None:
    for text in (json.dumps(a_mark("x1")), '\\"exchange\\": \\"x1\\"', '"exchange": "x1"', 'é"exchange":"x1"\\'):
        assert not found(json.dumps(a_trace({"content": text, text: 1}), ensure_ascii=ensure_ascii).encode())


@pytest.mark.parametrize("data", [b"", b"<html>messages</html>", b"[]", b"{}", b'{"messages": [', b'{"messages": [] <'])
def test_what_is_not_a_trace_tells_nothing(data: bytes) -> None:
    with pytest.raises(Ambiguous):
        found(data)


def test_a_trace_that_is_too_long_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidestream.sinks.explorer_trace._LONGEST", 1000)
    with pytest.raises(Ambiguous, match="too long"):
        found(json.dumps(a_trace({"content": "x" * 1000})).encode())


def test_hardly_any_of_it_is_kept() -> None:
    search = TurnSearch("x1")
    search.feed(b'{"messages": ["')
    for _ in range(100):
        search.feed(b"x" * 100_000)
    assert len(search._tail) < 1000  # noqa: SLF001
