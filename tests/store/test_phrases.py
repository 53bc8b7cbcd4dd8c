"""What a person types, as the index understands it, and what is marked of it."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidestream.store.phrases import Phrases, folded
from sidestream.store.shapes import Piece, Unclear

TEXTS = st.text(st.sampled_from("aAbBzZ019_-.* \"'()^:+{}|~,äÄéßΣ한世\u0301\u0903İ²😀\n\0"), max_size=30)


@pytest.mark.parametrize(
    ("typed", "expression"),
    [
        ("hello", '"hello"'),
        ("Two  words", '"two" "words"'),
        ('"two words"', '"two words"'),
        ('"two words', '"two words"'),
        ("read_file", '"read file"'),
        ("begin*", '"begin"*'),
        ('"begin wi"*', '"begin wi"*'),
        ("NEAR(a b) OR -c", '"near a" "b" "or" "c"'),
        ('a"b c"d', '"a" "b c" "d"'),
        ("* - café ''", '"cafe"'),
        ("text:x ^y {z}", '"text x" "y" "z"'),
    ],
)
def test_nothing_that_is_typed_is_syntax(typed: str, expression: str) -> None:
    assert expression == Phrases.parse(typed).expression


@pytest.mark.parametrize(
    ("typed", "reason"),
    [
        ("", "no word"),
        (' "" * -- \t', "no word"),
        ("😀", "no word"),
        ("a*", "at least two letters"),
        ("word " * 33, "more than 32 words"),
        ("x" * 1001, "more than 1000 characters"),
    ],
)
def test_what_cannot_be_looked_for_is_said(typed: str, reason: str) -> None:
    with pytest.raises(Unclear, match=reason):
        Phrases.parse(typed)


def hits(typed: str, text: str) -> list[str]:
    return [piece.text for piece in Phrases.parse(typed).snippet(text) if piece.hit]


def test_whole_words_are_marked_whatever_their_case_and_marks() -> None:
    assert ["Café", "CAFE\u0301", "cafe"] == hits("cafe", "Café, CAFE\u0301, cafes, cafe_x, decafe")
    assert ["cafe"] == hits("CAFÉ", "the cafe")
    assert ["caf", "Caf"] == hits("caf*", "cafes decaf Cafe\u0301")
    assert ["한국"] == hits("한국", "한국 한국어")


def test_a_phrase_is_marked_as_one() -> None:
    assert ["read_file", "Read, file"] == hits("read_file", "read_file, read a file. Read, file!")


def test_a_snippet_shows_what_is_around_the_first_hit() -> None:
    text = f"{'before ' * 100}the needle {'after ' * 100}"
    pieces = Phrases.parse("needle").snippet(text)
    assert ["…", "the ", "needle", " after"] == [
        pieces[0].text,
        pieces[1].text[-4:],
        pieces[2].text,
        pieces[3].text[:6],
    ]
    assert [False, False, True, False] == [piece.hit for piece in pieces]
    assert pieces[1].text.startswith("before ")
    assert pieces[3].text.endswith("…")
    assert 190 <= sum(len(piece.text) for piece in pieces) <= 210


def test_a_short_text_is_shown_whole() -> None:
    assert [Piece(text="a "), Piece(text="b", hit=True), Piece(text=" c")] == Phrases.parse("b").snippet("a b c")


def test_where_nothing_is_found_a_snippet_is_how_the_text_begins() -> None:
    assert [Piece(text="x" * 200 + "…")] == Phrases.parse("needle").snippet("x" * 300)
    assert [] == Phrases.parse("needle").snippet("")


@given(TEXTS)
def test_folding_keeps_the_length(text: str) -> None:
    assert len(text) == len(folded(text))


@settings(max_examples=300)
@given(TEXTS, TEXTS)
def test_what_the_index_finds_is_marked(typed: str, text: str) -> None:
    try:
        phrases = Phrases.parse(typed)
    except Unclear:
        return
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute(
            "CREATE VIRTUAL TABLE words USING fts5(text, content = '', tokenize = 'unicode61 remove_diacritics 2')"
        )
        connection.execute("INSERT INTO words (rowid, text) VALUES (1, ?)", (text,))
        found = connection.execute("SELECT rowid FROM words WHERE words MATCH ?", (phrases.expression,)).fetchall()
    marked = any(piece.hit for piece in phrases.snippet(text))
    assert not found or marked


@pytest.mark.parametrize(("typed", "slow"), [("ab*", False), ("abc*", False), ("abcd*", True), ("abcd", False)])
def test_beginnings_of_two_and_three_letters_are_in_the_index(typed: str, *, slow: bool) -> None:
    assert slow == Phrases.parse(typed).slow
