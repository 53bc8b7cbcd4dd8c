"""The report tells the same from the different."""

from __future__ import annotations

import io

import pytest

from sidestream.demo.calls import Call, sha256
from sidestream.demo.report import show_promises, show_proof, show_trace
from sidestream.demo.screen import Screen
from sidestream.testing import PushedTrace

FACTS = {"stop_reason": "end_turn", "usage": {"input_tokens": 3, "output_tokens": 5}}


@pytest.fixture
def out() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def screen(out: io.StringIO) -> Screen:
    return Screen(out, width=72, styled=False)


def call(request: bytes = b"ask", response: bytes = b"told") -> Call:
    return Call("/v1/messages", [], request, bytearray(response))


def test_the_same_bytes_are_identical(screen: Screen, out: io.StringIO) -> None:
    assert show_proof(screen, [call()], [call()])
    assert 2 == out.getvalue().count("identical")
    assert 2 == out.getvalue().count(sha256(b"told")[:12])


@pytest.mark.parametrize(
    ("sent", "seen"),
    [
        ([call(request=b"asK")], [call()]),
        ([call(response=b"tolD")], [call()]),
        ([call(), call()], [call()]),
        ([call()], [call(), call(b"", b"")]),
    ],
)
def test_anything_else_is_different(screen: Screen, out: io.StringIO, sent: list[Call], seen: list[Call]) -> None:
    assert not show_proof(screen, sent, seen)
    assert "DIFFERENT" in out.getvalue()


def test_no_calls_prove_nothing(screen: Screen) -> None:
    assert not show_proof(screen, [], [])


def test_a_broken_promise_is_named(screen: Screen, out: io.StringIO) -> None:
    show_promises(screen, {"Water is wet.": True, "Moss is red.": False})
    assert "\n  ✓ Water is wet.\n  ✗ NOT TRUE: Moss is red.\n" == out.getvalue()


def test_the_trace_is_shown_with_its_turns(screen: Screen, out: io.StringIO) -> None:
    question = {"role": "user", "content": "Is it dry?\nI think so."}
    called = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "1", "type": "function", "function": {"name": "probe", "arguments": {"bed": "苔"}}}],
        "metadata": FACTS | {"sidestream": {"turn": 1, "rule": "first"}},
    }
    result = {"role": "tool", "tool_name": "probe", "tool_call_id": "1", "content": "word " * 20}
    said = {
        "role": "assistant",
        "content": "Moist.",
        "metadata": FACTS | {"sidestream": {"turn": 2, "rule": "extends_tip"}},
    }
    show_trace(screen, PushedTrace("inv-1", "moss", [question, called, result, said], {}), 2)
    words = " ".join(["word"] * 10)
    assert [
        "  user       Is it dry? …",
        '  assistant  probe {"bed": "苔"}',
        f"  tool       probe → {words} …",
        "  assistant  Moist.",
        "  turn 1     first · 3 in, 5 out · end_turn",
        "  turn 2     extends_tip · 3 in, 5 out · end_turn",
    ] == out.getvalue().splitlines()[2:]
