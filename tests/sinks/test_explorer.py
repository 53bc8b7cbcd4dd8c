import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from delivering import HELLO, SOON, Bench, a_turn
from exploring import KEY, OTHER_KEY, STORED, a_sink, answer, answering, found, opened, pushed
from sidestream import config as configuration
from sidestream.errors import Ambiguous, ConfigError, Retryable, Unauthorized
from sidestream.options import Duration, Secret
from sidestream.sinks.base import Found
from sidestream.sinks.explorer import Explorer
from sidestream.testing import FakeExplorer
from sidestream.traces.model import Unit


@pytest.fixture
async def explorer() -> AsyncIterator[FakeExplorer]:
    async with FakeExplorer() as explorer:
        yield explorer


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    yield bench
    await bench.close()


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


@pytest.mark.parametrize(
    "options",
    [
        {"concurrency": 0},
        {"timeout": Duration(0)},
        {"api_key": Secret("canary key")},
        {"api_key": Secret(KEY), "api_key_file": "canary"},
        {"api_key_file": ""},
    ],
)
def test_an_option_that_cannot_work_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must") as caught:
        Explorer(url="http://host", **options)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "needed"),
    [
        ({}, True),
        ({"api_key": None}, True),
        ({"api_key": Secret("")}, True),
        ({"api_key": Secret(KEY)}, False),
        ({"api_key_file": "/run/key"}, False),
    ],
)
def test_calls_must_bring_a_key_exactly_when_none_is_configured(options: dict[str, Any], needed: bool) -> None:
    assert Explorer(url="http://host", **options).needs_trace_key is needed


@pytest.mark.parametrize(
    ("options", "unit"),
    [({}, Unit.TRACE), ({"mode": "conversation"}, Unit.TRACE), ({"mode": "exchange"}, Unit.EXCHANGE)],
)
def test_by_default_conversations_grow_and_each_exchange_can_be_a_trace_instead(
    options: dict[str, Any], unit: Unit
) -> None:
    assert Explorer(url="http://host", **options).unit is unit


def test_a_mode_that_there_is_not_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="expected conversation or exchange"):
        configuration.load({"sinks": [{"explorer": {"url": "http://host", "mode": "canary"}}]}, {})


async def test_slashes_at_the_end_of_the_url_and_a_path_in_it_do_not_matter() -> None:
    async with answering(STORED) as (url, requests):
        await pushed(f"{url}/explorer//")

    assert requests[0].startswith(b"POST /explorer/api/v1/push/trace HTTP/1.1\r\n")


# What is pushed


async def test_a_turn_is_pushed_with_its_dataset_and_says_which_exchange_it_is(explorer: FakeExplorer) -> None:
    remote = await pushed(explorer.url, a_turn("x1", HELLO, {"role": "assistant", "content": "Hi"}))

    (trace,) = explorer.traces
    assert (trace.id, trace.key, trace.dataset) == (remote, KEY, "demo")
    mark = {"model": "m", "sidestream": {"exchange": "x1", "turn": 1, "rule": "first"}}
    assert trace.messages == [HELLO, {"role": "assistant", "content": "Hi", "metadata": mark}]
    assert trace.metadata == {
        "name": "Hello",
        "status": 200,
        "model": "m",
        "sidestream": {"exchange": "x1", "attempt": 1, "trace": "x1", "turn": 1, "rule": "first"},
    }
    assert trace.annotations == []


async def test_what_others_say_of_sidestream_in_the_metadata_is_kept(explorer: FakeExplorer) -> None:
    await pushed(explorer.url, a_turn(sidestream={"outcome": "completed"}), mode="exchange")

    ours = {"outcome": "completed", "exchange": "x1", "attempt": 1}
    assert explorer.traces[0].metadata["sidestream"] == ours


async def test_the_calls_own_key_wins_over_the_configured_one(explorer: FakeExplorer) -> None:
    await pushed(explorer.url, credential=Secret(OTHER_KEY))

    assert [trace.key for trace in explorer.traces] == [OTHER_KEY]


@pytest.mark.parametrize(
    ("status", "wanted"),
    [(200, True), (204, True), (299, True), (199, False), (300, False), (529, False), (None, False)],
)
def test_only_calls_that_succeeded_are_pushed(status: int | None, wanted: bool) -> None:
    assert a_sink("http://host").accepts(a_turn(status=status)) is wanted


async def test_neither_cookies_nor_compression_nor_a_proxy_of_the_environment_are_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    cookie = STORED.replace(b"\r\n\r\n", b"\r\nSet-Cookie: a=b\r\nConnection: close\r\n\r\n")
    async with answering(cookie, STORED) as (url, requests), opened(url) as sink:
        for attempt in (1, 2):
            await sink.deliver(a_turn(), None, attempt)

    assert len(requests) == 2
    for request in requests:
        head = request.partition(b"\r\n\r\n")[0].lower()
        assert f"authorization: bearer {KEY}".encode() in head
        assert b"content-type: application/json" in head
        assert b"cookie" not in head
        assert b"content-encoding" not in head


async def test_a_turn_of_many_megabytes_arrives_whole(explorer: FakeExplorer) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 8_000_000}}
    await pushed(explorer.url, a_turn("x1", {"role": "user", "content": [image]}), mode="exchange")

    assert explorer.traces[0].messages == [{"role": "user", "content": [image]}]


# Looking for what may have arrived


async def test_a_turn_that_arrived_is_found_by_its_exchange(explorer: FakeExplorer) -> None:
    await pushed(explorer.url, a_turn("x0"))
    remote = await pushed(explorer.url, a_turn("x1"))

    assert await found(explorer.url, a_turn("x1")) == Found(remote)


async def test_a_turn_that_is_not_among_those_of_its_dataset_and_user_is_not_there(explorer: FakeExplorer) -> None:
    await pushed(explorer.url, a_turn("x0"))
    await pushed(explorer.url, a_turn("x1", dataset="other"))
    await pushed(explorer.url, a_turn("x1"), Secret(OTHER_KEY))

    assert await found(explorer.url, a_turn("x1")) is None


async def test_in_a_dataset_that_does_not_exist_nothing_is_there() -> None:
    identity = answer(b'{"username":"a/b c@d"}')
    async with answering(identity, answer(b"{}", "404 Not Found")) as (url, requests):
        assert await found(url) is None

    assert requests[1].startswith(b"GET /api/v1/dataset/byuser/a%2Fb%20c%40d/demo/traces HTTP/1.1\r\n")


@pytest.mark.parametrize("metadata", [b"null", b"[]", b'"x"', b'{"sidestream":null}', b'{"sidestream":{"exchange":1}}'])
async def test_what_others_pushed_does_not_disturb_the_search(metadata: bytes) -> None:
    ours = b'{"id":"2","extra_metadata":{"sidestream":{"exchange":"x1"}}}'
    listed = b'[{"id":"1","extra_metadata":' + metadata + b'},{"id":"0"},' + ours + b"]"
    async with answering(answer(b'{"username":"u"}'), answer(listed)) as (url, _):
        assert await found(url) == Found("2")


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 507, 520])
async def test_an_explorer_in_trouble_cannot_be_asked_now(explorer: FakeExplorer, status: int) -> None:
    explorer.fail_next(status, method="GET")
    with pytest.raises(Retryable):
        await found(explorer.url)


@pytest.mark.parametrize("script", [{"hang": True}, {"drop": True, "times": 9}])
async def test_an_explorer_that_does_not_answer_cannot_be_asked_now(
    explorer: FakeExplorer, script: dict[str, Any]
) -> None:
    explorer.fail_next(method="GET", **script)
    with pytest.raises(Retryable):
        await found(explorer.url, timeout=Duration(0.1))


async def test_an_explorer_that_is_gone_cannot_be_asked_now(explorer: FakeExplorer) -> None:
    await explorer.go_down()
    with pytest.raises(Retryable):
        await found(explorer.url)


async def test_a_list_that_breaks_off_is_asked_for_again() -> None:
    cut = b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n[]"
    async with answering(answer(b'{"username":"u"}'), cut) as (url, _):
        with pytest.raises(Retryable):
            await found(url)


@pytest.mark.parametrize("body", [b"<html>", b"{}", b'[{"id":1}]', b"[" * 3000])
async def test_a_list_that_is_not_an_explorers_tells_nothing(body: bytes) -> None:
    async with answering(answer(b'{"username":"u"}'), answer(body)) as (url, _):
        with pytest.raises(Ambiguous):
            await found(url)


async def test_a_list_that_is_too_long_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidestream.sinks.explorer_list._LONGEST", 1000)
    async with answering(answer(b'{"username":"u"}'), answer(b"[" + b" " * 1000 + b"]")) as (url, _):
        with pytest.raises(Ambiguous, match="too long"):
            await found(url)


async def test_a_list_is_not_read_any_further_than_the_trace() -> None:
    """It never ends, and no limit of time passes."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    listed = b'[{"id":"2","extra_metadata":{"sidestream":{"exchange":"x1"}}},'

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer(b'{"username":"u"}'))
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head + b"%x\r\n%s\r\n" % (len(listed), listed))
        with suppress(ConnectionError):
            await reader.read()  # until the other side has gone
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        assert await asyncio.wait_for(found(f"http://{host}:{port}"), 5) == Found("2")


async def test_there_is_one_look_at_a_time(explorer: FakeExplorer) -> None:
    """However many deliveries run: each may have a long list to go through."""
    for name in ("x1", "x2", "x3"):
        await pushed(explorer.url, a_turn(name))
    explorer.requests.clear()
    async with opened(explorer.url) as sink:
        looks = [sink.find(a_turn(name), None) for name in ("x1", "x2", "x3")]
        assert [Found(trace.id) for trace in explorer.traces] == await asyncio.gather(*looks)

    assert ["identity", "traces"] * 3 == [path.rpartition("/")[2] for _, path in explorer.requests]


async def test_a_look_that_failed_or_was_cancelled_does_not_hold_up_the_next_one(explorer: FakeExplorer) -> None:
    remote = await pushed(explorer.url, a_turn("x1"))
    explorer.fail_next(method="GET", status=503)
    explorer.fail_next(method="GET", hang=True)
    async with opened(explorer.url) as sink:
        with pytest.raises(Retryable):
            await sink.find(a_turn("x1"), None)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(sink.find(a_turn("x1"), None), 0.1)
        assert await sink.find(a_turn("x1"), None) == Found(remote)


async def test_a_key_that_is_refused_at_a_look_is_unauthorized(explorer: FakeExplorer) -> None:
    explorer.refused.add(KEY)
    with pytest.raises(Unauthorized):
        await found(explorer.url)


async def test_a_long_list_is_read_to_its_end(explorer: FakeExplorer) -> None:
    await pushed(explorer.url, a_turn("x0", filler="x" * 500_000))
    remote = await pushed(explorer.url, a_turn("x1"))

    assert await found(explorer.url, a_turn("x1")) == Found(remote)


# With the engine


@pytest.mark.parametrize(
    "script",
    [
        {"status": 503},
        {"status": 500},
        {"status": 500, "store": True},
        {"drop": True},
        {"drop": True, "store": True},
        {"hang": True},
        {"hang": True, "store": True},
    ],
)
async def test_whatever_becomes_of_a_push_the_trace_arrives_exactly_once(
    explorer: FakeExplorer, bench: Bench, script: dict[str, Any]
) -> None:
    explorer.fail_next(times=2, **script)
    sink = a_sink(explorer.url, timeout=Duration(0.1))
    await bench.add(sink, a_turn("x1"), a_turn("x2"), a_turn("x3"))

    async with bench.delivering(sink):
        rows = await bench.until({"x1": "delivered", "x2": "delivered", "x3": "delivered"}, 10)

    assert explorer.exchanges("demo") == ["x1", "x2", "x3"]
    assert [row.remote for row in rows] == [trace.id for trace in explorer.traces]


async def test_what_an_explorer_missed_while_it_was_gone_arrives_in_order(explorer: FakeExplorer, bench: Bench) -> None:
    sink = a_sink(explorer.url)
    await explorer.go_down()
    await bench.add(sink, *(a_turn(f"x{n}", dataset=f"d{n % 3}") for n in range(9)))

    async with bench.delivering(sink) as engine:
        await bench.visited(10)
        assert engine.breakers_open == 1
        await explorer.come_back()
        await bench.until({f"x{n}": "delivered" for n in range(9)})

    assert explorer.exchanges("d1") == ["x1", "x4", "x7"]
    assert len(explorer.traces) == 9


async def test_a_turn_that_is_too_large_does_not_hold_up_the_next_one(explorer: FakeExplorer, bench: Bench) -> None:
    explorer.fail_next(413)
    sink = a_sink(explorer.url)
    await bench.add(sink, a_turn("x1"), a_turn("x2"))
    async with bench.delivering(sink):
        [row, _] = await bench.until({"x1": "dead", "x2": "delivered"})

    assert row.reason == "Explorer answered 413: it is too large"


async def test_a_key_that_explorer_lets_in_later(explorer: FakeExplorer, bench: Bench) -> None:
    explorer.refused.add(OTHER_KEY)
    sink = a_sink(explorer.url, api_key=None)
    bench.keys["b"] = Secret(OTHER_KEY)
    await bench.add(sink, a_turn("x1"), fingerprint="b")
    async with bench.delivering(sink):
        await bench.until({"x1": "parked"})
    explorer.refused.clear()
    async with bench.delivering(sink):
        await bench.until({"x1": "delivered"})


# Secrets


@pytest.mark.parametrize("key", ["inv-canary\r\nX: 1", "inv canary", "inv-canary-ü"])
async def test_a_key_that_does_not_fit_into_a_header_is_not_sent_and_not_told(explorer: FakeExplorer, key: str) -> None:
    with pytest.raises(Unauthorized) as caught:
        await pushed(explorer.url, credential=Secret(key))

    assert explorer.requests == []
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("script", [{"status": 401}, {"status": 500}, {"status": 503}, {"drop": True}])
async def test_neither_the_key_nor_the_answers_text_is_logged(
    explorer: FakeExplorer, bench: Bench, script: dict[str, Any]
) -> None:
    explorer.fail_next(**script)
    sink = a_sink(explorer.url)
    await bench.add(sink, a_turn("x1"), a_turn("x2"))
    with capture_logs() as logs:
        async with bench.delivering(sink, SOON):
            await bench.visited(4)

    assert logs
    for word in (KEY, "scripted", "Hello"):
        assert word not in str(logs)
        assert word not in str(await bench.rows())


async def test_a_key_file_is_read_again_when_it_changes(explorer: FakeExplorer, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"{KEY}\n")
    async with opened(explorer.url, api_key=None, api_key_file=str(file)) as sink:
        await sink.deliver(a_turn(), None, 1)
        (tmp_path / "new").write_text(OTHER_KEY)
        os.replace(tmp_path / "new", file)  # noqa: PTH105 (as those do who rotate keys)
        await sink.deliver(a_turn(), None, 1)
        file.unlink()
        with pytest.raises(Retryable, match="cannot read api_key_file"):
            await sink.deliver(a_turn(), None, 1)

    assert [trace.key for trace in explorer.traces] == [KEY, OTHER_KEY]
