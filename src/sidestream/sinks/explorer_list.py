"""Searches an Explorer's list of traces for one exchange, while the list arrives.

A list may have hundreds of megabytes; there is never more in memory than its last piece and one entry. A trace says in
``extra_metadata.sidestream.exchange`` which exchange it is; what others pushed may have anything there. No I/O.
"""

from __future__ import annotations

import codecs
import json
import re
from typing import Any

from sidestream.errors import Ambiguous
from sidestream.sinks.base import Found
from sidestream.sinks.explorer_replies import not_explorers

_LONGEST = 256 << 20
_LONGEST_ENTRY = 8 << 20
_BLANK = re.compile(r"[ \t\r\n]*")
_NEXT = {"": "[", "[": "{]", "{": ",]", ",": "{", "]": ""}
"""What may follow in a list of objects; "{" stands for a whole one."""


class Search:
    """Feed it the list piece by piece until `found` is set; where there is no more, `end` it.

    Both raise `Ambiguous` for what is not a list of traces, or a longer one than anybody would wait for.
    """

    def __init__(self, exchange: str) -> None:
        self.found: Found | None = None
        self._exchange = exchange
        self._size = 0
        self._decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode
        self._json = json.JSONDecoder(parse_int=float)  # of any length, other than `int`
        self._rest = ""
        self._enough = 0
        """How long `_rest` must be to be looked at again: twice what was not a whole entry, or long ones take ages."""
        self._may_follow = _NEXT[""]

    def feed(self, data: bytes) -> None:
        """The next bytes, any number of them."""
        self._size += len(data)
        if self._size > _LONGEST:
            raise Ambiguous("Explorer's list of traces is too long")
        self._rest += self._decode(data)
        if len(self._rest) >= self._enough:
            self._go_on()

    def end(self) -> None:
        """That was all of it."""
        self._go_on()
        if self.found is None and (self._rest or self._may_follow):
            raise not_explorers()

    def _go_on(self) -> None:
        """Take out of `_rest` what is whole."""
        text, at = self._rest, _after_blanks(self._rest, 0)
        while self.found is None and at < len(text):
            sign = text[at]
            if sign not in self._may_follow:
                raise not_explorers()
            end = self._entry(text, at) if sign == "{" else at + 1
            if end is None:
                break
            self._may_follow, at = _NEXT[sign], _after_blanks(text, end)
        self._rest = text[at:]
        self._enough = 2 * len(self._rest)
        if len(self._rest) > _LONGEST_ENTRY:
            raise Ambiguous("one of Explorer's traces has too much metadata")

    def _entry(self, text: str, at: int) -> int | None:
        """Where the entry ends that begins at `at`; None if it is not whole, which may well be for good."""
        try:
            entry, end = self._json.raw_decode(text, at)
        except ValueError:
            return None
        except RecursionError as error:
            raise not_explorers() from error
        if not isinstance(entry.get("id"), str):
            raise not_explorers()
        if _exchange(entry.get("extra_metadata")) == self._exchange:
            self.found = Found(entry["id"])
        return end


def _exchange(metadata: Any) -> Any:
    mark = metadata.get("sidestream") if isinstance(metadata, dict) else None
    return mark.get("exchange") if isinstance(mark, dict) else None


def _after_blanks(text: str, at: int) -> int:
    blank = _BLANK.match(text, at)
    return blank.end() if blank else at
