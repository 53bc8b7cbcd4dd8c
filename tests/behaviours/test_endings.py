"""However an exchange ends, its observers are told exactly once, and a client sees a cut as a cut."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import uvloop
from aiohttp import web

import doubles
from doubles import Witness
from rawhttp import KEYS, PATH, RawClient, connect, exchange, post
from sidestream import GatewayError, Outcome, mount
from sidestream.testing import ScriptedUpstream, gateway, running
from sidestream.testing.upstream import STREAM_HEAD, Connection, Received, chunk, response

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine

CHAIN = ["trace_export", "auth_split", "body_capture", "stream_tee"]
EVENT = b'event: ping\ndata: {"type": "ping"}\n\n'
STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'


@pytest.fixture(params=[True, False], ids=["cancelling", "not-cancelling"])
def cancelling(request: pytest.FixtureRequest) -> bool:
    """Whether the server cancels the handler of a client that left; an embedding host decides."""
    return bool(request.param)


@pytest.fixture
async def held(upstream: ScriptedUpstream) -> AsyncIterator[asyncio.Event]:
    """An upstream that streams one event, and the rest when told to."""
    go_on = asyncio.Event()

    async def script(_received: Received, connection: Connection) -> None:
        await connection.send(STREAM_HEAD + chunk(EVENT))
        await go_on.wait()
        await connection.send(chunk(STOP) + chunk(b""))

    upstream.script = script
    yield go_on
    go_on.set()


async def test_a_whole_exchange_is_completed(upstream: ScriptedUpstream, cancelling: bool, held: asyncio.Event) -> None:
    held.set()
    async with gateway(upstream.url, middlewares=[*CHAIN, "doubles:Witness"], handler_cancellation=cancelling) as url:
        answer = await exchange(url, post(b'{"a":1}'))
    assert answer.complete
    assert EVENT + STOP == answer.body
    assert await Witness.ending() is Outcome.COMPLETED
    assert EVENT + STOP == Witness.seen[0].response
    assert b'{"a":1}' == Witness.seen[0].request
    assert [200] == [head.status for head in Witness.seen[0].heads]


async def test_a_client_that_leaves_before_the_head_is_gone_and_so_is_the_upstream(
    upstream: ScriptedUpstream, cancelling: bool
) -> None:
    asked, left = asyncio.Event(), asyncio.Event()

    async def script(_received: Received, connection: Connection) -> None:
        asked.set()
        await connection.closed_by_peer()
        left.set()

    upstream.script = script
    async with gateway(upstream.url, middlewares=[*CHAIN, "doubles:Witness"], handler_cancellation=cancelling) as url:
        async with connect(url) as client:
            await client.send(post())
            await asked.wait()
            client.reset()
        assert await Witness.ending() is Outcome.CLIENT_DISCONNECTED
        async with asyncio.timeout(5):
            await left.wait()


async def test_a_client_that_leaves_in_mid_stream_is_gone_and_so_is_the_upstream(
    upstream: ScriptedUpstream, cancelling: bool
) -> None:
    left = asyncio.Event()

    async def script(_received: Received, connection: Connection) -> None:
        await connection.send(STREAM_HEAD + chunk(EVENT))
        await connection.closed_by_peer()
        left.set()

    upstream.script = script
    async with gateway(upstream.url, middlewares=[*CHAIN, "doubles:Witness"], handler_cancellation=cancelling) as url:
        async with connect(url) as client:
            await client.send(post())
            await client.until(EVENT)
            client.reset()
        assert await Witness.ending() is Outcome.CLIENT_DISCONNECTED
        async with asyncio.timeout(5):
            await left.wait()
    assert EVENT == Witness.seen[0].response


async def test_a_client_that_leaves_at_message_stop_has_disconnected_with_everything_seen(
    upstream: ScriptedUpstream, cancelling: bool
) -> None:
    async def script(_received: Received, connection: Connection) -> None:
        await connection.send(STREAM_HEAD + chunk(EVENT) + chunk(STOP))
        await connection.closed_by_peer()

    upstream.script = script
    async with gateway(upstream.url, middlewares=[*CHAIN, "doubles:Witness"], handler_cancellation=cancelling) as url:
        async with connect(url) as client:
            await client.send(post())
            await client.until(STOP)
        assert await Witness.ending() is Outcome.CLIENT_DISCONNECTED
    assert EVENT + STOP == Witness.seen[0].response


BY_LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n" + EVENT


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize(
    ("first", "then", "ending"),
    [
        pytest.param(STREAM_HEAD + chunk(EVENT), b"ff\r\ncut", Connection.reset, id="reset in mid-chunk"),
        pytest.param(STREAM_HEAD + chunk(EVENT), b"ff\r\ncut", Connection.close, id="closed in mid-chunk"),
        pytest.param(STREAM_HEAD + chunk(EVENT), b"", Connection.close, id="no last chunk"),
        pytest.param(STREAM_HEAD + chunk(EVENT), b"zz\r\n", Connection.closed_by_peer, id="bad chunk size"),
        pytest.param(BY_LENGTH, b"", Connection.close, id="short content-length"),
        pytest.param(BY_LENGTH, b"", Connection.reset, id="reset within content-length"),
    ],
)
async def test_an_upstream_that_breaks_off_is_a_broken_transfer(
    upstream: ScriptedUpstream,
    cancelling: bool,
    first: bytes,
    then: bytes,
    ending: Callable[[Connection], Awaitable[None]],
    version: str,
) -> None:
    arrived = asyncio.Event()

    async def script(_received: Received, connection: Connection) -> None:
        await connection.send(first)
        await arrived.wait()
        await connection.send(then)
        await ending(connection)

    upstream.script = script
    async with gateway(upstream.url, middlewares=[*CHAIN, "doubles:Witness"], handler_cancellation=cancelling) as url:
        async with connect(url) as client:
            await client.send(post(version=version))
            head = await client.head()
            await client.until(EVENT)
            arrived.set()
            rest = await client.rest()
        assert await Witness.ending() is Outcome.UPSTREAM_FAILED
    assert head.startswith(b"HTTP/1.")
    assert rest is None or not rest.endswith(b"0\r\n\r\n")
    assert rest is None or version == "1.1" or b"Content-Length" in head
    assert Witness.seen[0].response.startswith(EVENT)


async def test_a_cut_is_a_reset_for_a_client_that_could_not_see_it_otherwise(upstream: ScriptedUpstream) -> None:
    async def script(_received: Received, connection: Connection) -> None:
        await connection.send(STREAM_HEAD + chunk(EVENT))
        await connection.close()

    upstream.script = script
    async with gateway(upstream.url) as url, connect(url) as client:
        await client.send(post(version="1.0"))
        assert await client.rest() is None


async def test_an_upstream_that_never_answers_is_timed_out(upstream: ScriptedUpstream, cancelling: bool) -> None:
    async def script(_received: Received, connection: Connection) -> None:
        await connection.closed_by_peer()

    upstream.script = script
    async with gateway(
        upstream.url,
        limits={"first_byte": "100ms"},
        middlewares=[*CHAIN, "doubles:Witness"],
        handler_cancellation=cancelling,
    ) as url:
        answer = await exchange(url, post())
    assert (504, "upstream_timeout") == (answer.status, answer.field("x-sidestream-error"))
    assert await Witness.ending() is Outcome.TIMED_OUT


async def test_an_upstream_that_falls_silent_is_timed_out(upstream: ScriptedUpstream, held: asyncio.Event) -> None:
    assert not held.is_set()
    async with gateway(upstream.url, limits={"idle": "100ms"}, middlewares=[*CHAIN, "doubles:Witness"]) as url:
        answer = await exchange(url, post())
    assert (EVENT, False) == (answer.body, answer.complete)
    assert await Witness.ending() is Outcome.TIMED_OUT


async def test_a_client_that_stops_reading_is_timed_out(upstream: ScriptedUpstream) -> None:
    async def script(_received: Received, connection: Connection) -> None:
        await connection.send(STREAM_HEAD)
        while True:
            await connection.send(chunk(bytes(1 << 16)))

    upstream.script = script
    async with gateway(upstream.url, limits={"write": "200ms"}, middlewares=[*CHAIN, "doubles:Witness"]) as url:
        async with connect(url) as client:
            await client.send(post())
            await client.head()
            assert await Witness.ending() is Outcome.TIMED_OUT


async def test_a_client_whose_request_stops_arriving_is_timed_out(upstream: ScriptedUpstream) -> None:
    async with gateway(upstream.url, limits={"idle": "100ms"}, middlewares=[*CHAIN, "doubles:Witness"]) as url:
        async with connect(url) as client:
            await client.send(f"POST {PATH} HTTP/1.1\r\nHost: g\r\n{KEYS}Content-Length: 9\r\n\r\nabc".encode())
            answer = await client.answer()
        assert (408, "request_timeout") == (answer.status, answer.field("x-sidestream-error"))
        assert await Witness.ending() is Outcome.TIMED_OUT
    assert b"abc" == Witness.seen[0].request


async def test_an_upstream_that_does_not_accept_connections_is_unreachable() -> None:
    """A full backlog: the kernel drops what would connect."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listening, contextlib.ExitStack() as stack:
        address = listening.getsockname()
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(address)
        async with gateway(
            f"http://127.0.0.1:{address[1]}", limits={"connect": "200ms"}, middlewares=["doubles:Witness"]
        ) as url:
            answer = await exchange(url, post())
        assert (502, "upstream_unreachable") == (answer.status, answer.field("x-sidestream-error"))
        assert await Witness.ending() is Outcome.TIMED_OUT


async def test_an_unreachable_upstream_has_failed(unused_tcp_port: int) -> None:
    async with gateway(f"http://127.0.0.1:{unused_tcp_port}", middlewares=["doubles:Witness"]) as url:
        answer = await exchange(url, post())
    assert (502, "upstream_unreachable") == (answer.status, answer.field("x-sidestream-error"))
    assert await Witness.ending() is Outcome.UPSTREAM_FAILED


@pytest.mark.parametrize("sent", [b"", b"SSH-2.0-OpenSSH\r\n\r\n", b"HTTP/1.1 200"])
async def test_an_upstream_that_does_not_answer_in_http_has_failed(upstream: ScriptedUpstream, sent: bytes) -> None:
    async def script(_received: Received, connection: Connection) -> None:
        await connection.send(sent)
        await connection.close()

    upstream.script = script
    async with gateway(upstream.url, middlewares=["doubles:Witness"]) as url:
        answer = await exchange(url, post())
    assert (502, "upstream_failed") == (answer.status, answer.field("x-sidestream-error"))
    assert await Witness.ending() is Outcome.UPSTREAM_FAILED
    assert 1 == len(upstream.requests)


async def test_a_refused_call_is_rejected_and_nothing_is_forwarded(
    upstream: ScriptedUpstream, cancelling: bool
) -> None:
    async with gateway(upstream.url, middlewares=["doubles:Witness", *CHAIN], handler_cancellation=cancelling) as url:
        answer = await exchange(url, post(headers=""))
    assert 400 == answer.status
    assert await Witness.ending() is Outcome.REJECTED
    assert [] == upstream.requests


@pytest.mark.parametrize("name", ["raises_before", "answers_itself", "forgets_to_relay", "exits"])
async def test_a_middleware_that_fails_or_answers_before_the_head_ends_the_exchange(
    upstream: ScriptedUpstream, name: str, cancelling: bool
) -> None:
    order = ["doubles:Witness", f"doubles:{name}"]
    async with gateway(upstream.url, middlewares=order, handler_cancellation=cancelling) as url:
        answer = await exchange(url, post())
        again = await exchange(url, post())
    assert answer.status == again.status
    assert answer.status in {403, 500}
    assert b"canary" not in answer.body
    assert await Witness.ending(0) is Outcome.REJECTED


@pytest.mark.parametrize("name", ["raises_after", "answers_again", "returns_nothing"])
async def test_a_middleware_that_fails_or_answers_again_after_the_end_changes_nothing_for_the_client(
    upstream: ScriptedUpstream, name: str, cancelling: bool
) -> None:
    async def script(_received: Received, connection: Connection) -> None:
        await connection.send(STREAM_HEAD + chunk(EVENT) + chunk(b""))

    upstream.script = script
    async with gateway(
        upstream.url, middlewares=[f"doubles:{name}", "doubles:Witness"], handler_cancellation=cancelling
    ) as url:
        async with connect(url) as client:
            await client.send(post())
            answer = await client.answer()
            assert b"" == await client.reader.read()
    assert (EVENT, True) == (answer.body, answer.complete)
    assert await Witness.ending() is Outcome.COMPLETED


@pytest.mark.parametrize(
    ("name", "outcome"),
    [("swallows_failures", Outcome.UPSTREAM_FAILED), ("gives_up_soon", Outcome.CANCELLED)],
)
async def test_a_middleware_that_answers_again_in_mid_stream_cannot_write_into_the_first_response(
    upstream: ScriptedUpstream, name: str, outcome: Outcome, cancelling: bool
) -> None:
    async def script(_received: Received, connection: Connection) -> None:
        await connection.send(STREAM_HEAD + chunk(EVENT))
        if name == "swallows_failures":
            await connection.close()
        else:
            await connection.closed_by_peer()

    upstream.script = script
    async with gateway(
        upstream.url, middlewares=[f"doubles:{name}", "doubles:Witness"], handler_cancellation=cancelling
    ) as url:
        answer = await exchange(url, post())
        assert await Witness.ending() is outcome
    assert not answer.complete
    assert EVENT.startswith(answer.body)


async def test_a_stream_cut_at_shutdown_is_cancelled_and_seen_as_a_cut(
    upstream: ScriptedUpstream, held: asyncio.Event, cancelling: bool
) -> None:
    assert not held.is_set()
    async with contextlib.AsyncExitStack() as stack:
        async with gateway(
            upstream.url,
            middlewares=[*CHAIN, "doubles:Witness"],
            server={"drain": "200ms"},
            handler_cancellation=cancelling,
        ) as url:
            client = await stack.enter_async_context(connect(url))
            await client.send(post())
            await client.until(EVENT)
        assert await Witness.ending() is Outcome.CANCELLED
        assert not (await client.rest() or b"").endswith(b"0\r\n\r\n")


async def test_a_stream_that_ends_within_the_drain_is_completed(
    upstream: ScriptedUpstream, held: asyncio.Event
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        async with gateway(upstream.url, middlewares=[*CHAIN, "doubles:Witness"], server={"drain": "10s"}) as url:
            client = await stack.enter_async_context(connect(url))
            await client.send(post())
            await client.until(EVENT)
            asyncio.get_running_loop().call_soon(held.set)
        assert await Witness.ending() is Outcome.COMPLETED
        assert (await client.rest() or b"").endswith(b"0\r\n\r\n")


async def test_a_host_that_cancels_its_handlers_cancels_the_exchange(
    upstream: ScriptedUpstream, held: asyncio.Event
) -> None:
    assert not held.is_set()
    app = web.Application()
    mount(
        app,
        "/llm",
        {"upstreams": {"anthropic": {"url": upstream.url}}, "middlewares": ["doubles:Witness"], "sinks": []},
    )
    async with contextlib.AsyncExitStack() as stack:
        async with running(app, shutdown_timeout=0.05) as origin:
            client = await stack.enter_async_context(connect(origin))
            await client.send(post(path="/llm/anthropic/v1/messages"))
            await client.until(EVENT)
        assert await Witness.ending() is Outcome.CANCELLED


async def test_a_raising_observer_changes_nothing_and_is_detached(
    upstream: ScriptedUpstream, held: asyncio.Event
) -> None:
    held.set()
    async with gateway(upstream.url, middlewares=["doubles:with_raising_observer", "doubles:Witness"]) as url:
        answer = await exchange(url, post())
    assert (EVENT + STOP, True) == (answer.body, answer.complete)
    assert await Witness.ending() is Outcome.COMPLETED
    assert EVENT + STOP == Witness.seen[0].response


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_a_slow_observer_holds_no_byte_back(run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
    """What it is shown is already with the client: a client in another thread, as the observer blocks the loop."""
    doubles.BlockingObserver.seen_elsewhere = seen = threading.Event()
    doubles.BlockingObserver.in_time.clear()

    def client(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(post())
            received = b""
            while not received.endswith(b"0\r\n\r\n"):
                received += connection.recv(1 << 16)
                if EVENT in received:
                    seen.set()

    async def main() -> None:
        async def script(_received: Received, connection: Connection) -> None:
            await connection.send(STREAM_HEAD + chunk(EVENT) + chunk(b""))

        async with ScriptedUpstream(script) as upstream:
            async with gateway(upstream.url, middlewares=["doubles:with_blocking_observer"]) as url:
                port = urlsplit(url).port
                assert port
                await asyncio.to_thread(client, port)

    run(main())
    assert [True] == doubles.BlockingObserver.in_time


async def test_a_middleware_may_read_the_body_and_it_is_still_forwarded(upstream: ScriptedUpstream) -> None:
    async with gateway(upstream.url, middlewares=["doubles:reads_the_body", *CHAIN, "doubles:Witness"]) as url:
        await exchange(url, post(b'{"a": 1}'))
    assert b'{"a": 1}' == bytes(upstream.requests[0].body)
    assert b'{"a": 1}' == Witness.seen[0].request


@pytest.mark.parametrize("name", ["eats_the_body", "nibbles_at_the_body"])
@pytest.mark.parametrize("size", [8, 200_000])
async def test_a_middleware_that_eats_of_the_body_is_told_so_rather_than_less_forwarded(
    upstream: ScriptedUpstream, name: str, size: int
) -> None:
    async with gateway(upstream.url, middlewares=[f"doubles:{name}"]) as url, connect(url) as client:
        sending = asyncio.ensure_future(client.send(post(bytes(size))))
        answer = await client.answer()
        await sending
    assert (500, "internal_error") == (answer.status, answer.field("x-sidestream-error"))
    assert [] == [request for request in upstream.requests if request.complete]


async def test_a_relay_that_its_middleware_abandons_is_ended_and_tells_nothing_after_the_end(
    upstream: ScriptedUpstream, cancelling: bool
) -> None:
    left = asyncio.Event()

    async def script(_received: Received, connection: Connection) -> None:
        doubles.abandon.set()
        await connection.closed_by_peer()
        left.set()

    upstream.script = script
    doubles.abandon = asyncio.Event()
    doubles.orphans.clear()
    async with gateway(
        upstream.url, middlewares=["doubles:abandons_the_relay", "doubles:Witness"], handler_cancellation=cancelling
    ) as url:
        answer = await exchange(url, post())
        assert (b"something else", True) == (answer.body, answer.complete)
        assert await Witness.ending() is Outcome.CANCELLED
        async with asyncio.timeout(5):
            await left.wait()
        with pytest.raises(GatewayError):
            await doubles.orphans[0]
    assert b"" == Witness.seen[0].response


async def test_a_middleware_may_stream_an_answer_of_its_own(upstream: ScriptedUpstream) -> None:
    async with gateway(upstream.url, middlewares=["doubles:Witness", "doubles:streams_itself"]) as url:
        answer = await exchange(url, post())
    assert (b"from a cache", True) == (answer.body, answer.complete)
    assert await Witness.ending() is Outcome.REJECTED


async def test_a_middleware_that_fails_in_its_own_stream_breaks_it_off(upstream: ScriptedUpstream) -> None:
    async with gateway(upstream.url, middlewares=["doubles:Witness", "doubles:breaks_its_own_stream"]) as url:
        async with connect(url) as client:
            await client.send(post())
            assert not (await client.rest() or b"").endswith(b"0\r\n\r\n")
    assert await Witness.ending() is Outcome.CANCELLED


async def test_a_limit_leaves_no_cancellation_behind_in_the_middlewares_task(upstream: ScriptedUpstream) -> None:
    async def script(_received: Received, connection: Connection) -> None:
        await connection.closed_by_peer()

    upstream.script = script
    doubles.cancellations.clear()
    async with gateway(upstream.url, limits={"first_byte": "50ms"}, middlewares=["doubles:notes_cancelling"]) as url:
        assert 504 == (await exchange(url, post())).status
    assert [0] == doubles.cancellations


async def test_what_a_client_that_has_gone_would_have_received_is_still_observed(
    upstream: ScriptedUpstream, cancelling: bool
) -> None:
    gone = asyncio.Event()

    async def script(_received: Received, connection: Connection) -> None:
        await connection.send(STREAM_HEAD + chunk(EVENT))
        await gone.wait()
        await connection.send(chunk(STOP))
        await connection.closed_by_peer()

    upstream.script = script
    async with gateway(upstream.url, middlewares=[*CHAIN, "doubles:Witness"], handler_cancellation=cancelling) as url:
        async with connect(url) as client:
            await client.send(post())
            await client.until(EVENT)
            client.reset()
            if cancelling:
                await Witness.ending()
            gone.set()
            assert await Witness.ending() is Outcome.CLIENT_DISCONNECTED
    assert EVENT + (b"" if cancelling else STOP) == Witness.seen[0].response


async def test_a_bad_chunk_behind_a_slow_reader_is_never_a_clean_end(upstream: ScriptedUpstream) -> None:
    """The upstream's connection is long gone while its last bytes still wait for the client."""
    body = bytes(8 << 20)

    async def script(_received: Received, connection: Connection) -> None:
        await connection.send(STREAM_HEAD)
        for start in range(0, len(body), 1000):
            await connection.send(chunk(body[start : start + 1000]))
        await connection.send(b"zz\r\n")
        await connection.closed_by_peer()

    upstream.script = script
    async with gateway(upstream.url, middlewares=["doubles:Witness"]) as url:
        async with connect(url) as client:
            await client.send(post())
            await client.head()
            rest = await client.rest()
    assert await Witness.ending() is Outcome.UPSTREAM_FAILED
    assert not (rest or b"").endswith(b"0\r\n\r\n")


async def test_a_relay_never_writes_into_a_response_that_a_middleware_has_begun(upstream: ScriptedUpstream) -> None:
    async with gateway(upstream.url, middlewares=["doubles:Witness", "doubles:streams_then_relays"]) as url:
        async with connect(url) as client:
            await client.send(post())
            received = await client.rest() or b""
    assert 1 >= received.count(b"HTTP/1.1")
    assert await Witness.ending() is Outcome.CANCELLED


async def test_a_body_that_only_a_reset_ends_is_a_broken_transfer(upstream: ScriptedUpstream) -> None:
    arrived = asyncio.Event()

    async def script(_received: Received, connection: Connection) -> None:
        await connection.send(b"HTTP/1.1 200 OK\r\n\r\n" + EVENT)
        await arrived.wait()
        await connection.reset()

    upstream.script = script
    async with gateway(upstream.url, middlewares=["doubles:Witness"]) as url, connect(url) as client:
        await client.send(post())
        await client.until(EVENT)
        arrived.set()
        assert not (await client.rest() or b"").endswith(b"0\r\n\r\n")
        assert await Witness.ending() is Outcome.UPSTREAM_FAILED


async def fill_the_way(client: RawClient) -> None:
    """Send until every buffer on the way is full."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await client.send(post(bytes(60 << 20)))


@pytest.mark.skipif(not hasattr(socket, "TCP_INFO"), reason="only Linux tells of a client that nobody reads from")
async def test_a_client_that_resets_while_the_upstream_takes_nothing_is_gone(cancelling: bool) -> None:
    full = asyncio.Event()

    async def script(_received: Received, connection: Connection) -> None:
        await connection.send(b"")
        await full.wait()

    async with ScriptedUpstream(script, early=True) as stalled:
        async with gateway(stalled.url, middlewares=["doubles:Witness"], handler_cancellation=cancelling) as url:
            async with connect(url) as client:
                await fill_the_way(client)
                client.reset()
                assert await Witness.ending() is Outcome.CLIENT_DISCONNECTED
        full.set()


@pytest.mark.skipif(not hasattr(socket, "TCP_INFO"), reason="only Linux tells of a client that nobody reads from")
async def test_a_client_that_leaves_while_the_rest_of_its_body_is_wanted_by_nobody_is_gone(cancelling: bool) -> None:
    """The upstream has begun to answer, and says no more."""
    ended = asyncio.Event()

    async def script(_received: Received, connection: Connection) -> None:
        await connection.send(STREAM_HEAD + chunk(EVENT))
        await ended.wait()

    async with ScriptedUpstream(script, early=True) as upstream:
        async with gateway(upstream.url, middlewares=["doubles:Witness"], handler_cancellation=cancelling) as url:
            async with connect(url) as client:
                await fill_the_way(client)
                await client.until(EVENT)
                client.reset()
                assert await Witness.ending() is Outcome.CLIENT_DISCONNECTED
        ended.set()


async def test_an_upstream_may_answer_before_there_is_any_of_a_body() -> None:
    async def refuse(_received: Received, connection: Connection) -> None:
        await connection.send(response(b"no", status="401 Unauthorized"))

    async with ScriptedUpstream(refuse, early=True) as upstream, gateway(upstream.url) as url, connect(url) as client:
        await client.send(post(bytes(10))[:-10])
        assert (401, b"no") == ((answer := await client.answer()).status, answer.body)


WHOLE = {  # a response, what of it may pass before its end, and the end
    "chunked": (STREAM_HEAD + chunk(EVENT) + chunk(b""), EVENT, b"0\r\n\r\n"),
    "content-length": (response(EVENT + b"!"), EVENT, b"!"),
    "close": (b"HTTP/1.1 200 OK\r\n\r\n" + EVENT, EVENT, b"0\r\n\r\n"),
    "no body": (response(status="204 No Content", length=False), b"", b"HTTP/1.1 204"),
}


@pytest.fixture
def hold() -> None:
    doubles.holding, doubles.let_go = asyncio.Event(), asyncio.Event()
    doubles.hold_failures.clear()


@pytest.mark.usefixtures("hold")
@pytest.mark.parametrize("form", WHOLE)
async def test_the_end_of_a_response_can_be_held_back_until_something_else_is_done(
    upstream: ScriptedUpstream, form: str
) -> None:
    whole, first, end = WHOLE[form]

    async def script(_received: Received, connection: Connection) -> None:
        await connection.send(whole)
        if form == "close":
            await connection.close()

    upstream.script = script
    async with gateway(upstream.url, middlewares=["doubles:holds_the_end", "doubles:Witness"]) as url:
        async with connect(url) as client:
            await client.send(post())
            await doubles.holding.wait()
            seen = Witness.seen[0].response
            if first:
                assert not (await client.until(first)).endswith(end)
            assert [] == Witness.seen[0].ends
            doubles.let_go.set()
            await client.until(end)
            assert await Witness.ending() is Outcome.COMPLETED
    assert first + (end if form == "content-length" else b"") == seen


@pytest.mark.usefixtures("hold")
@pytest.mark.parametrize("form", WHOLE)
async def test_if_what_holds_the_end_fails_the_client_sees_no_end(upstream: ScriptedUpstream, form: str) -> None:
    whole, _first, end = WHOLE[form]

    async def script(_received: Received, connection: Connection) -> None:
        await connection.send(whole)
        if form == "close":
            await connection.close()

    upstream.script = script
    doubles.hold_failures.append(OSError("the disk is full"))
    doubles.let_go.set()
    async with gateway(upstream.url, middlewares=["doubles:holds_the_end", "doubles:Witness"]) as url:
        async with connect(url) as client:
            await client.send(post())
            rest = await client.rest() or b""
        assert await Witness.ending() is Outcome.CANCELLED
    assert not rest.endswith(end)
    assert end not in rest or form == "content-length"


async def test_an_ordinary_aiohttp_middleware_fits(upstream: ScriptedUpstream) -> None:
    async with gateway(upstream.url, middlewares=["doubles:ordinary"]) as url:
        await exchange(url, post())
    assert [200] == doubles.ordinary_statuses
