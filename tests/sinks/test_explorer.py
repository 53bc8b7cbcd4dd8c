import asyncio
import copy
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from structlog.testing import capture_logs

from sidestream.errors import Retryable
from sidestream.options import Duration, Secret
from sidestream.sinks.explorer import Explorer
from sidestream.testing import FakeExplorer
from sidestream.traces.model import Message, Trace

KEY = "inv-" + "a" * 64
OTHER_KEY = "inv-" + "b" * 64
HELLO: Message = {"role": "user", "content": "Hello"}


def a_trace(*messages: Message, **metadata: Any) -> Trace:
    return Trace(
        id="x1", dataset="demo", messages=list(messages) or [HELLO], metadata={"status": 200, "model": "m"} | metadata
    )


def a_sink(url: str, **options: Any) -> Explorer:
    return Explorer(url=url, **{"api_key": Secret(KEY), "backoff": Duration(0.001), **options})


async def pushed(sink: Explorer, *traces: Trace, credential: Secret | None = None) -> list[Any]:
    """Deliver what can be delivered; the log lines of that."""
    with capture_logs() as logs:
        await sink.start()
        for trace in traces:
            sink.offer(trace, credential)
        await sink.stop(10)
    return logs


def texts(logs: list[Any]) -> list[str]:
    return [log["error"] for log in logs if "error" in log]


@pytest.fixture
async def explorer() -> AsyncIterator[FakeExplorer]:
    async with FakeExplorer() as explorer:
        yield explorer


@asynccontextmanager
async def answering(*answers: bytes) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A server that answers the n-th connection with the n-th of `answers` and closes it; its address and requests."""
    left = list(answers)
    requests: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        requests.append(head + await reader.readexactly(length))
        writer.write(left.pop(0))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        yield f"http://{host}:{port}", requests


# Options


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("", "must be the address"),
        ("explorer.example.com", "must be the address"),
        ("ftp://explorer.example.com", "must be the address"),
        ("http://", "must be the address"),
        ("http://a b/", "must be the address"),
        ("http://host:port", "not a URL"),
        ("http://[::1", "not a URL"),
        ("http://user:canary@host", "user name or password"),
        ("http://host/?key=canary", "query"),
        ("http://host/#canary", "fragment"),
    ],
)
def test_a_url_that_cannot_be_an_explorers_is_refused_without_being_repeated(url: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as caught:
        Explorer(url=url)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("options", [{"concurrency": 0}, {"timeout": Duration(0)}, {"api_key": Secret("canary key")}])
def test_an_option_that_cannot_work_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be") as caught:
        Explorer(url="http://host", **options)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(("api_key", "needed"), [(None, True), (Secret(""), True), (Secret(KEY), False)])
def test_calls_must_bring_a_key_exactly_when_there_is_no_api_key(api_key: Secret | None, needed: bool) -> None:
    assert Explorer(url="http://host", api_key=api_key).needs_trace_key is needed


async def test_slashes_at_the_end_of_the_url_and_a_path_in_it_do_not_matter() -> None:
    async with answering(STORED) as (url, requests):
        await pushed(a_sink(f"{url}/explorer//"), a_trace())

    assert requests[0].startswith(b"POST /explorer/api/v1/push/trace HTTP/1.1\r\n")


# What is pushed


async def test_a_trace_is_pushed_with_its_dataset_and_says_which_exchange_it_is(explorer: FakeExplorer) -> None:
    sink = a_sink(explorer.url)
    await pushed(sink, a_trace(HELLO, {"role": "assistant", "content": "Hi"}))

    (trace,) = explorer.traces
    assert (trace.key, trace.dataset) == (KEY, "demo")
    assert trace.messages == [HELLO, {"role": "assistant", "content": "Hi"}]
    assert trace.metadata == {"status": 200, "model": "m", "sidestream": {"exchange": "x1", "attempt": 1}}
    assert trace.annotations == []
    assert sink.counters.delivered == 1


async def test_what_others_say_of_sidestream_in_the_metadata_is_kept(explorer: FakeExplorer) -> None:
    await pushed(a_sink(explorer.url), a_trace(sidestream={"outcome": "completed"}))

    ours = {"outcome": "completed", "exchange": "x1", "attempt": 1}
    assert explorer.traces[0].metadata["sidestream"] == ours


async def test_the_calls_own_key_wins_over_api_key(explorer: FakeExplorer) -> None:
    await pushed(a_sink(explorer.url), a_trace(), credential=Secret(OTHER_KEY))

    assert [trace.key for trace in explorer.traces] == [OTHER_KEY]


async def test_a_trace_without_any_key_is_skipped_and_that_is_logged_once(explorer: FakeExplorer) -> None:
    sink = a_sink(explorer.url, api_key=None)
    logs = await pushed(sink, a_trace(), a_trace(), a_trace(status=500))

    assert explorer.requests == []
    assert (sink.counters.skipped, sink.counters.unwanted, sink.counters.accepted) == (2, 1, 0)
    assert [log["event"] for log in logs] == ["sink_trace_skipped", "sink_stopped"]


@pytest.mark.parametrize(
    ("status", "wanted"),
    [(200, True), (204, True), (299, True), (199, False), (300, False), (529, False), (None, False)],
)
def test_only_calls_that_succeeded_are_pushed(status: int | None, wanted: bool) -> None:
    assert a_sink("http://host").accepts(a_trace(status=status)) is wanted


async def test_neither_cookies_nor_compression_nor_a_proxy_of_the_environment_are_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    cookie = STORED.replace(b"\r\n\r\n", b"\r\nSet-Cookie: a=b\r\n\r\n")
    async with answering(cookie, STORED) as (url, requests):
        await pushed(a_sink(url, concurrency=1), a_trace(), a_trace())

    assert len(requests) == 2
    for request in requests:
        head = request.partition(b"\r\n\r\n")[0].lower()
        assert f"authorization: bearer {KEY}".encode() in head
        assert b"content-type: application/json" in head
        assert b"cookie" not in head
        assert b"content-encoding" not in head


async def test_a_trace_of_many_megabytes_arrives_whole(explorer: FakeExplorer) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 8_000_000}}
    await pushed(a_sink(explorer.url), a_trace({"role": "user", "content": [image]}))

    assert explorer.traces[0].messages == [{"role": "user", "content": [image]}]


# What Explorer would stumble over


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("see local_img_link: /a", "see local\u200b_img_link: /a"),
        ("local_base64_img: AA", "local_base64\u200b_img: AA"),
        ("an s3_img_link, and an s3_img_link", "an s3\u200b_img_link, and an s3\u200b_img_link"),
        ("base64_img: AA", "base64\u200b_img: AA"),
        ("a base64_img: AA is fine within a text", "a base64_img: AA is fine within a text"),
        ("base64_img", "base64_img"),
        ("_img", "_img"),
    ],
)
async def test_words_that_explorer_acts_on_are_broken_everywhere(explorer: FakeExplorer, text: str, shown: str) -> None:
    messages: list[Message] = [
        {"role": "tool", "content": text},
        {"role": "user", "content": [{"type": "text", "text": text}]},
        a_call({"name": "f", "arguments": {text: [text]}}),
    ]
    await pushed(a_sink(explorer.url), a_trace(*messages))

    assert explorer.traces[0].messages == [
        {"role": "tool", "content": shown},
        {"role": "user", "content": [{"type": "text", "text": shown}]},
        a_call({"name": "f", "arguments": {shown: [shown]}}),
    ]


@pytest.mark.parametrize(
    ("function", "sent"),
    [
        ({"name": "f", "arguments": {"a": 1}}, {"name": "f", "arguments": {"a": 1}}),
        ({"name": "f", "arguments": '{"a'}, {"name": "f", "arguments": {"_raw": '{"a'}}),
        ({"name": "f", "arguments": [1]}, {"name": "f", "arguments": {"_raw": [1]}}),
        ({"name": "f"}, {"name": "f", "arguments": {}}),
        (None, {"name": "unknown", "arguments": {}}),
    ],
)
async def test_a_tool_call_always_has_a_function_with_an_object_of_arguments(
    explorer: FakeExplorer, function: Any, sent: Any
) -> None:
    await pushed(a_sink(explorer.url), a_trace(a_call(function)))

    assert explorer.traces[0].messages == [a_call(sent)]


@pytest.mark.parametrize("url", ["https://example.com/a.png", "file:///a.png", "data:text/plain;base64,AA", None])
async def test_an_image_that_is_not_inline_becomes_a_text(explorer: FakeExplorer, url: Any) -> None:
    part = {"type": "image_url", "image_url": {"url": url}}
    await pushed(a_sink(explorer.url), a_trace({"role": "user", "content": [part, "x"]}))

    text = {"type": "text", "text": "[image that is not inline]"}
    assert explorer.traces[0].messages == [{"role": "user", "content": [text, "x"]}]


async def test_reserved_keys_of_metadata_get_another_name(explorer: FakeExplorer) -> None:
    await pushed(a_sink(explorer.url), a_trace(uploader="me", tool_calls=[1]))

    metadata = explorer.traces[0].metadata
    assert (metadata["uploader_"], metadata["tool_calls_"]) == ("me", [1])
    assert metadata.keys().isdisjoint({"uploader", "tool_calls"})


async def test_the_trace_itself_is_not_changed_for_explorer(explorer: FakeExplorer) -> None:
    image = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    messages: list[Message] = [
        {"role": "user", "content": ["local_img_link", image]},
        a_call({"name": "f", "arguments": "{"}),
    ]
    trace = a_trace(*messages, uploader="me", sidestream={"outcome": "completed"})
    before = copy.deepcopy(trace)

    await pushed(a_sink(explorer.url), trace)

    assert trace == before


def deep() -> Any:
    value: Any = "x"
    for _ in range(5000):
        value = [value]
    return value


@pytest.mark.parametrize("content", ["\ud83d", deep(), object()])
async def test_what_is_not_fit_for_json_is_dropped_and_the_next_trace_delivered(
    explorer: FakeExplorer, content: Any
) -> None:
    sink = a_sink(explorer.url, concurrency=1)
    await pushed(sink, a_trace({"role": "user", "content": content}), a_trace())

    assert (sink.counters.undeliverable, sink.counters.delivered) == (1, 1)
    assert [trace.messages for trace in explorer.traces] == [[HELLO]]


# What the answers mean


@pytest.mark.parametrize("status", [429, 502, 503, 504])
async def test_a_status_that_means_later_is_tried_again_and_the_attempt_is_told(
    explorer: FakeExplorer, status: int
) -> None:
    explorer.fail_next(status, times=2)
    sink = a_sink(explorer.url)
    await pushed(sink, a_trace())

    assert (sink.counters.retried, sink.counters.delivered) == (2, 1)
    assert [trace.metadata["sidestream"]["attempt"] for trace in explorer.traces] == [3]


@pytest.mark.parametrize("status", [201, 204, 301, 302, 307, 308, 400, 401, 403, 404, 408, 413, 422, 500, 501, 520])
async def test_any_other_status_is_final(explorer: FakeExplorer, status: int) -> None:
    explorer.fail_next(status)
    sink = a_sink(explorer.url)
    logs = await pushed(sink, a_trace())

    assert explorer.requests == [("POST", "/api/v1/push/trace")]
    assert sink.counters.undeliverable == 1
    assert f"Explorer answered {status}" in texts(logs)[0]


async def test_a_500_may_have_stored_the_trace_and_is_not_tried_again(explorer: FakeExplorer) -> None:
    explorer.fail_next(500, store=True)
    sink = a_sink(explorer.url)
    await pushed(sink, a_trace())

    assert (len(explorer.traces), sink.counters.retried) == (1, 0)


async def test_a_lost_answer_is_tried_again_and_the_copies_can_be_told(explorer: FakeExplorer) -> None:
    explorer.fail_next(drop=True, store=True)
    sink = a_sink(explorer.url)
    await pushed(sink, a_trace())

    marks = [trace.metadata["sidestream"] for trace in explorer.traces]
    assert marks == [{"exchange": "x1", "attempt": 1}, {"exchange": "x1", "attempt": 2}]
    assert (sink.counters.retried, sink.counters.delivered) == (1, 1)


async def test_no_answer_within_the_timeout_is_tried_again(explorer: FakeExplorer) -> None:
    explorer.fail_next(hang=True)
    sink = a_sink(explorer.url, timeout=Duration(0.1))
    logs = await pushed(sink, a_trace())

    assert (sink.counters.retried, sink.counters.delivered) == (1, 1)
    assert texts(logs) == ["no reply within 100ms"]


async def test_an_explorer_that_is_not_there_is_tried_again(unused_tcp_port: int) -> None:
    sink = a_sink(f"http://127.0.0.1:{unused_tcp_port}", attempts=3)
    logs = await pushed(sink, a_trace())

    assert (sink.counters.retried, sink.counters.exhausted) == (2, 1)
    assert set(texts(logs)) == {"the connection failed: ClientConnectorError"}


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{",
    ],
)
async def test_a_200_whose_body_breaks_off_is_a_stored_trace(answer: bytes) -> None:
    async with answering(answer) as (url, requests):
        sink = a_sink(url)
        await pushed(sink, a_trace())

    assert (len(requests), sink.counters.delivered, sink.counters.retried) == (1, 1, 0)


@pytest.mark.parametrize("body", [b"<html>Welcome</html>", b"{}", b"", b"[" * 70_000])
async def test_a_200_that_is_not_an_explorers_is_no_delivery(body: bytes) -> None:
    async with answering(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body) as (url, _):
        sink = a_sink(url)
        logs = await pushed(sink, a_trace())

    assert (sink.counters.undeliverable, sink.counters.delivered) == (1, 0)
    assert texts(logs) == ["the answer is 200, but not an Explorer's; is `url` right?"]


async def test_what_is_not_http_is_tried_again() -> None:
    async with answering(b"SSH-2.0-OpenSSH\r\n\r\n", STORED) as (url, _):
        sink = a_sink(url)
        await pushed(sink, a_trace())

    assert (sink.counters.retried, sink.counters.delivered) == (1, 1)


@pytest.mark.parametrize(
    ("value", "least", "most"),
    [
        ("0", 0, 0),
        ("90", 90, 90),
        ("86400", 300, 300),
        ("9" * 400, 300, 300),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0),
    ],
)
async def test_a_pause_is_a_number_or_a_date_and_five_minutes_at_most(value: str, least: int, most: int) -> None:
    pause = await pause_after(value)

    assert pause is not None
    assert least <= pause <= most


async def test_a_pause_until_a_date_is_the_time_until_then() -> None:
    pause = await pause_after(format_datetime(datetime.now(UTC) + timedelta(seconds=200), usegmt=True))

    assert pause is not None
    assert 100 <= pause <= 200


@pytest.mark.parametrize("value", ["soon", "-5", "1.5", "", "Wed, 99 Oct 2015 07:28:00 GMT"])
async def test_a_pause_that_cannot_be_read_is_none(value: str) -> None:
    assert await pause_after(value) is None


async def pause_after(value: str) -> float | None:
    """The pause that an answer with this ``Retry-After`` asks for."""
    answer = f"HTTP/1.1 503 Later\r\nRetry-After: {value}\r\nContent-Length: 0\r\n\r\n".encode()
    async with answering(answer) as (url, _):
        sink = a_sink(url)
        await sink.start()
        with pytest.raises(Retryable) as caught:
            await sink.deliver(a_trace(), None)
        await sink.stop(5)
    return caught.value.after


# Secrets


@pytest.mark.parametrize("key", ["inv-canary\r\nX: 1", "inv canary", "inv-canary-ü"])
async def test_a_key_that_does_not_fit_into_a_header_is_dropped_and_not_logged(
    explorer: FakeExplorer, key: str
) -> None:
    sink = a_sink(explorer.url)
    logs = await pushed(sink, a_trace(), credential=Secret(key))

    assert (sink.counters.undeliverable, explorer.requests) == (1, [])
    assert "canary" not in str(logs)


@pytest.mark.parametrize("script", [{"status": 401}, {"status": 500}, {"status": 503}, {"drop": True}])
async def test_neither_the_key_nor_the_answers_text_is_logged(explorer: FakeExplorer, script: dict[str, Any]) -> None:
    explorer.fail_next(**script)
    logs = await pushed(a_sink(explorer.url), a_trace())

    assert logs
    assert KEY not in str(logs)
    assert "scripted" not in str(logs)
    assert "Hello" not in str(logs)


STORED = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n{"id":["1"]}'


def a_call(function: Any) -> Message:
    call = {"id": "1", "type": "function"} | ({} if function is None else {"function": function})
    return {"role": "assistant", "content": "", "tool_calls": [call]}
