"""Where calls go is the configuration's word: nothing in a request, and nothing in an answer, moves one elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from rawhttp import PATH, exchange, post
from sidestream.testing import ScriptedUpstream, gateway
from sidestream.testing.upstream import Connection, Received, response

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

BELOW = "/api/v1/gateway/my-agent/anthropic"
KEYS = "x-api-key: sk-canary\r\nCookie: canary\r\n"


@pytest.fixture
async def elsewhere() -> AsyncIterator[ScriptedUpstream]:
    """Where nothing may go."""
    async with ScriptedUpstream() as upstream:
        yield upstream


def address(upstream: ScriptedUpstream) -> str:
    return upstream.url.removeprefix("http://")


@pytest.mark.parametrize(
    "fields",
    [
        "Host: {to}",
        "Host: g\r\nX-Forwarded-Host: {to}\r\nX-Forwarded-Server: {to}\r\nX-Forwarded-Port: 1\r\nX-Host: {to}",
        'Host: g\r\nForwarded: host="{to}";proto=http;for=127.0.0.1;by="{to}"',
        "Host: g\r\nX-Original-URL: http://{to}/x\r\nX-Rewrite-URL: http://{to}/x",
        "Host: g\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Scheme: https\r\nX-Forwarded-Prefix: //{to}",
        "Host: g\r\nX-HTTP-Host-Override: {to}\r\nX-HTTP-Method-Override: DELETE\r\nX-Url-Scheme: gopher",
        "Host: g\r\nOrigin: http://{to}\r\nReferer: http://{to}/\r\nContent-Location: http://{to}/\r\nLocation: //{to}",
        "Host: g\r\nConnection: Host, X-Forwarded-Host\r\nX-Forwarded-Host: {to}",
    ],
)
async def test_no_header_moves_a_request(upstream: ScriptedUpstream, elsewhere: ScriptedUpstream, fields: str) -> None:
    head = f"POST {PATH} HTTP/1.1\r\n{fields.format(to=address(elsewhere))}\r\n{KEYS}Content-Length: 2\r\n\r\n"
    async with gateway(upstream.url) as url:
        assert 200 == (await exchange(url, head.encode() + b"{}")).status
    (received,) = upstream.requests
    assert ("POST", "/v1/messages", [address(upstream)]) == (
        received.method,
        received.target,
        received.header("Host"),
    )
    assert 0 == elsewhere.connections


@pytest.mark.parametrize(
    "target",
    [
        "//{to}/v1/messages",
        "///{to}/",
        "/@{to}/",
        "/:80@{to}/",
        "/http://{to}/",
        "/http:/{to}/",
        "/%2f%2f{to}/",
        "/%2F@{to}",
        "/%40{to}/",
        "/;@{to}/",
        "/?@{to}",
        "?@{to}/",
        "/?url=http://{to}/&host={to}",
        "/v1/messages?//{to}",
        "/v1/messages%3F@{to}",
        "/v1/messages%23@{to}",
        "/v1/messages%20HTTP/1.1%0d",
    ],
)
async def test_no_target_moves_a_request(upstream: ScriptedUpstream, elsewhere: ScriptedUpstream, target: str) -> None:
    """It goes where it should, as it is, or nowhere."""
    target = target.format(to=address(elsewhere))
    async with gateway(f"{upstream.url}/base") as url:
        answer = await exchange(url, post(path=BELOW + target, headers=KEYS))
    kept = target if target.startswith("/") else f"/{target}"
    expected = [f"/base{kept}"] if answer.status == 200 else []
    assert expected == [received.target for received in upstream.requests]
    assert all([address(upstream)] == received.header("Host") for received in upstream.requests)
    assert answer.status in {200, 400}
    assert 0 == elsewhere.connections


@pytest.mark.parametrize("target", ["http://{to}" + PATH, "http://{to}/", "//{to}" + PATH, "{to}", "{to}:443", "*"])
async def test_a_target_that_is_no_path_below_the_prefix_goes_nowhere(
    upstream: ScriptedUpstream, elsewhere: ScriptedUpstream, target: str
) -> None:
    async with gateway(upstream.url) as url:
        answer = await exchange(url, post(path=target.format(to=address(elsewhere)), headers=KEYS))
    assert answer.status in {400, 404}
    assert ([], 0) == (upstream.requests, elsewhere.connections)


async def test_no_body_moves_a_request(upstream: ScriptedUpstream, elsewhere: ScriptedUpstream) -> None:
    body = f'{{"url": "{elsewhere.url}", "base_url": "{elsewhere.url}", "host": "{address(elsewhere)}"}}'.encode()
    async with gateway(upstream.url) as url:
        assert 200 == (await exchange(url, post(body, headers=KEYS))).status
    assert [body] == [bytes(received.body) for received in upstream.requests]
    assert 0 == elsewhere.connections


@pytest.mark.parametrize(
    ("method", "status"),
    [
        ("GET", "301 Moved Permanently"),
        ("GET", "302 Found"),
        ("POST", "303 See Other"),
        ("POST", "307 Temporary Redirect"),
        ("POST", "308 Permanent Redirect"),
        ("GET", "401 Unauthorized"),
        ("POST", "421 Misdirected Request"),
    ],
)
async def test_what_an_answer_says_of_elsewhere_is_passed_on_and_not_followed(
    upstream: ScriptedUpstream, elsewhere: ScriptedUpstream, method: str, status: str
) -> None:
    to = elsewhere.url
    said = [("Location", f"{to}/x"), ("Refresh", f"0; url={to}"), ("Alt-Svc", f'h2="{address(elsewhere)}"')]
    said += [("Link", f"<{to}>; rel=preload"), ("Content-Location", to), ("WWW-Authenticate", "Basic")]
    said += [("Retry-After", "0"), ("Set-Cookie", "a=canary")]

    async def script(_received: Received, connection: Connection) -> None:
        await connection.send(response(b"there", status=status, headers=said))

    upstream.script = script
    async with gateway(upstream.url) as url:
        request = f"{method} {PATH} HTTP/1.1\r\nHost: g\r\n{KEYS}Content-Length: 0\r\n\r\n"
        answer = await exchange(url, request.encode())
    assert (int(status[:3]), b"there") == (answer.status, answer.body)
    assert said == [field for field in answer.fields if field[0] != "Content-Length"]
    assert (1, 0) == (len(upstream.requests), elsewhere.connections)
