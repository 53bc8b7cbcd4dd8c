"""What arrives at the edge: refused with a clear answer or relayed as it is, never changed; and limits to all of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from raw_requests import CANARY, END, PATH, REFUSED, RELAYED, Refused, Relayed, Seen, chunks, length, request
from rawhttp import RawClient, connect, exchange
from sidestream import create_app, edge, server
from sidestream.processes import listening
from sidestream.server import open_doors
from sidestream.testing import ScriptedUpstream, gateway

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sidestream.testing.upstream import Connection, Received


@pytest.fixture
async def url(upstream: ScriptedUpstream) -> AsyncIterator[str]:
    async with gateway(upstream.url) as url:
        yield url


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lasting() -> AsyncIterator[tuple[str, ScriptedUpstream]]:
    """A gateway and its upstream for all requests of the tables."""
    async with ScriptedUpstream() as upstream, gateway(upstream.url) as url:
        yield url, upstream


@contextlib.asynccontextmanager
async def served(upstream: ScriptedUpstream, **options: Any) -> AsyncIterator[str]:
    """A gateway whose doors have other `options`; yields its origin."""
    config = {"sinks": [], "recorder": {"mode": "none"}, "upstreams": {"anthropic": {"url": upstream.url}}}
    app = create_app(config, raw_request_bodies=True)
    async with open_doors(app, listening.bind("127.0.0.1", 0), pause=0, **options) as doors:
        yield f"http://127.0.0.1:{doors.port}"


def seen(upstream: ScriptedUpstream) -> list[Seen]:
    return [Seen(one.method, one.target, bytes(one.body)) for one in upstream.requests if one.complete]


@pytest.mark.parametrize("case", REFUSED, ids=str)
@pytest.mark.asyncio(loop_scope="module")
async def test_what_could_be_misunderstood_is_refused(
    lasting: tuple[str, ScriptedUpstream], case: Refused, capfd: pytest.CaptureFixture[str]
) -> None:
    """In the provider's error shape; the connection ends, nothing is repeated or logged, and the gateway serves on."""
    url, upstream = lasting
    upstream.requests.clear()
    async with connect(url) as client:
        await client.send(case.raw)
        answer = await client.answer()
        assert not await client.rest()
    assert (case.status, case.code) == (answer.status, answer.field("x-sidestream-error"))
    assert answer.head.startswith((b"HTTP/1.1 ", b"HTTP/1.0 "))
    error = json.loads(answer.body)
    assert "error" == error["type"]
    assert {"type", "message"} == set(error["error"])
    assert [] == seen(upstream)
    assert 200 == (await exchange(url, length("2"))).status
    assert CANARY not in "".join([answer.head.decode(), answer.body.decode(), *capfd.readouterr()])


@pytest.mark.parametrize("case", RELAYED, ids=str)
@pytest.mark.asyncio(loop_scope="module")
async def test_what_is_understood_is_relayed_as_it_is(
    lasting: tuple[str, ScriptedUpstream], case: Relayed, capfd: pytest.CaptureFixture[str]
) -> None:
    """As one request; and the next one on the same connection begins where this one ends."""
    url, upstream = lasting
    upstream.requests.clear()
    async with connect(url) as client:
        await client.send(case.raw)
        assert 200 == (await client.answer()).status
        assert [case.seen] == seen(upstream)
        if case.stays:
            await client.send(length("4", b"next"))
            assert 200 == (await client.answer()).status
            assert [case.seen, Seen(body=b"next")] == seen(upstream)
        else:
            assert b"" == await client.rest()
    assert CANARY not in "".join(capfd.readouterr())


async def test_trailers_are_dropped(url: str, upstream: ScriptedUpstream) -> None:
    await exchange(url, chunks(b"1\r\nx\r\n0\r\nX-Trailer: a\r\n\r\n"))
    assert [] == upstream.requests[0].header("X-Trailer")


async def test_an_upgrade_is_not_asked_for_upstream(url: str, upstream: ScriptedUpstream) -> None:
    await exchange(url, request("Connection: Upgrade\r\nUpgrade: websocket\r\n", method="GET"))
    assert [] == upstream.requests[0].header("Upgrade") + upstream.requests[0].header("Connection")


async def test_pipelined_requests_are_answered_in_order(upstream: ScriptedUpstream) -> None:
    async def repeat(received: Received, connection: Connection) -> None:
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(received.body), received.body))

    upstream.script = repeat
    numbers = [str(number).encode() for number in range(300)]
    async with gateway(upstream.url) as url, connect(url) as client:
        await client.send(b"".join(length(str(len(number)), number) for number in numbers))
        assert numbers == [(await client.answer()).body for _ in numbers]


async def test_with_what_cannot_be_understood_everything_is_refused_that_came_with_it(
    url: str, upstream: ScriptedUpstream
) -> None:
    async with connect(url) as client:
        await client.send(length("2") + length("+2") + length("2"))
        assert 400 == (await client.answer()).status
        assert not await client.rest()
    assert [] == upstream.requests


async def test_who_sends_too_much_ahead_of_its_turn_is_answered_once_more(upstream: ScriptedUpstream) -> None:
    """Requests behind one that takes its time are kept within limits; beyond them nothing is read any more."""
    go_on = asyncio.Event()

    async def hesitate(_received: Received, connection: Connection) -> None:
        await go_on.wait()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    upstream.script = hesitate
    big = request(f"X: {'a' * 60_000}\r\n" * 8, method="GET")
    with capture_logs() as logged:
        async with gateway(upstream.url) as url, connect(url) as client, asyncio.timeout(30):
            sending = asyncio.ensure_future(client.send(big * 200))
            while not any(entry.get("error") == "too_much_ahead" for entry in logged):  # noqa: ASYNC110  # a log cannot be awaited
                await asyncio.sleep(0)
            assert not sending.done()
            go_on.set()
            assert 200 == (await client.answer()).status
            sending.cancel()
    assert 1 == len(upstream.requests)


@pytest.mark.skipif(not hasattr(socket, "TCP_INFO"), reason="needs Linux")
async def test_who_sent_too_much_ahead_and_leaves_ends_the_upstream(upstream: ScriptedUpstream) -> None:
    """Although nothing is read any more that could tell of it."""

    async def never(_received: Received, connection: Connection) -> None:
        await connection.closed_by_peer()

    upstream.script = never
    big = request(f"X: {'a' * 60_000}\r\n" * 8, method="GET")
    with capture_logs() as logged:
        async with served(upstream, head_timeout=0.1) as url, connect(url) as client, asyncio.timeout(30):
            sending = asyncio.ensure_future(client.send(big * 200))
            while not any(entry.get("error") == "too_much_ahead" for entry in logged):  # noqa: ASYNC110  # a log cannot be awaited
                await asyncio.sleep(0)
            sending.cancel()
            client.reset()
            await upstream.ended.wait()
    assert 1 == len(upstream.requests)


@pytest.mark.parametrize("size", [6, 20, 100, 3000, 50_000])
async def test_chunks_are_relayed_whatever_their_size_and_what_comes_behind_them_is_too(
    url: str, upstream: ScriptedUpstream, size: int
) -> None:
    """Hundreds of kilobytes in one write; so many small chunks are not parsed without a pause."""
    body = bytes(range(256)) * 1200
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    framed = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    async with connect(url) as client:
        await client.send(chunks(framed + END) + length("4", b"next"))
        assert [200, 200] == [(await client.answer()).status for _ in range(2)]
    assert [Seen(body=body), Seen(body=b"next")] == seen(upstream)


@pytest.mark.parametrize("count", [4096, 4097, 4098])
async def test_what_waits_behind_a_body_of_many_chunks_is_parsed_after_it(
    upstream: ScriptedUpstream, count: int
) -> None:
    """aiohttp pauses at 4,096 chunks that nobody has read, and goes on from within its parser where the body ends."""
    async with gateway(upstream.url, middlewares=["doubles:hesitates"]) as url, connect(url) as client:
        await client.send(chunks(b"5\r\nabcde\r\n" * count + END) + length("9000", b"y" * 9000) + length("4", b"next"))
        assert [200] * 3 == [(await client.answer()).status for _ in range(3)]
    assert [b"abcde" * count, b"y" * 9000, b"next"] == [each.body for each in seen(upstream)]


@pytest.mark.parametrize("count", [4096, 4097, 4098])
async def test_after_a_body_of_many_chunks_the_next_one_is_read_to_its_end(
    upstream: ScriptedUpstream, count: int
) -> None:
    """Where the last chunk was one too many, aiohttp's parser pauses in the next body."""
    async with gateway(upstream.url, middlewares=["doubles:hesitates"]) as url, connect(url) as client:
        for body in (b"5\r\nabcde\r\n" * count, b"5\r\nhello\r\n", b"5\r\nagain\r\n"):
            await client.send(chunks(body + END))
            assert 200 == (await client.answer()).status
    assert [b"abcde" * count, b"hello", b"again"] == [each.body for each in seen(upstream)]


async def test_a_body_of_large_chunks_is_not_taken_for_framing(url: str, upstream: ScriptedUpstream) -> None:
    """Each is a read by itself, and a byte longer than what is parsed at once."""
    chunk = b"ffa\r\n" + bytes(0xFFA) + b"\r\n"
    async with connect(url) as client:
        await client.send(chunks(b""))
        for _ in range(2500):
            await client.send(chunk)
            await asyncio.sleep(0)
        await client.send(END)
        assert 200 == (await client.answer()).status
    assert [Seen(body=bytes(0xFFA * 2500))] == seen(upstream)


@pytest.mark.parametrize(
    "before", [b"", request(method="GET"), b"\r\n" * 1000], ids=["nothing", "a GET", "empty lines"]
)
@pytest.mark.parametrize("cut", [False, True])
async def test_chunks_of_one_byte_are_refused_after_a_few_thousand_wherever_they_begin(
    url: str, upstream: ScriptedUpstream, before: bytes, cut: bool
) -> None:
    tiny = before + chunks(b"1\r\nx\r\n" * 50_000)
    at = tiny.index(b"chunked") + 4 if cut else 0
    async with connect(url) as client:
        client.writer.write(tiny[:at])
        await asyncio.sleep(0)
        client.writer.write(tiny[at:])
        statuses = [(await client.answer()).status for _ in range(1 + before.startswith(b"GET"))]
    assert 400 == statuses[-1]
    assert max(len(received.body) for received in upstream.requests) < 12_000


@pytest.mark.parametrize(
    "flood",
    [chunks(b"1\r\nx\r\n" * 10_000), b"\x16\x03" + b"a" * 600_000],
    ids=["chunks of one byte", "not HTTP"],
)
async def test_who_is_refused_while_sending_can_read_why_and_is_not_listened_to(
    url: str, monkeypatch: pytest.MonkeyPatch, flood: bytes
) -> None:
    """Reading stops: what is sent then stays unsent until the connection ends."""
    monkeypatch.setattr(edge, "_PARTING", 1.0)
    async with connect(url) as client:
        await client.send(flood)
        assert 400 == (await client.answer()).status
        assert b"" == await client.reader.read()
        with pytest.raises(ConnectionError):
            await client.send(bytes(1 << 25))


async def test_who_never_sends_a_byte_has_a_deadline(
    upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(vars(server)["_OPTIONS"], "keepalive_timeout", 0.05)
    async with served(upstream) as url, connect(url) as silent:
        assert b"" == await silent.rest()


async def test_a_head_that_trickles_has_a_deadline(upstream: ScriptedUpstream) -> None:
    async with served(upstream, head_timeout=0.1) as url, connect(url) as idle, connect(url) as slow:
        await idle.send(length("2"))
        assert 200 == (await idle.answer()).status
        await slow.send(f"POST {PATH} HTTP/1.1\r\nHost: g\r\nx-api-key: {CANARY}".encode())
        answer = await slow.answer()
        assert (408, "request_timeout") == (answer.status, answer.field("x-sidestream-error"))
        assert not await slow.rest()
        await idle.send(length("2"))
        assert 200 == (await idle.answer()).status


@pytest.mark.parametrize(
    "beginning",
    [length("9", b"abc"), chunks(b"3\r\nabc\r\n"), chunks(b"3\r\nabc\r\n5"), chunks(b"ffffffffffffffff\r\nabc")],
    ids=["length", "chunks", "half a chunk size", "a chunk without end"],
)
async def test_a_body_that_stops_arriving_has_a_deadline(upstream: ScriptedUpstream, beginning: bytes) -> None:
    async with gateway(upstream.url, limits={"idle": "50ms"}) as url, connect(url) as client:
        await client.send(beginning)
        answer = await client.answer()
    assert (408, "request_timeout") == (answer.status, answer.field("x-sidestream-error"))
    assert [] == seen(upstream)


async def test_a_body_that_turns_out_malformed_never_comes_to_an_end(upstream: ScriptedUpstream) -> None:
    async with gateway(upstream.url, limits={"idle": "50ms"}) as url, connect(url) as client:
        await client.send(chunks(b"3\r\nabc\r\n"))
        await upstream.activity.wait()
        await client.send(b"zz\r\nabc\r\n" + END)
        assert (await client.answer()).status in {400, 408}
        assert not await client.rest()
    assert [] == seen(upstream)


async def test_leaving_in_the_middle_of_a_body_ends_the_upstream(url: str, upstream: ScriptedUpstream) -> None:
    """A half-close is a leaving, too."""
    async with connect(url) as client:
        await client.send(length("9", b"abc"))
        await upstream.activity.wait()
        client.writer.write_eof()
        assert not await client.rest()
        await upstream.ended.wait()
    assert [] == seen(upstream)


async def test_who_is_refused_is_not_told_to_continue(url: str) -> None:
    async with connect(url) as client:
        await client.send(request("Expect: 100-continue\r\nContent-Length: 1000\r\n", target="/nowhere"))
        assert (await client.head()).startswith(b"HTTP/1.1 404 ")


async def test_who_expects_to_be_told_is_told_to_continue(url: str, upstream: ScriptedUpstream) -> None:
    async with connect(url) as client:
        await client.send(request("Expect: 100-continue\r\nContent-Length: 2\r\n"))
        assert b"HTTP/1.1 100 Continue\r\n\r\n" == await client.head()
        await client.send(b"{}")
        assert 200 == (await client.answer()).status
    assert [Seen(body=b"{}")] == seen(upstream)


READY = b"GET /api/v1/gateway/ready HTTP/1.1\r\nHost: g\r\n\r\n"


async def test_connections_beyond_the_most_are_turned_away() -> None:
    """With an answer, at once, and one line in the log; who is inside is served, and who leaves makes room."""
    app = create_app({"sinks": [], "recorder": {"mode": "none"}}, raw_request_bodies=True)
    with capture_logs() as logged:
        async with open_doors(app, listening.bind("127.0.0.1", 0), pause=0, most_connections=3) as doors:
            url = f"http://127.0.0.1:{doors.port}"
            for _ in range(2):
                async with connect(url) as one, connect(url) as two, connect(url) as three:
                    for inside in (one, two, three):
                        await inside.send(READY[:-2])
                    for _ in range(3):
                        async with connect(url) as outside:
                            answer = await outside.answer()
                            assert (503, "too_many_connections") == (answer.status, answer.field("x-sidestream-error"))
                            assert "error" == json.loads(answer.body)["type"]
                            assert not await outside.rest()
                    for inside in (one, two, three):
                        await inside.send(READY[-2:])
                        assert 200 == (await inside.answer()).status
                async with asyncio.timeout(10):
                    await doors.empty.wait()
    assert ["connections_refused", "connections_welcomed"] * 2 == [entry["event"] for entry in logged]


async def test_who_is_turned_away_while_sending_gets_the_answer() -> None:
    """Closed at once, the connection would be reset, and the answer lost."""
    app = create_app({"sinks": [], "recorder": {"mode": "none"}}, raw_request_bodies=True)
    async with open_doors(app, listening.bind("127.0.0.1", 0), pause=0, most_connections=1) as doors:
        url = f"http://127.0.0.1:{doors.port}"
        async with connect(url) as inside:
            await inside.send(READY[:-2])
            early = socket.create_connection(("127.0.0.1", doors.port))
            early.sendall(READY)  # before anybody has seen the connection
            reader, writer = await asyncio.open_connection(sock=early)
            for _ in range(10):
                writer.write(READY)
                await writer.drain()
            assert (await RawClient(reader, writer).answer()).status == 503
            assert b"" == await reader.read()
            writer.write(bytes(1 << 28))  # not for long
            with pytest.raises(ConnectionError):
                await writer.drain()


async def test_idle_connections_make_room_for_new_ones() -> None:
    app = create_app({"sinks": [], "recorder": {"mode": "none"}}, raw_request_bodies=True)
    async with open_doors(app, listening.bind("127.0.0.1", 0), pause=0, head_timeout=0.2, most_connections=2) as doors:
        url = f"http://127.0.0.1:{doors.port}"
        async with connect(url) as oldest, connect(url) as other:
            await other.send(READY)
            assert 200 == (await other.answer()).status
            assert 503 == (await exchange(url, READY)).status
            assert b"" == await oldest.rest()
            assert 200 == (await exchange(url, READY)).status
            await other.send(READY)
            assert 200 == (await other.answer()).status
