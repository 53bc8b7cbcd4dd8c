"""Runs worth looking at, of a day of three agents: what pages are checked with, and pictures are taken of."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from conversing import assistant, text, tool_result, tool_use, user
from sidestream.providers import PROVIDERS
from sidestream.store.rows import Item
from sidestream.traces.record import Record
from sidestream.traces.understanding import understand

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from conversing import Json

SONNET: Final = "claude-sonnet-4-5"
HAIKU: Final = "claude-haiku-4-5"
LONG_AGO: Final = 20 * 3600.0
"""Seconds from the first run to the last."""
_CODER: Final = (
    "You are a careful programmer in a Python repository. Read before you write, run the tests after every change, and "
    "say in the end what was wrong and what you did about it. Never change a test to make it pass."
)
_DESK: Final = "You answer the customers of a small bookshop: kindly, briefly, and only from what the tools say."
_CODING: Final = ("run", "read_file", "edit_file", "explore")
_SHOP: Final = ("find_order", "stock")
_TASK: Final = "Find every place that reads a timestamp, and say which of them assume a time zone."
_TRACEBACK: Final = """$ pytest -q tests/test_log.py
..F.....                                                                 [100%]
=================================== FAILURES ===================================
____________________________ test_entries_are_in_order _________________________

    def test_entries_are_in_order(log):
>       assert [entry.id for entry in read(log)] == ["a", "b", "c"]
E       AssertionError: assert ['a', 'c', 'b'] == ['a', 'b', 'c']
E         At index 1 diff: 'c' != 'b'

tests/test_log.py:31: AssertionError
1 failed, 7 passed in 0.31s"""
_SOURCE: Final = '''def parse(line: str) -> Entry:
    """An entry of the log, as it was written."""
    stamp, _, rest = line.partition(" ")
    return Entry(at=datetime.fromisoformat(stamp), text=rest)'''


@dataclass
class Scene:
    """An agent that resends its history, seen from the wire. `items` is what came of it."""

    name: str
    dataset: str
    model: str
    system: str
    tools: Sequence[str]
    now: float
    sinks: Sequence[str] = ()
    items: list[Item] = field(default_factory=list)
    history: list[Json] = field(default_factory=list)
    _cached: int = 0

    def call(
        self,
        asked: Json,
        answer: Sequence[Json],
        seconds: float,
        *,
        status: int = 200,
        outcome: str = "completed",
        events: int | None = None,
        wait: float = 0.0,
    ) -> None:
        """Ask, and be answered within so many `seconds`; cut short after so many `events` if need be."""
        self.now += wait
        messages = [*self.history, asked]
        begun = 0.35 + seconds / 8
        frames = self._frames(messages, answer)[:events] if status == 200 else [self._overloaded()]
        times = [begun + (seconds - begun) * place / len(frames) for place in range(1, len(frames) + 1)]
        self._keep(
            messages,
            status=status,
            outcome=outcome,
            response_chunks=tuple(frames),
            response_times=tuple(times),
            response_headers={"content-type": "text/event-stream" if status == 200 else "application/json"},
            time_to_first_byte=begun,
            duration=seconds,
        )
        self.now += seconds
        if status == 200 and events is None:
            self.history = [*messages, assistant(answer)]

    def _keep(self, messages: list[Json], **facts: Any) -> None:
        body = {
            "model": self.model,
            "max_tokens": 8000,
            "stream": True,
            "system": [{**text(self.system), "cache_control": {"type": "ephemeral"}}],
            "tools": [
                {"name": name, "description": f"The tool {name}.", "input_schema": {"type": "object"}}
                for name in self.tools
            ],
            "messages": messages,
        }
        record = Record(
            id=f"{self.name}-{len(self.items) + 1}",
            dataset=self.dataset,
            provider="anthropic",
            method="POST",
            path="/v1/messages",
            request_headers={
                "content-type": "application/json",
                "anthropic-version": "2023-06-01",
                "user-agent": "Anthropic/Python",
            },
            request_chunks=(json.dumps(body).encode(),),
            started_at=self.now,
            **facts,
        )
        self.items.append(Item(record, understand(record, PROVIDERS["anthropic"]), None, self.sinks))

    def _frames(self, messages: list[Json], answer: Sequence[Json]) -> list[bytes]:
        sent = len(json.dumps(messages)) // 3 + 2100
        usage = {
            "input_tokens": 12,
            "cache_read_input_tokens": self._cached,
            "cache_creation_input_tokens": sent - self._cached,
            "output_tokens": 1,
        }
        self._cached = sent
        message: Json = {
            "id": f"msg_{self.name}_{len(self.items)}",
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": [],
            "stop_reason": None,
            "usage": usage,
        }
        reason = "tool_use" if answer[-1]["type"] == "tool_use" else "end_turn"
        told = {"output_tokens": len(json.dumps(answer)) // 3}
        blocks = itertools.chain.from_iterable(_block(index, block) for index, block in enumerate(answer))
        return [
            *_framed("message_start", message=message),
            *blocks,
            *_framed("message_delta", delta={"stop_reason": reason, "stop_sequence": None}, usage=told),
            *_framed("message_stop"),
        ]

    def _overloaded(self) -> bytes:
        return b'{"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}'


def a_day(now: float, sinks: Sequence[str] = ()) -> list[Item]:
    """All runs of a day that ends `now`, in order."""
    scenes = [*_bookshop(now, sinks), _mending(now - 900, sinks), _exploring(now - 852, sinks)]
    return sorted((item for scene in scenes for item in scene.items), key=lambda item: item.record.started_at)


def _mending(now: float, sinks: Sequence[str]) -> Scene:
    """A test that fails: read, delegated, tried again, mended."""
    scene = Scene("mend", "repo-keeper", SONNET, _CODER, _CODING, now, sinks)
    scene.call(
        user("test_log.py fails on CI, but passes here. Find out why, and mend it."),
        [
            _thought(
                "It passes locally and fails elsewhere: suspicious of time zones. I'll run it, and read the code."
            ),
            text("Let me see it fail, and read what it tests."),
            tool_use("m1", "run", command="TZ=Asia/Tokyo pytest -q tests/test_log.py"),
            tool_use("m2", "read_file", path="src/log/parsing.py", lines=[12, 40]),
        ],
        5.2,
    )
    scene.call(
        user(tool_result("m1", _TRACEBACK), tool_result("m2", _SOURCE)),
        [
            text("It fails in Tokyo. One entry has no offset, so `fromisoformat` gives a *naive* time for it."),
            tool_use("m3", "explore", task=_TASK),
        ],
        4.1,
        wait=3.4,
    )
    found = user(tool_result("m3", "Two places: `parsing.py:14`, and `export.py:88`. Only the first assumes one."))
    scene.call(found, [], 0.9, status=529, wait=21.0)
    scene.call(
        found,
        [
            _thought("Only parsing.py has to change. What is without an offset was written by the old agent, in UTC."),
            text("Then one line is enough. What has no offset comes from the old agent, which wrote UTC."),
            tool_use(
                "m4", "edit_file", path="src/log/parsing.py", old="return Entry(at=stamp", new="at = aware(stamp)"
            ),
        ],
        6.3,
        wait=2.0,
    )
    refused = {**tool_result("m4", "edit_file: `old` was not found in src/log/parsing.py"), "is_error": True}
    scene.call(
        user(refused),
        [
            text("I quoted it wrongly; once more, with the whole line."),
            tool_use(
                "m5",
                "edit_file",
                path="src/log/parsing.py",
                old="    return Entry(at=datetime.fromisoformat(stamp), text=rest)",
                new="    at = datetime.fromisoformat(stamp)\n    return Entry(at=at if at.tzinfo else "
                "at.replace(tzinfo=UTC), text=rest)",
            ),
            tool_use("m6", "run", command="for TZ in Asia/Tokyo America/Lima; do pytest -q; done"),
        ],
        4.4,
        wait=0.3,
    )
    scene.call(
        user(tool_result("m5", "1 line replaced by 2"), tool_result("m6", "212 passed in 4.02s\n212 passed in 3.97s")),
        [
            text(
                "The test is right, and the parser was wrong.\n\n"
                "| | before | now |\n|---|---|---|\n"
                "| `2026-11-22T08:00:00+00:00` | UTC | UTC |\n"
                "| `2026-11-22T08:00:00` | **where the machine is** | UTC |\n\n"
                "- Entries without an offset are from the old agent, which wrote UTC.\n"
                "- All 212 tests pass in Tokyo and in Lima. No test was changed.\n"
            )
        ],
        7.9,
        wait=8.6,
    )
    return scene


def _exploring(now: float, sinks: Sequence[str]) -> Scene:
    """What the other was asked to find out."""
    scene = Scene("find", "repo-keeper", HAIKU, "You search code, and change nothing.", ("grep",), now - 34.2, sinks)
    scene.call(user(_TASK), [tool_use("f1", "grep", pattern="fromisoformat|strptime")], 2.2)
    scene.call(
        user(tool_result("f1", "src/log/parsing.py:14\nsrc/log/export.py:88")),
        [text("Two places: `parsing.py:14`, and `export.py:88`. Only the first assumes one.")],
        3.1,
        wait=0.4,
    )
    return scene


def _bookshop(now: float, sinks: Sequence[str]) -> Iterator[Scene]:
    """Customers, over the day; for some of them it goes wrong."""
    questions = (
        "Where is my order 4711?",
        "Do you have “The Moss Gatherers” in stock?",
        "Can I send back a book that I have read?",
        "Which of the Icelandic sagas should I begin with?",
        "My parcel came without the second volume.",
        "Is the shop open on Sunday?",
        "Do you ship to Réunion, and what does it cost?",
        "Summarise what people say about “Slow Rivers”.",
        "I was charged twice for order 4820.",
        "Could you wrap it as a present? It is for my aunt.",
        "What is the oldest book that you sell?",
        "¿Tienen libros en español para niños?",
    )
    for place, question in enumerate(questions):
        began = now - LONG_AGO + place * LONG_AGO / len(questions) + (place * 977) % 1400
        scene = Scene(f"shop-{place}", "bookshop", HAIKU, _DESK, _SHOP, began, sinks)
        called = tool_use(f"s{place}", _SHOP[place % 2], words=question[:24])
        scene.call(user(question), [text("One moment, please."), called], 1.4 + place % 4)
        result = tool_result(f"s{place}", f"{3 + place} found; the nearest is no. {4700 + place}")
        if place % 5 == 3:
            result["is_error"] = True
        answer = [text(f"Thank you for waiting. I have found {3 + place}, and the nearest is no. {4700 + place}.")]
        if place == 4:
            scene.call(user(result), answer, 0.8, status=529, wait=0.7)
        elif place == 8:
            scene.call(user(result), answer, 2.1, outcome="upstream_failed", events=4, wait=0.5)
        elif place == 10:
            scene.call(user(result), answer, 1.1, outcome="client_disconnected", events=3, wait=0.6)
        else:
            scene.call(user(result), answer, 2.3 + place % 3, wait=0.4 + place % 3)
        yield scene


def _thought(words: str) -> Json:
    return {"type": "thinking", "thinking": words, "signature": "c2lnbmVk"}


def _block(index: int, block: Json) -> list[bytes]:
    """A block as it starts, is filled, and ends."""
    empty: Json
    match block["type"]:
        case "thinking":
            empty, key, whole = {"thinking": "", "signature": ""}, "thinking", block["thinking"]
        case "text":
            empty, key, whole = {"text": ""}, "text", block["text"]
        case _:
            empty, key, whole = {"input": {}}, "partial_json", json.dumps(block["input"], ensure_ascii=False)
    kind = {"partial_json": "input_json"}.get(key, key)
    pieces = [whole[at : at + 40] for at in range(0, len(whole), 40)]
    deltas = [{"type": f"{kind}_delta", key: piece} for piece in pieces]
    return [
        *_framed("content_block_start", index=index, content_block=block | empty),
        *itertools.chain.from_iterable(_framed("content_block_delta", index=index, delta=delta) for delta in deltas),
        *_framed("content_block_stop", index=index),
    ]


def _framed(kind: str, **fields: Any) -> list[bytes]:
    data = json.dumps({"type": kind, **fields}, ensure_ascii=False)
    return [f"event: {kind}\ndata: {data}\n\n".encode()]
