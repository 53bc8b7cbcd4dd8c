"""Runs in the formats of others."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from conversing import START, Call, assistant, text, tool_result, tool_use, user
from sidestream.sinks.jsonl import Jsonl
from sidestream.store.library import Library
from sidestream.store.rows import Item
from sidestream.store.store import Store
from sidestream.traces.exporting import FORMATS, Explorers, openai_messages
from sidestream.traces.model import Unit
from stored import a_run

if TYPE_CHECKING:
    from pathlib import Path

CALLS = [tool_use("t1", "look", at="here"), tool_use("t2", "look", at="there")]
RESULTS = [tool_result("t1", "one"), tool_result("t2", "two")]


def a_conversation() -> list[Call]:
    """A turn with parallel calls that had to be tried twice, and one that nobody went on from, then their results."""
    asked = [user("Where?")]
    thought = [{"type": "thinking", "thinking": "Hm.", "signature": "s"}, text("I look."), *CALLS]
    went_on = [*asked, assistant(thought), user(*RESULTS)]
    return [
        Call("c1", asked, None, START),
        Call("c2", asked, thought, START + 2),
        Call("c3", [*asked, assistant(thought), user("Never mind")], None, START + 4),
        Call("c4", went_on, [text("Everywhere.")], START + 6),
    ]


def exported(folder: Path, calls: list[Call], wanted: str) -> tuple[str, Store]:
    store = Store.open(folder / "store.db")
    store.commit([Item(call.record(), call.reading(), None, ["jsonl"]) for call in calls])
    library = Library.open(folder / "store.db")
    run = library.run(calls[0].id)
    export = FORMATS[wanted](run, library.origin(run.summary.id))
    turns = library.messages(run.summary.id)
    library.close()
    pieces = [export.begin(), *map(export.turn, turns), export.end()]
    return b"".join(pieces).decode(), store


def test_a_run_is_one_document(tmp_path: Path) -> None:
    written, store = exported(tmp_path, a_conversation(), "json")
    store.close()
    document = json.loads(written)
    assert ("sidestream-run/1", "c1", 4) == (document["format"], document["run"]["id"], document["run"]["turns"])
    assert ["c1", "c2", "c3", "c4"] == [turn["turn"]["id"] for turn in document["turns"]]
    assert ["Be brief."] == [message["content"] for message in document["turns"][0]["system"]]


async def test_a_line_is_what_the_jsonl_sink_writes(tmp_path: Path) -> None:
    written, store = exported(tmp_path, a_conversation()[1:2] + a_conversation()[3:], "jsonl")
    sink = Jsonl(path=str(tmp_path / "traces.jsonl"))
    for delivery in store.deliveries()[::-1]:
        await sink.deliver(store.turn(delivery, Unit.TURN), None, 1)
    store.close()
    expected = (tmp_path / "traces.jsonl").read_text()
    assert [json.loads(line) for line in expected.splitlines()] == [json.loads(line) for line in written.splitlines()]


async def test_a_line_of_a_branch_says_where_it_left(tmp_path: Path) -> None:
    asked = [user("a"), assistant([text("A")])]
    calls = [
        Call("a1", asked[:1], [text("A")], START),
        Call("a2", [*asked, user("b")], [text("B")], START + 10),
        Call("a3", [*asked, user("c")], [text("C")], START + 20),
    ]
    _, store = exported(tmp_path, calls, "jsonl")
    sink = Jsonl(path=str(tmp_path / "traces.jsonl"))
    await sink.deliver(store.turn(store.deliveries()[0], Unit.TURN), None, 1)
    library = Library.open(tmp_path / "store.db")
    export = FORMATS["jsonl"](library.run("a3"), library.origin("a3"))
    [turn] = library.messages("a3")
    library.close()
    store.close()
    line = json.loads(export.turn(turn))
    assert json.loads((tmp_path / "traces.jsonl").read_text()) == line
    assert "branch" == line["origin"]["kind"]


def test_an_openai_conversation_has_what_the_last_turn_went_on_from(tmp_path: Path) -> None:
    written, store = exported(tmp_path, a_conversation(), "openai")
    store.close()
    functions = [
        {"name": "look", "arguments": json.dumps({"at": at}, separators=(",", ":"))} for at in ("here", "there")
    ]
    assert json.loads(written) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Where?"},
        {
            "role": "assistant",
            "content": "I look.",
            "tool_calls": [
                {"id": f"t{number}", "type": "function", "function": function}
                for number, function in enumerate(functions, 1)
            ],
            "reasoning_content": "Hm.",
        },
        {"role": "tool", "content": "one", "tool_call_id": "t1"},
        {"role": "tool", "content": "two", "tool_call_id": "t2"},
        {"role": "assistant", "content": "Everywhere."},
    ]


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([{"role": "thinking", "content": "Hm."}], [{"role": "assistant", "content": "", "reasoning_content": "Hm."}]),
        (
            [{"role": "thinking", "content": "Hm."}, {"role": "user", "content": None}],
            [
                {"role": "assistant", "content": "", "reasoning_content": "Hm."},
                {"role": "user", "content": ""},
            ],
        ),
        (
            [{"role": "assistant", "content": "", "tool_calls": [{"function": {"arguments": {"_raw": "{"}}}, 1]}],
            [
                {
                    "role": "assistant",
                    "content": "",
                    "tool_calls": [{"id": "", "type": "function", "function": {"name": "", "arguments": "{"}}],
                }
            ],
        ),
        (
            [{"role": "tool", "content": [{"type": "text"}]}],
            [{"role": "tool", "content": [{"type": "text"}], "tool_call_id": ""}],
        ),
    ],
)
def test_odd_messages_become_messages_all_the_same(messages: list[Any], expected: list[Any]) -> None:
    assert expected == openai_messages(messages)


def test_a_trace_of_an_explorers_has_each_message_once(tmp_path: Path) -> None:
    _, store = exported(tmp_path, a_conversation()[:2], "json")
    store.close()
    library = Library.open(tmp_path / "store.db")
    shown = Explorers(library.summary("c1"), {"model": "m"}, identity="1", user="u")
    trace = json.loads(b"".join([shown.begin(), *map(shown.turn, library.messages("c1")), shown.end()]))
    library.close()
    assert ["system", "user", "thinking", "assistant"] == [message["role"] for message in trace["messages"]]
    assert ("1", "u", "demo", "Where?") == (trace["id"], trace["username"], trace["dataset"], trace["name"])
    assert {"model": "m", "sidestream": {"exchange": "c1", "trace": "c1"}} == trace["extra_metadata"]


def test_a_long_run_is_written_in_pieces(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store.db")
    store.commit(a_run("r", 30))
    library = Library.open(tmp_path / "store.db")
    run, turns = library.run("r-0"), library.messages("r-0")
    for name in FORMATS:
        export = FORMATS[name](run, None)
        pieces = [export.begin(), *map(export.turn, turns), export.end()]
        assert max(map(len, pieces)) < 4096
    library.close()
    store.close()
