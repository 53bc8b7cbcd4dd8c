"""What it costs to read journals, to understand, store and claim what is in them: CPU per exchange and event, by stage.

Exchanges are what a load test sends: requests of 1 KB, answered by 2 KB of JSON or by streams in chunks of one event;
and calls of a run of 40 turns, whose history is the same but for the latest turn. The store is a file of its own for
each round; sixteen turns at a time are claimed for an Explorer and made into requests to it, which nobody sends.
``python bench/understanding.py`` takes some seconds; it prints the best of several rounds, in microseconds of CPU.
"""

from __future__ import annotations

import functools
import gc
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from sidestream.ids import new_id
from sidestream.providers import PROVIDERS
from sidestream.providers.sse import Decoder
from sidestream.recorder.ingestion import understood
from sidestream.sinks import policy as rules
from sidestream.sinks.base import Found
from sidestream.sinks.explorer_push import push_body
from sidestream.sinks.policy import Policy
from sidestream.sinks.visits import Pick, Visit, Visits
from sidestream.store.reading import Journals
from sidestream.store.rows import Item, Lane
from sidestream.store.segments import Appender
from sidestream.store.store import Store
from sidestream.traces.entries import Begin, End, Head, Kind
from sidestream.traces.model import Unit
from sidestream.traces.prices import cost_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sidestream.store.rows import Delivery
    from sidestream.traces.record import Record

T = TypeVar("T")

COUNT: Final = 200
SINK: Final = "explorer"
CLAIMED: Final = 16
LANE: Final = Lane("f" * 32, "bench")
ROUNDS: Final = 5
EVENTS: Final = (50, 500)
MODEL: Final = "claude-sonnet-4-5-20250929"
HEADERS: Final = {"anthropic-version": "2023-06-01", "user-agent": "Anthropic/Python 0.49.0"}
USAGE: Final = {
    "input_tokens": 472,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 0,
    "output_tokens": 396,
}
FOX: Final = "The quick brown fox jumps over the lazy dog while the gateway forwards every byte as it came. "
MESSAGE: Final = {"id": "msg_01BenchBenchBenchBenchBenchB", "type": "message", "role": "assistant", "model": MODEL}
END: Final = {"stop_reason": "end_turn", "stop_sequence": None}
TOOLS: Final = [
    {
        "name": f"tool_{number}",
        "description": FOX * 5,
        "input_schema": {
            "type": "object",
            "properties": {f"argument_{place}": {"type": "string", "description": FOX} for place in range(6)},
            "required": ["argument_0", "argument_1"],
        },
    }
    for number in range(20)
]


def short_request(number: int, *, stream: bool = False) -> bytes:
    about = {"model": MODEL, "max_tokens": 1024, **({"stream": True} if stream else {}), "system": "You are terse."}
    words = f"{number} {'Tell me of the fox. ' * 43}"
    return msgspec.json.encode(about | {"messages": [{"role": "user", "content": words}]})


def long_request(number: int, turns: int = 40) -> bytes:
    """The call of an agent that has gone on for so many turns; the latest two messages are new."""
    messages: list[Any] = [{"role": "user", "content": FOX * 20}]
    for turn in (*range(turns - 1), turns + number):
        call = {"type": "tool_use", "id": f"toolu_{turn}", "name": "tool_1", "input": {"argument_0": FOX, "n": turn}}
        result = {"type": "tool_result", "tool_use_id": f"toolu_{turn}", "content": f"{turn} {FOX * 20}"}
        messages += [
            {"role": "assistant", "content": [{"type": "text", "text": f"{turn} {FOX}"}, call]},
            {"role": "user", "content": [result]},
        ]
    system = [{"type": "text", "text": FOX * 100, "cache_control": {"type": "ephemeral"}}]
    return msgspec.json.encode(
        {"model": MODEL, "max_tokens": 1024, "system": system, "tools": TOOLS, "messages": messages}
    )


def answer() -> bytes:
    return msgspec.json.encode(MESSAGE | {"content": [{"type": "text", "text": FOX * 18}]} | END | {"usage": USAGE})


def stream(events: int) -> list[bytes]:
    block = {"index": 0, "content_block": {"type": "text", "text": ""}}
    usual: dict[str, Any] = {
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": USAGE | {"output_tokens": 2},
    }
    deltas = (f"tok{number:06} @{time.monotonic_ns():020} " for number in range(events))
    told: list[tuple[str, dict[str, Any]]] = [
        ("message_start", {"message": MESSAGE | usual}),
        ("content_block_start", block),
        ("ping", {}),
        *(("content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": text}}) for text in deltas),
    ]
    last: list[tuple[str, dict[str, Any]]] = [
        ("content_block_stop", {"index": 0}),
        ("message_delta", {"delta": END, "usage": {"output_tokens": events}}),
        ("message_stop", {}),
    ]
    return [*(event(*each) for each in told), b"".join(event(*each) for each in last)]


def event(name: str, about: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), msgspec.json.encode({"type": name} | about))


def write(
    folder: Path, request: Callable[[int], bytes], response: Sequence[bytes], *, streamed: bool, start: int = 0
) -> None:
    """A journal of `COUNT` such exchanges, the first of them number `start`, sixteen under way at a time."""
    appender = Appender(folder, strict=False, segment=64 << 20)
    appender.prepare()
    kind = "text/event-stream; charset=utf-8" if streamed else "application/json"
    head = Head(status=200, response_headers={"content-type": kind, "request-id": "req_1"}, time_to_first_byte=0.25)
    end = End(
        request_truncated=False,
        request_complete=True,
        response_truncated=False,
        outcome="completed",
        error=None,
        duration=2.5,
        end_verifiable=True,
        exact=True,
    )
    pack = msgspec.msgpack.encode
    for first in range(start, start + COUNT, 16):
        numbers = range(first, min(first + 16, start + COUNT))
        for number in numbers:
            begin = Begin(
                id=new_id(),
                dataset="bench",
                provider="anthropic",
                fingerprint="f" * 32,
                method="POST",
                path="/v1/messages",
                request_headers=HEADERS,
                started_at=1_790_000_000.0 + number,
            )
            appender.append([(Kind.BEGIN, number, 0.0, pack(begin)), (Kind.REQUEST, number, 0.0, request(number))])
            appender.append([(Kind.HEAD, number, 0.25, pack(head))])
        for place, chunk in enumerate(response):
            appender.append([(Kind.RESPONSE, number, 0.25 + place / 50, chunk) for number in numbers])
        appender.append([(Kind.END, number, 2.5, pack(end)) for number in numbers])
    appender.close()


def read(folder: Path) -> list[Record]:
    journals = Journals(folder)
    records: list[Record] = []
    while found := journals.read(8 << 20).records:
        records += found
    return records


def best(work: Callable[[T], object], rounds: Sequence[T]) -> float:
    """Microseconds of CPU for each of `COUNT`."""
    times = []
    for each in rounds:
        start = time.process_time()
        work(each)
        times.append(time.process_time() - start)
    return min(times) / COUNT * 1e6


def stages(folders: Sequence[Path]) -> dict[str, float]:
    """What each stage costs per exchange, in the best of these journals; those below the total are parts of it."""
    records = [read(folder) for folder in folders]
    found = {
        "read and gathered": best(read, folders),
        "understood": best(lambda these: [understood(each, PROVIDERS) for each in these], records),
    }
    stores = [Store.open(folder.with_name(f"{folder.name}.db")) for folder in folders]
    items = [[Item(each, understood(each, PROVIDERS)[0], None, [SINK]) for each in these] for these in records]
    found["stored"] = best(lambda both: both[0].commit(both[1]), list(zip(stores, items, strict=True)))
    found["claimed and told"] = best(claim, stores)
    for store in stores:
        store.close()
    bodies = [[b"".join(each.response_chunks) for each in these] for these in records]
    found["in all"] = sum(found.values())
    found["  events from bytes"] = best(lambda these: [Decoder().feed(each) for each in these], bodies)
    found["  cost"] = best(lambda these: [cost_of(MODEL, USAGE, 1_790_000_000.0, "anthropic") for _ in these], bodies)
    return found


def claim(store: Store) -> None:
    """Claim all there is, as the engine of a sink does to which all of it arrives."""
    visits = Visits(SINK, Unit.TRACE, store, time.time, Policy())
    settled: list[Delivery] = []
    count = 0
    while True:
        visit = Visit(settled, 0.0, picks=[Pick(LANE, "", None)], most=CLAIMED)
        heads = visits.pay(visit).heads
        if not heads or heads[0].delivery is None or heads[0].turn is None:
            break
        settled = []
        for delivery, turn in [(heads[0].delivery, heads[0].turn), *heads[0].following]:
            push_body(turn, {}, Unit.TRACE)
            count += 1
            rules.looked(delivery, Found(f"{count:032}"), time.time(), Policy())
            settled.append(delivery)


def main() -> int:
    """Measure and print."""
    cases: dict[str, tuple[Callable[[int], bytes], list[bytes], bool]] = {
        "JSON": (short_request, [answer()], False),
        "40 turns": (long_request, [answer()], False),
        **{f"{events} ev.": (functools.partial(short_request, stream=True), stream(events), True) for events in EVENTS},
    }
    columns: dict[str, dict[str, float]] = {}
    gc.set_threshold(20_000, 20, 20)  # as in the recorder's process
    with tempfile.TemporaryDirectory() as name:
        for case, (request, response, streamed) in cases.items():
            folders = [Path(name, f"{case} {number}") for number in range(ROUNDS)]
            for number, folder in enumerate(folders):
                write(folder, request, response, streamed=streamed, start=number * COUNT)
            columns[case] = stages(folders)
    short, long = (columns[f"{events} ev."] for events in EVENTS)
    spread = EVENTS[1] - EVENTS[0]
    columns["per event"] = {stage: (long[stage] - short[stage]) / spread for stage in long}
    print("µs of CPU per exchange" + "".join(f"{case:>12}" for case in columns))
    for stage in short:
        print(f"{stage:<28}" + "".join(f"{column[stage]:>12.1f}" for column in columns.values()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
