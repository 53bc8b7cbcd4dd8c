"""What a person types to find something, as an expression for SQLite's FTS5, and as what is marked in a text.

The index folds case and takes the marks off letters (its tokenizer is ``unicode61 remove_diacritics 2``); a word is a
run of letters and digits. So ``read_file`` is two words there, and what a person types is a phrase of both: a tool is
found by its name, and by each part of it.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final, NamedTuple

from sidestream.providers.jsons import clean_text
from sidestream.store.shapes import Piece, Unclear

_MOST_TERMS: Final = 32
_LONGEST: Final = 1000
_TERM: Final = re.compile(r'"([^"]*)"?(\*?)|([^\s"]+)')
_WORD: Final = re.compile(r"(?:[^\W_]\u0301*)+")
"""In folded text, where every mark of a letter is the same."""
_MARK: Final = "\u0301"
_MARKS: Final = range(0x300, 0x332)
"""Those that the tokenizer takes off, where they stand by themselves."""
_INDEXED: Final = (2, 3)
"""Letters of the beginnings of words that are in the index."""
_BEFORE: Final = 60
_SHOWN: Final = 200
"""Characters of a snippet, and how many of them come before what was looked for."""


class Phrase(NamedTuple):
    """Words that stand one after the other; where `prefix`, the last may go on."""

    words: tuple[str, ...]
    prefix: bool


class Phrases:
    """What is looked for: all of these phrases."""

    def __init__(self, phrases: list[Phrase]) -> None:
        self._phrases = phrases
        self._pattern = re.compile("|".join(map(_pattern, phrases)))

    @classmethod
    def parse(cls, typed: str) -> Phrases:
        """Words, ``"words in this order"``, and beginnings of words: ``begin*``. `Unclear` if there is no word."""
        if len(typed) > _LONGEST:
            raise Unclear(f"more than {_LONGEST} characters to look for")
        phrases: list[Phrase] = []
        for quoted, star, plain in _TERM.findall(clean_text(typed)):
            words = tuple(word.replace(_MARK, "") for word in _WORD.findall(folded(quoted or plain)))
            prefix = bool(star) or plain.endswith("*")
            if words:
                phrases.append(Phrase(words, prefix))
        if not phrases:
            raise Unclear("there is no word to look for")
        if len(phrases) > _MOST_TERMS:
            raise Unclear(f"more than {_MOST_TERMS} words to look for")
        if any(phrase.prefix and phrase.words[-1].isascii() and len(phrase.words[-1]) < 2 for phrase in phrases):
            raise Unclear("a word that ends with * needs at least two letters before it")
        return cls(phrases)

    @property
    def expression(self) -> str:
        """For FTS5's ``MATCH``: nothing that was typed is a part of its syntax."""
        return " ".join(f'"{" ".join(phrase.words)}"{"*" * phrase.prefix}' for phrase in self._phrases)

    @property
    def slow(self) -> bool:
        """Whether the beginning of a word is looked for that the index does not have."""
        return any(phrase.prefix and len(phrase.words[-1]) not in _INDEXED for phrase in self._phrases)

    def snippet(self, text: str) -> list[Piece]:
        """Where the first of them stands in a text, with what is around it; how the text begins if none does."""
        within = folded(text)
        first = self._pattern.search(within)
        begin = max(first.start() - _BEFORE, 0) if first else 0
        if begin:  # with a whole word, if there is one
            begin = next((space.end() for space in re.finditer(r"\s", text[begin : begin + _BEFORE // 2])), 0) + begin
        end = min(begin + _SHOWN, len(text))
        pieces, at = [Piece(text="…")] if begin else [], begin
        for found in self._pattern.finditer(within, begin, end):
            if found.start() > at:
                pieces.append(Piece(text=text[at : found.start()]))
            pieces.append(Piece(text=text[found.start() : found.end()], hit=True))
            at = found.end()
        rest = text[at:end] + "…" * (end < len(text))
        return pieces + ([Piece(text=rest)] if rest else [])


def folded(text: str) -> str:
    """A text of the same length in which what the index takes as the same letter is the same."""
    return text.lower() if text.isascii() else text.translate(_FOLDS)


class _Folds(dict[int, str]):
    """What each character becomes, as far as anybody has asked; one character each."""

    def __missing__(self, code: int) -> str:
        if code in _MARKS:
            self[code] = _MARK
            return _MARK
        character = chr(code)
        base = unicodedata.normalize("NFD", character)[0]
        lower = (base if base.isascii() else character).lower()
        self[code] = lower if len(lower) == 1 else lower[0]
        return self[code]


_FOLDS: Final = _Folds()


def _pattern(phrase: Phrase) -> str:
    """It begins with the first letter, which `re` is quick to find, and looks back from there."""
    first = re.escape(phrase.words[0][0])
    words = [rf"{_MARK}*".join(map(re.escape, word)) + rf"{_MARK}*" for word in phrase.words]
    words[0] = words[0].replace(first, rf"{first}(?<![^\W_]{first})(?<![^\W_]{_MARK}{first})", 1)
    return r"[\W_]+".join(words) + r"(?![^\W_])" * (not phrase.prefix)
