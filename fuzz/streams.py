"""Fuzzes the trace plane's understanding: what agents and providers send, bent and broken, read all the way.

Each case is a record made from the tests' streams and from requests with everything in them, mutated by one or more of:
flipped, lost, doubled and foreign bytes; cuts; events lost, doubled and out of order; and every kind of wrong value at
any place of the JSON. What must hold of each is in `check`.

A case is known by its seed and number, so a failure can be had again; what fails is written to ``fuzz/corpus``, from
where tests/test_fuzz.py reads it for good.

Run it as ``PYTHONPATH=tests python -m fuzz.streams --count 200000``.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import itertools
import json
import sys
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final

import brotli
import msgspec
import zstandard

from sidestream.providers import sse
from sidestream.providers.anthropic import Anthropic
from sidestream.providers.anthropic.assembler import Assembler
from sidestream.traces.record import Record
from sidestream.traces.understanding import understand

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sidestream.providers.anthropic.assembler import Assembled
    from sidestream.traces.model import Reading

ROOT: Final = Path(__file__).resolve().parent
CORPUS: Final = ROOT / "corpus"
FIXTURES: Final = ROOT.parent / "tests" / "fixtures" / "anthropic"
LIMIT: Final = 1 << 20
"""What a case's bodies may decode to."""
GROWTH: Final = 40
"""How many bytes may come out for each that went in; a request's text is in the reading several times, escaped."""

_ENCODERS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "gzip": lambda data: gzip.compress(data, 1, mtime=0),
    "br": lambda data: bytes(brotli.compress(data, quality=1)),
    "zstd": zstandard.ZstdCompressor(level=1).compress,
}
_NAMES: Final = (
    *("type", "role", "content", "text", "input", "index", "delta", "usage", "message", "id", "name", "model"),
    *("tool_use_id", "source", "media_type", "data", "url", "citations", "partial_json", "stop_reason", "thread"),
    *("previous_message_id", "cache_control", "signature", "thinking", "error", "is_error", "system", "tools", ""),
)
_KINDS: Final = (
    *("text", "thinking", "tool_use", "tool_result", "image", "document", "redacted_thinking", "server_tool_use"),
    *("mcp_tool_use", "mcp_tool_result", "web_search_tool_result", "compaction", "search_result", "container_upload"),
    *("message_start", "message_stop", "content_block_start", "content_block_delta", "content_block_stop", "error"),
    *("message_delta", "ping", "text_delta", "input_json_delta", "citations_delta", "signature_delta", "unknown"),
    *("user", "assistant", "system", "base64", "url", "file"),
)
_NUMBERS: Final = ("0", "-1", "1e400", "-1e400", "NaN", "Infinity", "1" * 40, "9" * 5000, "0.1", "1e-400", "-0", "1E5")
_TEXTS: Final = (
    *('""', '"\\ud83d"', '"\\ude00\\ud83d"', '"\\u0000"', '"\x7f"', '"\u2028"', '"\U0001f600"', '"\\/"', '"<script>"'),
    '"' + "x" * 3000 + '"',
)
_STRUCTURES: Final = (
    *("null", "true", "false", "[]", "{}", "[[]]", "[null]", '{"": null}', "[" * 150 + "]" * 150),
    *("[" * 1200 + "]" * 1200, '{"a":' * 400 + "1" + "}" * 400, "[" * 5_000, "[" + "0," * 500 + "0]"),
    '{"type": "text", "text": 1}',
)
_RAW: Final = (
    *(b"\n", b"\r", b"\r\n", b"\n\n", b"\r\n\r\n", b"\0", b"\xff", b"\xef\xbb\xbf", b"data: ", b"data", b"event: "),
    *(b"event: error\n", b": \n", b"id: 1\n", b"retry: 1\n", b"data: [DONE]\n\n", b"\xf0\x9f", b"\\ud83d", b'"', b"{"),
    *(b"event: message_stop\ndata: {}\n\n", b"\\", b"}", b"]", b","),
)


def _requests() -> list[bytes]:
    """Requests with every kind of block in them."""
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}
    document = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "A page."}}
    call = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"where": "there", "depth": 2.5}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "Mud."}, image]}
    tools = [{"name": "look", "description": "Look.", "input_schema": {"type": "object", "properties": {}}}]
    history = [
        {"role": "user", "content": [{"type": "text", "text": "Grüße 😀"}, image, document]},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}, call]},
        {"role": "user", "content": [result, {"type": "text", "text": "And?", "cache_control": {"type": "ephemeral"}}]},
        {"role": "assistant", "content": "Nothing."},
        {"role": "user", "content": "Then go on."},
    ]
    requests: list[dict[str, Any]] = [
        {"model": "claude-test-1", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9, "stream": True},
        {"model": "claude-test-1", "system": "Be brief.", "messages": history, "tools": tools, "max_tokens": 9},
        {
            "model": "claude-test-1",
            "system": [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Be kind."}],
            "messages": [
                *history[:1],
                {"role": "system", "content": "Now."},
                {
                    "role": "assistant",
                    "content": [
                        {"type": "compaction", "content": "So far."},
                        {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "q"}},
                        {
                            "type": "web_search_tool_result",
                            "tool_use_id": "srvtoolu_1",
                            "content": [{"type": "web_search_result", "title": "T", "url": "https://e.test"}],
                        },
                    ],
                },
            ],
            "thread": {"previous_message_id": "msg_0"},
            "metadata": {"user_id": "u_session_1"},
            "temperature": 1.0,
        },
    ]
    return [json.dumps(request).encode() for request in requests]


def _answers() -> list[bytes]:
    """Answers that are no streams."""
    content = [{"type": "text", "text": "Hello."}, {"type": "tool_use", "id": "t", "name": "n", "input": {"a": [1]}}]
    usage = {"input_tokens": 3, "output_tokens": 5, "cache_read_input_tokens": 1, "server_tool_use": {"n": 1}}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": content, "usage": usage}
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}, "request_id": "req_1"}
    return [json.dumps(each).encode() for each in (message | {"stop_reason": "end_turn"}, error)]


STREAMS: Final = [path.read_bytes() for path in sorted(FIXTURES.glob("*.sse"))]
REQUESTS: Final = _requests()
ANSWERS: Final = _answers()


class Failed(AssertionError):
    """Something that must hold does not."""


def case(seed: int, number: int) -> Record:
    """One case."""
    random = Random(f"{seed}/{number}")  # to be had again
    streamed = random.random() < 0.8
    request = random.choice(REQUESTS)
    answer = random.choice(STREAMS if streamed else ANSWERS)
    for _ in range(random.choice((0, 0, 1, 1, 2))):
        request = _mutated(random, request, events=False)
    for _ in range(random.choice((0, 1, 1, 2, 4, 8))):
        answer = _mutated(random, answer, events=streamed)
    kind = random.choice(("text/event-stream; charset=utf-8",) * 3 + ("application/json", "", "text/html", "\x01"))
    headers = {"content-type": kind, "request-id": random.choice(("req_1", "", "x" * 5000, "\x01"))}
    asked = {"content-type": "application/json", **random.choice(_HEADERS)}
    if random.random() < 0.1:
        answer, headers["content-encoding"] = _encoded(random, answer)
    if random.random() < 0.05:
        request, asked["content-encoding"] = _encoded(random, request)
    chunks = tuple(_pieces(random, answer))
    return Record(
        id=f"case-{number}",
        dataset="fuzz",
        provider="anthropic",
        method="POST",
        path="/v1/messages",
        request_headers=asked,
        request_chunks=tuple(_pieces(random, request)),
        request_truncated=random.random() < 0.05,
        request_complete=random.random() < 0.95,
        status=random.choice((200, 200, 200, 200, 400, 529, 999, None)),
        response_headers=headers,
        response_chunks=chunks,
        response_times=tuple(number * random.choice((0.0, 0.1, 1e9)) for number in range(len(chunks))),
        response_truncated=random.random() < 0.05,
        outcome=random.choice(("completed", "completed", "client_disconnected", "upstream_failed", "interrupted")),
        error=random.choice((None, None, "UpstreamFailed")),
        started_at=random.choice((1793527200.5, 0.0, 4e9)),
        time_to_first_byte=random.choice((None, 0.25)),
        duration=random.choice((0.0, 1.5, 1e9)),
    )


_HEADERS: Final[tuple[dict[str, str], ...]] = (
    {},
    {},
    {"x-stainless-retry-count": "1", "x-claude-code-session-id": "s"},
    {"x-stainless-retry-count": "²", "x-session-id": "\0", "x-parent-session-id": "x" * 5000},
    {"x-codex-turn-metadata": '{"session_id": [1], "turn_id": null}', "x-claude-code-agent-id": ""},
    {"x-codex-turn-metadata": "{" * 2000, "x-claude-code-parent-agent-id": "\x01"},
)


def _encoded(random: Random, body: bytes) -> tuple[bytes, str]:
    name = random.choice(list(_ENCODERS))
    packed = _ENCODERS[name](body)
    if random.random() < 0.6:
        packed = _bent(random, packed)
    return packed, random.choice((name, name.upper(), f"{name}, identity", f"{name}, {name}", "secret"))


def _pieces(random: Random, body: bytes) -> Iterator[bytes]:
    """The body cut anywhere."""
    cuts = sorted(random.choices(range(len(body) + 1), k=random.choice((0, 2, 10, 40))))
    for start, end in itertools.pairwise((0, *cuts, len(body))):
        yield body[start:end]


def _mutated(random: Random, body: bytes, *, events: bool) -> bytes:
    if random.random() < 0.45:
        return _bent(random, body)
    if not events:
        return _reworded(random, body)
    parts = body.split(b"\n\n")
    at = random.randrange(len(parts))
    what = random.randrange(8)
    if what == 0:
        del parts[at]
    elif what == 1:
        parts.insert(random.randrange(len(parts) + 1), parts[at])
    elif what == 2:
        random.shuffle(parts)
    elif what == 3:
        parts[at] = random.choice(random.choice(STREAMS).split(b"\n\n"))
    elif what == 4:
        return body.replace(b"\n", random.choice((b"\r", b"\r\n")))
    else:
        name, found, data = parts[at].partition(b"data: ")
        parts[at] = name + found + _reworded(random, data)
    return b"\n\n".join(parts)


def _bent(random: Random, body: bytes) -> bytes:
    """Some bytes changed, lost, doubled, or foreign; or the rest cut off."""
    at, size = random.randrange(len(body) + 1), random.choice((1, 1, 2, 10, 300))
    what = random.randrange(6)
    if what == 0 and at < len(body):
        return body[:at] + bytes([body[at] ^ (1 << random.randrange(8))]) + body[at + 1 :]
    if what == 1:
        return body[:at] + body[at + size :]
    if what == 2:
        return body[: at + size] + body[at:]
    if what == 3:
        return body[:at] + random.choice(_RAW) + body[at:]
    if what == 4:
        return body[:at] + random.randbytes(size) + body[at:]
    return body[:at]


def _reworded(random: Random, text: bytes) -> bytes:
    """JSON with another value, or another key, at some place; as it was where it is none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return _bent(random, text)
    places = list(_places(value))
    if not places:
        return _odd(random).encode("utf-8", "surrogatepass")
    container, key = random.choice(places)
    what = random.randrange(6)
    if what == 0:
        del container[key]
    elif what == 1 and isinstance(container, dict):
        container[random.choice(_NAMES)] = container.pop(key)
    elif what == 2:
        container[key] = random.choice(_KINDS)
    elif what == 3:
        other, place = random.choice(places)
        container[key] = json.loads(json.dumps(other[place]))
    else:
        container[key] = _MARK
        return (
            json.dumps(value, ensure_ascii=False).replace(f'"{_MARK}"', _odd(random)).encode("utf-8", "surrogatepass")
        )
    return json.dumps(value, ensure_ascii=random.random() < 0.5).encode("utf-8", "surrogatepass")


_MARK: Final = "here goes something else"


def _odd(random: Random) -> str:
    return random.choice(random.choice((_NUMBERS, _TEXTS, _STRUCTURES)))


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container with every key of it."""
    todo = [value]
    while todo:
        container = todo.pop()
        if isinstance(container, dict | list):
            items = list(container.items() if isinstance(container, dict) else enumerate(container))
            for key, item in items:
                yield container, key
                todo.append(item)


def check(record: Record) -> None:
    """What must hold of every record; `Failed` says what does not, and anything else that is raised is a failure, too.

    It can be understood; what is understood is strict JSON of a bounded size; a stream says the same however its bytes
    were cut; and all is the same at a second time, with a byte order mark, and with other white space between values.
    """
    provider = Anthropic()
    reading = understand(record, provider, limit=LIMIT)
    shown = [reading.turn().messages, reading.metadata, reading.tools]
    told = json.dumps(shown, allow_nan=False, ensure_ascii=False).encode()
    if msgspec.json.decode(told) != msgspec.json.decode(msgspec.json.encode(shown)):
        raise Failed("two encoders disagree about the reading")

    taken_in = min(record.size, 2 * LIMIT) if not _is_encoded(record) else 2 * LIMIT
    if len(told) > GROWTH * taken_in + 10_000:
        raise Failed(f"{record.size} bytes became {len(told)}")
    for name, same in (("again", record), ("in another form", _in_another_form(record))):
        if _without_size(understand(same, provider, limit=LIMIT)) != _without_size(reading):
            raise Failed(f"{name} it is not read the same")
    if assembled(record.response_chunks) != assembled((b"".join(record.response_chunks),)):
        raise Failed("the stream says something else when it is cut otherwise")


def _without_size(reading: Reading) -> Reading:
    """A reading without what depends on the white space in the request."""
    return msgspec.structs.replace(reading, weight=0)


def _in_another_form(record: Record) -> Record:
    """What means the same: nothing that is kept of one exchange, and no shorter way, may show in another's reading."""
    request, response = b"".join(record.request_chunks), b"".join(record.response_chunks)
    if "content-encoding" not in record.request_headers:
        with contextlib.suppress(ValueError, RecursionError):
            request = json.dumps(json.loads(request.decode()), indent=1).encode()
    plain = "content-encoding" not in record.response_headers
    if plain and response.startswith((b"event:", b"data:")):
        response = b"\xef\xbb\xbf" + response
    return msgspec.structs.replace(record, request_chunks=(request,), response_chunks=(response,))


def _is_encoded(record: Record) -> bool:
    return "content-encoding" in record.request_headers.keys() | record.response_headers.keys()


def assembled(chunks: tuple[bytes, ...]) -> tuple[list[sse.Event], str]:
    """What the decoder and the assembler make of a stream that comes in these chunks."""
    decoder, assembler = sse.Decoder(), Assembler()
    events = []
    for chunk in chunks:
        for event in decoder.feed(chunk):
            events.append(event)
            assembler.feed(event)
    last = decoder.finish()
    assembler.finish(last)
    result: Assembled = assembler.result()
    return [*events, *([last] if last is not None else [])], repr(result)  # NaN is not equal to itself


def save(record: Record, name: str) -> Path:
    """Keep a record that fails."""
    path = CORPUS / f"{name}.msgpack"
    path.write_bytes(msgspec.msgpack.encode(record))
    return path


def saved(path: Path) -> Record:
    """A record that once failed."""
    return msgspec.msgpack.decode(path.read_bytes(), type=Record)


def run(seed: int, count: int, *, seconds: float = float("inf")) -> Counter[str]:
    """Check so many cases, or as many as there is time for; what failed how often."""
    until = time.monotonic() + seconds
    found: Counter[str] = Counter()
    for number in range(count):
        if time.monotonic() > until:
            break
        found["cases"] += 1
        record = case(seed, number)
        try:
            check(record)
        except Exception as error:  # noqa: BLE001  # whatever it is, it is what is looked for
            kind = type(error).__name__
            found[kind] += 1
            if found[kind] <= 3:
                print(f"seed {seed}, number {number}: {kind}: {str(error)[:200]}", file=sys.stderr)
                print(f"  kept as {save(record, f'stream-{seed}-{number}')}", file=sys.stderr)
    return found


def main() -> int:
    """Run it as told, and say what was found; 1 if something failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    told = parser.parse_args()
    began = time.monotonic()
    found = run(told.seed, told.count, seconds=told.seconds)
    took = time.monotonic() - began
    cases = found.pop("cases")
    print(f"{cases:,} cases in {took:.0f} s, {cases / took:,.0f} a second; failures: {dict(found) or 'none'}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
