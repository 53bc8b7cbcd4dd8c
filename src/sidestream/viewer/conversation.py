"""What turns added, as a reader wants to see it: a tool call together with its result, arguments as a tree, pictures.

Pure: turns in (`sidestream.store.shapes.TurnMessages`), plain values for the templates out. Messages are of whatever
shape an agent, a model or a client made them; what has an unknown one is shown as its JSON, and nothing raises.
"""

from __future__ import annotations

import base64
import binascii
import collections
import itertools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sidestream.providers.jsons import text_of
from sidestream.traces.conversation import Rule

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sidestream.store.shapes import TurnMessages, TurnSummary

Json = dict[str, Any]

LONGEST: Final = 20_000
"""Characters of one text on a page with many turns."""
HEAD_LINES: Final = 24
HEAD: Final = 2400
"""Lines and characters of a text that are shown before it is folded."""
_SHORT: Final = 160
_DEEPEST: Final = 12
_MOST_ENTRIES: Final = 200
_MOST_NODES: Final = 4000
_SMALL_PICTURE: Final = 24_000
_PICTURE: Final = re.compile(r"data:(image/(?:png|jpeg|gif|webp));base64,([A-Za-z0-9+/=]+)")
_MOST_NAMED: Final = 3

RULES: Final[dict[str, str]] = {
    Rule.FIRST: "A new run: it goes on from nothing that was seen here.",
    Rule.REPEATED: "The same request as one that was answered before: a run of its own.",
    Rule.EXTENDS_TIP: "It goes on from the latest answer.",
    Rule.EXTENDS_EARLIER: "It goes on from an earlier answer, which another turn has continued: a branch.",
    Rule.CONTINUES_THREAD: "The provider keeps the history; the request names the answer that it goes on from.",
    Rule.CONTINUES_CUT: "It goes on from an answer that was cut off.",
    Rule.RETRY_ANNOUNCED: "The same request again; the client says that it is a retry.",
    Rule.RETRY_INCOMPLETE: "The same request again; the earlier one was not answered whole.",
    Rule.HISTORY_REWRITTEN: "It goes on with its history; older results of tools were cleared or changed.",
    Rule.HISTORY_TRUNCATED: "Its session goes on, with only the latest messages of its history.",
    Rule.HISTORY_COMPACTED: "It goes on from what the provider has made of its history.",
    Rule.HISTORY_SUMMARIZED: "Its session goes on, with a summary in place of its history.",
    Rule.CHILD_OF_SESSION: "A sub-agent: its headers name the session that it works for.",
    Rule.CHILD_OF_CALL: "A sub-agent: it was asked what a tool call of another run passes on.",
    "pushed": "Not captured here: it was pushed, or imported.",
    "appended": "Not captured here: it was appended to a run that was pushed.",
}
"""Why a turn is where it is."""


@dataclass(frozen=True, kw_only=True)
class Text:
    """A text in two pieces: the second is folded. `rest` counts the characters that are left out."""

    head: str
    tail: str = ""
    rest: int = 0
    kind: str = "text"

    @property
    def whole(self) -> str:
        """Both."""
        return self.head + self.tail

    @property
    def lines(self) -> int:
        """Of the folded piece."""
        return self.tail.count("\n") + 1


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture; `place` is its number among the turn's."""

    url: str
    media_type: str
    size: int
    place: int
    kind: str = "picture"

    @property
    def small(self) -> bool:
        """Whether it can stand in the page itself."""
        return len(self.url) <= _SMALL_PICTURE


@dataclass(frozen=True, kw_only=True)
class Node:
    """A value as a tree: ``object`` and ``list`` have `entries`, the others `text`.

    ``text`` is a short string, ``block`` one of many lines or characters, ``plain`` a number, true, false or null,
    ``json`` what is nested too deeply, as JSON text.
    """

    kind: str
    text: Text = Text(head="")
    entries: tuple[tuple[str, Node], ...] = ()
    hidden: int = 0
    """Entries that are left out."""


@dataclass(frozen=True, kw_only=True)
class Words:
    """What somebody said. `kind` is ``user``, ``assistant``, ``thinking``, ``system``; ``other`` for other roles."""

    kind: str
    role: str
    parts: tuple[Text | Picture, ...]
    citations: Node | None = None

    @property
    def size(self) -> int:
        """Characters."""
        return sum(len(part.whole) + part.rest for part in self.parts if isinstance(part, Text))

    @property
    def empty(self) -> bool:
        """Whether there is nothing in it."""
        return all(isinstance(part, Text) and not part.head for part in self.parts)


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of a tool call."""

    name: str
    identity: str
    parts: tuple[Text | Picture, ...]
    error: bool
    turn: TurnSummary
    """The turn that brought it."""
    elsewhere: bool = False
    """Whether that is another turn than that of the call."""
    kind: str = "result"


@dataclass(frozen=True, kw_only=True)
class ToolUse:
    """A tool call."""

    name: str
    identity: str
    arguments: Node
    gist: str
    """The arguments in a few words."""
    server: str
    """Who runs it, if not the client; else ""."""
    result: Result | None
    kind: str = "call"


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A result that is shown with its call."""

    name: str
    error: bool
    turn: TurnSummary
    """The turn that called."""
    kind: str = "reference"


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something that went wrong, in a title and perhaps a detail."""

    title: str
    detail: str = ""


Item = Words | ToolUse | Result | Reference


@dataclass(frozen=True, kw_only=True)
class TurnView:
    """A turn as the template `_turn.html` shows it."""

    turn: TurnSummary
    why: str
    """By which rule it is there, in words."""
    retry_of: TurnSummary | None
    """The turn whose repetition it is, if that is at hand."""
    system: tuple[Words, ...]
    asked: tuple[Item, ...]
    answer: tuple[Item, ...]
    problems: tuple[Problem, ...]
    changed: tuple[str, ...]
    parameters: Node | None
    extras: Node | None


def views(turns: Sequence[TurnMessages], *, longest: int | None = LONGEST) -> list[TurnView]:
    """The turns of a run, in order. Texts are cut to `longest` characters, which is said; None for none.

    A result is shown with its call if both are in `turns`.
    """
    pairs = _Pairs(turns)
    summaries = {each.turn.id: each.turn for each in turns}
    return [_view(number, each, pairs, summaries, longest) for number, each in enumerate(turns)]


def pictures(turn: TurnMessages) -> list[tuple[str, bytes]]:
    """Media type and bytes of a turn's pictures, in the order of `Picture.place`; b"" for one that is damaged."""
    found = (_picture(part) for message in turn.messages for part in _parts(message.get("content")))
    return [(media_type, _bytes(data)) for media_type, data in filter(None, found)]


def tree(value: Any, *, longest: int | None = LONGEST) -> Node:
    """Any cleaned JSON value as a tree; beyond a few thousand values the rest is JSON text."""
    return _tree(value, longest, 0, _Budget(_MOST_NODES))


def _tree(value: Any, longest: int | None, depth: int, budget: _Budget) -> Node:
    if isinstance(value, str):
        kind = "block" if len(value) > _SHORT or "\n" in value else "text"
        return Node(kind=kind, text=folded(value, longest))
    if not isinstance(value, dict | list):
        return Node(kind="plain", text=Text(head=text_of(value)))
    if depth >= _DEEPEST or not budget.allows(len(value)):
        return Node(kind="json", text=folded(text_of(value), longest))
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    shown = [
        (str(name), _tree(item, longest, depth + 1, budget)) for name, item in itertools.islice(pairs, _MOST_ENTRIES)
    ]
    return Node(
        kind="object" if isinstance(value, dict) else "list",
        entries=tuple(shown),
        hidden=len(value) - len(shown),
    )


class _Budget:
    """How many values may still be shown one by one."""

    def __init__(self, values: int) -> None:
        self._left = values

    def allows(self, values: int) -> bool:
        """Charge so many; whether there was room for them."""
        self._left -= min(values, _MOST_ENTRIES)
        return self._left >= 0


def _bytes(data: str) -> bytes:
    try:
        return base64.b64decode(data)
    except (binascii.Error, ValueError):
        return b""


_Place = tuple[int, int, int]
"""Of a call: its turn's place, its message's place in that, its place in that."""


class _Pairs:
    """Which result belongs to which call. Ids can repeat: a result belongs to the earliest call still without one."""

    def __init__(self, turns: Sequence[TurnMessages]) -> None:
        self.results: dict[_Place, tuple[int, int]] = {}
        self.calls: dict[tuple[int, int], _Place] = {}
        self.turns = turns
        self._open: dict[str, collections.deque[_Place]] = {}
        self._known: dict[str, tuple[_Place, Any]] = {}
        for number, each in enumerate(turns):
            for place, message in enumerate(each.messages):
                self._take(number, place, message)

    def _take(self, number: int, place: int, message: Json) -> None:
        for nth, call in enumerate(_calls(message)):
            if identity := _string(call.get("id")):
                self._open.setdefault(identity, collections.deque()).append((number, place, nth))
        identity = _string(message.get("tool_call_id"))
        if message.get("role") != "tool" or not identity:
            return
        if waiting := self._open.get(identity):
            called = waiting.popleft()
            self.results[called] = number, place
            self.calls[number, place] = called
            self._known[identity] = called, message.get("content")
        elif identity in self._known and self._known[identity][1] == message.get("content"):
            self.calls[number, place] = self._known[identity][0]  # sent once more, by a retry


def _view(
    number: int, each: TurnMessages, pairs: _Pairs, summaries: dict[str, TurnSummary], longest: int | None
) -> TurnView:
    turn, facts = each.turn, each.facts
    counter = _Counter()
    items = [_items(number, place, message, pairs, counter, longest) for place, message in enumerate(each.messages)]
    answer = len(items) - min(max(each.answered, 0), len(items))
    parameters, extras = facts.get("parameters"), facts.get("extras")
    return TurnView(
        turn=turn,
        why=RULES.get(turn.rule, turn.rule),
        retry_of=summaries.get(turn.retry_of) if turn.retry_of else None,
        system=tuple(_words(message, _Counter(), longest) for message in each.system),
        asked=tuple(item for some in items[:answer] for item in some),
        answer=tuple(item for some in items[answer:] for item in some),
        problems=tuple(_problems(each)),
        changed=tuple(each.changed),
        parameters=tree(parameters, longest=longest) if parameters else None,
        extras=tree(extras, longest=longest) if extras else None,
    )


class _Counter:
    """Counts the pictures of a turn."""

    def __init__(self) -> None:
        self.next = 0


def _items(
    number: int, place: int, message: Json, pairs: _Pairs, counter: _Counter, longest: int | None
) -> Iterator[Item]:
    turn = pairs.turns[number].turn
    if message.get("role") == "tool":
        called = pairs.calls.get((number, place))
        result = _result(message, turn, counter, longest)
        if called is None:
            yield result
        elif called[0] != number:
            name = _call_name(pairs.turns[called[0]].messages[called[1]], called[2])
            yield Reference(name=name, error=result.error, turn=pairs.turns[called[0]].turn)
        return
    words = _words(message, counter, longest)
    calls = _calls(message)
    if not calls or not words.empty:
        yield words
    for nth, call in enumerate(calls):
        yield _tool_use(call, _its_result((number, place, nth), pairs, longest), longest)


def _its_result(call: _Place, pairs: _Pairs, longest: int | None) -> Result | None:
    found = pairs.results.get(call)
    if found is None:
        return None
    number, place = found
    counter = _Counter()
    before = pairs.turns[number].messages[:place]
    counter.next = sum(_picture(part) is not None for message in before for part in _parts(message.get("content")))
    turn = pairs.turns[number].turn
    return _result(pairs.turns[number].messages[place], turn, counter, longest, elsewhere=number != call[0])


def _words(message: Json, counter: _Counter, longest: int | None) -> Words:
    role = _string(message.get("role"))
    kind = role if role in {"user", "assistant", "thinking", "system"} else "other"
    citations = message.get("citations")
    return Words(
        kind=kind,
        role=role or "message",
        parts=_shown(message.get("content"), counter, longest),
        citations=tree(citations, longest=longest) if citations else None,
    )


def _result(
    message: Json, turn: TurnSummary, counter: _Counter, longest: int | None, *, elsewhere: bool = False
) -> Result:
    metadata = message.get("metadata")
    return Result(
        name=_string(message.get("tool_name")).removesuffix("(error)").rstrip(),
        identity=_string(message.get("tool_call_id")),
        parts=_shown(message.get("content"), counter, longest),
        error=isinstance(metadata, dict) and metadata.get("is_error") is True,
        turn=turn,
        elsewhere=elsewhere,
    )


def _tool_use(call: Json, result: Result | None, longest: int | None) -> ToolUse:
    function, metadata = call.get("function"), call.get("metadata")
    function = function if isinstance(function, dict) else {}
    arguments = function.get("arguments")
    server = metadata.get("server") if isinstance(metadata, dict) else None
    return ToolUse(
        name=_string(function.get("name")),
        identity=_string(call.get("id")),
        arguments=tree(arguments, longest=longest),
        gist=_gist(arguments),
        server=_string(server),
        result=result,
    )


def _gist(arguments: Any) -> str:
    """``path: "a.py", lines: 20``."""
    if not isinstance(arguments, dict):
        return _clipped(text_of(arguments), 100) if arguments is not None else ""
    named = [f"{name}: {_clipped(_one_line(value), 60)}" for name, value in list(arguments.items())[:_MOST_NAMED]]
    return ", ".join([*named, *(["…"] if len(arguments) > _MOST_NAMED else [])])


def _one_line(value: Any) -> str:
    if isinstance(value, str):
        return " ".join(value[:400].split())
    if isinstance(value, dict | list):
        return ("{…}" if isinstance(value, dict) else "[…]") if value else text_of(value)
    return text_of(value)


def _clipped(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _call_name(message: Json, nth: int) -> str:
    function = _calls(message)[nth].get("function")
    return _string(function.get("name")) if isinstance(function, dict) else ""


def _calls(message: Json) -> list[Json]:
    calls = message.get("tool_calls")
    return [call for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []


def _parts(content: Any) -> list[Any]:
    if content is None:
        return []
    return content if isinstance(content, list) else [content]


def _shown(content: Any, counter: _Counter, longest: int | None) -> tuple[Text | Picture, ...]:
    """A message's content as texts and pictures."""
    shown: list[Text | Picture] = []
    for part in _parts(content):
        found = _picture(part)
        if found is not None:
            media_type, data = found
            url = f"data:{media_type};base64,{data}"
            shown.append(Picture(url=url, media_type=media_type, size=len(data) * 3 // 4, place=counter.next))
            counter.next += 1
        else:
            shown.append(folded(_words_of(part), longest))
    return tuple(shown)


def _words_of(part: Any) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    return text_of(part)


def _picture(part: Any) -> tuple[str, str] | None:
    """Media type and base64 of a picture that a browser may be given; None for anything else."""
    url = part.get("image_url") if isinstance(part, dict) and part.get("type") == "image_url" else None
    url = url.get("url") if isinstance(url, dict) else url
    match = _PICTURE.fullmatch(url) if isinstance(url, str) else None
    return (match[1], match[2]) if match is not None else None


def folded(text: str, longest: int | None) -> Text:
    """A text, cut where it is to be folded: at the end of a line, if there is one."""
    shown = text if longest is None else text[:longest]
    rest = len(text) - len(shown)
    cut = _fold(shown)
    return Text(head=shown[:cut], tail=shown[cut:], rest=rest)


def _fold(text: str) -> int:
    """Where to fold; what would only hide a little is not folded."""
    at = -1
    for _ in range(HEAD_LINES):
        at = text.find("\n", at + 1)
        if at < 0 or at >= HEAD:
            break
    end = at + 1 if 0 <= at < HEAD else HEAD
    if at < 0 and len(text) <= HEAD:
        return len(text)
    if end == HEAD and (line := text.rfind("\n", HEAD // 2, HEAD)) >= 0:
        end = line + 1
    short = len(text) - end < HEAD // 4 and text.count("\n", end) < HEAD_LINES // 4
    return len(text) if short else end


def _problems(each: TurnMessages) -> Iterator[Problem]:
    facts, turn = each.facts, each.turn
    error, status = facts.get("error"), turn.status
    if error or (status is not None and status >= 400):
        said = f"The provider answered {status}" if status is not None and status >= 400 else "The provider failed"
        yield Problem(title=_titled(said, error), detail=_detail(error))
    if transport := facts.get("transport_error"):
        yield Problem(title="The transport failed", detail=_words_of(transport))
    if undecoded := facts.get("undecoded"):
        yield Problem(title="Not all could be decoded", detail=_words_of(undecoded))
    if truncated := facts.get("truncated"):
        names = " and ".join(_string(name) for name in truncated) if isinstance(truncated, list) else ""
        yield Problem(title=f"Only the beginning was kept of the {names or 'exchange'}")
    if facts.get("request_complete") is False:
        yield Problem(title="The request was not sent to its end")


def _titled(said: str, error: Any) -> str:
    kind = error.get("type") if isinstance(error, dict) else None
    return f"{said}: {kind}" if isinstance(kind, str) else said


def _detail(error: Any) -> str:
    if not error:
        return ""
    message = error.get("message") if isinstance(error, dict) else error
    return message if isinstance(message, str) else text_of(error)


def _string(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else text_of(value)
