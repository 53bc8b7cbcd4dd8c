"""An upstream behind TLS, or behind a proxy, or both: whom the gateway believes, and who learns what."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from doubles import Witness
from proxying import PAST, TunnelProxy, bundle, serving_as
from rawhttp import PATH, Answer, connect, exchange, post
from sidestream import Outcome
from sidestream.testing import ScriptedUpstream, gateway
from sidestream.testing.upstream import STREAM_HEAD, Connection, Received, chunk, response

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator
    from pathlib import Path

EVENT = b'event: ping\ndata: {"type": "ping"}\n\n'
STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
LOOPBACK = "127.0.0.1"


@pytest.fixture
async def secure() -> AsyncIterator[ScriptedUpstream]:
    """An upstream with a certificate of `AUTHORITY` for its address."""
    async with ScriptedUpstream(ssl=serving_as(LOOPBACK)) as upstream:
        yield upstream


async def ask(url: str, **options: Any) -> Answer:
    """One call, with further options of the upstream."""
    async with gateway(url, limits=options, middlewares=["doubles:Witness"]) as base:
        return await exchange(base, post())


def told(answer: Answer) -> tuple[int, str | None, str]:
    return answer.status, answer.field("x-sidestream-error"), json.loads(answer.body)["type"]


UNREACHABLE = (502, "upstream_unreachable", "error")


async def test_an_upstream_that_the_bundle_vouches_for_is_relayed_byte_for_byte(
    secure: ScriptedUpstream, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """As one without TLS is."""
    answers = []
    request = post(b"\x00\xff" * 50_000, path=f"{PATH}?a=%7E&b", headers="X-Api-Key: k\r\nX-a: 1\r\nx-A: 2\r\n")
    for each, options in ((upstream, {}), (secure, {"ca_bundle": bundle(tmp_path)})):
        each.script = _odd
        async with gateway(each.url, limits=options) as url:
            answers.append(await exchange(url, request))
    plain, other = (each.requests[0] for each in (upstream, secure))
    assert [plain.head.replace(upstream.url[7:].encode(), b"")] == [other.head.replace(secure.url[8:].encode(), b"")]
    assert plain.body == other.body
    assert answers[0] == answers[1]
    assert (202, bytes(100_000)) == (answers[1].status, answers[1].body)


async def _odd(_received: Received, connection: Connection) -> None:
    fields = [("X-b", "1"), ("x-B", "2"), ("Content-Encoding", "odd")]
    await connection.send(response(bytes(100_000), status="202 As You Like", headers=fields))


async def test_a_stream_behind_tls_comes_as_it_is_sent(secure: ScriptedUpstream, tmp_path: Path) -> None:
    async def script(_received: Received, connection: Connection) -> None:
        await connection.send(STREAM_HEAD + chunk(EVENT))
        await seen.read(1)
        await connection.send(chunk(STOP) + chunk(b""))

    secure.script = script
    async with gateway(secure.url, limits={"ca_bundle": bundle(tmp_path)}) as url:
        async with connect(url) as client, connect(url) as telling:
            seen = telling.reader
            await client.send(post())
            await client.until(EVENT)
            await telling.send(b"nonsense\r\n\r\n")
            assert (await client.until(STOP)).endswith(STOP)


@pytest.mark.parametrize(
    "served",
    [
        pytest.param(serving_as(LOOPBACK, authority=trustme.CA()), id="of somebody else"),
        pytest.param(serving_as("elsewhere.test", "127.0.0.2"), id="for another name"),
        pytest.param(serving_as(LOOPBACK, until=PAST), id="expired"),
    ],
)
async def test_a_certificate_that_does_not_hold_makes_an_upstream_unreachable(
    served: ssl.SSLContext, tmp_path: Path
) -> None:
    async with ScriptedUpstream(ssl=served) as upstream:
        answer = await ask(upstream.url, ca_bundle=bundle(tmp_path))
    assert UNREACHABLE == told(answer)
    assert await Witness.ending() is Outcome.UPSTREAM_FAILED
    assert [] == upstream.requests


async def test_without_a_bundle_nobody_is_believed_whom_the_system_does_not_trust(secure: ScriptedUpstream) -> None:
    assert UNREACHABLE == told(await ask(secure.url))
    assert [] == secure.requests


async def test_an_upstream_that_speaks_no_tls_is_unreachable() -> None:
    async def speak(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(speak, LOOPBACK, 0) as server:
        assert UNREACHABLE == told(await ask(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"))


async def test_a_tunnel_carries_what_its_proxy_cannot_read(secure: ScriptedUpstream, tmp_path: Path) -> None:
    async with TunnelProxy() as proxy:
        options = {"ca_bundle": bundle(tmp_path), "proxy": f"http://me:p%40ss%C3%A9@{proxy.address}"}
        async with gateway(secure.url, limits=options) as url, connect(url) as client:
            for body in (b"{}", b"[]"):
                await client.send(post(body, headers="x-api-key: sk-canary\r\nProxy-Authorization: Basic mine\r\n"))
                assert 200 == (await client.answer()).status
    (head,) = proxy.heads
    credentials = base64.b64encode("me:p@ssé".encode("latin-1"))
    assert head.startswith(f"CONNECT {secure.url.removeprefix('https://')} HTTP/1.1\r\n".encode())
    assert b"\r\nProxy-Authorization: Basic " + credentials + b"\r\n" in head
    assert b"canary" not in head
    assert [b"{}", b"[]"] == [bytes(request.body) for request in secure.requests]
    assert not any(request.header("Proxy-Authorization") for request in secure.requests)
    assert not any(credentials in request.head for request in secure.requests)


async def test_the_certificate_behind_a_tunnel_is_verified_too(secure: ScriptedUpstream, tmp_path: Path) -> None:
    other = bundle(tmp_path, trustme.CA())
    async with TunnelProxy() as proxy:
        assert UNREACHABLE == told(await ask(secure.url, ca_bundle=other, proxy=f"http://{proxy.address}"))
        assert 1 == len(proxy.heads)
    assert [] == secure.requests


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=canary\r\n\r\ncanary",
        b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 6\r\n\r\ncanary",
        b"HTTP/1.1 302 Found\r\nLocation: http://canary.test/\r\nContent-Length: 0\r\n\r\n",
        b"SSH-2.0-canary\r\n\r\n",
    ],
)
async def test_a_proxy_that_opens_no_tunnel_makes_an_upstream_unreachable(
    secure: ScriptedUpstream, tmp_path: Path, said: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    async with TunnelProxy(said) as proxy:
        url = f"http://me:canary@{proxy.address}"
        answer = await ask(secure.url, ca_bundle=bundle(tmp_path), proxy=url)
    out, err = capfd.readouterr()
    assert (502, "error") == (answer.status, told(answer)[2])
    assert await Witness.ending() is Outcome.UPSTREAM_FAILED
    assert "canary" not in out + err + answer.head.decode() + answer.body.decode()
    assert [] == secure.requests


async def test_a_proxy_that_is_not_there_makes_an_upstream_unreachable(
    secure: ScriptedUpstream, unused_tcp_port: int
) -> None:
    assert UNREACHABLE == told(await ask(secure.url, proxy=f"http://127.0.0.1:{unused_tcp_port}"))


async def test_a_proxy_that_never_answers_is_given_up_as_soon_as_an_upstream_is(secure: ScriptedUpstream) -> None:
    async with TunnelProxy(b"") as proxy:
        answer = await ask(secure.url, proxy=f"http://{proxy.address}", connect="100ms")
    assert UNREACHABLE == told(answer)
    assert await Witness.ending() is Outcome.TIMED_OUT


async def test_an_upstream_without_tls_is_asked_for_by_its_whole_url(upstream: ScriptedUpstream) -> None:
    """The proxy is `upstream` here; it relays such calls instead of opening a tunnel."""
    proxy = upstream.url.replace("http://", "http://me:you@")
    async with gateway("http://provider.test:8080/base", limits={"proxy": proxy}) as url, connect(url) as client:
        for _ in range(2):
            await client.send(post(path=f"{PATH}?a=%7E"))
            assert 200 == (await client.answer()).status
    assert 1 == upstream.connections
    for received in upstream.requests:
        assert "http://provider.test:8080/base/v1/messages?a=%7E" == received.target
        assert ["provider.test:8080"] == received.header("Host")
        assert ["Basic " + base64.b64encode(b"me:you").decode()] == received.header("Proxy-Authorization")


async def test_a_proxy_in_the_environment_is_none_of_ours(
    upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server((LOOPBACK, 0)) as nobody:
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{nobody.getsockname()[1]}")
        assert 200 == (await ask(upstream.url)).status
    assert 1 == len(upstream.requests)


async def test_a_refusal_of_the_proxy_is_told_from_a_failure_of_the_upstream(secure: ScriptedUpstream) -> None:
    async with TunnelProxy(b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n") as proxy:
        assert UNREACHABLE == told(await ask(secure.url, proxy=f"http://{proxy.address}"))
