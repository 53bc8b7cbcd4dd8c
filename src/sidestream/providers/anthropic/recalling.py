"""Requests read part by part, so that what came with an earlier one is not read again.

An agent sends its system prompt, its tools and all of its history with every call, and most of it is the same to the
letter each time. What is found here is what reading the whole would find; a request of which that is not certain is
left to those who do that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from sidestream.providers.anthropic.converter import Conversion, Read, system_of
from sidestream.providers.jsons import MAX_DEPTH, MOST_VALUES, is_flat, values_in
from sidestream.providers.recall import Recall

if TYPE_CHECKING:
    from collections.abc import Callable

Json = dict[str, Any]

MOST_NESTED: Final = MAX_DEPTH - 50
"""Containers inside one another, from which on the whole is looked at: in a trace there are some more around them."""
_FEW: Final = 100
"""So many containers are no reason to look how they are nested."""
_BEGIN: Final = (b"[", b"{")

_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_items = msgspec.json.Decoder(list[msgspec.Raw]).decode
_value = msgspec.json.Decoder().decode

_MESSAGES: Final[Recall[Read]] = Recall()
_PARTS: Final[Recall[Any]] = Recall()
"""Tool definitions, and system prompts as trace messages."""


class UnusualError(Exception):
    """The request has to be read as a whole."""


def read(body: bytes) -> tuple[Json, Conversion]:
    """A request's fields, of its messages only the first, and its conversion; all as `clean` would leave it.

    `UnusualError` where it is not what requests are. What is given must not be changed.
    """
    try:
        if values_in(body) > MOST_VALUES:
            raise UnusualError
        return _read(_fields(body))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise UnusualError from None


def _read(fields: dict[str, msgspec.Raw]) -> tuple[Json, Conversion]:
    conversion = Conversion()
    request: Json = {}
    for name, raw in fields.items():
        data = bytes(raw)
        if name == "messages":
            request[name] = _history(data, conversion)
        elif name == "system":
            conversion.system = _recalled(b"system", data, lambda data: system_of(_parsed(data)))
        elif name == "tools":
            request[name] = _recalled(b"tools", data, _parsed)
        else:
            request[name] = _parsed(data)
    return request, conversion


def _history(data: bytes, conversion: Conversion) -> list[Any]:
    """Add the messages to the conversion; the first one."""
    if not data.startswith(b"["):
        raise UnusualError
    messages = [bytes(each) for each in _items(data)]
    for message in messages:
        key = _MESSAGES.key(message)
        known = _MESSAGES.get(key)
        if known is None or not conversion.recall(known):
            _MESSAGES.keep(key, conversion.add_message(_parsed(message)))
    return [_parsed(message) for message in messages[:1]]


def _recalled(kind: bytes, data: bytes, make: Callable[[bytes], Any]) -> Any:
    key = kind + _PARTS.key(data)
    found = _PARTS.get(key)
    if found is None:
        found = make(data)
        _PARTS.keep(key, found)
    return found


def _parsed(data: bytes) -> Any:
    """A value that `clean` would leave as it is: this parser takes neither halves of characters nor ``NaN``."""
    value = _value(data)
    if sum(map(data.count, _BEGIN)) > _FEW and not is_flat(value, MOST_NESTED):
        raise UnusualError
    return value
