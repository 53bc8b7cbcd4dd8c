"""Cut JSON is read as the official SDK's parser reads it."""

from __future__ import annotations

import json
from typing import Any

import jiter
import pytest
from hypothesis import given
from hypothesis import strategies as st

from effort import effort
from sidestream.providers.cut_json import parse_cut
from sidestream.providers.jsons import UNREADABLE

text = st.text() | st.sampled_from([", 5", '"a]}', "\\", "\n"])
containers = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner) | st.dictionaries(text, inner),
).filter(lambda value: isinstance(value, dict | list))


def jiters(document: str) -> Any:
    try:
        return jiter.from_json(document.encode(), partial_mode=True)
    except ValueError:
        return UNREADABLE


@given(value=containers, ascii_only=st.booleans(), kept=st.floats(0, 1))
def test_a_cut_document_gives_what_the_sdk_shows(value: Any, ascii_only: bool, kept: float) -> None:
    whole = json.dumps(value, ensure_ascii=ascii_only)
    cut = whole[: int(len(whole) * kept)]
    assert parse_cut(cut) == jiters(cut)


@given(value=containers, place=st.floats(0, 1), rubbish=st.text('[]{},:"x5 -.e\\tn', max_size=3))
def test_where_the_sdk_reads_a_broken_document_the_same_is_read(value: Any, place: float, rubbish: str) -> None:
    whole = json.dumps(value)
    at = int(len(whole) * place)
    broken = whole[:at] + rubbish + whole[at + 1 :]
    expected = jiters(broken)
    assert expected is UNREADABLE or parse_cut(broken) == expected


@pytest.mark.parametrize(
    "document", ["", " ", "nope", '"text', "12.", "-", "{1", '{"a" 1', "[,", "[1,]", "[-a", "[1.x", "[trux"]
)
def test_what_holds_no_value_is_unreadable(document: str) -> None:
    assert parse_cut(document) is UNREADABLE


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ('{"a": "cut of', {"a": "cut of"}),
        ('{"a": "cut \\u00e', {"a": "cut "}),
        ('{"a": "cut \\', {"a": "cut "}),
        ('{"a": "back\\\\', {"a": "back\\"}),
        ('{"a": [1, "', {"a": [1, ""]}),
        ('{"a": 1, "b', {"a": 1}),
    ],
)
def test_a_string_in_the_making_can_be_kept(document: str, expected: Any) -> None:
    assert parse_cut(document, keep_strings=True) == expected


def test_what_follows_a_value_is_ignored() -> None:
    assert [parse_cut("12]}"), parse_cut('"a" b'), parse_cut("{} {}")] == [12, "a", {}]


@pytest.mark.timeout(30)
@pytest.mark.parametrize("document", ["[" * 20_000_000, '{"a":' * 2_000_000, "[" + "1," * 5_000_000])
def test_what_is_made_to_be_slow_ends_early(document: str) -> None:
    assert parse_cut(document) is not UNREADABLE


def test_twice_as_much_cut_json_is_twice_the_work() -> None:
    item = {"text": "x\n" * 50_000, "list": list(range(100))}
    once, twice = (json.dumps([item] * count)[:-3] for count in (10, 20))
    assert len(parse_cut(once, keep_strings=True)) == 10
    assert effort(lambda: parse_cut(twice, keep_strings=True)) < 2.1 * effort(
        lambda: parse_cut(once, keep_strings=True)
    )
