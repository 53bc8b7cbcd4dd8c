"""Requests and answers become the trace messages that an Explorer shows best."""

from __future__ import annotations

from typing import Any

import pytest

from effort import effort
from sidestream.providers.anthropic.converter import Conversion
from streams import assemble, stream

CALL = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Bern"}}
CALLED = {"id": "toolu_1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Bern"}}}
PNG = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw=="}}
PNG_PART = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw=="}}


def history(*messages: Any, **request: Any) -> list[dict[str, Any]]:
    """The trace messages of a request."""
    conversion = Conversion()
    conversion.add_request({"messages": list(messages), **request})
    return [*conversion.system, *(message for said in conversion.asked for message in said.shown)]


def user(*content: Any) -> list[dict[str, Any]]:
    return history({"role": "user", "content": list(content)})


def assistant(*content: Any) -> list[dict[str, Any]]:
    return history({"role": "assistant", "content": list(content)})


def result(content: Any, **more: Any) -> dict[str, Any]:
    """The trace message of the result of a call that came before it."""
    block = {"type": "tool_result", "tool_use_id": "toolu_1", "content": content, **more}
    return history({"role": "assistant", "content": [CALL]}, {"role": "user", "content": [block]})[-1]


def answer(name: str) -> list[dict[str, Any]]:
    """The trace messages of a hand-written stream."""
    assembled = assemble(stream(name))
    assert assembled.message is not None
    conversion = Conversion()
    conversion.add_answer(assembled.message, assembled.raw_inputs)
    assert conversion.answer is not None
    return conversion.answer.shown


def server_result(kind: str, content: Any) -> Any:
    (message,) = assistant({"type": kind, "tool_use_id": "srvtoolu_1", "content": content})
    return message["content"]


@pytest.mark.parametrize(
    ("system", "expected"),
    [
        ("Be brief.", [{"role": "system", "content": "Be brief."}]),
        (
            [{"type": "text", "text": "Be"}, {"type": "text", "text": "brief."}],
            [{"role": "system", "content": "Be\nbrief."}],
        ),
        (None, []),
        ("", []),
        ([], []),
        (7, [{"role": "system", "content": "7"}]),
    ],
)
def test_the_system_prompt_is_one_message(system: Any, expected: list[Any]) -> None:
    assert history(system=system) == expected


def test_system_messages_may_stand_in_the_history() -> None:
    assert history({"role": "system", "content": [{"type": "text", "text": "Now in French."}]}) == [
        {"role": "system", "content": "Now in French."}
    ]


def test_string_content_is_itself() -> None:
    assert history({"role": "user", "content": "Hi"}) == [{"role": "user", "content": "Hi"}]


def test_text_blocks_side_by_side_are_one_string() -> None:
    texts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert user(*texts) == [{"role": "user", "content": "one\ntwo"}]
    assert assistant(*texts) == [{"role": "assistant", "content": "onetwo"}]


def test_text_beside_images_becomes_parts() -> None:
    text = {"type": "text", "text": "Look:"}
    assert user(text, PNG, text | {"cache_control": {"type": "ephemeral"}}) == [
        {"role": "user", "content": [text, PNG_PART, text]}
    ]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ({"type": "url", "url": "https://example.org/a.png"}, "[image: https://example.org/a.png]"),
        ({"type": "file", "file_id": "file_1"}, "[image: file file_1]"),
        ({"type": "base64", "media_type": "text/html", "data": "PGI+"}, "[image: text/html]"),
        ({"type": "base64", "media_type": "image/png,x", "data": "PGI+"}, "[image: image/png,x]"),
        ({"type": "base64", "media_type": "image/png", "data": 5}, "[image: image/png]"),
        ("nonsense", "[image]"),
        (None, "[image]"),
    ],
)
def test_an_image_without_its_bytes_is_put_in_words(source: Any, words: str) -> None:
    assert user({"type": "image", "source": source}) == [{"role": "user", "content": words}]


@pytest.mark.parametrize(
    ("block", "words"),
    [
        (
            {
                "type": "document",
                "title": "T",
                "context": "C",
                "source": {"type": "text", "media_type": "text/plain", "data": "D"},
            },
            "[document: T, text/plain]\nC\nD",
        ),
        (
            {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBE"}},
            "[document: application/pdf]",
        ),
        (
            {"type": "document", "source": {"type": "url", "url": "https://example.org/a.pdf"}},
            "[document: https://example.org/a.pdf]",
        ),
        ({"type": "document", "source": {"type": "file", "file_id": "file_1"}}, "[document: file file_1]"),
        ({"type": "document", "source": {"type": "content", "content": "inline"}}, "[document]\ninline"),
        (
            {"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "a"}, PNG]}},
            "[document]\na\n[image]",
        ),
        (
            {"type": "search_result", "title": "T", "source": "S", "content": [{"type": "text", "text": "a"}]},
            "[search result: T, S]\na",
        ),
        ({"type": "container_upload", "file_id": "file_1"}, "[container upload: file_1]"),
        ({"type": "compaction", "content": "All of it."}, "[compaction]\nAll of it."),
        ({"type": "compaction", "content": None, "encrypted_content": "RW5j"}, "[compaction]"),
        ({"type": "fallback", "from": {"model": "a"}, "to": {"model": "b"}}, "[fallback: a → b]"),
        ({"type": "mcp_tool_listing", "mcp_server_name": "wiki", "tools": [{"name": "ask"}]}, "[tools: wiki, ask]"),
        ({"type": "tool_addition", "tool": {"type": "tool_reference", "name": "ask"}}, "[tool addition: ask]"),
    ],
)
def test_what_a_trace_cannot_show_is_put_in_words(block: dict[str, Any], words: str) -> None:
    assert user(block) == [{"role": "user", "content": words}]


def test_words_for_a_block_stand_on_lines_of_their_own() -> None:
    text, upload = {"type": "text", "text": "a"}, {"type": "container_upload", "file_id": "f"}
    assert assistant(text, upload, text, text)[0]["content"] == "a\n[container upload: f]\naa"


def test_thinking_is_a_message_of_its_own_with_its_signature() -> None:
    assert answer("thinking_with_signature")[0] == {
        "role": "thinking",
        "content": "Let me think.",
        "signature": "c2lnbmVk",
    }


def test_redacted_thinking_is_a_placeholder() -> None:
    assert answer("redacted_thinking")[0] == {"role": "thinking", "content": "[redacted thinking]"}


def test_tool_calls_stand_on_the_text_before_them() -> None:
    assert assistant({"type": "text", "text": "Let me see."}, CALL, CALL | {"id": "toolu_2"}) == [
        {"role": "assistant", "content": "Let me see.", "tool_calls": [CALLED, CALLED | {"id": "toolu_2"}]}
    ]


def test_text_after_a_tool_call_starts_a_new_message() -> None:
    assert [(message["content"], "tool_calls" in message) for message in answer("text_after_tool")] == [
        ("", True),
        ("While that runs.", False),
    ]


def test_thinking_between_separates_tool_calls() -> None:
    assert [message["role"] for message in assistant(CALL, {"type": "thinking", "thinking": "hm"}, CALL)] == [
        "assistant",
        "thinking",
        "assistant",
    ]


@pytest.mark.parametrize(
    ("value", "arguments"),
    [
        ({"a": 1}, {"a": 1}),
        (None, {}),
        ("text", {"_raw": "text"}),
        ([1, 2], {"_raw": "[1,2]"}),
        (5, {"_raw": "5"}),
    ],
)
def test_arguments_are_always_an_object(value: Any, arguments: dict[str, Any]) -> None:
    assert assistant(CALL | {"input": value})[0]["tool_calls"][0]["function"]["arguments"] == arguments


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("tool_input_cut", '{"path": "a.txt", "lines": ["one", "tw'),
        ("tool_input_invalid", '{"path": "a.txt", lines: [}'),
    ],
)
def test_arguments_that_are_not_whole_keep_their_text(name: str, text: str) -> None:
    assert answer(name)[0]["tool_calls"][0]["function"]["arguments"] == {"_raw": text}


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        ("fine", "fine"),
        (None, ""),
        ("", ""),
        ([], ""),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "a\nb"),
        ([{"type": "text", "text": "a"}, PNG], [{"type": "text", "text": "a"}, PNG_PART]),
        ([{"type": "tool_reference", "tool_name": "ask"}], "[tool: ask]"),
        ([{"type": "document", "title": "T", "source": {"type": "text", "data": "D"}}], "[document: T]\nD"),
        ([{"type": "search_result", "title": "T", "source": "S", "content": []}], "[search result: T, S]"),
        ({"type": "text", "text": "alone"}, "alone"),
        (3.5, "3.5"),
        ([1, None, ["x"]], '1\n\n["x"]'),
    ],
)
def test_a_tool_result_is_a_tool_message(content: Any, shown: Any) -> None:
    assert result(content) == {"role": "tool", "tool_call_id": "toolu_1", "content": shown, "tool_name": "weather"}


def test_a_missing_result_is_empty() -> None:
    messages = user({"type": "tool_result", "tool_use_id": "toolu_9"})
    assert messages == [{"role": "tool", "tool_call_id": "toolu_9", "content": ""}]


def test_a_failed_tool_is_marked_and_its_content_untouched() -> None:
    assert result("boom", is_error=True) == {
        "role": "tool",
        "tool_call_id": "toolu_1",
        "tool_name": "weather (error)",
        "content": "boom",
        "metadata": {"is_error": True},
    }


def test_results_and_text_of_one_message_keep_their_order() -> None:
    first = {"type": "tool_result", "tool_use_id": "a", "content": "1"}
    messages = user(first, first | {"tool_use_id": "b"}, {"type": "text", "text": "Go on."})
    assert [(message["role"], message.get("tool_call_id")) for message in messages] == [
        ("tool", "a"),
        ("tool", "b"),
        ("user", None),
    ]


def test_a_repeated_id_means_the_latest_call_before() -> None:
    answered = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": ""}]}
    messages = history(
        {"role": "assistant", "content": [CALL]},
        answered,
        {"role": "assistant", "content": [CALL | {"name": "clock"}]},
        answered,
    )
    assert [message["tool_name"] for message in messages if message["role"] == "tool"] == ["weather", "clock"]


def test_a_server_tool_is_a_call_and_a_result_in_words() -> None:
    call, found, text = answer("server_tool_web_search")
    assert call["tool_calls"] == [
        {
            "id": "srvtoolu_1",
            "type": "function",
            "function": {"name": "web_search", "arguments": {"query": "sidestream"}},
            "metadata": {"origin": "server_tool_use", "server": "anthropic"},
        }
    ]
    assert found == {
        "role": "tool",
        "tool_call_id": "srvtoolu_1",
        "tool_name": "web_search",
        "content": "Capnography\nhttps://example.org/a\n(3 days ago)\nGas\nhttps://example.org/b",
        "metadata": {"server": "anthropic"},
    }
    assert text["content"] == "It is a small stream drawn off."


def test_citations_stay_with_their_text_without_what_is_encrypted() -> None:
    assert answer("server_tool_web_search")[-1]["citations"] == [
        {
            "type": "web_search_result_location",
            "cited_text": "a small stream",
            "url": "https://example.org/a",
            "title": "Capnography",
        }
    ]


def test_a_failed_server_tool_is_marked_and_may_end_an_answer() -> None:
    assert answer("server_tool_error")[-1] == {
        "role": "tool",
        "tool_call_id": "srvtoolu_1",
        "tool_name": "web_fetch (error)",
        "content": "[error: url_not_accessible]",
        "metadata": {
            "server": "anthropic",
            "is_error": True,
            "id": "msg_01Fixture",
            "model": "claude-test-1",
            "stop_reason": "pause_turn",
            "usage": {
                "input_tokens": 11,
                "cache_creation_input_tokens": 2,
                "cache_read_input_tokens": 3,
                "output_tokens": 9,
                "service_tier": "standard",
            },
        },
    }


def test_an_mcp_call_and_its_result_name_their_server() -> None:
    call, failed, _ = answer("mcp")
    assert call["tool_calls"][0]["metadata"] == {"origin": "mcp_tool_use", "server": "wiki"}
    assert failed == {
        "role": "tool",
        "tool_call_id": "mcptoolu_1",
        "tool_name": "ask (error)",
        "content": "no such page",
        "metadata": {"server": "wiki", "is_error": True},
    }


def test_who_called_a_tool_is_kept() -> None:
    assert answer("tool_input_in_start")[0]["tool_calls"][0]["metadata"] == {"caller": {"type": "direct"}}


@pytest.mark.parametrize(
    ("kind", "content", "shown"),
    [
        (
            "web_fetch_tool_result",
            {
                "type": "web_fetch_result",
                "url": "u",
                "content": {"type": "document", "title": "T", "source": {"type": "text", "data": "D"}},
            },
            "u\n[document: T]\nD",
        ),
        (
            "code_execution_tool_result",
            {
                "type": "code_execution_result",
                "stdout": "out",
                "stderr": "err",
                "return_code": 2,
                "content": [{"type": "code_execution_output", "file_id": "f"}],
            },
            "out\nstderr:\nerr\n[return code: 2]\n[file: f]",
        ),
        (
            "code_execution_tool_result",
            {
                "type": "encrypted_code_execution_result",
                "encrypted_stdout": "RW5j",
                "stderr": "",
                "return_code": 0,
                "content": [],
            },
            "[encrypted output]",
        ),
        (
            "text_editor_code_execution_tool_result",
            {"type": "text_editor_code_execution_view_result", "content": "text"},
            "text",
        ),
        (
            "text_editor_code_execution_tool_result",
            {"type": "text_editor_code_execution_create_result", "is_file_update": True},
            "[file updated]",
        ),
        (
            "text_editor_code_execution_tool_result",
            {"type": "text_editor_code_execution_create_result", "is_file_update": False},
            "[file created]",
        ),
        (
            "text_editor_code_execution_tool_result",
            {"type": "text_editor_code_execution_str_replace_result", "lines": ["-a", "+b"]},
            "-a\n+b",
        ),
        (
            "tool_search_tool_result",
            {
                "type": "tool_search_tool_search_result",
                "tool_references": [{"type": "tool_reference", "tool_name": "ask"}],
            },
            "[tools: ask]",
        ),
        ("advisor_tool_result", {"type": "advisor_result", "text": "Do it."}, "Do it."),
        ("advisor_tool_result", {"type": "advisor_redacted_result", "encrypted_content": "RW5j"}, "[redacted advice]"),
        (
            "hologram_tool_result",
            {"type": "hologram_result", "turn": 90, "encrypted_content": "RW5j"},
            '[hologram_result: {"turn":90}]',
        ),
        ("web_search_tool_result", None, ""),
    ],
)
def test_results_of_server_tools_are_readable(kind: str, content: Any, shown: str) -> None:
    assert server_result(kind, content) == shown


def test_an_unknown_block_shows_its_json_and_is_counted() -> None:
    conversion = Conversion()
    block = {"type": "hologram", "turn": 90, "encrypted_content": "RW5j"}
    conversion.add_request({"messages": [{"role": "user", "content": [block, block, {"no": "type"}]}]})
    shown = '[hologram: {"turn":90}]'
    expected = [{"role": "user", "content": f'{shown}\n{shown}\n[unknown block: {{"no":"type"}}]'}]
    assert expected == conversion.asked[0].shown
    assert conversion.unknown == {"hologram": 2, "": 1}


def test_the_facts_of_an_answer_stand_on_its_last_message() -> None:
    messages = answer("parallel_tools")
    assert [message.get("metadata", {}).get("id") for message in messages] == ["msg_01Fixture"]


def test_an_empty_answer_is_an_empty_message_with_the_facts() -> None:
    conversion = Conversion()
    conversion.add_answer({"id": "m", "content": [], "stop_reason": None}, {})
    assert conversion.answer is not None
    expected = [{"role": "assistant", "content": "", "metadata": {"id": "m", "stop_reason": None}}]
    assert expected == conversion.answer.shown


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"role": "user", "content": []}, {"role": "user", "content": ""}),
        ({"role": "user"}, {"role": "user", "content": ""}),
        ({"role": 5, "content": 5}, {"role": "user", "content": "5"}),
        ({"content": {"type": "text", "text": 5}}, {"role": "user", "content": "5"}),
        ("stray", {"role": "user", "content": "stray"}),
        (None, {"role": "user", "content": ""}),
    ],
)
def test_misshapen_messages_are_shown_as_far_as_they_go(message: Any, expected: dict[str, Any]) -> None:
    assert history(message) == [expected]


@pytest.mark.parametrize("messages", [None, "text", 5, {"role": "user"}])
def test_a_history_that_is_no_list_is_empty(messages: Any) -> None:
    conversion = Conversion()
    conversion.add_request({"messages": messages})
    assert conversion.asked == []


def test_each_message_of_a_request_has_trace_messages_of_its_own() -> None:
    conversion = Conversion()
    results = [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "20"}, {"type": "text", "text": "Go on."}]
    history = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": []},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm"}, CALL]},
        {"role": "user", "content": results},
        "stray",
    ]
    conversion.add_request({"system": "S", "messages": history})
    conversion.add_answer({"content": "Done."}, {})
    assert [
        ("user", ["user"]),
        ("assistant", ["assistant"]),
        ("assistant", ["thinking", "assistant"]),
        ("user", ["tool", "user"]),
        ("user", ["user"]),
    ] == [(said.role, [message["role"] for message in said.shown]) for said in conversion.asked]
    assert [{"role": "system", "content": "S"}] == conversion.system
    assert conversion.answer is not None
    assert ("assistant", "Done.") == (conversion.answer.role, conversion.answer.text)


def test_ids_and_names_that_are_no_strings_become_strings() -> None:
    call = assistant({"type": "tool_use", "id": 7, "name": None, "input": {}})[0]["tool_calls"][0]
    assert (call["id"], call["function"]["name"]) == ("7", "")


def test_a_history_twice_as_long_is_twice_the_work() -> None:
    turn = [
        {"role": "assistant", "content": [{"type": "text", "text": "Let me see. " * 20}, CALL]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "x" * 1000}]},
    ]
    assert len(history(*turn * 500)) == 1000
    assert effort(lambda: history(*turn * 1000)) < 2.1 * effort(lambda: history(*turn * 500))
