"""JSON from the wire is read or refused, never raised about; cleaned values pass every sink."""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import effort
from sidestream.providers.jsons import (
    MAX_DEPTH,
    MOST_VALUES,
    TOO_DEEP,
    UNREADABLE,
    clean,
    clean_text,
    is_flat,
    parse,
    parse_clean,
    values_in,
)

any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()), inner),
    max_leaves=30,
)


def nested(depth: int) -> Any:
    value: Any = "deep"
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b'{"a": [1, 2.5, null, true, "x"]}', {"a": [1, 2.5, None, True, "x"]}),
        (b'\xef\xbb\xbf{"a": 1}', {"a": 1}),
        ('\ufeff{"a": 1}', {"a": 1}),
        (b'"\\ud83d"', "\ud83d"),
        (b'"\\ud83d\\ude00"', "😀"),
        (b'"\xff"', "\ufffd"),
        (b"1e400", math.inf),
        (b"-Infinity", -math.inf),
        (b"123456789012345678901234567890", 123456789012345678901234567890),
        (b"1" * 5000, "1" * 5000),
        (b"null", None),
    ],
)
def test_what_is_json_for_somebody_is_read(text: bytes | str, expected: Any) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize("text", [b"", b"{", b"{} {}", b"nope", b"[1,]", b"\xff", b"[" * 100_000, b'{"a":' * 5000, ""])
def test_what_is_not_json_is_unreadable(text: bytes | str) -> None:
    assert parse(text) is UNREADABLE


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("üß😀", "üß😀"),
        ("a\ud83d\ude00b", "a😀b"),
        ("a\ud83db", "a\ufffdb"),
        ("\ude00\ud83d", "\ufffd\ufffd"),
        ("\ud83d\ud83d\ude00", "\ufffd😀"),
        ("\ud83d", "\ufffd"),
        ("\ufeff\ud800x", "\ufeff\ufffdx"),
    ],
)
def test_surrogates_are_joined_or_replaced(text: str, expected: str) -> None:
    assert clean_text(text) == expected


def test_clean_keeps_what_is_clean() -> None:
    value: Any = {"a": [1, 2.5, None, True, "ü", {"b": []}], "c": {}}
    assert clean(value) == value


def test_clean_names_what_no_strict_parser_reads() -> None:
    assert clean([math.nan, math.inf, -math.inf, {"\ud83d\ude00": 1}]) == ["NaN", "Infinity", "-Infinity", {"😀": 1}]


def test_clean_cuts_off_what_is_nested_too_deeply() -> None:
    assert clean(nested(MAX_DEPTH)) == nested(MAX_DEPTH)
    assert TOO_DEEP in msgspec.json.encode(clean(nested(50_000))).decode()


@given(any_json)
def test_whatever_is_cleaned_is_strict_json(value: Any) -> None:
    text = msgspec.json.encode(clean(value))
    assert json.loads(text, parse_constant=pytest.fail) == clean(clean(value))


@pytest.mark.parametrize("depth", [0, 1, MAX_DEPTH - 1, MAX_DEPTH, MAX_DEPTH + 1, 50_000])
def test_parsing_and_cleaning_at_once_cuts_off_at_the_same_depth(depth: int) -> None:
    for value in (nested(min(depth, 900)), [nested(min(depth, 900)), *([{}] * MAX_DEPTH)]):
        data = msgspec.json.encode(value)
        assert clean(parse(data)) == parse_clean(data)
    assert clean(parse(b"[" * depth + b"]" * depth)) == parse_clean(b"[" * depth + b"]" * depth)


@given(any_json)
def test_parsing_and_cleaning_at_once_gives_what_both_give(value: Any) -> None:
    for data in (json.dumps(value).encode(), json.dumps(value).encode()[:-1]):
        assert clean(parse(data)) == parse_clean(data)


@pytest.mark.parametrize("depth", [0, 1, 2, 10])
def test_a_value_is_flat_down_to_its_depth(depth: int) -> None:
    value = {"text": "x", "nested": [nested(depth), 1]}
    assert [False, True] == [is_flat(value, depth + 1), is_flat(value, depth + 2)]


def test_cleaning_twice_as_much_is_twice_the_work() -> None:
    once, twice = ([{"key": "välue", "list": [1, 2.5, None]}] * count for count in (1000, 2000))
    assert effort(lambda: clean(twice)) < 2.1 * effort(lambda: clean(once))


def test_values_are_counted_without_building_them_and_strings_do_not_count() -> None:
    prose = json.dumps({"text": "a, [b], {c}, " * MOST_VALUES, "quote": '\\"[,' * 10})
    assert values_in(prose) == 2
    assert values_in(prose.encode()) == 2
    assert values_in(b"[" + b"[]," * MOST_VALUES + b"0]") == 2 * MOST_VALUES + 1
    assert values_in("[1, 2]") == 2
    assert values_in('"\ud800' + "," * 2 * MOST_VALUES) == 0


@pytest.mark.parametrize("piece", ['\\",', "\\\\,", '[,\\"'])
def test_counting_is_linear_where_a_string_never_ends(piece: str) -> None:
    """A pattern that tries again at every quote would take minutes here."""
    assert values_in('{"m":"' + piece * 400_000) == 1


def test_strings_are_values_too_and_many_of_them_are_not_even_cut_out() -> None:
    assert values_in('["",' + '"",' * 2_000_000) > MOST_VALUES


@settings(max_examples=30)
@given(st.recursive(st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_structure_inside_of_strings_does_not_count_in_a_large_document(document: object) -> None:
    bare = json.dumps(json.loads(json.dumps(document)), ensure_ascii=True)
    in_a_string = json.dumps({"text": bare, "filler": "[{,\\" * MOST_VALUES})
    assert values_in(in_a_string) == 2
