"""Two requests of one conversation side by side: what changed, and where the prefix that the provider caches ends.

Anthropic caches what a request begins with, in the order tools, system, messages, up to a block that is marked with
``cache_control``; a later request is read from there only as far as it is the same, to the letter and in the same order
of keys. The marks themselves are no part of it. Everything here takes cleaned JSON of any shape
(`sidestream.providers.jsons.clean`); nothing raises, and the work is bounded.
"""

from __future__ import annotations

import difflib
import enum
import itertools
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from sidestream.providers.jsons import text_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Json = dict[str, Any]

FIVE_MINUTES: Final = 300.0
ONE_HOUR: Final = 3600.0
LOOKED_BACK: Final = 20
"""Blocks before a mark at which the provider looks for something that it has cached."""
_AROUND: Final = 80
_MOST_LINES: Final = 800
"""Of each side, that are compared line by line."""
_LONGEST_LINE: Final = 2000
_CONTEXT: Final = 3
"""Lines around a difference."""
_CONTENT: Final = frozenset({"messages", "system", "tools"})
_MESSAGE_OPTIONS: Final = ("tool_choice", "thinking", "output_config", "speed")
"""Parameters with which the cached messages change, though they stand elsewhere."""


class Line(NamedTuple):
    """A line of a difference: `sign` is ``+``, ``-``, `` ``, or ``@`` for lines that were left out."""

    sign: str
    text: str


class Parameter(msgspec.Struct, frozen=True, kw_only=True):
    """A parameter that changed; None where it is not given. Values are JSON text."""

    name: str
    before: str | None
    now: str | None


class ToolChange(msgspec.Struct, frozen=True, kw_only=True):
    """A tool whose definition changed."""

    name: str
    lines: list[Line]


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """What is different in a request from the one before it. Marks for the cache do not count."""

    parameters: list[Parameter]
    system: list[Line]
    added_tools: list[str]
    removed_tools: list[str]
    changed_tools: list[ToolChange]
    reordered_tools: bool
    """Whether the tools that both have come in another order."""
    kept: int
    """Messages at the beginning that are the same."""
    removed: int
    """Messages behind those that are there no more, or not as they were."""
    added: list[str]
    """The roles of the messages behind those that are new."""
    messages: list[Line]
    """The difference of those, where it is not that some were added at the end."""

    @property
    def nothing(self) -> bool:
        """Whether both are the same."""
        tools = self.added_tools or self.removed_tools or self.changed_tools or self.reordered_tools
        return not (self.parameters or self.system or tools or self.removed or self.added)


class Mark(msgspec.Struct, frozen=True):
    """A ``cache_control``: at which block, and for how long."""

    path: str
    ttl: str = "5m"


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """The first place at which two prefixes differ."""

    path: str
    """As in ``messages[3].content[0].text``."""
    offset: int
    """Characters into that text, or into that value's JSON."""
    before: str
    now: str
    """What stands around it; "" on the side that has nothing there."""
    order: bool = False
    """Whether only the order of keys is another."""


class Prefix(msgspec.Struct, frozen=True, kw_only=True):
    """How far a request begins as the one before did."""

    same: int
    """Blocks (tools, system blocks, content blocks) that are the same, from the beginning."""
    before: int
    now: int
    """Blocks of each."""
    difference: Difference | None
    """None where one begins with all of the other."""
    marks_before: list[Mark]
    marks_now: list[Mark]
    options: list[str]
    """Parameters that changed and with which the cached messages change."""

    @property
    def moved(self) -> bool:
        """Whether the marks are not where they were."""
        return self.marks_before != self.marks_now


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """What else tells about the cache: facts of a call. Tokens are None where the provider did not tell any."""

    model: str | None
    started_at: float
    time_to_first_byte: float | None = None
    input: int | None = None
    cache_read: int | None = None
    cache_written: int | None = None


class Cause(enum.StrEnum):
    """Why (more of) a prefix was not read from the cache."""

    UNMARKED = "unmarked"
    UNMARKED_BEFORE = "unmarked_before"
    MODEL = "model"
    PREFIX = "prefix"
    OPTIONS = "options"
    EXPIRED = "expired"
    TOGETHER = "together"
    NOTHING_CACHED = "nothing_cached"
    FAR = "far"
    UNKNOWN = "unknown"

    @property
    def words(self) -> str:
        """One sentence."""
        return _CAUSES[self]


_CAUSES: Final = {
    Cause.UNMARKED: "The request marks nothing with cache_control, so nothing is read from the cache or written to it.",
    Cause.UNMARKED_BEFORE: "The turn before marked nothing with cache_control, so it left nothing in the cache.",
    Cause.MODEL: "It went to another model than the turn before; each model has its own cache.",
    Cause.PREFIX: "It does not begin as the turn before did; only what lies before the first difference can be read.",
    Cause.OPTIONS: "Parameters changed with which cached messages are no longer valid; tools and system are.",
    Cause.EXPIRED: "More time has passed since the turn before than the cache is kept for.",
    Cause.TOGETHER: "It began before the answer to the turn before did; the cache can be read only from then on.",
    Cause.NOTHING_CACHED: "The turn before had nothing cached: its prefix may be below the model's minimum length.",
    Cause.FAR: f"More than {LOOKED_BACK} blocks were added since the last mark; the provider does not look further.",
    Cause.UNKNOWN: "The prefix is the same and should have been there; the provider may have dropped it.",
}


def changes(before: Json, now: Json) -> Changes:
    """What is different in `now`."""
    tools_before, tools_now = _tools(before), _tools(now)
    shared = [name for name in tools_now if name in tools_before]
    old, new = _messages(before), _messages(now)
    kept = _same([text for _, text in old], [text for _, text in new])
    return Changes(
        parameters=[
            Parameter(name=name, before=_json(before, name), now=_json(now, name))
            for name in sorted({*before, *now} - _CONTENT)
            if _json(before, name) != _json(now, name)
        ],
        system=_differences(_system_lines(before), _system_lines(now)),
        added_tools=[name for name in tools_now if name not in tools_before],
        removed_tools=[name for name in tools_before if name not in tools_now],
        changed_tools=[
            ToolChange(name=name, lines=_differences(_pretty(tools_before[name]), _pretty(tools_now[name])))
            for name in shared
            if text_of(tools_before[name]) != text_of(tools_now[name])
        ],
        reordered_tools=shared != [name for name in tools_before if name in tools_now],
        kept=kept,
        removed=len(old) - kept,
        added=[_role(message) for message, _ in new[kept:]],
        messages=_differences(_spoken(old[kept:]), _spoken(new[kept:])) if len(old) > kept else [],
    )


def prefix(before: Json, now: Json) -> Prefix:
    """How far `now` begins as `before` did."""
    old, new = list(_units(before)), list(_units(now))
    same, difference = _parted(old, new)
    return Prefix(
        same=same,
        before=len(old),
        now=len(new),
        difference=difference,
        marks_before=_marks(before, old),
        marks_now=_marks(now, new),
        options=[name for name in _MESSAGE_OPTIONS if _json(before, name) != _json(now, name)],
    )


def causes(found: Prefix, before: Sent, now: Sent) -> list[Cause]:
    """Why nothing, or not all that was the same, was read from the cache; empty where all was, or nothing is known."""
    if now.cache_read is None:
        return []
    if not found.marks_now:
        return [Cause.UNMARKED]
    known = [
        cause
        for cause, holds in (
            (Cause.MODEL, before.model != now.model),
            (Cause.PREFIX, found.difference is not None),
            (Cause.OPTIONS, bool(found.options)),
        )
        if holds
    ]
    if now.cache_read:
        return known
    cached = bool(before.cache_read or before.cache_written)
    first_byte = before.started_at + (before.time_to_first_byte or 0.0)
    known += [
        cause
        for cause, holds in (
            (Cause.UNMARKED_BEFORE, not found.marks_before),
            (Cause.NOTHING_CACHED, bool(found.marks_before) and before.cache_read is not None and not cached),
            (Cause.EXPIRED, cached and now.started_at - before.started_at > _kept_for(found.marks_before)),
            (Cause.TOGETHER, now.started_at < first_byte),
            (Cause.FAR, _is_far(found)),
        )
        if holds
    ]
    return known or [Cause.UNKNOWN]


class _Unit(NamedTuple):
    """What is cached or not as a whole: a tool, a block of the system prompt, a block of a message."""

    section: str
    message: int
    role: str
    path: str
    value: Any
    text: str
    mark: Any


def _units(request: Json) -> Iterator[_Unit]:
    for place, tool in enumerate(_list(request.get("tools"))):
        yield _unit("tools", 0, "", f"tools[{place}]", tool)
    for path, block in _blocks(request.get("system"), "system"):
        yield _unit("system", 0, "", path, block)
    for number, message in enumerate(_list(request.get("messages"))):
        content = message.get("content") if isinstance(message, dict) else message
        for path, block in _blocks(content, f"messages[{number}].content"):
            yield _unit("messages", number, _role(message), path, block)


def _unit(section: str, number: int, role: str, path: str, value: Any) -> _Unit:
    mark = value.get("cache_control") if isinstance(value, dict) else None
    bare = _unmarked(value)
    return _Unit(section, number, role, path, bare, text_of(bare), mark)


def _blocks(content: Any, path: str) -> Iterator[tuple[str, Any]]:
    """A content's blocks, each with its path; a string stands for a text block."""
    if content is None:
        return
    if not isinstance(content, list):
        yield path, {"type": "text", "text": content} if isinstance(content, str) else content
        return
    for place, block in enumerate(content):
        yield f"{path}[{place}]", block


def _unmarked(value: Any) -> Any:
    """A block without its marks, nor those of the blocks in it."""
    if not isinstance(value, dict):
        return value
    bare = {key: item for key, item in value.items() if key != "cache_control"}
    if isinstance(content := bare.get("content"), list):
        bare["content"] = [
            {key: item for key, item in part.items() if key != "cache_control"} if isinstance(part, dict) else part
            for part in content
        ]
    return bare


def _parted(old: Sequence[_Unit], new: Sequence[_Unit]) -> tuple[int, Difference | None]:
    """How many blocks are the same, and what is not in the first that is another."""
    for same, (before, now) in enumerate(zip(old, new, strict=False)):
        place = _moved(before, now)
        if place is not None:
            return same, place
        if before.text != now.text:
            return same, _within(before, now)
    same = min(len(old), len(new))
    longer = old if len(old) > same else new
    if len(old) != len(new) and longer[same].section != "messages":
        unit, shown = longer[same], _around(longer[same].text, 0)
        removed = longer is old
        return same, Difference(path=unit.path, offset=0, before=shown if removed else "", now="" if removed else shown)
    return same, None


def _moved(before: _Unit, now: _Unit) -> Difference | None:
    """Where two blocks do not stand at the same place: something was added or removed before the end of a list."""
    if (before.section, before.message, before.role) == (now.section, now.message, now.role):
        return None
    if (before.section, before.message) == (now.section, now.message):
        path = f"messages[{now.message}].role"
        return Difference(path=path, offset=0, before=_around(before.role, 0), now=_around(now.role, 0))
    order = ("tools", "system", "messages")
    added = (order.index(now.section), now.message) < (order.index(before.section), before.message)
    path = now.path if added else before.path
    return Difference(
        path=path,
        offset=0,
        before="" if added else _around(before.text, 0),
        now=_around(now.text, 0) if added else "",
    )


def _within(before: _Unit, now: _Unit) -> Difference:
    """The innermost value that differs."""
    path, old, new = now.path, before.value, now.value
    while True:
        step = _step(old, new)
        if step is None:
            break
        name, old, new = step
        path = path if name == ".text" and path.endswith(("content", "system")) else f"{path}{name}"
    if isinstance(old, str) and isinstance(new, str):
        old_text, new_text = old, new
    else:
        old_text, new_text = text_of(old), text_of(new)
    offset = _agreed(old_text, new_text)
    return Difference(
        path=path,
        offset=offset,
        before=_around(old_text, offset),
        now=_around(new_text, offset),
        order=old == new and old_text != new_text and _sorted_text(old) == _sorted_text(new),
    )


def _step(old: Any, new: Any) -> tuple[str, Any, Any] | None:
    """The first entry of two containers that differs, if both have it at the same place."""
    if isinstance(old, dict) and isinstance(new, dict):
        for (old_key, old_item), (new_key, new_item) in zip(old.items(), new.items(), strict=False):
            if old_key != new_key:
                return None
            if text_of(old_item) != text_of(new_item):
                return f".{new_key}", old_item, new_item
    elif isinstance(old, list) and isinstance(new, list):
        for place, (old_item, new_item) in enumerate(zip(old, new, strict=False)):
            if text_of(old_item) != text_of(new_item):
                return f"[{place}]", old_item, new_item
    return None


def _marks(request: Json, units: Sequence[_Unit]) -> list[Mark]:
    """Where the cache is asked for; a mark of the whole request stands for its end."""
    found = [Mark(unit.path, _ttl(unit.mark)) for unit in units if unit.mark is not None]
    whole = request.get("cache_control")
    return [*found, Mark("cache_control", _ttl(whole))] if whole is not None else found


def _ttl(mark: Any) -> str:
    ttl = mark.get("ttl") if isinstance(mark, dict) else None
    return "1h" if ttl == "1h" else "5m"


def _kept_for(marks: Sequence[Mark]) -> float:
    return ONE_HOUR if any(mark.ttl == "1h" for mark in marks) else FIVE_MINUTES


def _is_far(found: Prefix) -> bool:
    return found.difference is None and found.now - found.before > LOOKED_BACK


def _tools(request: Json) -> dict[str, Any]:
    """The tools without their marks, by name; those of one name are numbered."""
    tools: dict[str, Any] = {}
    for place, tool in enumerate(_list(request.get("tools"))):
        name = tool.get("name") or tool.get("type") if isinstance(tool, dict) else None
        name = name if isinstance(name, str) else f"tools[{place}]"
        tools[name if name not in tools else f"{name} ({place})"] = _unmarked(tool)
    return tools


def _messages(request: Json) -> list[tuple[Any, str]]:
    """The messages without marks, and what each is compared by."""
    found = []
    for message in _list(request.get("messages")):
        if not isinstance(message, dict):
            found.append((message, text_of(message)))
            continue
        content = [_unmarked(block) for _, block in _blocks(message.get("content"), "")]
        found.append(({**message, "content": content}, text_of({**message, "content": content})))
    return found


def _role(message: Any) -> str:
    role = message.get("role") if isinstance(message, dict) else None
    return role if isinstance(role, str) else ""


def _spoken(messages: Sequence[tuple[Any, str]]) -> list[str]:
    """Messages as lines."""
    lines: list[str] = []
    for message, _ in messages:
        lines.append(f"[{_role(message) or 'message'}]")
        for block in _list(message.get("content") if isinstance(message, dict) else [message]):
            lines += _block_lines(block)
    return lines


def _block_lines(block: Any) -> list[str]:
    if isinstance(block, dict) and block.get("type") == "text" and isinstance(block.get("text"), str):
        return str(block["text"]).split("\n")
    return _pretty(block)


def _system_lines(request: Json) -> list[str]:
    return [line for _, block in _blocks(request.get("system"), "") for line in _block_lines(_unmarked(block))]


def _pretty(value: Any) -> list[str]:
    return msgspec.json.format(text_of(value), indent=2).split("\n")


def _differences(before: list[str], now: list[str]) -> list[Line]:
    """A unified difference; none where both are the same. What is too long is told as removed and added."""
    if before == now:
        return []
    first = _same(before, now)
    last = _same(before[first:][::-1], now[first:][::-1])
    old, new = before[first : len(before) - last], now[first : len(now) - last]
    if max(len(old), len(new)) > _MOST_LINES:
        return [*_signed("-", old), *_signed("+", new)]
    start = max(0, first - _CONTEXT)
    told = difflib.unified_diff(
        before[start : first + len(old) + _CONTEXT], now[start : first + len(new) + _CONTEXT], n=_CONTEXT, lineterm=""
    )
    return [
        Line("@", "…") if line.startswith("@@") else Line(line[:1], _short(line[1:]))
        for line in itertools.islice(told, 2, None)
    ]


def _signed(sign: str, lines: Sequence[str]) -> list[Line]:
    shown = [Line(sign, _short(line)) for line in lines[:_MOST_LINES]]
    rest = len(lines) - len(shown)
    return [*shown, Line("@", f"… {rest} lines more")] if rest else shown


def _short(line: str) -> str:
    rest = len(line) - _LONGEST_LINE
    return f"{line[:_LONGEST_LINE]}… ({rest} characters more)" if rest > 0 else line


def _same(before: Sequence[Any], now: Sequence[Any]) -> int:
    """How many are the same from the beginning."""
    pairs = enumerate(zip(before, now, strict=False))
    return next((place for place, (old, new) in pairs if old != new), min(len(before), len(now)))


def _agreed(before: str, now: str) -> int:
    """How many characters are the same from the beginning."""
    low, high = 0, min(len(before), len(now))
    while low < high:
        middle = (low + high + 1) // 2
        if before[low:middle] == now[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _around(text: str, offset: int) -> str:
    start, end = max(0, offset - _AROUND), offset + _AROUND
    return f"{'…' if start else ''}{text[start:end]}{'…' if end < len(text) else ''}"


def _sorted_text(value: Any) -> bytes:
    return msgspec.json.encode(value, order="deterministic")


def _json(request: Json, name: str) -> str | None:
    return text_of(request[name]) if name in request else None


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
