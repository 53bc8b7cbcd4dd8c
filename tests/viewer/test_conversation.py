"""What turns added becomes what a reader wants to see, whatever shape it has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shown import called, result, said, told
from sidestream.providers.jsons import clean
from sidestream.store.shapes import TurnState
from sidestream.traces.conversation import Rule
from sidestream.viewer.conversation import (
    HEAD,
    RULES,
    Picture,
    Problem,
    Reference,
    Result,
    Text,
    ToolUse,
    Words,
    folded,
    pictures,
    tree,
    views,
)

if TYPE_CHECKING:
    from sidestream.viewer.conversation import Item, Node

DOT = "iVBORw0KGgo="
PICTURE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{DOT}"}}


def words(item: Item) -> str:
    assert isinstance(item, Words | Result)
    return "".join(part.whole for part in item.parts if isinstance(part, Text))


def a_call(item: Item) -> ToolUse:
    assert isinstance(item, ToolUse)
    return item


# Calls and results


def test_what_was_asked_stands_apart_from_the_answer() -> None:
    (view,) = views([told(1, said("user", "Hi"), said("thinking", "Hm"), said("assistant", "Ho"), answered=2)])
    assert ["Hi"] == [words(item) for item in view.asked]
    assert [("thinking", "Hm"), ("assistant", "Ho")] == [(item.kind, words(item)) for item in view.answer]


def test_a_result_of_the_next_turn_is_shown_with_its_call_and_named_in_that_turn() -> None:
    first = told(1, said("user", "Hi"), called(("t1", "look", {"a": 1})), answered=1)
    second = told(2, result("t1", "Dry."), said("assistant", "Dry."), answered=1)
    before, after = views([first, second])
    call = a_call(before.answer[0])
    assert call.result is not None
    assert ("Dry.", 2, True) == (words(call.result), call.result.turn.number, call.result.elsewhere)
    assert (Reference(name="look", error=False, turn=first.turn),) == after.asked


def test_parallel_calls_keep_their_order_and_each_has_its_own_result() -> None:
    calls = called(("t1", "look", {}), ("t2", "read", {}))
    first, _ = views([told(1, calls, answered=1), told(2, result("t2", "two"), result("t1", "one"))])
    found = [(call.name, words(call.result)) for call in map(a_call, first.answer) if call.result is not None]
    assert [("look", "one"), ("read", "two")] == found


def test_a_result_in_the_same_turn_is_shown_with_its_call_only() -> None:
    (view,) = views([told(1, called(("t1", "look", {})), result("t1", "Dry."))])
    (call,) = map(a_call, view.asked)
    assert call.result is not None
    assert not call.result.elsewhere


def test_a_result_whose_call_is_not_there_is_shown_by_itself() -> None:
    (view,) = views([told(1, result("t1", "Dry.", "look (error)", metadata={"is_error": True}))])
    (shown,) = view.asked
    assert isinstance(shown, Result)
    assert ("look", True, "Dry.") == (shown.name, shown.error, words(shown))


def test_ids_that_repeat_are_paired_one_after_the_other() -> None:
    messages = [called(("t", "a", {})), result("t", "one"), called(("t", "b", {})), result("t", "two")]
    (view,) = views([told(1, *messages)])
    found = [(call.name, words(call.result)) for call in map(a_call, view.asked) if call.result is not None]
    assert [("a", "one"), ("b", "two")] == found


def test_calls_without_an_id_have_no_result() -> None:
    (view,) = views([told(1, called(("", "a", {})), result("", "one"))])
    assert [None, "one"] == [view.asked[0].result if isinstance(view.asked[0], ToolUse) else 0, words(view.asked[1])]


def test_a_retry_that_sends_a_result_once_more_refers_to_the_call() -> None:
    first = told(1, called(("t1", "look", {})), answered=1)
    again = result("t1", "Dry.")
    _, failed, retried = views([first, told(2, again), told(3, again, retry_of="x2")])
    assert failed.asked == retried.asked == (Reference(name="look", error=False, turn=first.turn),)
    assert failed.turn == retried.retry_of


def test_another_result_under_the_same_id_is_shown_by_itself() -> None:
    *_, last = views(
        [told(1, called(("t1", "look", {}))), told(2, result("t1", "Dry.")), told(3, result("t1", "Wet."))]
    )
    assert "Wet." == words(last.asked[0])


def test_text_before_calls_is_shown_and_none_where_there_is_none() -> None:
    with_text, without = views([told(1, called(("a", "x", {}), content="Now")), told(2, called(("b", "x", {})))])
    assert (["assistant", "call"], ["call"]) == (
        [item.kind for item in with_text.asked],
        [item.kind for item in without.asked],
    )


def test_arguments_are_told_in_a_few_words() -> None:
    given = {"path": "a\nb", "lines": [1, 2], "deep": {"a": 1}, "last": None}
    (view,) = views([told(1, called(("t", "edit", given)))])
    assert "path: a b, lines: […], deep: {…}, …" == a_call(view.asked[0]).gist


# Texts, pictures, trees


def test_a_short_text_is_not_folded() -> None:
    assert Text(head="a\nb") == folded("a\nb", None)


def test_a_long_text_is_folded_at_the_end_of_a_line_and_whole_all_the_same() -> None:
    text = "\n".join(f"line {number}" for number in range(100))
    shown = folded(text, None)
    assert (24, 76, text) == (shown.head.count("\n"), shown.lines, shown.whole)


def test_a_text_of_one_long_line_is_folded_in_it() -> None:
    shown = folded("x" * 10_000, None)
    assert (HEAD, 10_000) == (len(shown.head), len(shown.whole))


def test_what_is_left_out_of_a_text_is_counted() -> None:
    assert (50, 20) == (len(folded("x" * 70, 50).whole), folded("x" * 70, 50).rest)


def test_a_picture_of_a_known_type_is_shown_and_numbered_within_its_turn() -> None:
    turn = told(1, said("user", [{"type": "text", "text": "See"}, PICTURE]), said("user", [PICTURE]))
    (view,) = views([turn])
    shown = [part for item in view.asked if isinstance(item, Words) for part in item.parts if isinstance(part, Picture)]
    assert [0, 1] == [part.place for part in shown]
    assert [("image/png", b"\x89PNG\r\n\x1a\n")] * 2 == pictures(turn)


def test_a_picture_in_a_result_has_the_number_of_the_turn_that_brought_it() -> None:
    turns = [told(1, called(("t", "look", {}))), told(2, said("user", [PICTURE]), result("t", [PICTURE]))]
    call = a_call(views(turns)[0].asked[0])
    assert call.result is not None
    (part,) = call.result.parts
    assert isinstance(part, Picture)
    assert 1 == part.place


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/x.png",
        "data:image/svg+xml;base64,PHN2Zz4=",
        "data:text/html;base64,PHN2Zz4=",
        'data:image/png;base64,AAAA" onerror="x',
        "javascript:alert(1)",
        None,
    ],
)
def test_any_other_picture_is_text(url: str | None) -> None:
    (view,) = views([told(1, said("user", [{"type": "image_url", "image_url": {"url": url}}]))])
    assert "image_url" in words(view.asked[0])


def test_a_damaged_picture_has_no_bytes_and_keeps_its_number() -> None:
    broken = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAAA"}}
    assert [b"", b"\x89PNG\r\n\x1a\n"] == [data for _, data in pictures(told(1, said("user", [broken, PICTURE])))]


def kinds(node: Node) -> Any:
    if node.kind in {"object", "list"}:
        return {name: kinds(item) for name, item in node.entries}
    return node.kind


def test_a_value_becomes_a_tree() -> None:
    value = {"a": "short", "b": "x" * 500, "c": "two\nlines", "d": [1, None, True], "e": {}}
    expected = {"a": "text", "b": "block", "c": "block", "d": {"0": "plain", "1": "plain", "2": "plain"}, "e": {}}
    assert expected == kinds(tree(value))


def test_what_is_nested_deeply_ends_as_json() -> None:
    value: Any = "x"
    for _ in range(100):
        value = [value]
    assert '["x"]' in repr(tree(value))


def test_entries_that_are_left_out_are_counted() -> None:
    assert (200, 100) == (len(tree(list(range(300))).entries), tree(list(range(300))).hidden)


def test_a_value_with_very_many_values_ends_as_json() -> None:
    node = tree([[[0] * 150] * 150] * 150)
    assert "json" in {item.kind for _, each in node.entries for _, item in each.entries}


# What is known of a turn


def test_every_rule_is_told_in_words() -> None:
    assert {*Rule} <= RULES.keys()


def test_a_rule_that_is_not_known_is_shown_as_it_is() -> None:
    assert "from_tomorrow" == views([told(1, rule="from_tomorrow")])[0].why


@pytest.mark.parametrize(
    ("facts", "status", "expected"),
    [
        (
            {"error": {"type": "overloaded_error", "message": "Overloaded"}},
            529,
            [Problem(title="The provider answered 529: overloaded_error", detail="Overloaded")],
        ),
        ({"error": {"a": 1}}, 200, [Problem(title="The provider failed", detail='{"a":1}')]),
        ({"error": "x"}, None, [Problem(title="The provider failed", detail="x")]),
        ({}, 404, [Problem(title="The provider answered 404")]),
        ({"transport_error": "reset"}, 200, [Problem(title="The transport failed", detail="reset")]),
        ({"truncated": ["request"]}, 200, [Problem(title="Only the beginning was kept of the request")]),
        ({"undecoded": {"a": "b"}}, 200, [Problem(title="Not all could be decoded", detail='{"a":"b"}')]),
        ({"request_complete": False}, 200, [Problem(title="The request was not sent to its end")]),
        ({}, 200, []),
    ],
)  # fmt: skip
def test_what_went_wrong_is_told(facts: dict[str, Any], status: int | None, expected: list[Problem]) -> None:
    (view,) = views([told(1, facts=facts, status=status, state=TurnState.FAILED)])
    assert expected == list(view.problems)


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "text", "image_url", "url", "function", "name", "arguments", "id"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=10,
)
ROLES = st.sampled_from(["user", "assistant", "tool", "system", "thinking", "developer", ""])
FIELDS = st.sampled_from(["content", "tool_calls", "tool_call_id", "tool_name", "metadata", "citations", "role"])
MESSAGES = st.builds(
    lambda role, fields: {"role": role} | fields, ROLES, st.dictionaries(FIELDS, JSON, max_size=5)
).map(clean)


@given(st.lists(st.tuples(st.lists(MESSAGES, max_size=4), st.integers(-1, 6)), max_size=3), JSON.map(clean))
def test_messages_of_any_shape_are_shown(turns: list[tuple[list[dict[str, Any]], int]], facts: Any) -> None:
    known = dict.fromkeys(("error", "truncated", "transport_error", "parameters", "extras", "undecoded"), facts)
    made = [told(number, *some, answered=last, facts=known) for number, (some, last) in enumerate(turns, start=1)]
    assert len(turns) == len(views(made))
    assert all(isinstance(data, bytes) for each in made for _, data in pictures(each))
