"""Searches a trace, as an Explorer shows it, for the end of one turn, while it arrives.

A trace may have hundreds of megabytes; there is never more in memory than its last piece. The last message of each turn
says in ``metadata.sidestream.exchange`` which exchange that was. That is looked for as bytes: within a text each
quotation mark would have a backslash before it, so no text can be taken for it. No I/O.
"""

from __future__ import annotations

import json
import re

from sidestream.errors import Ambiguous
from sidestream.sinks.explorer_replies import not_explorers

_LONGEST = 4 << 30
_MOST_AROUND = 512
"""Bytes that a mark has beside its value, white space included; more than that."""


class TurnSearch:
    """Feed it the trace piece by piece until `found` is set; where there is no more, `end` it.

    Both raise `Ambiguous` for what is not a trace, or a longer one than anybody would wait for.
    """

    def __init__(self, exchange: str) -> None:
        self.found = False
        name = re.escape(json.dumps(exchange).encode())
        self._kept = _MOST_AROUND + len(name)
        self._mark = re.compile(rb'(?<!\\)"exchange"[ \t\r\n]{0,99}:[ \t\r\n]{0,99}' + name)
        self._messages = False
        self._tail = b""
        self._size = 0

    def feed(self, data: bytes) -> None:
        """The next bytes, any number of them."""
        if not self._size and data.lstrip()[:1] not in {b"", b"{"}:
            raise not_explorers()
        self._size += len(data)
        if self._size > _LONGEST:
            raise Ambiguous("Explorer's trace is too long")
        window = self._tail + data
        self._messages = self._messages or b'"messages"' in window
        self.found = self.found or self._mark.search(window) is not None
        self._tail = window[-self._kept :]

    def end(self) -> None:
        """That was all of it."""
        if not self.found and not (self._messages and self._tail.rstrip().endswith(b"}")):
            raise not_explorers()
