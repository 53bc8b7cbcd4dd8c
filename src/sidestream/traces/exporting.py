"""Runs as others read them: a document, lines, an OpenAI conversation, a trace of an Explorer's. Pure.

Each format is written in pieces, for a run may be larger than memory should have to hold: `begin`, then `turn` for each
turn in order, then `end`.

``json``
    One object: ``{"format": "sidestream-run/1", "run": {…}, "turns": [{…}, …]}``, a `RunSummary` and `TurnMessages`
    (`sidestream.store.shapes`).
``jsonl``
    One line for each turn, as the ``jsonl`` sink writes them (`sidestream.sinks.jsonl`).
``openai``
    A list of messages as OpenAI's chat completions take them. It is the conversation that the last turn went on from:
    without attempts that were repeated, and calls that nobody went on from; of a branch, what was said since. Thinking
    is the ``reasoning_content`` of the assistant's message after it, a convention of several servers; OpenAI itself
    ignores it. Arguments are JSON text there. What messages have beside role, content and tool calls is left out.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from sidestream.traces.conversation import BEGINNINGS, Rule
from sidestream.traces.pushing import metadata_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from sidestream.store.shapes import Run, RunSummary, TurnMessages, TurnSummary
    from sidestream.traces.model import Message, Origin

JSON_FORMAT: Final = "sidestream-run/1"
_encode = msgspec.json.Encoder().encode


class Export(Protocol):
    """A run on its way into one format."""

    suffix: str
    """What a file's name ends with."""
    media_type: str

    def begin(self) -> bytes:
        """What comes first."""

    def turn(self, turn: TurnMessages, /) -> bytes:
        """What a turn adds."""

    def end(self) -> bytes:
        """What comes last."""


class Json:
    """A document."""

    suffix = "json"
    media_type = "application/json"

    def __init__(self, run: Run, origin: Origin | None = None) -> None:  # noqa: ARG002  # as the others
        self._run = run
        self._comma = b""

    def begin(self) -> bytes:
        """The run in a line."""
        return b'{"format":%b,"run":%b,"turns":[' % (_encode(JSON_FORMAT), _encode(self._run.summary))

    def turn(self, turn: TurnMessages) -> bytes:
        """The turn as it is."""
        comma, self._comma = self._comma, b",\n"
        return comma + _encode(turn)

    def end(self) -> bytes:
        """The end of the list."""
        return b"]}\n"


class Lines:
    """A line for each turn. `origin` is where the run left another one, or was called from."""

    suffix = "jsonl"
    media_type = "application/x-ndjson"

    def __init__(self, run: Run, origin: Origin | None = None) -> None:
        self._dataset = run.summary.dataset
        self._origin = {"origin": msgspec.structs.asdict(origin)} if origin is not None else {}

    def begin(self) -> bytes:
        """Nothing."""
        return b""

    def turn(self, turn: TurnMessages) -> bytes:
        """The line."""
        about = turn.turn
        changed = {"changed": turn.changed} if turn.changed else {}
        line = {"id": about.id, "dataset": self._dataset, "trace": about.run, "turn": about.number, "rule": about.rule}
        said = {"messages": [*_beginning(turn), *turn.messages], "metadata": turn.facts | changed}
        return _encode(line | self._origin | said) + b"\n"

    def end(self) -> bytes:
        """Nothing."""
        return b""


class OpenAI:
    """A conversation of OpenAI's."""

    suffix = "openai.json"
    media_type = "application/json"

    def __init__(self, run: Run, origin: Origin | None = None) -> None:  # noqa: ARG002  # as the others
        self._path = path_of(run.turns)
        self._system: list[Message] = []
        """A system prompt that was not written yet."""
        self._comma = b""

    def begin(self) -> bytes:
        """The beginning of the list."""
        return b"["

    def turn(self, turn: TurnMessages) -> bytes:
        """The messages of a turn that the conversation went through."""
        self._system = turn.system or self._system
        if turn.turn.id not in self._path:
            return b""
        said, self._system = [*self._system, *turn.messages], []
        pieces = []
        for message in openai_messages(said):
            pieces += [self._comma, _encode(message)]
            self._comma = b",\n"
        return b"".join(pieces)

    def end(self) -> bytes:
        """The end of the list."""
        return b"]\n"


FORMATS: Final[Mapping[str, Callable[[Run, Origin | None], Export]]] = {"json": Json, "jsonl": Lines, "openai": OpenAI}


class Explorers:
    """A trace as an Explorer shows it. `facts` are those of the exchange that the run began with.

    A turn that tries again what one before it has tried adds only its answer.
    """

    suffix = "json"
    media_type = "application/json"

    def __init__(self, run: RunSummary, facts: Mapping[str, Any], *, identity: str, user: str) -> None:
        self._head = {**listed(run, facts, identity=identity), "user": user, "username": user, "dataset": run.dataset}
        self._comma = b""

    def begin(self) -> bytes:
        """What is known of it."""
        return _encode(self._head)[:-1] + b',"messages":['

    def turn(self, turn: TurnMessages) -> bytes:
        """The messages of a turn."""
        again = turn.turn.retry_of is not None
        said = turn.messages[len(turn.messages) - turn.answered :] if again else [*_beginning(turn), *turn.messages]
        pieces = []
        for message in said:
            pieces += [self._comma, _encode(message)]
            self._comma = b","
        return b"".join(pieces)

    def end(self) -> bytes:
        """The end of it."""
        return b"]}"


def listed(run: RunSummary, facts: Mapping[str, Any], *, identity: str) -> dict[str, Any]:
    """A trace without its messages, as an Explorer lists it."""
    metadata = metadata_of(facts)
    metadata.setdefault("sidestream", {"exchange": run.id, "trace": run.id})
    path = metadata.get("hierarchy_path")
    return {
        "id": identity,
        "name": run.title,
        "hierarchy_path": path if isinstance(path, list) else [],
        "time_created": datetime.fromtimestamp(run.started_at, UTC).isoformat(),
        "extra_metadata": metadata,
    }


def path_of(turns: Collection[TurnSummary]) -> frozenset[str]:
    """The turns that the last one goes on from, itself included."""
    by_id = {turn.id: turn for turn in turns}
    path: dict[str, None] = {}
    at = next(reversed(by_id.values())) if by_id else None
    while at is not None and at.id not in path:
        path[at.id] = None
        at = by_id.get(at.parent) if at.parent is not None else None
    return frozenset(path)


def openai_messages(messages: Iterable[Message]) -> list[Message]:
    """Trace messages as OpenAI's chat completions take them."""
    converted: list[Message] = []
    thought: list[str] = []
    for message in messages:
        role, content = message.get("role"), message.get("content")
        if role == "thinking":
            thought.append(content if isinstance(content, str) else _text(content))
            continue
        if thought and role != "assistant":
            converted.append(_thinking(thought))
            thought = []
        new: Message = {"role": role, "content": content if content is not None else ""}
        if role == "tool":
            new["tool_call_id"] = message.get("tool_call_id", "")
        if calls := message.get("tool_calls"):
            new["tool_calls"] = [_call(call) for call in calls if isinstance(call, dict)]
        if thought:
            new["reasoning_content"] = "\n".join(thought)
            thought = []
        converted.append(new)
    return converted + ([_thinking(thought)] if thought else [])


def _thinking(thought: list[str]) -> Message:
    """Thinking that nothing was said after."""
    return {"role": "assistant", "content": "", "reasoning_content": "\n".join(thought)}


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call.get("function")
    function = function if isinstance(function, dict) else {}
    arguments = function.get("arguments", {})
    if isinstance(arguments, dict) and arguments.keys() == {"_raw"} and isinstance(arguments["_raw"], str):
        text = arguments["_raw"]
    else:
        text = arguments if isinstance(arguments, str) else _encode(arguments).decode()
    return {
        "id": call.get("id", ""),
        "type": "function",
        "function": {"name": function.get("name", ""), "arguments": text},
    }


def _text(content: Any) -> str:
    return _encode(content).decode() if content is not None else ""


def _beginning(turn: TurnMessages) -> list[Message]:
    """The system prompt, where a run begins with this turn; a branch shares it with what it left."""
    begins = turn.turn.rule in BEGINNINGS - {Rule.EXTENDS_EARLIER}
    return turn.system if begins else []
