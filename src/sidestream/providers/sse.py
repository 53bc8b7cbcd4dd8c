"""Server-sent events: bytes in, events out, whatever way the bytes were cut.

The decoder knows lines and fields (https://html.spec.whatwg.org/multipage/server-sent-events.html) and nothing of what
an event means. It differs from the standard in two points: an event with a name and no data is given out too, since
SDKs act on a bare ``event: error``; and `Decoder.finish` hands over the event that the stream's end left without its
blank line, which the standard (and the official SDK) discards: the caller decides. ``id`` and ``retry`` serve
reconnection, which a recorded stream does not do; they are skipped like comments.

Only whole lines are ever looked at, and a line in the making is kept as pieces: the work is linear in the bytes, for
any split.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator

BLANK = b"\n\n"
"""What ends a frame of a plain stream (`plain_until`)."""
_BOM = b"\xef\xbb\xbf"


class Event(msgspec.Struct, frozen=True, gc=False):
    """One event. `name` is None where no ``event`` field named it; `data` is "" where it had none."""

    name: str | None
    data: str


class Decoder:
    """One stream's decoder: `feed` it chunks in order, then `finish` it."""

    __slots__ = ("_after_cr", "_at_start", "_data", "_line", "_name")

    def __init__(self) -> None:
        self._line: list[bytes] = []
        self._after_cr = False
        self._at_start = True
        self._name: bytes | None = None
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> list[Event]:
        """Take the next bytes; give the events that they complete."""
        if not chunk:
            return []
        if self._after_cr:
            self._after_cr = False
            if chunk.startswith(b"\n"):
                return self.feed(chunk[1:])
        end = max(chunk.rfind(b"\n"), chunk.rfind(b"\r")) + 1
        if not end:
            self._line.append(chunk)
            return []
        self._after_cr = chunk.endswith(b"\r")
        lines = b"".join((*self._line, chunk[:end])).splitlines()
        self._line = [chunk[end:]] if end < len(chunk) else []
        return self._read(lines)

    def finish(self) -> Event | None:
        """End the stream; give the event that was never closed by a blank line, if there is one."""
        if self._line:
            self._read([b"".join(self._line)])
            self._line = []
        events = self._read([b""])
        return events[0] if events else None

    def _read(self, lines: list[bytes]) -> list[Event]:
        if self._at_start:
            self._at_start = False
            lines[0] = lines[0].removeprefix(_BOM)
        events = []
        for line in lines:
            if line.startswith(b"data:"):
                self._data.append(_value(line, 5))
            elif line.startswith(b"event:"):
                self._name = _value(line, 6)
            elif not line:
                if self._data or self._name:
                    events.append(Event(_text(self._name) if self._name else None, _text(b"\n".join(self._data))))
                    self._data = []
                self._name = None
            elif line == b"data":
                self._data.append(b"")
            elif line == b"event":
                self._name = None
        return events


def plain_until(body: bytes) -> int:
    """The end of the last whole frame, if all lines of a stream end in LF and no mark stands before them; else 0."""
    end = body.rfind(BLANK)
    return 0 if end < 0 or b"\r" in body or body.startswith(_BOM) else end + len(BLANK)


def frames(body: bytes, end: int, piece: int) -> Iterator[bytes]:
    """What stands before each blank line of a plain stream, in order, up to `end`; about `piece` bytes at a time.

    Fed to a `Decoder`, with `BLANK` behind each, they give the events of the stream, unless one begins with a byte
    order mark and is the first that the decoder sees.
    """
    start = 0
    while start < end:
        cut = body.rfind(BLANK, start, min(start + piece, end))
        if cut < 0:
            cut = body.find(BLANK, start + piece - 1, end)
        if cut < 0:  # one line end is left of three
            return
        yield from body[start:cut].split(BLANK)
        start = cut + len(BLANK)


def _value(line: bytes, start: int) -> bytes:
    """The field's value: at most one space after the colon is not part of it."""
    return line[start + 1 :] if line[start : start + 1] == b" " else line[start:]


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
