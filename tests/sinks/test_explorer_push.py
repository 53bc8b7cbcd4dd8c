import copy
from collections.abc import AsyncIterator
from typing import Any

import pytest

from delivering import a_turn
from sidestream.errors import Undeliverable
from sidestream.options import Secret
from sidestream.sinks.explorer import Explorer
from sidestream.testing import FakeExplorer
from sidestream.traces.model import Message, Turn


@pytest.fixture
async def explorer() -> AsyncIterator[FakeExplorer]:
    async with FakeExplorer() as explorer:
        yield explorer


async def pushed(explorer: FakeExplorer, turn: Turn) -> None:
    sink = Explorer(url=explorer.url, api_key=Secret("inv-" + "a" * 64), mode="exchange")
    await sink.open()
    try:
        await sink.deliver(turn, None, 1)
    finally:
        await sink.close()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("see local_img_link: /a", "see local\u200b_img_link: /a"),
        ("local_base64_img: AA", "local_base64\u200b_img: AA"),
        ("an s3_img_link, and an s3_img_link", "an s3\u200b_img_link, and an s3\u200b_img_link"),
        ("base64_img: AA", "base64\u200b_img: AA"),
        ("a base64_img: AA is fine within a text", "a base64_img: AA is fine within a text"),
        ("base64_img", "base64_img"),
        ("_img", "_img"),
    ],
)
async def test_words_that_explorer_acts_on_are_broken_everywhere(explorer: FakeExplorer, text: str, shown: str) -> None:
    messages: list[Message] = [
        {"role": "tool", "content": text},
        {"role": "user", "content": [{"type": "text", "text": text}]},
        a_call({"name": "f", "arguments": {text: [text]}}),
    ]
    await pushed(explorer, a_turn("x1", *messages))

    assert explorer.traces[0].messages == [
        {"role": "tool", "content": shown},
        {"role": "user", "content": [{"type": "text", "text": shown}]},
        a_call({"name": "f", "arguments": {shown: [shown]}}),
    ]


@pytest.mark.parametrize(
    ("function", "sent"),
    [
        ({"name": "f", "arguments": {"a": 1}}, {"name": "f", "arguments": {"a": 1}}),
        ({"name": "f", "arguments": '{"a'}, {"name": "f", "arguments": {"_raw": '{"a'}}),
        ({"name": "f", "arguments": [1]}, {"name": "f", "arguments": {"_raw": [1]}}),
        ({"name": "f"}, {"name": "f", "arguments": {}}),
        (None, {"name": "unknown", "arguments": {}}),
    ],
)
async def test_a_tool_call_always_has_a_function_with_an_object_of_arguments(
    explorer: FakeExplorer, function: Any, sent: Any
) -> None:
    await pushed(explorer, a_turn("x1", a_call(function)))

    assert explorer.traces[0].messages == [a_call(sent)]


@pytest.mark.parametrize("url", ["https://example.com/a.png", "file:///a.png", "data:text/plain;base64,AA", None])
async def test_an_image_that_is_not_inline_becomes_a_text(explorer: FakeExplorer, url: Any) -> None:
    part = {"type": "image_url", "image_url": {"url": url}}
    await pushed(explorer, a_turn("x1", {"role": "user", "content": [part, "x"]}))

    text = {"type": "text", "text": "[image that is not inline]"}
    assert explorer.traces[0].messages == [{"role": "user", "content": [text, "x"]}]


async def test_reserved_keys_of_metadata_get_another_name(explorer: FakeExplorer) -> None:
    await pushed(explorer, a_turn(uploader="me", tool_calls=[1]))

    metadata = explorer.traces[0].metadata
    assert (metadata["uploader_"], metadata["tool_calls_"]) == ("me", [1])
    assert metadata.keys().isdisjoint({"uploader", "tool_calls"})


async def test_the_trace_itself_is_not_changed_for_explorer(explorer: FakeExplorer) -> None:
    image = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    messages: list[Message] = [
        {"role": "user", "content": ["local_img_link", image]},
        a_call({"name": "f", "arguments": "{"}),
    ]
    trace = a_turn("x1", *messages, uploader="me", sidestream={"outcome": "completed"})
    before = copy.deepcopy(trace)

    await pushed(explorer, trace)

    assert trace == before


def deep() -> Any:
    value: Any = "x"
    for _ in range(5000):
        value = [value]
    return value


@pytest.mark.parametrize("content", ["\ud83d", deep(), object()])
async def test_what_is_not_fit_for_json_is_undeliverable(explorer: FakeExplorer, content: Any) -> None:
    with pytest.raises(Undeliverable):
        await pushed(explorer, a_turn("x1", {"role": "user", "content": content}))

    assert explorer.requests == []


def a_call(function: Any) -> Message:
    call = {"id": "1", "type": "function"} | ({} if function is None else {"function": function})
    return {"role": "assistant", "content": "", "tool_calls": [call]}
