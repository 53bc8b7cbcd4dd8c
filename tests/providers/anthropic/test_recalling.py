"""A request that repeats an earlier one is read as if it were the first."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidestream.providers.anthropic import recalling
from sidestream.providers.anthropic.converter import Conversion
from sidestream.providers.digests import digest_of
from sidestream.providers.jsons import MAX_DEPTH, clean

CALL = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"at": 1}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "nothing"}


def request(*messages: Any, **more: Any) -> bytes:
    return json.dumps({"messages": messages, **more}).encode()


def called(name: str) -> dict[str, Any]:
    return {"role": "assistant", "content": [CALL | {"name": name}]}


def answered(**more: Any) -> dict[str, Any]:
    return {"role": "user", "content": [RESULT | more]}


def read_whole(body: bytes) -> Conversion:
    conversion = Conversion()
    conversion.add_request(clean(json.loads(body)))
    return conversion


def facts(conversion: Conversion) -> tuple[Any, ...]:
    return conversion.system, conversion.asked, conversion.digests, conversion.unknown


def test_a_result_has_the_name_of_the_call_before_it_whatever_it_had_in_an_earlier_request() -> None:
    for name in ("look", "listen", "look"):
        _, conversion = recalling.read(request(called(name), answered()))
        assert name == conversion.asked[1].shown[0]["tool_name"]
    _, conversion = recalling.read(request(answered()))
    assert "tool_name" not in conversion.asked[0].shown[0]


def test_an_answer_changes_nothing_of_what_is_recalled() -> None:
    body = request(called("fetch"))
    _, conversion = recalling.read(body)
    conversion.add_answer({"content": [CALL | {"id": "toolu_2", "name": "leak"}]}, {})
    _, conversion = recalling.read(body)
    conversion.add_answer({"content": [{"type": "mcp_tool_result", "tool_use_id": "toolu_2"}]}, {})
    assert conversion.answer is not None
    assert "mcp" == conversion.answer.shown[0]["tool_name"]


def test_unknown_blocks_are_counted_each_time() -> None:
    body = request({"role": "user", "content": [{"type": "novel"}, {"type": "novel"}]}, 5)
    assert [{"novel": 2, "message": 1}] * 2 == [recalling.read(body)[1].unknown for _ in range(2)]


def test_the_same_parts_are_the_same_objects() -> None:
    body = request({"role": "user", "content": "Hi"}, system="Be brief.", tools=[{"name": "look"}])
    (fields, conversion), (again, other) = recalling.read(body), recalling.read(body)
    assert fields["tools"] is again["tools"]
    assert conversion.system is other.system
    assert conversion.asked[0] is other.asked[0]


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b'{"messages": {}}',
        b'{"messages": [{"role": "user", "content": "\xff"}]}',
        b'{"messages": [{"role": "user", "content": "\\ud83d"}]}',
        b'{"messages": [], "temperature": NaN}',
        b'{"messages": [], "system": "\\q"}',
        request({"role": "user", "content": nested(MAX_DEPTH)}),
        request(tools=nested(MAX_DEPTH)),
        request(*[0] * 200_000),
    ],
)
def test_what_is_not_certain_is_left_to_be_read_as_a_whole(body: bytes) -> None:
    with pytest.raises(recalling.UnusualError):
        recalling.read(body)


BLOCKS = st.sampled_from(
    [
        CALL,
        CALL | {"name": "listen"},
        CALL | {"id": "toolu_2"},
        CALL | {"type": "server_tool_use"},
        RESULT,
        RESULT | {"tool_use_id": "toolu_2", "is_error": True},
        RESULT | {"type": "web_search_tool_result"},
        {"type": "text", "text": "ü 😀"},
        {"type": "novel", "text": "?"},
        {"type": "thinking", "thinking": "hm", "signature": "s"},
    ]
)
MESSAGES = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant"]), "content": st.lists(BLOCKS, max_size=3) | st.text(max_size=3)}
)


@given(
    histories=st.lists(st.lists(MESSAGES | st.integers(), max_size=5), min_size=1, max_size=4),
    system=st.none() | st.text(max_size=3) | st.lists(BLOCKS, max_size=2),
)
def test_any_history_is_converted_as_if_no_other_had_been_before(histories: list[list[Any]], system: Any) -> None:
    for history in histories:
        body = msgspec.json.encode({"system": system, "messages": history, "max_tokens": 5})
        fields, conversion = recalling.read(body)
        assert facts(read_whole(body)) == facts(conversion)
        assert [digest_of(said) for said in conversion.asked] == conversion.digests
        assert {"messages": history[:1], "max_tokens": 5} == fields
