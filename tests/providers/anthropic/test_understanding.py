"""An exchange is read whatever its bodies hold, and wherever they were cut."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidestream.providers import PROVIDERS
from sidestream.providers.anthropic import Anthropic
from sidestream.providers.anthropic.identity import known_by
from sidestream.providers.base import Said, Understood
from sidestream.providers.digests import digest_of
from streams import NAMES, comparable, recorded, stream

if TYPE_CHECKING:
    from pathlib import Path

    from sidestream.providers.base import Provider

SSE = "text/event-stream; charset=utf-8"
JSON = "application/json"
REQUEST = json.dumps({"model": "claude-asked", "messages": [{"role": "user", "content": "Hi"}]}).encode()
ANSWER: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-answered",
    "content": [{"type": "text", "text": "Hello."}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 1, "output_tokens": 2},
}
FACTS = {key: ANSWER[key] for key in ("id", "model", "stop_reason", "usage")}
MESSAGES: list[dict[str, Any]] = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello.", "metadata": FACTS},
]

ASKED = [Said(role="user", shown=MESSAGES[:1], units=known_by("user", "Hi")[1])]
DIGESTS = [digest_of(said) for said in ASKED]


def understand(
    response: bytes, content_type: str = JSON, *, status: int | None = 200, request: bytes = REQUEST
) -> Understood:
    return Anthropic().understand(request=request, response=response, content_type=content_type, status=status)


def test_the_provider_is_registered_under_its_name() -> None:
    provider: Provider = PROVIDERS["anthropic"]
    assert (provider.name, provider.missing_credential) == ("anthropic", "Missing Anthropic authorization header")


@pytest.mark.parametrize(
    ("method", "path", "traced"),
    [
        ("POST", "/v1/messages", True),
        ("GET", "/v1/messages", False),
        ("POST", "/v1/messages/", False),
        ("POST", "//v1/messages", False),
        ("POST", "/v1/messages/count_tokens", False),
        ("POST", "/v1/complete", False),
        ("post", "/v1/messages", False),
    ],
)
def test_only_the_messages_api_is_traced_and_needs_a_key(method: str, path: str, traced: bool) -> None:
    assert Anthropic().traces(method, path) is traced
    assert Anthropic().needs_credential(method, path) is traced


def test_an_error_of_the_gateways_own_has_anthropics_shape() -> None:
    assert json.loads(Anthropic().error_body(429, "Slow.")) == {
        "type": "error",
        "error": {"type": "rate_limit_error", "message": "Slow."},
    }


def test_a_json_answer_is_taken_as_it_is() -> None:
    understood = understand(json.dumps(ANSWER).encode())
    assert MESSAGES == understood.messages
    assert understood == Understood(
        asked=ASKED,
        answer=Said(role="assistant", shown=MESSAGES[1:], text="Hello."),
        openings=["Hi"],
        message_complete=True,
        id="msg_1",
        model="claude-answered",
        stop_reason="end_turn",
        usage={"input_tokens": 1, "output_tokens": 2},
        clean=True,
        digests=DIGESTS,
    )


def test_a_stream_is_assembled() -> None:
    understood = understand(stream("text"), SSE)
    assert [message["content"] for message in understood.messages] == ["Hi", "Grüße, Wörld 😀!"]
    assert (understood.id, understood.model, understood.stop_reason) == ("msg_01Fixture", "claude-test-1", "end_turn")
    assert understood.message_complete


@pytest.mark.parametrize("content_type", ["", JSON, "text/plain", "TEXT/EVENT-STREAM"])
def test_a_stream_is_known_by_its_first_bytes(content_type: str) -> None:
    assert understand(stream("text"), content_type).message_complete


@pytest.mark.parametrize("content_type", ["", SSE, "text/plain"])
def test_json_is_known_by_its_first_bytes(content_type: str) -> None:
    assert understand(b" \n" + json.dumps(ANSWER).encode(), content_type).messages == MESSAGES


@pytest.mark.parametrize("status", [400, 401, 429, 500, 529])
def test_an_http_error_is_an_error_and_no_answer(status: int) -> None:
    error = {"type": "overloaded_error", "message": "Overloaded"}
    body = json.dumps({"type": "error", "error": error, "request_id": "req_1"}).encode()
    understood = understand(body, status=status)
    assert understood.messages == MESSAGES[:1]
    assert (understood.error, understood.model, understood.message_complete) == (error, "claude-asked", False)
    assert understood.extras["errors"][0]["request_id"] == "req_1"


def test_an_http_error_of_any_text_is_quoted() -> None:
    assert understand(b"<html>Bad gateway</html>", "text/html", status=502).error == {
        "message": "<html>Bad gateway</html>"
    }


def test_an_http_error_as_a_stream_is_read_too() -> None:
    body = b'event: error\ndata: {"type":"error","error":{"type":"api_error","message":"m"}}\n\n'
    assert understand(body, SSE, status=500).error == {"type": "api_error", "message": "m"}


def test_an_error_with_status_200_is_an_error() -> None:
    body = b'{"type":"error","error":{"type":"api_error","message":"m"}}'
    assert (understand(body).error, len(understand(body).messages)) == ({"type": "api_error", "message": "m"}, 1)


def test_an_error_in_mid_stream_stands_beside_what_was_told() -> None:
    understood = understand(stream("error_in_mid_stream"), SSE)
    assert understood.error == {"type": "overloaded_error", "message": "Overloaded"}
    assert understood.messages[-1]["content"] == "As far as"
    assert not understood.message_complete


def test_no_answer_at_all_leaves_the_request() -> None:
    understood = understand(b"", "", status=None)
    assert understood == Understood(asked=ASKED, openings=["Hi"], model="claude-asked", clean=True, digests=DIGESTS)


def test_a_cut_request_shows_what_there_is() -> None:
    request = json.dumps({"system": "S", "messages": [{"role": "user", "content": "Long story"}]}).encode()[:-8]
    understood = understand(b"", request=request)
    assert understood.messages == [{"role": "system", "content": "S"}, {"role": "user", "content": "Long s"}]
    assert understood.extras == {"request": "cut"}


def test_a_cut_json_answer_shows_what_there_is() -> None:
    understood = understand(json.dumps(ANSWER).encode().partition(b"llo.")[0])
    assert understood.messages[-1]["content"] == "He"
    assert (understood.message_complete, understood.extras) == (False, {"response": "cut"})


@pytest.mark.parametrize(
    ("request_body", "word"),
    [(b"", "empty"), (b"nope", "unreadable"), (b"[1]", "unreadable"), (b"\xff\xfe", "unreadable")],
)
def test_a_request_that_cannot_be_read_is_said_to_be_so(request_body: bytes, word: str) -> None:
    assert understand(b"", request=request_body) == Understood(extras={"request": word})


@pytest.mark.parametrize(
    ("body", "word"), [(b"nope", "unreadable"), (b'{"count": 1}', "no_message"), (b"[]", "unreadable")]
)
def test_an_answer_that_is_no_message_is_said_to_be_so(body: bytes, word: str) -> None:
    understood = understand(body)
    assert (understood.messages, understood.extras) == (MESSAGES[:1], {"response": word})


def test_unknown_things_are_named_in_the_extras() -> None:
    extras = understand(stream("unknown_event_block_delta"), SSE).extras
    assert extras["unknown_blocks"] == {"hologram": 1}
    assert {"events", "deltas"} <= extras.keys()


def asked(*messages: Any, **fields: Any) -> Understood:
    """A request without an answer."""
    return understand(b"", request=json.dumps({"messages": messages, **fields}).encode())


def test_tools_and_parameters_are_told_apart_from_what_is_said() -> None:
    tools = [{"name": "f", "input_schema": {}, "cache_control": None}, 5]
    understood = asked(model="m", system="S", tools=tools, max_tokens=5, stream=True, top_k=None)
    assert tools == understood.tools
    assert {"max_tokens": 5, "stream": True, "top_k": None} == understood.parameters


@pytest.mark.parametrize("tools", [None, 5, {"name": "f"}, "f"])
def test_tools_that_are_no_list_are_none(tools: Any) -> None:
    assert [] == asked(tools=tools).tools


def test_parameters_without_room_are_said_to_be_left_out() -> None:
    understood = asked(max_tokens=5, output_format="x" * 20_000)
    assert ({"max_tokens": 5}, {"parameters": "too_large"}) == (understood.parameters, understood.extras)


@pytest.mark.parametrize(
    ("thread", "previous"),
    [
        ({"type": "continue", "previous_message_id": "msg_1"}, "msg_1"),
        ({"type": "create"}, None),
        ({"type": "continue", "previous_message_id": ""}, None),
        ({"type": "continue", "previous_message_id": 5}, None),
        ("msg_1", None),
        (None, None),
    ],
)
def test_a_request_may_name_the_answer_that_it_goes_on_from(thread: Any, previous: str | None) -> None:
    assert previous == asked(thread=thread).previous


TEXTS = [{"type": "text", "text": "one"}, {"type": "image"}, {"type": "text", "text": "two"}]


@pytest.mark.parametrize(
    ("messages", "openings"),
    [
        ([], []),
        ([{"role": "user", "content": "one"}, {"role": "user", "content": "two"}], ["one"]),
        ([{"role": "user", "content": TEXTS[:2]}], ["one"]),
        ([{"role": "user", "content": TEXTS}], ["one", "two", "one\ntwo"]),
        ([{"role": "user", "content": [{"type": "text", "text": ""}, {"type": "text", "text": 5}]}], []),
        ([{"role": "assistant", "content": "one"}, {"role": "user", "content": "two"}], []),
        (["one"], []),
        ([None], []),
    ],
)
def test_an_opening_is_what_a_user_says_first(messages: list[Any], openings: list[str]) -> None:
    assert openings == asked(*messages).openings


def test_of_very_many_texts_only_some_are_openings_and_the_last_is_all_of_them() -> None:
    texts = [{"type": "text", "text": str(number)} for number in range(1000)]
    openings = asked({"role": "user", "content": texts}).openings
    assert (64, "0", "\n".join(map(str, range(1000)))) == (len(openings), openings[0], openings[-1])


def called(*inputs: Any) -> list[str]:
    """What the calls of an answer pass on."""
    blocks = [{"type": "tool_use", "id": str(place), "name": "f", "input": each} for place, each in enumerate(inputs)]
    return understand(json.dumps(ANSWER | {"content": blocks}).encode()).arguments


def test_arguments_are_the_texts_in_tool_calls_the_outermost_first() -> None:
    nested = {"a": [{"b": "second"}, 5, None], "c": "first", "d": {}}
    assert ["first", "third", "second"] == called(nested, {"e": "third"}, None, [1])
    assert ["in four"] == called({"a": [{"b": ["in four", ["in five"]]}]})


def test_of_very_many_arguments_only_some_are_told() -> None:
    assert list(map(str, range(64))) == called({"list": [str(number) for number in range(1000)]})


def test_what_the_provider_passes_on_itself_is_no_argument() -> None:
    assert [] == understand(stream("mcp"), SSE).arguments
    assert ["a.txt", "one"] == understand(stream("tool_input_cut"), SSE).arguments


@pytest.mark.parametrize("name", NAMES)
def test_a_stream_cut_anywhere_is_read_as_far_as_it_goes(name: str) -> None:
    body = stream(name)
    texts = [str(understand(body[:at], SSE).messages[-1]["content"]) for at in range(0, len(body), 7)]
    assert max(map(len, texts)) > 0


@pytest.mark.parametrize("folder", recorded("response.*"))
def test_a_recorded_exchange_carries_the_answers_facts(folder: Path) -> None:
    expected = json.loads((folder / "expected.json").read_bytes())
    (response,) = folder.glob("response.*")
    request = folder / "request.json"
    asked = request.read_bytes() if request.exists() else b"{}"
    understood = understand(response.read_bytes(), "", request=asked)
    facts = {key: expected.get(key) for key in FACTS}
    assert understood.extras == {}
    assert comparable(understood.messages[-1]["metadata"]) == comparable(facts) or "sdk_error" in expected


WORDS = st.sampled_from(
    [
        "type",
        "text",
        "content",
        "role",
        "messages",
        "system",
        "source",
        "data",
        "media_type",
        "url",
        "file_id",
        "id",
        "name",
        "input",
        "tool_use_id",
        "is_error",
        "thinking",
        "signature",
        "citations",
        "title",
        "context",
        "usage",
        "model",
        "error",
        "stop_reason",
        "caller",
        "server_name",
        "to",
        "from",
        "tools",
        "tool",
        "tool_references",
        "stdout",
        "stderr",
        "lines",
        "return_code",
        "error_code",
        "message",
        "index",
        "delta",
        "content_block",
        "partial_json",
        "encrypted_content",
    ]
)
KINDS = st.sampled_from(
    [
        "text",
        "image",
        "document",
        "thinking",
        "redacted_thinking",
        "tool_use",
        "server_tool_use",
        "mcp_tool_use",
        "tool_result",
        "web_search_tool_result",
        "mcp_tool_result",
        "web_search_result",
        "web_fetch_result",
        "search_result",
        "code_execution_result",
        "container_upload",
        "compaction",
        "fallback",
        "mcp_tool_listing",
        "tool_addition",
        "tool_search_tool_search_result",
        "text_editor_code_execution_str_replace_result",
        "x_error",
        "message",
        "error",
        "base64",
        "content",
        "url",
        "assistant",
        "user",
        "system",
        "hologram",
    ]
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(st.characters(), max_size=5),
    KINDS,
    st.sampled_from(["\ud83d", "\ude00", "image/png"]),
)
SHAPES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(WORDS, inner, max_size=5)
        | st.builds(lambda kind, rest: rest | {"type": kind}, KINDS, st.dictionaries(WORDS, inner, max_size=5))
    ),
    max_leaves=25,
)
MESSAGE = st.fixed_dictionaries({"role": KINDS, "content": st.lists(SHAPES, max_size=4) | SHAPES})
REQUESTS = SHAPES | st.fixed_dictionaries({"system": SHAPES, "messages": st.lists(MESSAGE | SHAPES, max_size=3)})
ANSWERS = SHAPES | st.fixed_dictionaries({"type": st.just("message"), "content": SHAPES, "usage": SHAPES, "id": SHAPES})


@settings(max_examples=300)
@given(request=REQUESTS, answer=ANSWERS, status=st.sampled_from([None, 200, 400]), cut=st.integers(0, 400))
def test_no_json_makes_it_raise_and_what_comes_out_is_strict_json(
    request: Any, answer: Any, status: int | None, cut: int
) -> None:
    asked, answered = json.dumps(request).encode(), json.dumps(answer).encode()
    for response in (answered, answered[:cut]):
        understood = understand(response, JSON, status=status, request=asked[: cut * 3])
        json.loads(msgspec.json.encode(understood), parse_constant=pytest.fail)
        assert all(isinstance(message["role"], str) for message in understood.messages)
        assert all(said.shown for said in understood.asked)


@settings(max_examples=150)
@given(
    story=st.lists(
        st.fixed_dictionaries(
            {
                "type": st.sampled_from(
                    ["content_block_start", "content_block_delta", "content_block_stop", "message_delta", "x", "error"]
                ),
                "index": st.sampled_from([0, 0, 1, -1, 2**70, "0", None]),
                "content_block": SHAPES,
                "delta": SHAPES,
                "usage": SHAPES,
            }
        ),
        max_size=6,
    )
)
def test_no_stream_makes_it_raise_and_what_comes_out_is_strict_json(story: list[Any]) -> None:
    story = [{"type": "message_start", "message": {"id": "m", "content": []}}, *story]
    body = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in story).encode()
    json.loads(msgspec.json.encode(understand(body, SSE)), parse_constant=pytest.fail)


@pytest.mark.parametrize("depth", [150, 250, 900, 5000, 100_000])
def test_depth_makes_nothing_raise(depth: int) -> None:
    deep = b"[" * depth + b"]" * depth
    request = b'{"messages":[{"role":"user","content":[{"type":"tool_use","input":' + deep + b"}]}]}"
    answer = b'{"type":"message","content":[{"type":"hologram","deep":' + deep + b"}]}"
    msgspec.json.encode(understand(answer, request=request))
    msgspec.json.encode(understand(answer[: 70 + depth], request=request[: 90 + depth]))
    msgspec.json.encode(understand(b"", request=b'{"messages":[],"tools":%b,"other":%b}' % (deep, deep)))


def test_a_request_of_too_many_values_is_not_built_and_the_answer_is_still_read() -> None:
    request = b'{"messages":[' + b"[]," * 300_000 + b"[]]}"
    answer = b'{"type":"message","role":"assistant","content":[{"type":"text","text":"Hi"}]}'
    understood = understand(answer, request=request)
    assert "too_complex" == understood.extras["request"]
    assert ["assistant"] == [message["role"] for message in understood.messages]


def test_an_answer_of_too_many_values_keeps_what_there_is_room_for() -> None:
    start = b'event: message_start\ndata: {"type":"message_start","message":{"id":"m","content":[],"usage":{}}}\n\n'
    block = (
        b"event: content_block_start\n"
        b'data: {"type":"content_block_start","index":0,"content_block":{"type":"x","v":[%s0]}}\n\n'
    )
    stream = start + (block % (b"0," * 500)) * 1000 + (block % (b"[]," * 300_000))
    understood = understand(stream, content_type="text/event-stream")
    assert "m" == understood.id
    assert understood.extras["too_complex"]


START = b'event: message_start\ndata: {"type":"message_start","message":{"id":"m","content":[],"usage":{}}}\n\n'


def test_tool_arguments_of_too_many_values_stay_text() -> None:
    block = b'{"type":"tool_use","id":"t","name":"f","input":{}}'
    begin = b'event: content_block_start\ndata: {"type":"content_block_start","index":0,"content_block":%s}\n\n' % block
    delta = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":%s}\n\n'
    pieces = ["[", *["[],[],[],[],[],[],[],[],[],[]," * 10] * 3000, "0]"]
    deltas = [json.dumps({"type": "input_json_delta", "partial_json": piece}).encode() for piece in pieces]
    understood = understand(START + begin + b"".join(delta % one for one in deltas), content_type="text/event-stream")
    (call,) = understood.messages[-1]["tool_calls"]
    assert "".join(pieces) == call["function"]["arguments"]["_raw"]


def test_citations_of_too_many_values_are_not_kept() -> None:
    block, cited = b'{"type":"text","text":""}', b'{"type":"citations_delta","citation":[%s0]}'
    begin = b'event: content_block_start\ndata: {"type":"content_block_start","index":0,"content_block":%s}\n\n' % block
    delta = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":%s}\n\n' % cited
    understood = understand(START + begin + (delta % (b"[]," * 250)) * 1000, content_type="text/event-stream")
    assert understood.extras["too_complex"]
    assert len(understood.messages[-1]["citations"]) < 1000
