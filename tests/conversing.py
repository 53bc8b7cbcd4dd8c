"""Agents as scripts: what they would send and be answered, in whatever form clients send it, as captured exchanges."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from sidestream.providers import PROVIDERS
from sidestream.store.contents import Contents
from sidestream.store.conversations import Conversations
from sidestream.store.database import Database
from sidestream.store.known import KnownTurns
from sidestream.store.packing import Packer
from sidestream.store.turns import Turns
from sidestream.traces.record import Record
from sidestream.traces.understanding import understand

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from random import Random

    from sidestream.traces.conversation import Call as Known
    from sidestream.traces.model import Reading, Turn

Json = dict[str, Any]
START = 1_790_000_000.0
TOOLS = [{"name": "look", "description": "Look something up.", "input_schema": {"type": "object"}}]


@dataclass
class Call:
    """One call of an agent, and where it belongs."""

    id: str
    messages: list[Json]
    content: list[Json] | None
    """The answer; None where there was none."""
    begun: float
    seconds: float = 1.0
    complete: bool = True
    headers: dict[str, str] = field(default_factory=dict)
    body: Json = field(default_factory=dict)
    """Further fields of the request."""
    answer_id: str = ""
    trace: str = ""
    """The id of the call that began its trace."""
    asked: Json = field(default_factory=dict)
    """What is new in it, as the agent means it."""
    left: str | None = None
    """For the first call of a branch or child: the call that it left."""
    dataset: str = "demo"

    def record(self) -> Record:
        body = {
            "model": "claude-x",
            "max_tokens": 100,
            "system": "Be brief.",
            "tools": TOOLS,
            "messages": self.messages,
        }
        return Record(
            id=self.id,
            dataset=self.dataset,
            provider="anthropic",
            method="POST",
            path="/v1/messages",
            request_headers={"content-type": "application/json"} | self.headers,
            request_chunks=(json.dumps(body | {"messages": self.messages} | self.body).encode(),),
            status=529 if self.content is None else 200,
            response_headers={"content-type": "application/json"},
            response_chunks=(self._response(),),
            response_times=(self.seconds,),
            outcome="completed",
            started_at=self.begun,
            time_to_first_byte=0.1,
            duration=self.seconds,
        )

    def reading(self) -> Reading:
        return understand(self.record(), PROVIDERS["anthropic"])

    def _response(self) -> bytes:
        if self.content is None:
            return b'{"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}'
        message = {
            "id": self.answer_id or f"msg_{self.id}",
            "type": "message",
            "role": "assistant",
            "model": "claude-x",
            "content": self.content,
            "stop_reason": "tool_use" if self.content[-1:] and self.content[-1]["type"] == "tool_use" else "end_turn",
            "usage": {"input_tokens": 10, "output_tokens": 5},
        }
        if self.complete:
            return json.dumps(message).encode()
        return _cut_stream(message)


def _cut_stream(message: Json) -> bytes:
    """A stream that breaks off after the last block has begun."""
    events: list[Json] = [{"type": "message_start", "message": message | {"content": [], "stop_reason": None}}]
    for index, block in enumerate(message["content"]):
        events.append({"type": "content_block_start", "index": index, "content_block": block})
    return b"".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events)


def text(words: str) -> Json:
    return {"type": "text", "text": words}


def user(*content: Json | str) -> Json:
    if len(content) == 1 and isinstance(content[0], str):
        return {"role": "user", "content": content[0]}
    return {"role": "user", "content": [text(each) if isinstance(each, str) else each for each in content]}


def assistant(content: Sequence[Json]) -> Json:
    return {"role": "assistant", "content": list(content)}


def tool_use(identity: str, name: str = "look", **arguments: Any) -> Json:
    return {"type": "tool_use", "id": identity, "name": name, "input": arguments}


def tool_result(identity: str, content: Any) -> Json:
    return {"type": "tool_result", "tool_use_id": identity, "content": content}


def in_other_words(messages: Sequence[Json], random: Random) -> list[Json]:
    """The same messages in one of the forms in which clients send them back."""
    return [_habits(copy.deepcopy(message), random) for message in messages]


def _habits(message: Json, random: Random) -> Json:
    content = message["content"]
    if isinstance(content, str):
        content = [text(content)]
    if message["role"] == "assistant":
        content = _fed_back(content, random)
    blocks = [_block(block, random) for block in content]
    if random.random() < 0.3 and blocks:
        random.choice(blocks)["cache_control"] = {"type": "ephemeral"}
    if len(blocks) == 1 and blocks[0].keys() == {"type", "text"} and random.random() < 0.5:
        return {"role": message["role"], "content": blocks[0]["text"]}
    return _shuffled({"role": message["role"], "content": blocks}, random)


def _fed_back(content: list[Json], random: Random) -> list[Json]:
    """What clients do to an answer."""
    if random.random() < 0.4:
        content = [block for block in content if block["type"] not in {"thinking", "redacted_thinking"}]
    if random.random() < 0.3:
        content = [block for block in content if not block["type"].startswith(("server_", "web_search"))]
    texts = [block["text"] for block in content if block["type"] == "text"]
    if len(texts) > 1 and random.random() < 0.3:
        rest = [block for block in content if block["type"] != "text"]
        content = [text(random.choice(["", "\n", "\n\n", " "]).join(texts)), *rest]
    return content


def _block(block: Json, random: Random) -> Json:
    if block["type"] == "text":
        block["text"] = random.choice([block["text"], block["text"].strip(), f"{block['text']}\n"])
        if random.random() < 0.3:
            block["citations"] = None
    if block["type"] == "tool_use" and random.random() < 0.3:
        block["caller"] = {"type": "direct"}
    if block["type"] == "tool_result" and isinstance(block["content"], str) and random.random() < 0.5:
        block["content"] = [text(block["content"])]
    if random.random() < 0.2:
        block["nothing"] = None
    return _shuffled(block, random)


def _shuffled(value: Json, random: Random) -> Json:
    keys = list(value)
    random.shuffle(keys)
    return {key: value[key] for key in keys}


def places(turns: Mapping[str, Any]) -> dict[str, tuple[str, str | None]]:
    """Of each turn the trace, and, of the first of a trace, the turn that it left."""
    return {
        name: (turn.trace, turn.origin.turn if turn.origin is not None and turn.trace == name else None)
        for name, turn in turns.items()
    }


class Conversed:
    """A database in memory, into which calls come in some order."""

    def __init__(self) -> None:
        self._database = Database.open(None)
        contents = Contents(self._database, Packer())
        self._conversations = Conversations(self._database, contents, self._read)
        self._turns = Turns(self._database, contents)
        self._calls: dict[int, Call] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def add(self, *calls: Call) -> None:
        """Each call by itself, in this order."""
        for call in calls:
            with self._database.transaction():
                sequence = self._database.insert(
                    "INSERT INTO exchanges (id, dataset, provider, fingerprint, started_at, stored_at, outcome, size,"
                    " stored) VALUES (?, ?, 'anthropic', '', ?, 0, 'completed', 0, 0)",
                    call.id,
                    call.dataset,
                    call.begun,
                )
                self._calls[sequence] = call
                self._conversations.add(sequence, call.reading())

    def replace(self, *calls: Call) -> None:
        """Read these calls again."""
        sequences = {call.id: sequence for sequence, call in self._calls.items()}
        for call in calls:
            with self._database.transaction():
                self._conversations.replace(sequences[call.id], call.reading())

    def forget(self, call: Call) -> None:
        """Remove a call."""
        with self._database.transaction():
            self._database.run("DELETE FROM exchanges WHERE id = ?", call.id)

    @property
    def turns(self) -> dict[str, Turn]:
        """All that there is, by exchange."""
        found = self._database.rows("SELECT sequence FROM turns ORDER BY sequence")
        turns = [self._turns.turn(sequence) for (sequence,) in found]
        return {turn.id: turn for turn in turns}

    def path(self, call: Call) -> list[str]:
        """The exchanges of a trace up to this one, in order."""
        sequence = next(sequence for sequence, each in self._calls.items() if each is call)
        return [step.id for step in self._turns.path(sequence)][::-1]

    def known(self, call: Known) -> KnownTurns:
        """What is known to a call that comes now."""
        return KnownTurns(self._database, call, 1_000_000)

    def count(self, table: str) -> int:
        """Rows of a table."""
        ((number,),) = self._database.rows(f"SELECT count(*) FROM {table}")  # noqa: S608  # a test's own word
        return int(number)

    def _read(self, sequence: int) -> Reading:
        return self._calls[sequence].reading()
