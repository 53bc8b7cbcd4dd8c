"""What goes through comes out: heads, bodies, and the moments at which pieces travel."""

from __future__ import annotations

import asyncio
import gzip
import json
import random

import pytest

from doubles import Witness
from rawhttp import KEYS, PATH, connect, exchange, post
from sidestream.testing import ScriptedUpstream, gateway
from sidestream.testing.upstream import STREAM_HEAD, Connection, Received, chunk, response

EVERY_BYTE = bytes(range(256)) * 8


@pytest.mark.parametrize(
    "tail",
    [
        "/v1/messages?beta=true",
        "/v1/mess%61ges?x=%7E&y=a+b&z=%2F%zz",
        "/v1/messages?",
        "/v1//messages/",
        "/v1/files/a%2Fb;v=1,2:3@!$&'()*+=~",
        "/",
        "",
    ],
)
async def test_the_target_reaches_the_provider_as_it_came(upstream: ScriptedUpstream, tail: str) -> None:
    async with gateway(upstream.url) as url:
        for dataset in ("", "my-agent/"):
            await exchange(url, post(path=f"/api/v1/gateway/{dataset}anthropic{tail}"))
    assert [tail or "/"] * 2 == [request.target for request in upstream.requests]


async def test_a_base_path_of_the_upstream_comes_first(upstream: ScriptedUpstream) -> None:
    async with gateway(upstream.url + "/proxy/anthropic/") as url:
        await exchange(url, post())
    assert ["/proxy/anthropic/v1/messages"] == [request.target for request in upstream.requests]


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"])
async def test_every_method_is_relayed(upstream: ScriptedUpstream, method: str) -> None:
    async with gateway(upstream.url) as url:
        path = PATH.replace("messages", "models")
        answer = await exchange(url, f"{method} {path} HTTP/1.1\r\nHost: g\r\n\r\n".encode(), method=method)
    assert (200, [method]) == (answer.status, [request.method for request in upstream.requests])


async def test_request_headers_keep_their_order_and_duplicates_and_lose_only_what_is_hop_by_hop(
    upstream: ScriptedUpstream,
) -> None:
    sent = (
        "Connection: keep-alive, X-Hop\r\nKeep-Alive: timeout=5\r\nX-Hop: secret\r\nTE: trailers\r\n"
        "Proxy-Authorization: Basic c2VjcmV0\r\nProxy-Connection: keep-alive\r\nUpgrade: h2c\r\nx-api-key: k\r\n"
        "anthropic-beta: a\r\nX-Umlaut: grün\r\nAnthropic-Beta: b\r\nanthropic-beta: a\r\ncookie: a=1\r\nEmpty:\r\n"
    )
    async with gateway(upstream.url) as url:
        await exchange(url, post(headers=sent))
    (request,) = upstream.requests
    assert [upstream.url.removeprefix("http://")] == request.header("Host")
    received = [(name.lower(), value) for name, value in request.headers if name.lower() != "host"]
    assert [
        ("x-api-key", "k"),
        ("anthropic-beta", "a"),
        ("x-umlaut", "grün".encode().decode("latin-1")),
        ("anthropic-beta", "b"),
        ("anthropic-beta", "a"),
        ("cookie", "a=1"),
        ("empty", ""),
        ("content-length", "2"),
    ] == received


async def test_the_response_head_is_the_providers_and_nothing_else(upstream: ScriptedUpstream) -> None:
    fields = [
        ("Set-Cookie", "__cf_bm=1; HttpOnly"),
        ("request-id", "req_1"),
        ("set-cookie", "b=2"),
        ("Content-Encoding", "x-unknown"),
        ("X-Umlaut", "grün"),
    ]

    async def script(_received: Received, connection: Connection) -> None:
        hop = [("Connection", "X-Secret"), ("X-Secret", "1"), ("Keep-Alive", "timeout=5")]
        await connection.send(response(EVERY_BYTE, status="200 Splendid Reason", headers=[*fields, *hop]))

    upstream.script = script
    async with gateway(upstream.url) as url:
        answer = await exchange(url, post())
    assert answer.head.startswith(b"HTTP/1.1 200 Splendid Reason\r\n")
    expected = [(name.lower(), value.encode().decode("latin-1")) for name, value in fields]
    assert [*expected, ("content-length", "2048")] == [(name.lower(), value) for name, value in answer.fields]
    assert EVERY_BYTE == answer.body


async def test_a_provider_error_is_passed_on_untouched(upstream: ScriptedUpstream) -> None:
    body = b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}'

    async def script(_received: Received, connection: Connection) -> None:
        fields = [("retry-after", "7"), ("request-id", "req_9"), ("x-should-retry", "true")]
        await connection.send(response(body, status="529 ", headers=fields))

    upstream.script = script
    async with gateway(upstream.url) as url:
        answer = await exchange(url, post(b'{"stream":true}'))
    assert (529, body, "7", "req_9") == (
        answer.status,
        answer.body,
        answer.field("retry-after"),
        answer.field("request-id"),
    )
    assert answer.field("x-sidestream-error") is None
    assert 1 == len(upstream.requests)


async def test_a_redirect_is_passed_on_and_not_followed(upstream: ScriptedUpstream) -> None:
    async def script(_received: Received, connection: Connection) -> None:
        await connection.send(response(status="307 Temporary Redirect", headers=[("Location", "http://evil.test/x")]))

    upstream.script = script
    async with gateway(upstream.url) as url:
        answer = await exchange(url, post())
    assert (307, "http://evil.test/x") == (answer.status, answer.field("Location"))
    assert 1 == len(upstream.requests)


async def test_cookies_of_one_client_do_not_reach_another(upstream: ScriptedUpstream) -> None:
    async def script(_received: Received, connection: Connection) -> None:
        await connection.send(response(headers=[("Set-Cookie", "__cf_bm=mine; Path=/")]))

    upstream.script = script
    async with gateway(upstream.url.replace("127.0.0.1", "localhost")) as url:  # jars keep nothing of an address
        await exchange(url, post())
        await exchange(url, post())
    assert [[], []] == [request.header("Cookie") for request in upstream.requests]


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
async def test_a_response_without_a_body_ends_with_its_head(upstream: ScriptedUpstream, status: str) -> None:
    async def script(_received: Received, connection: Connection) -> None:
        await connection.send(response(status=status, headers=[("ETag", '"1"')], length=False))

    upstream.script = script
    async with gateway(upstream.url) as url, connect(url) as client:
        for _ in range(2):
            await client.send(post())
            answer = await client.answer()
            assert (status[:3], ['"1"']) == (str(answer.status), [value for _name, value in answer.fields])


async def test_the_head_of_a_head_request_keeps_its_length(upstream: ScriptedUpstream) -> None:
    async def script(_received: Received, connection: Connection) -> None:
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4711\r\n\r\n")

    upstream.script = script
    async with gateway(upstream.url) as url, connect(url) as client:
        for _ in range(2):
            await client.send(f"HEAD {PATH} HTTP/1.1\r\nHost: g\r\n\r\n".encode())
            assert "4711" == (await client.answer(method="HEAD")).field("Content-Length")


async def test_a_compressed_body_is_relayed_as_it_is(upstream: ScriptedUpstream) -> None:
    packed = gzip.compress(b'{"content": []}' * 100)

    async def script(_received: Received, connection: Connection) -> None:
        await connection.send(response(packed, headers=[("Content-Encoding", "gzip")]))

    upstream.script = script
    async with gateway(upstream.url) as url:
        answer = await exchange(url, post(packed, headers=KEYS + "Content-Encoding: gzip\r\n"))
    assert packed == answer.body
    assert packed == bytes(upstream.requests[0].body)


async def test_a_chunk_travels_before_the_next_one_exists(upstream: ScriptedUpstream) -> None:
    """Ping-pong: each piece is sent only once the one before has arrived at the other end, both ways."""
    arrived = asyncio.Event()
    pieces = [b"data: %d\n\n" % number for number in range(20)]

    async def script(_received: Received, connection: Connection) -> None:
        await connection.send(STREAM_HEAD)
        for piece in pieces:
            await connection.send(chunk(piece))
            await arrived.wait()
            arrived.clear()
        await connection.send(chunk(b""))

    upstream.script = script
    async with gateway(upstream.url) as url, connect(url) as client:
        await client.send(post())
        for piece in pieces:
            await client.until(piece)
            arrived.set()
        await client.until(b"0\r\n\r\n")


async def test_a_request_body_streams_through_before_it_is_complete(upstream: ScriptedUpstream) -> None:
    async with gateway(upstream.url, middlewares=["doubles:Witness"]) as url, connect(url) as client:
        await client.send(f"POST {PATH} HTTP/1.1\r\nHost: g\r\n{KEYS}Transfer-Encoding: chunked\r\n\r\n".encode())
        for number in range(5):
            await client.send(chunk(b"piece %d;" % number))
            async with asyncio.timeout(10):
                while not (upstream.requests and upstream.requests[0].body.endswith(b"piece %d;" % number)):
                    await upstream.activity.wait()
                    upstream.activity.clear()
        await client.send(chunk(b""))
        answer = await client.answer()
    assert 200 == answer.status
    assert b"piece 0;piece 1;piece 2;piece 3;piece 4;" == bytes(upstream.requests[0].body)
    assert ["chunked"] == upstream.requests[0].header("Transfer-Encoding")
    assert Witness.seen[0].request == bytes(upstream.requests[0].body)


@pytest.mark.parametrize("size", [0, 1, 60_000, 3_000_000])
async def test_bodies_of_any_size_arrive_whole(upstream: ScriptedUpstream, size: int) -> None:
    body = random.Random(size).randbytes(size)

    async def script(received: Received, connection: Connection) -> None:
        await connection.send(STREAM_HEAD)
        for start in range(0, size, 70_001):
            await connection.send(chunk(bytes(received.body[start : start + 70_001])))
        await connection.send(chunk(b""))

    upstream.script = script
    async with gateway(upstream.url, middlewares=["doubles:Witness"]) as url, connect(url) as client:
        sending = asyncio.create_task(client.send(post(body)))
        answer = await client.answer()
        await sending
    assert body == bytes(upstream.requests[0].body)
    assert (body, True) == (answer.body, answer.complete)
    assert (body, body) == (Witness.seen[0].request, Witness.seen[0].response)


async def test_a_client_that_waits_for_100_continue_gets_it_when_its_body_is_wanted(upstream: ScriptedUpstream) -> None:
    head = f"POST {PATH} HTTP/1.1\r\nHost: g\r\nExpect: 100-continue\r\nContent-Length: 3\r\n"
    async with gateway(upstream.url) as url:
        async with connect(url) as client:
            await client.send(f"{head}{KEYS}\r\n".encode())
            assert b"HTTP/1.1 100 Continue\r\n\r\n" == await client.head()
            await client.send(b"abc")
            assert 200 == (await client.answer()).status
        async with connect(url) as client:
            await client.send(f"{head}\r\n".encode())
            assert (await client.head()).startswith(b"HTTP/1.1 400 ")
    assert [b"abc"] == [bytes(request.body) for request in upstream.requests]
    assert [] == upstream.requests[0].header("Expect")


async def test_an_early_answer_is_relayed_while_the_client_still_sends(upstream: ScriptedUpstream) -> None:
    body = b'{"type":"error"}'

    async def script(_received: Received, connection: Connection) -> None:
        await connection.send(response(body, status="413 Too Large"))

    async with ScriptedUpstream(script, early=True) as early:
        async with gateway(early.url, middlewares=["doubles:Witness"]) as url, connect(url) as client:
            await client.send(f"POST {PATH} HTTP/1.1\r\nHost: g\r\n{KEYS}Content-Length: 1000000\r\n\r\nabc".encode())
            answer = await client.answer()
            assert (413, body) == (answer.status, answer.body)
            await client.send(b"still sending")  # the gateway lingers and throws it away
        await Witness.ending()
    assert len(early.requests[0].body) < 1000000
    assert [] == upstream.requests


async def test_once_the_upstream_answers_no_more_of_the_request_is_sent() -> None:
    told = asyncio.Event()

    async def script(_received: Received, connection: Connection) -> None:
        await connection.send(STREAM_HEAD + chunk(b"enough"))
        await told.wait()
        await connection.send(chunk(b"!") + chunk(b""))

    async with ScriptedUpstream(script, early=True) as early:
        async with gateway(early.url, middlewares=["doubles:Witness"]) as url, connect(url) as client:
            await client.send(f"POST {PATH} HTTP/1.1\r\nHost: g\r\n{KEYS}Content-Length: 999\r\n\r\nabc".encode())
            await client.until(b"enough")
            await client.send(b"defghi")
            told.set()
            await client.until(b"0\r\n\r\n")
            await Witness.ending()
        await early.ended.wait()
    assert b"abc" == bytes(early.requests[0].body)
    assert b"abc" == Witness.seen[0].request


async def test_a_header_that_cannot_be_carried_back_is_left_out_and_counted(upstream: ScriptedUpstream) -> None:
    async def script(_received: Received, connection: Connection) -> None:
        await connection.send(b"HTTP/1.1 200 OK\r\nX-Bad: \xff\xfe\r\nX-Good: 1\r\nContent-Length: 2\r\n\r\nok")

    upstream.script = script
    async with gateway(upstream.url) as url:
        answer = await exchange(url, post())
        health = await exchange(url, b"GET /api/v1/gateway/health HTTP/1.1\r\nHost: g\r\n\r\n", method="GET")
    assert ([("X-Good", "1"), ("Content-Length", "2")], b"ok") == (answer.fields, answer.body)
    assert 1 == json.loads(health.body)["relay"]["inexact"]


async def test_an_unsolicited_response_on_an_idle_connection_is_nobodys_answer(upstream: ScriptedUpstream) -> None:
    """It would be taken for the next answer, and every answer would go to the next client."""
    stray, sent = asyncio.Event(), asyncio.Event()

    async def script(received: Received, connection: Connection) -> None:
        await connection.send(response(bytes(received.body)))
        if received.body == b"0":
            await stray.wait()
            await connection.send(response(b"stray", status="408 Request Timeout"))
            sent.set()

    upstream.script = script
    async with gateway(upstream.url) as url:
        assert b"0" == (await exchange(url, post(b"0"))).body
        stray.set()
        await sent.wait()
        for number in (b"1", b"2", b"3"):
            answer = await exchange(url, post(number))
            assert (200, number) == (answer.status, answer.body)
    assert 2 == upstream.connections


@pytest.mark.parametrize("coding", ["gzip, chunked", "gzip"])
async def test_a_transfer_coding_that_would_be_lost_is_a_failure_and_not_relayed(
    upstream: ScriptedUpstream, coding: str
) -> None:
    async def script(_received: Received, connection: Connection) -> None:
        await connection.send(
            f"HTTP/1.1 200 OK\r\nTransfer-Encoding: {coding}\r\n\r\n".encode() + chunk(b"x") + chunk(b"")
        )
        await connection.close()

    upstream.script = script
    async with gateway(upstream.url) as url:
        answer = await exchange(url, post())
    assert (502, "upstream_failed") == (answer.status, answer.field("x-sidestream-error"))


async def test_a_long_header_and_many_headers_of_a_provider_are_relayed(upstream: ScriptedUpstream) -> None:
    fields = [("X-Long", "x" * 10_240), *((f"X-{number}", "1") for number in range(200))]

    async def script(_received: Received, connection: Connection) -> None:
        await connection.send(response(headers=fields))

    upstream.script = script
    async with gateway(upstream.url) as url:
        answer = await exchange(url, post())
    assert [*fields, ("Content-Length", "0")] == answer.fields


async def test_a_body_that_only_the_connections_end_delimits_is_relayed_and_marked(upstream: ScriptedUpstream) -> None:
    async def script(_received: Received, connection: Connection) -> None:
        await connection.send(b"HTTP/1.1 200 OK\r\n\r\nhalf")
        await connection.send(b" and half")
        await connection.close()

    upstream.script = script
    async with gateway(upstream.url) as url:
        answer = await exchange(url, post())
    assert (b"half and half", True) == (answer.body, answer.complete)
