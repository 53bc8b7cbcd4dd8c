"""Words for content are bounded and total; the converter's tests show what each kind looks like."""

from __future__ import annotations

from sidestream.providers.anthropic.rendering import blocks, failed, in_words, string


def test_the_json_of_an_unknown_block_is_shortened() -> None:
    assert len(in_words({"type": "hologram", "data": "x" * 100_000})) < 2100


def test_what_should_be_a_string_becomes_one() -> None:
    assert [string(value) for value in ("a", None, 5, True, {"b": [1]})] == ["a", "", "5", "true", '{"b":[1]}']


def test_content_of_any_shape_is_blocks() -> None:
    assert blocks("a") == [{"type": "text", "text": "a"}]
    assert blocks({"type": "image"}) == [{"type": "image"}]
    assert blocks([{"type": "image"}, "a", 5]) == [
        {"type": "image"},
        {"type": "text", "text": "a"},
        {"type": "text", "text": "5"},
    ]
    assert blocks(None) == []


def test_an_error_among_results_is_seen() -> None:
    assert failed({"type": "web_search_tool_result_error", "error_code": "unavailable"})
    assert not failed([{"type": "web_search_result"}])
