"""A stream assembles to the message the official SDK accumulates, however it is cut, and nothing makes it raise."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidestream.providers.anthropic.assembler import Assembler
from sidestream.providers.sse import Event
from streams import NAMES, SDKError, assemble, comparable, message_of, recorded, sdk_message, stream

if TYPE_CHECKING:
    from pathlib import Path

WHERE_THE_SDK_RAISES = {"error_in_mid_stream", "malformed_events", "tool_input_invalid"}
every_stream = pytest.mark.parametrize("name", NAMES)


@pytest.mark.parametrize("name", sorted({*NAMES} - WHERE_THE_SDK_RAISES - {"multi_line_data"}))
def test_the_message_equals_the_sdks(name: str) -> None:
    assert comparable(assemble(stream(name)).message) == sdk_message(stream(name))


def test_a_byte_order_mark_costs_the_message_nothing() -> None:
    body = stream("multi_line_data")
    assert comparable(assemble(body).message) == sdk_message(body.removeprefix(b"\xef\xbb\xbf"))


@pytest.mark.parametrize("name", sorted(WHERE_THE_SDK_RAISES))
def test_where_the_sdk_raises_something_is_kept(name: str) -> None:
    with pytest.raises(SDKError):
        sdk_message(stream(name))
    assert assemble(stream(name)).message is not None


@every_stream
@pytest.mark.parametrize("ending", ["LF", "CRLF", "CR"])
def test_a_stream_split_at_any_byte_gives_the_same_message(name: str, ending: str) -> None:
    body = stream(name).replace(b"\n", {"LF": b"\n", "CRLF": b"\r\n", "CR": b"\r"}[ending])
    expected = assemble(stream(name))
    assert assemble(*(body[at : at + 1] for at in range(len(body)))) == expected
    assert [at for at in range(len(body)) if assemble(body[:at], body[at:]) != expected] == []


def test_text_deltas_are_joined() -> None:
    assert message_of("text")["content"] == [{"type": "text", "text": "Grüße, Wörld 😀!"}]


def test_a_signature_delta_replaces() -> None:
    assert message_of("thinking_with_signature")["content"][0] == {
        "type": "thinking",
        "thinking": "Let me think.",
        "signature": "c2lnbmVk",
    }


def test_a_compaction_delta_replaces() -> None:
    assert message_of("compaction")["content"][0] == {
        "type": "compaction",
        "content": "The summary.",
        "encrypted_content": "RW5j",
    }


def test_tool_inputs_are_told_apart_by_index() -> None:
    inputs = [block.get("input") for block in message_of("parallel_tools")["content"]]
    assert inputs == [None, {"city": "Köln"}, {"zone": "CET"}]


def test_nothing_but_empty_deltas_means_no_arguments() -> None:
    assert message_of("tool_with_empty_deltas")["content"][0]["input"] == {}


def test_an_input_may_come_whole_at_the_start() -> None:
    assert message_of("tool_input_in_start")["content"][0]["input"] == {"city": "Bern"}


def test_of_a_cut_input_the_message_has_what_could_be_read_and_the_text_is_kept() -> None:
    assembled = assemble(stream("tool_input_cut"))
    assert message_of("tool_input_cut")["content"][1]["input"] == {"path": "a.txt", "lines": ["one"]}
    assert assembled.raw_inputs == {1: '{"path": "a.txt", "lines": ["one", "tw'}


def test_an_invalid_input_is_its_text() -> None:
    text = '{"path": "a.txt", lines: [}'
    assert message_of("tool_input_invalid")["content"][0]["input"] == {"_raw": text}
    assert assemble(stream("tool_input_invalid")).raw_inputs == {0: text}


def test_usage_is_overwritten_except_by_null() -> None:
    assert message_of("server_tool_web_search")["usage"] == {
        "input_tokens": 1200,
        "cache_creation_input_tokens": 2,
        "cache_read_input_tokens": 40,
        "output_tokens": 77,
        "service_tier": "standard",
        "server_tool_use": {"web_search_requests": 1},
    }


def test_another_model_that_took_over_is_the_messages_model() -> None:
    assert message_of("fallback")["model"] == "claude-test-2"


def test_halves_of_a_surrogate_pair_in_two_deltas_become_one_character() -> None:
    assert message_of("split_surrogate_pair")["content"][0]["text"] == "a😀b\ufffd lone"


def test_a_message_may_be_whole_in_its_start() -> None:
    assembled = assemble(stream("whole_message_in_start"))
    assert assembled.complete
    assert assembled.message is not None
    assert assembled.message["stop_reason"] == "tool_use"


def test_an_error_in_mid_stream_is_kept_with_what_came_before() -> None:
    assembled = assemble(stream("error_in_mid_stream"))
    assert assembled.error == {"type": "overloaded_error", "message": "Overloaded"}
    assert message_of("error_in_mid_stream")["content"] == [{"type": "text", "text": "As far as"}]
    assert not assembled.complete
    assert [sorted(assembled.extras), assembled.extras["errors"][0]["request_id"]] == [
        ["after_error", "errors"],
        "req_1",
    ]


@pytest.mark.parametrize(
    ("data", "error"),
    [
        ("", {"message": ""}),
        ("Bad gateway", {"message": "Bad gateway"}),
        ('{"detail": "no"}', {"detail": "no"}),
        ('{"error": "text"}', {"error": "text"}),
    ],
)
def test_an_error_of_any_shape_is_kept(data: str, error: dict[str, Any]) -> None:
    assembler = Assembler()
    assembler.feed(Event("error", data))
    assert assembler.result().error == error


@pytest.mark.parametrize("name", ["event: message\n", ""])
def test_an_error_that_is_not_named_so_is_kept_but_ends_nothing(name: str) -> None:
    body = stream("text").replace(
        b"event: ping\ndata: {", name.encode() + b'data: {"type":"error","error":{"no":1},"x":{'
    )
    body = body.replace(b'"x":{"type":"ping"}', b'"x":{"type":"ping"}}')
    assembled = assemble(body)
    assert (assembled.error, comparable(assembled.message)) == ({"no": 1}, sdk_message(body))


@pytest.mark.parametrize(
    ("name", "complete"),
    [
        ("text", True),
        ("without_message_stop", True),
        ("cut_in_an_event", False),
        ("error_in_mid_stream", False),
        ("tool_input_cut", True),
    ],
)
def test_complete_means_that_nothing_of_the_message_is_missing(name: str, complete: bool) -> None:
    assert assemble(stream(name)).complete is complete


def test_a_stop_reason_while_a_block_is_open_does_not_complete_a_message() -> None:
    assert not assemble(stream("tool_input_cut").partition(b"event: message_stop")[0]).complete


def test_a_stop_reason_at_the_start_alone_does_not_complete_a_message() -> None:
    assert not assemble(stream("whole_message_in_start").partition(b"event: message_stop")[0]).complete


def test_a_last_event_without_its_blank_line_is_set_aside() -> None:
    assembled = assemble(stream("cut_in_an_event"))
    assert message_of("cut_in_an_event")["content"] == [{"type": "text", "text": "Half"}]
    assert [event["delta"]["text"] for event in assembled.extras["unterminated"]] == [" never closed"]


def test_a_last_message_stop_without_its_blank_line_is_believed() -> None:
    assert assemble(stream("whole_message_in_start").rstrip()).complete


def test_what_is_unknown_is_kept_beside_the_message() -> None:
    extras = assemble(stream("unknown_event_block_delta")).extras
    assert [event["type"] for event in extras["events"]] == ["message_annotation", "message_delta"]
    assert [event["delta"]["type"] for event in extras["deltas"]] == ["hologram_delta", "text_delta", "sparkle_delta"]


def test_an_unknown_block_stays_in_the_message() -> None:
    block = message_of("unknown_event_block_delta")["content"][0]
    assert block == {"type": "hologram", "shape": "cube", "encrypted_content": "RW5j"}


def test_malformed_events_are_kept_and_the_rest_is_told() -> None:
    assembled = assemble(stream("malformed_events"))
    assert message_of("malformed_events")["content"] == [{"type": "text", "text": "kept"}]
    assert (len(assembled.extras["malformed"]), len(assembled.extras["unnamed"])) == (11, 1)


def test_events_before_the_start_make_no_message() -> None:
    body = stream("text").partition(b"event: ping")[2]
    assembled = assemble(b"event: ping" + body)
    assert (assembled.message, assembled.complete, "malformed" in assembled.extras) == (None, False, True)


def test_a_result_can_be_asked_for_in_between() -> None:
    body = stream("parallel_tools")
    assembler = Assembler()
    for block in body.split(b"\n\n")[:-1]:
        name, data = block.decode().split("\n")
        assembler.feed(Event(name[7:], data[6:]))
        assembler.result()
    assert assembler.result() == assemble(body)


@pytest.mark.parametrize("folder", recorded("response.sse"))
def test_a_recorded_stream_gives_the_message_the_sdk_gave(folder: Path) -> None:
    expected = json.loads((folder / "expected.json").read_bytes())
    assembled = assemble((folder / "response.sse").read_bytes())
    assert (assembled.error is not None) is ("sdk_error" in expected)
    assert "sdk_error" in expected or comparable(assembled.message) == comparable(expected)


indexes = st.sampled_from([0, 0, 0, 1, 1, 2, 5])
strings = st.sampled_from(["", "a", "ü", '{"k', '": [1, ', "2]}", "{}", "{", '"x', "nul", " ", "\n", "]"])
blocks = st.sampled_from([
    {"type": "text", "text": ""},
    {"type": "text", "text": "first ", "citations": []},
    {"type": "text", "text": "x", "citations": [{"type": "char_location", "cited_text": "c"}]},
    {"type": "text"},
    {"type": "thinking", "thinking": "", "signature": ""},
    {"type": "redacted_thinking", "data": "d"},
    {"type": "tool_use", "id": "t", "name": "n", "input": {}},
    {"type": "tool_use", "id": "t", "name": "n", "input": {"whole": True}},
    {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
    {"type": "mcp_tool_use", "id": "m", "name": "n", "server_name": "s", "input": {}},
    {"type": "mcp_tool_result", "tool_use_id": "m", "is_error": False, "content": [{"type": "text", "text": "r"}]},
    {"type": "web_search_tool_result", "tool_use_id": "s", "content": []},
    {"type": "compaction", "content": None},
    {"type": "fallback", "from": {"model": "a"}, "to": {"model": "b"}, "trigger": {"type": "refusal"}},
    {"type": "container_upload", "file_id": "f"},
    {"type": "hologram", "turn": 1, "text": "x"},
    {"text": "no type"},
    "no block",
    None,
])  # fmt: skip
deltas = st.one_of(
    st.builds(lambda text: {"type": "text_delta", "text": text}, strings | st.none()),
    st.builds(lambda text: {"type": "thinking_delta", "thinking": text}, strings),
    st.builds(lambda text: {"type": "input_json_delta", "partial_json": text}, strings),
    st.builds(lambda text: {"type": "signature_delta", "signature": text}, strings),
    st.builds(lambda text: {"type": "compaction_delta", "content": text}, strings | st.none()),
    st.just({"type": "citations_delta", "citation": {"type": "char_location", "cited_text": "d", "more": None}}),
    st.just({"type": "sparkle_delta", "text": "x"}),
    st.sampled_from([None, {}, "no delta"]),
)
usages: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {"output_tokens": st.integers(0, 9)},
    optional={
        "input_tokens": st.integers(0, 9) | st.none(),
        "cache_read_input_tokens": st.integers(0, 9) | st.none(),
        "server_tool_use": st.none() | st.just({"web_search_requests": 1, "web_fetch_requests": 0}),
        "iterations": st.none() | st.just([]),
        "photons": st.just(1),
    },
)
events = st.one_of(
    st.builds(lambda i, block: {"type": "content_block_start", "index": i, "content_block": block}, indexes, blocks),
    st.builds(lambda i, delta: {"type": "content_block_delta", "index": i, "delta": delta}, indexes, deltas),
    st.builds(lambda i, delta: {"type": "content_block_delta", "index": i, "delta": delta}, indexes, deltas),
    st.builds(lambda i: {"type": "content_block_stop", "index": i}, indexes),
    st.builds(
        lambda delta, usage, top: {"type": "message_delta", "delta": delta, "usage": usage, **top},
        st.fixed_dictionaries(
            {},
            optional={
                "stop_reason": st.sampled_from(["end_turn", "tool_use", None]),
                "stop_sequence": st.sampled_from(["x", None]),
                "stop_details": st.none() | st.just({"type": "refusal", "category": "cyber", "explanation": None}),
                "container": st.none() | st.just({"id": "c", "expires_at": "2026-11-01T10:00:00Z"}),
            },
        ),
        usages,
        st.fixed_dictionaries({}, optional={"context_management": st.none() | st.just({"applied_edits": []})}),
    ),
    st.sampled_from([{"type": "message_stop"}, {"type": "ping"}, {"type": "novelty", "index": 0}, {}]),
)
starts = st.builds(
    lambda content: {
        "type": "message_start",
        "message": {
            "id": "msg",
            "type": "message",
            "role": "assistant",
            "model": "m",
            "content": content,
            "stop_reason": None,
            "usage": {"input_tokens": 1, "output_tokens": 1},
        },
    },
    st.lists(blocks.filter(lambda block: isinstance(block, dict) and len(block) > 1), max_size=2),
)


@st.composite
def coherent(draw: st.DrawFn) -> list[dict[str, Any]]:
    """A stream as a provider might send it: blocks in order, each with deltas that fit it, arguments cut anywhere."""
    story: list[dict[str, Any]] = []
    chosen = draw(st.lists(st.sampled_from(["text", "thinking", "tool_use", "mcp_tool_use", "compaction"]), max_size=4))
    for index, kind in enumerate(chosen):
        document = json.dumps(draw(arguments), ensure_ascii=draw(st.booleans()))
        kept = document[: draw(st.integers(0, len(document)))] if draw(st.booleans()) else document
        at = draw(st.integers(1, max(len(kept) - 1, 1)))
        pieces = [kept[:at], kept[at:]]
        field, name = FIELDS[kind]
        began = {
            "type": kind,
            "id": "t",
            "name": "n",
            "server_name": "s",
            "input": {},
            field: {} if "tool" in kind else "",
        }
        story.append({"type": "content_block_start", "index": index, "content_block": began})
        story.extend(
            {"type": "content_block_delta", "index": index, "delta": {"type": f"{name}_delta", key: piece}}
            for piece in pieces
            for key in [field if field != "input" else "partial_json"]
        )
        story.append({"type": "content_block_stop", "index": index})
    return story


FIELDS = {
    "text": ("text", "text"),
    "thinking": ("thinking", "thinking"),
    "tool_use": ("input", "input_json"),
    "mcp_tool_use": ("input", "input_json"),
    "compaction": ("content", "compaction"),
}
arguments = st.dictionaries(
    st.text(max_size=3),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=6,
    ),
    min_size=1,
    max_size=4,
)


def written(story: list[dict[str, Any]]) -> bytes:
    return "".join(f"event: {event.get('type', 'x')}\ndata: {json.dumps(event)}\n\n" for event in story).encode()


@settings(max_examples=250)
@given(start=starts, story=st.lists(events, max_size=12))
def test_whatever_events_come_the_message_equals_the_sdks_where_it_makes_one(start: Any, story: list[Any]) -> None:
    body = written([start, *story])
    assembled = assemble(body)
    try:
        expected = sdk_message(body)
    except SDKError:
        return
    assert comparable(assembled.message) == expected


@settings(max_examples=150)
@given(start=starts, story=coherent())
def test_arguments_cut_anywhere_are_what_the_sdk_shows(start: Any, story: list[Any]) -> None:
    body = written([start | {"message": start["message"] | {"content": []}}, *story])
    assert comparable(assemble(body).message) == sdk_message(body)


@settings(max_examples=100)
@given(story=st.lists(events | starts, max_size=12), junk=st.lists(st.binary(max_size=30)))
def test_no_stream_makes_it_raise(story: list[Any], junk: list[bytes]) -> None:
    body = written(story)
    third = len(body) // 3
    assemble(body[:third], *junk, body[third:])


@pytest.mark.parametrize("depth", [900, 960, 980, 990, 1000])
def test_depth_makes_nothing_raise(depth: int) -> None:
    deep = "[" * depth + "]" * depth
    start = '{"type":"message_start","message":{"content":[],"usage":{"a":DEEP}}}'.replace("DEEP", deep)
    delta = '{"type":"message_delta","delta":{},"usage":{"a":DEEP}}'.replace("DEEP", deep)
    assembler = Assembler()
    assembler.feed(Event("message_start", start))
    assembler.feed(Event("message_delta", delta))
    assembler.result()


@pytest.mark.timeout(30)
def test_a_long_stream_is_put_together_quickly() -> None:
    delta = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":%b}\n\n'
    text = delta % (0, b'{"type":"text_delta","text":"some words of an answer "}')
    piece = delta % (1, b'{"type":"input_json_delta","partial_json":" 1234567890,"}')
    opened = [
        {"type": "text", "text": ""},
        {"type": "tool_use", "id": "t", "name": "n", "input": {}},
    ]
    head = written(
        [
            {"type": "message_start", "message": {"content": [], "usage": {}}},
            *(
                {"type": "content_block_start", "index": place, "content_block": block}
                for place, block in enumerate(opened)
            ),
        ]
    )
    first = delta % (1, b'{"type":"input_json_delta","partial_json":"{\\"k\\":["}')
    message = assemble(head, first, (text + piece) * 50_000).message
    assert message is not None
    assert (len(message["content"][0]["text"]), len(message["content"][1]["input"]["k"])) == (1_200_000, 50_000)
