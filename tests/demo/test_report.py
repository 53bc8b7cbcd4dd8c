"""The report tells the same from the different."""

from __future__ import annotations

import io

import pytest

from sidestream.demo.calls import Call, sha256
from sidestream.demo.report import show_promises, show_proof, show_turns, show_viewer
from sidestream.demo.screen import Screen


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


def test_each_turn_is_a_line(screen: Screen, out: io.StringIO) -> None:
    tokens = {"input": 1200, "output": 5}
    turns = [
        {"number": 1, "tools": ["probe", "forecast"], "tokens": tokens, "duration": 0.5},
        {"number": 2, "tools": [], "tokens": tokens, "duration": 61.0},
    ]
    show_turns(screen, turns)
    assert [
        "The run, as it was recorded  2 calls, each with all of its history, are one run",
        "  turn 1     calls probe, forecast · 1,200 tokens in, 5 out · 0.50 s",
        "  turn 2     answers · 1,200 tokens in, 5 out · 1 min 1 s",
    ] == out.getvalue().splitlines()[1:]


@pytest.mark.parametrize(("opened", "remark"), [(True, "opened in your browser"), (False, "open this in a browser")])
def test_the_address_stands_by_itself(screen: Screen, out: io.StringIO, remark: str, *, opened: bool) -> None:
    show_viewer(screen, "http://127.0.0.1:1/runs/2", opened=opened)
    lines = out.getvalue().splitlines()
    assert f"The viewer  {remark}" == lines[1]
    assert "  http://127.0.0.1:1/runs/2" in lines
