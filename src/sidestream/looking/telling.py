"""A conversation as it went, turn by turn.

What is long and seldom wanted is folded: thinking, system prompts, the arguments and results of tools. What was folded
is said in its place. Messages may come from anybody and have any shape; nothing in them raises.
"""

from __future__ import annotations

import re
import textwrap
from typing import TYPE_CHECKING, Any, Final

import msgspec
from rich.rule import Rule
from rich.text import Text

from sidestream.errors import SidestreamError
from sidestream.figures import count, duration, money, size
from sidestream.looking.output import Page, clock, one_line, print_json, styled_state, tokens_in
from sidestream.store.shapes import TurnState

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidestream.looking.output import Cell
    from sidestream.store.library import Library
    from sidestream.store.shapes import Related, Run, RunSummary, TurnMessages, TurnSummary

_AT_ONCE: Final = 20
_LINES: Final = 12
_CHARACTERS: Final = 1_000
"""Of what is folded; one line of arguments has a fifth of them."""
_BEGINNING: Final = 80
_LONGEST_ADDRESS: Final = 200
_INDENT: Final = 2
_RULE: Final = "── "
_DATA: Final = re.compile(r"data:([\w.+/-]{1,100})(?:;[^,]{0,100})?,", re.ASCII)
_ROLES: Final = {"user": "bold green", "assistant": "bold blue", "tool": "magenta", "system": "dim", "thinking": "dim"}


def as_json(library: Library, identity: str, first: int, last: int | None) -> None:
    """The run with its messages, as one object: a `Run`, with a list of `TurnMessages` as ``messages``."""
    run = library.run(identity)
    messages = list(_turns(library, run, _span(run, first, last)))
    print_json(msgspec.structs.asdict(run) | {"messages": messages})


def tell(library: Library, identity: str, first: int, last: int | None, *, thinking: bool, full: bool) -> None:
    """The run for somebody to read."""
    run = library.run(identity)
    span = _span(run, first, last)
    teller = _Teller(run, thinking=thinking, full=full)
    teller.head()
    for turn in _turns(library, run, span):
        teller.turn(turn)
    teller.family()


def _span(run: Run, first: int, last: int | None) -> range:
    """The numbers of these turns; `SidestreamError` if the run has none of them."""
    span = range(first, min(len(run.turns), last or len(run.turns)) + 1)
    if not span:
        raise SidestreamError(f"the run has no more than {_several(len(run.turns), 'turn')}")
    return span


def _turns(library: Library, run: Run, span: range) -> Iterator[TurnMessages]:
    """What these turns added."""
    for at in span[::_AT_ONCE]:
        yield from library.messages(run.summary.id, first=at, count=min(_AT_ONCE, span.stop - at))


class _Teller:
    """Tells one run."""

    def __init__(self, run: Run, *, thinking: bool, full: bool) -> None:
        self._page = Page()
        self._run = run
        self._thinking = thinking
        self._full = full
        self._numbers = {turn.id: turn.number for turn in run.turns}

    def head(self) -> None:
        """The run in a few lines."""
        run = self._run.summary
        self._page.line((run.title or "(untitled)", "bold"))
        self._page.line((run.id, "cyan"), f"  {run.dataset}  {clock(run.started_at)}")
        self._page.line(*_joined(_facts_of_run(run)))
        if run.parent is not None:
            above = [related.run for related in self._run.related if related.run.id == run.parent]
            title = f"  {above[0].title}" if above else ""
            self._page.line((f"{run.kind} of {run.parent}{title}", "dim"))

    def turn(self, turn: TurnMessages) -> None:
        """A turn: its numbers, then what it added."""
        self._rule(turn.turn)
        for message in turn.system:
            self._message("system", message)
        if "tools" in turn.changed:
            self._page.line(("other tools are offered than before", "dim"))
        for message in turn.messages:
            role = message.get("role")
            self._message(role if isinstance(role, str) and role else "message", message)
        if problem := _problem(turn):
            self._page.line((problem, "red"))

    def family(self) -> None:
        """The runs that left this one, or were called from it."""
        below = [each for each in self._run.related if each.run.parent == self._run.summary.id]
        if below:
            self._page.line()
            self._page.line(("Branches and children", "bold"))
            self._page.table([self._relative(each) for each in below])
        if left := self._run.related_left:
            self._page.line((f"{left:,} more runs of the family are not looked at", "dim italic"))

    def _relative(self, each: Related) -> list[Cell]:
        number = self._numbers.get(each.turn or "")
        return [
            (each.run.kind, "dim"),
            (f"at turn {number}" if number else "", "dim"),
            (each.run.id, "cyan"),
            (_several(each.run.turns, "turn"), ""),
            styled_state(each.run.state),
            (each.run.title, ""),
        ]

    def _rule(self, turn: TurnSummary) -> None:
        facts = _joined(_facts_of_turn(turn, self._numbers.get(turn.retry_of or "")))
        line = Text.assemble(*((one_line(text), style) for text, style in facts))
        fits = self._page.styled and line.cell_len + len(_RULE) <= self._page.out.width
        self._page.line()
        self._page.put(Rule(line, align="left", style="dim") if fits else Text.assemble(_RULE, line))

    def _message(self, role: str, message: dict[str, Any]) -> None:
        text = _text(message.get("content")).strip("\n")
        if role == "thinking" and not self._thinking:
            begin = text[:_BEGINNING].partition("\n")[0]
            more = _more(text, begin, "--thinking")
            self._page.line(("thinking ", "dim"), (begin, "dim"), (more and f" {more}", "dim italic"))
            return
        self._label(role, message)
        if role == "assistant":
            if text:
                self._page.prose(text, _INDENT)
        elif role in {"tool", "system"} and not self._full:
            self._folded(text)
        elif text:
            self._page.text(text, _INDENT, "dim" if role in {"thinking", "system"} else "")
        for call in _calls(message):
            self._call(*call)

    def _label(self, role: str, message: dict[str, Any]) -> None:
        name = message.get("tool_name")
        metadata = message.get("metadata")
        failed = role == "tool" and isinstance(metadata, dict) and metadata.get("is_error") is True
        label = f"{role} {name}" if role == "tool" and isinstance(name, str) else role
        self._page.line((label, "bold red" if failed else _ROLES.get(role, "bold")))

    def _folded(self, text: str) -> None:
        lines = text[:_CHARACTERS].split("\n")[:_LINES]
        shown = "\n".join(lines)
        if shown:
            self._page.text(shown, _INDENT, "dim")
        if more := _more(text, shown, "--full"):
            self._page.line((more, "dim italic"), indent=_INDENT)

    def _call(self, name: str, arguments: Any) -> None:
        if self._full:
            self._page.line("→ ", (name, "bold cyan"), indent=_INDENT)
            for text in _spread(arguments):
                self._page.text(text, 2 * _INDENT)
            return
        text = _in_a_line(arguments)
        shown = text[: _CHARACTERS // 5]
        more = _more(text, shown, "--full")
        self._page.line("→ ", (name, "bold cyan"), f"({shown})", (more and f" {more}", "dim italic"), indent=_INDENT)


def _facts_of_run(run: RunSummary) -> list[Cell]:
    failed = f", {count(run.tool_errors)} failed" if run.tool_errors else ""
    return [
        styled_state(run.state),
        (_several(run.turns, "turn"), ""),
        *([(f"{count(run.errors)} of them went wrong", "red")] if run.errors else []),
        (f"{_several(run.tool_calls, 'tool call')}{failed}", "red" if failed else ""),
        (f"{count(tokens_in(run.tokens))} → {count(run.tokens.output)} tokens", ""),
        *([(money(run.cost), "")] if run.cost is not None else []),
        (duration(run.ended_at - run.started_at), ""),
    ]


def _facts_of_turn(turn: TurnSummary, retried: int | None) -> list[Cell]:
    first = turn.time_to_first_byte
    return [
        (f"turn {turn.number}", "bold"),
        *([(f"again, after turn {retried}", "yellow")] if retried else []),
        *([(turn.model, "")] if turn.model else []),
        styled_state(turn.state),
        *([(turn.stop_reason, "")] if turn.stop_reason else []),
        (f"{count(tokens_in(turn.tokens))} → {count(turn.tokens.output)} tokens", ""),
        *([(money(turn.cost), "")] if turn.cost is not None else []),
        *([(f"first byte {duration(first)}", "")] if first is not None else []),
        (duration(turn.duration), ""),
    ]


def _joined(facts: list[Cell]) -> Iterator[Cell]:
    for number, fact in enumerate(facts):
        if number:
            yield " · ", "dim"
        yield fact


def _several(number: int, name: str) -> str:
    return f"{count(number)} {name}{'s'[: number != 1]}"


def _problem(turn: TurnMessages) -> str:
    """Why there is no answer, or not all of it; as far as it is known."""
    if turn.turn.state in {TurnState.ANSWERED, TurnState.RUNNING}:
        return ""
    error = turn.facts.get("error")
    told = [error.get("type"), error.get("message")] if isinstance(error, dict) else [error]
    status = turn.turn.status
    words = [f"status {status}" if status and status >= 400 else None, *told, turn.facts.get("transport_error")]
    return ": ".join(word for word in words if isinstance(word, str) and word)


def _more(text: str, shown: str, option: str) -> str:
    left = len(text) - len(shown)
    return f"… {left:,} more character{'s'[: left != 1]}: {option}" if left else ""


def _text(content: Any) -> str:
    """A message's content in words."""
    if isinstance(content, list):
        return "\n".join(map(_part, content))
    return content if isinstance(content, str) else _json(content)


def _part(part: Any) -> str:
    if not isinstance(part, dict):
        return _text(part)
    if isinstance(part.get("text"), str):
        return str(part["text"])
    image = part.get("image_url")
    url = image.get("url") if isinstance(image, dict) else image
    return _image(url) if isinstance(url, str) else _json(part)


def _image(url: str) -> str:
    data = _DATA.match(url)
    if data is None:
        return f"[image: {url[:_LONGEST_ADDRESS]}]"
    return f"[image: {data[1]}, {size((len(url) - data.end()) * 3 // 4)}]"


def _calls(message: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Name and arguments of each tool call."""
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else []:
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            yield _text(function.get("name")), function.get("arguments")


def _in_a_line(arguments: Any) -> str:
    """``path="a.py", lines=3``."""
    if isinstance(arguments, dict):
        return ", ".join(f"{key}={_json(value)}" for key, value in arguments.items())
    return _text(arguments)


def _spread(arguments: Any) -> Iterator[str]:
    """The same as texts of several lines, each with an argument."""
    if not isinstance(arguments, dict):
        yield _text(arguments)
        return
    for key, value in arguments.items():
        text = value if isinstance(value, str) else _json(value)
        yield f"{key}:\n{textwrap.indent(text, ' ' * _INDENT)}" if "\n" in text else f"{key}: {text}"


def _json(value: Any) -> str:
    return "" if value is None else msgspec.json.encode(value).decode()
