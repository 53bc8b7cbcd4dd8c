"""The words by which messages are found: text, names of tools, and all that is in their arguments.

What is taken out of an index has to be the very text that was put in, so the same message always gives the same text.
Where a change here changes that, `RULES` changes with it, and stores make their index anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

RULES: Final = 1
"""The version of what is below."""
LONGEST: Final = 200_000
"""Characters of a message that can be found; what is behind them cannot."""


def searchable(content: Any) -> str:
    """The words of a message, or of a list of them (a system prompt), on lines; "" for JSON that is neither."""
    messages = content if isinstance(content, list) else [content]
    if not all(isinstance(message, dict) and isinstance(message.get("role"), str) for message in messages):
        return ""
    return "\n".join(text for message in messages for text in _texts(message) if text)[:LONGEST]


def _texts(message: dict[str, Any]) -> Iterator[str]:
    if isinstance(name := message.get("tool_name"), str):
        yield name
    yield from _content(message.get("content"))
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else []:
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            yield from _leaves(function.get("name"))
            yield from _leaves(function.get("arguments"))


def _content(content: Any) -> Iterator[str]:
    """A string, or the texts of parts; images have none."""
    if isinstance(content, str):
        yield content
    for part in content if isinstance(content, list) else []:
        if isinstance(part, dict) and isinstance(text := part.get("text"), str):
            yield text


def _leaves(value: Any) -> Iterator[str]:
    """All names, strings and numbers, in order; however deep they are."""
    waiting = [value]
    while waiting:
        match waiting.pop():
            case dict() as members:
                waiting += [each for pair in reversed(members.items()) for each in reversed(pair)]
            case list() as items:
                waiting += reversed(items)
            case str() as text:
                yield text
            case int() | float() as number if not isinstance(number, bool):
                yield str(number)
