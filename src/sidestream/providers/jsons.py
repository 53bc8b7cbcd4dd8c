"""JSON as it comes, not as it should: reading never raises, and what was read can be made safe for every sink.

`parse` is msgspec, and the standard library where msgspec refuses (lone surrogates, ``NaN``, ``1e400``). `parse_cut`
reads what stops in the middle. `clean` takes out of a value what storage and strict parsers choke on.
"""

from __future__ import annotations

import json
import math
from typing import Any, Final

import msgspec

MAX_DEPTH: Final = 200
"""Containers inside containers that `clean` keeps; encoders and decoders give up somewhere near 1000."""
MOST_VALUES: Final = 200_000
"""Values that one body may hold to be read; each takes a few hundred bytes of memory on its way to a trace. A run of
hundreds of turns has some ten thousand."""
TOO_DEEP: Final = "[nested too deeply]"
"""What stands in `clean`'s result for a container beyond `MAX_DEPTH`."""


_BYTES_OF_VALUE: Final = 100
_BEGIN: Final = (b"[", b"{")
_STRUCTURE: Final = (*_BEGIN, b",")


class Budget:
    """How many values may still be kept of one body; shared by all that keep some."""

    def __init__(self, values: int = MOST_VALUES) -> None:
        self._left = values

    def allows(self, data: bytes | str) -> bool:
        """Charge the values of JSON text; whether there was room for them."""
        self._left -= values_in(data)
        return self._left >= 0


class Unreadable:
    """What `parse` gives for something that is no JSON (None is JSON: ``null``)."""

    def __repr__(self) -> str:
        return "UNREADABLE"

    def __bool__(self) -> bool:
        return False


UNREADABLE: Final = Unreadable()


def _integer(digits: str) -> int | str:
    """An integer beyond Python's conversion limit (4300 digits) stays text."""
    try:
        return int(digits)
    except ValueError:
        return digits


_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
DECODER: Final = json.JSONDecoder(parse_int=_integer)


def values_in(data: bytes | str) -> int:
    """About how many values and containers JSON text holds, without building any: its ``[``, ``{`` and ``,``.

    Those inside strings count only where there are so few that it does not matter: at most `MOST_VALUES`. Linear, for
    text of any kind, in a handful of passes.
    """
    if isinstance(data, str):
        data = data.encode("utf-8", "surrogatepass")
    rough = sum(map(data.count, _STRUCTURE))
    if rough <= MOST_VALUES:
        return rough
    data = data.replace(rb"\\", b"").replace(rb"\"", b"")  # what quotes are left begin or end a string
    strings = data.count(b'"') // 2
    if strings > 2 * MOST_VALUES:  # each is a value, or the key of one
        return strings // 2
    bare = b"".join(data.split(b'"')[::2])
    return sum(map(bare.count, _STRUCTURE))


def weight_of(data: bytes, *, but: int = 0) -> int:
    """About how many bytes of memory is taken by what is read out of JSON; `but` values of it are not kept."""
    return len(data) + _BYTES_OF_VALUE * max(values_in(data) - but, 0)


def parse(data: bytes | str) -> Any:
    """Read JSON; `UNREADABLE` where it is none, or nested beyond what a parser takes. Invalid UTF-8 is replaced."""
    try:
        return _decode(data)
    except RecursionError:
        return UNREADABLE
    except (msgspec.DecodeError, ValueError):
        text = data.decode("utf-8-sig", "replace") if isinstance(data, bytes) else data.removeprefix("\ufeff")
    try:
        return DECODER.decode(text)
    except (ValueError, RecursionError):
        return UNREADABLE


def parse_clean(data: bytes) -> Any:
    """What `clean` makes of what `parse` gives, and mostly without it.

    The usual parser takes neither halves of characters nor ``NaN``, so that all there is to look at is how deep
    containers are nested; of a few not even that.
    """
    try:
        value = _decode(data)
    except (RecursionError, msgspec.DecodeError, ValueError):
        return clean(parse(data))
    return value if sum(map(data.count, _BEGIN)) < MAX_DEPTH or is_flat(value, MAX_DEPTH) else clean(value)


def text_of(value: Any) -> str:
    """A cleaned value as compact JSON text."""
    return _encode(value).decode()


def clean_text(text: str) -> str:
    """Make a string encodable: halves of a surrogate pair side by side become their character, lone ones U+FFFD."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def clean(value: Any) -> Any:
    """A copy of a parsed value that every sink takes.

    Strings (keys too) as `clean_text` leaves them; NaN and the infinities as the strings ``NaN``, ``Infinity`` and
    ``-Infinity``, so that they are not lost; containers nested deeper than `MAX_DEPTH` replaced by `TOO_DEEP`. Linear,
    and with no deeper recursion than these.
    """
    return _copy(value, 0)


def is_flat(value: Any, most: int) -> bool:
    """Whether a value has at most so many containers inside one another."""
    level = [value] if type(value) in _CONTAINERS else []
    for _ in range(most):
        if not level:
            return True
        items = (each.values() if type(each) is dict else each for each in level)
        level = [item for each in items for item in each if type(item) in _CONTAINERS]
    return not level


_CONTAINERS: Final = frozenset({dict, list})
_SAFE: Final = frozenset({int, bool, type(None)})


def _copy(item: Any, depth: int) -> Any:
    """The value made safe; `depth` containers are around it."""
    kind = type(item)
    if kind is str:
        return clean_text(item)
    if kind is dict or kind is list:
        if depth >= MAX_DEPTH:
            return TOO_DEEP
        return _copied_object(item, depth + 1) if kind is dict else _copied_array(item, depth + 1)
    if kind is float and not math.isfinite(item):
        return "NaN" if math.isnan(item) else "Infinity" if item > 0 else "-Infinity"
    return item


def _copied_object(items: dict[str, Any], depth: int) -> dict[str, Any]:
    return {
        key if key.isascii() else clean_text(key): item
        if (kind := type(item)) in _SAFE or (kind is str and item.isascii())  # most are, and need no call
        else _copy(item, depth)
        for key, item in items.items()
    }


def _copied_array(items: list[Any], depth: int) -> list[Any]:
    return [
        item if (kind := type(item)) in _SAFE or (kind is str and item.isascii()) else _copy(item, depth)
        for item in items
    ]
