"""Bad input gets its documented error in the provider's shape, echoes nothing, and the next request is served."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from rawhttp import KEYS, PATH, Answer, exchange, post
from sidestream.testing import ScriptedUpstream, gateway

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CANARY = "sk-ant-canary"


@pytest.fixture
async def url(upstream: ScriptedUpstream) -> AsyncIterator[str]:
    async with gateway(upstream.url) as url:
        yield url


def line(target: str, *, method: str = "GET", version: str = "HTTP/1.1", headers: str = "Host: g\r\n") -> bytes:
    return f"{method} {target} {version}\r\n{headers}\r\n".encode("latin-1")


async def check(url: str, upstream: ScriptedUpstream, request: bytes, status: int, code: str) -> Answer:
    answer = await exchange(url, request)
    assert (status, code) == (answer.status, answer.field("x-sidestream-error"))
    error = json.loads(answer.body)
    assert "error" == error["type"]
    assert {"type", "message"} == set(error["error"])
    assert CANARY.encode() not in answer.head + answer.body
    assert [] == upstream.requests
    assert 200 == (await exchange(url, post())).status
    return answer


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/gateway/",
        "/api/v1/gateway/my-agent",
        "/api/v1/gateway/my-agent/openai/v1/messages",
        "/api/v1/gateway/a/b/anthropic/v1/messages",
        "/api/v1/gateway/my-agent/Anthropic/v1/messages",
        f"/api/v1/gateway/{CANARY}/nowhere",
    ],
)
async def test_an_unknown_route_says_what_a_right_one_looks_like(
    url: str, upstream: ScriptedUpstream, path: str
) -> None:
    answer = await check(url, upstream, line(path), 404, "unknown_route")
    assert "{prefix}" not in json.loads(answer.body)["error"]["message"]
    assert "/api/v1/gateway/[{dataset}/]{provider}/{path}" in json.loads(answer.body)["error"]["message"]


@pytest.mark.parametrize(
    "path", ["/", "/v1/messages", "/api/v1/gateways/my-agent/anthropic/v1/messages", "/favicon.ico"]
)
async def test_a_path_outside_of_the_prefix_is_not_found(url: str, upstream: ScriptedUpstream, path: str) -> None:
    await check(url, upstream, line(path), 404, "unknown_route")


@pytest.mark.parametrize(
    "dataset", ["my.agent", "my%20agent", "a" * 257, "anthropic", "", f"{CANARY}!", "sk-ant-1", f"inv-{'0' * 64}"]
)
async def test_a_bad_dataset_is_refused(url: str, upstream: ScriptedUpstream, dataset: str) -> None:
    path = f"/api/v1/gateway/{dataset}/anthropic/v1/messages"
    await check(url, upstream, line(path, method="POST"), 400, "bad_dataset")


async def test_the_longest_dataset_is_accepted(url: str) -> None:
    assert 200 == (await exchange(url, post(path=f"/api/v1/gateway/{'aZ0_-' * 51}a/anthropic/v1/messages"))).status


@pytest.mark.parametrize(
    "tail",
    ["/../admin", "/v1/%2e%2e/x", "/v1/.%2E/x", "/v1/./x", "/v1/x/..", "/v1/%00", "/v1\\x", "/v1/%5c..%5cx"],
)
async def test_a_target_that_two_servers_might_read_differently_is_refused(
    url: str, upstream: ScriptedUpstream, tail: str
) -> None:
    await check(url, upstream, line(f"/api/v1/gateway/my-agent/anthropic{tail}"), 400, "bad_target")


@pytest.mark.parametrize(
    ("target", "status", "code"),
    [
        (f"http://evil.test{PATH}", 400, "bad_target"),
        (f"//evil.test{PATH}", 404, "unknown_route"),
    ],
)
async def test_a_target_with_an_origin_is_not_relayed(
    url: str, upstream: ScriptedUpstream, target: str, status: int, code: str
) -> None:
    await check(url, upstream, line(target), status, code)


async def test_trace_is_not_relayed(url: str, upstream: ScriptedUpstream) -> None:
    await check(url, upstream, line(PATH, method="TRACE"), 405, "method_not_allowed")


@pytest.mark.parametrize("request_", [line("evil.test:443", method="CONNECT"), line("*", method="OPTIONS")])
async def test_what_has_no_path_has_no_route(url: str, upstream: ScriptedUpstream, request_: bytes) -> None:
    assert 404 == (await exchange(url, request_)).status
    assert [] == upstream.requests
    assert 200 == (await exchange(url, post())).status


@pytest.mark.parametrize("headers", ["Host: a/../@evil\r\n", "Host: \r\n", "Host: a b\r\n", "Host: a:99999999\r\n"])
async def test_a_malformed_host_is_refused(url: str, upstream: ScriptedUpstream, headers: str) -> None:
    await check(url, upstream, line(PATH, headers=headers), 400, "bad_host")


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(line(PATH, headers=""), id="no host"),
        pytest.param(line(PATH, headers="Host: g\r\nHost: h\r\n"), id="two hosts"),
        pytest.param(line("/v1/\xe9"), id="bytes that are not ASCII in the target"),
        pytest.param(line(PATH, headers=f"Host: g\r\nx-api-key: {CANARY}\x01\r\n"), id="control character"),
        pytest.param(line(PATH, headers=f"Host: g\r\nx-api-key {CANARY}\r\n"), id="no colon"),
        pytest.param(line(PATH, headers=f"Host: g\r\nx-api-key: a\r\n {CANARY}\r\n"), id="obs-fold"),
        pytest.param(f"{CANARY}\r\n\r\n".encode(), id="not HTTP"),
        pytest.param(line(PATH, version="HTTP/3.7"), id="unknown version"),
        pytest.param(f"GET {PATH}\r\n\r\n".encode(), id="HTTP/0.9"),
        pytest.param(line(PATH, headers=f"Host: g\r\nX: {CANARY * 6000}\r\n"), id="an endless header"),
    ],
)
async def test_what_is_not_http_gets_a_generic_answer(
    url: str, upstream: ScriptedUpstream, request_: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    await check(url, upstream, request_, 400, "bad_request")
    out, err = capfd.readouterr()
    assert CANARY not in out + err


@pytest.mark.parametrize(
    ("fields", "version"),
    [
        ("Transfer-Encoding: gzip, chunked\r\n", "1.1"),
        ("Transfer-Encoding: identity, chunked\r\n", "1.1"),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "1.1"),
        ("Transfer-Encoding: chunked\r\n", "1.0"),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "1.1"),
        ("Content-Length: 5\r\nContent-Length: 6\r\n", "1.1"),
        ("Content-Length: +5\r\n", "1.1"),
    ],
)
async def test_ambiguous_framing_is_never_forwarded(
    url: str, upstream: ScriptedUpstream, fields: str, version: str
) -> None:
    request = f"POST {PATH} HTTP/{version}\r\nHost: g\r\n{KEYS}{fields}\r\n0\r\n\r\n".encode()
    answer = await exchange(url, request)
    assert 400 == answer.status
    assert [] == upstream.requests
    assert 200 == (await exchange(url, post())).status


async def test_header_bytes_that_are_not_utf8_are_refused(url: str, upstream: ScriptedUpstream) -> None:
    request = f"POST {PATH} HTTP/1.1\r\nHost: g\r\nx-api-key: {CANARY}\r\nX-Bad: ".encode() + b"\xff\xfe\r\n\r\n"
    await check(url, upstream, request, 400, "bad_header")


async def test_an_unknown_expectation_fails(url: str, upstream: ScriptedUpstream) -> None:
    for fields in ("Expect: miracles\r\n", "Expect: 100-continue\r\nExpect: miracles\r\n"):
        assert 417 == (await exchange(url, post(headers=KEYS + fields))).status
    await check(url, upstream, post(headers=KEYS + "Expect: miracles\r\n"), 417, "bad_expectation")


async def test_a_malformed_chunked_body_is_refused_and_the_upstream_never_sees_its_end(
    url: str, upstream: ScriptedUpstream
) -> None:
    head = f"POST {PATH} HTTP/1.1\r\nHost: g\r\n{KEYS}Transfer-Encoding: chunked\r\n\r\n"
    answer = await exchange(url, head.encode() + b"3\r\nabc\r\nzz\r\n")
    assert 400 == answer.status
    assert [] == [request for request in upstream.requests if request.complete]
    assert 200 == (await exchange(url, post())).status
