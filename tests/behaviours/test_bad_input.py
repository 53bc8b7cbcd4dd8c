"""A bad route gets its documented error in the provider's shape, echoes nothing, and the next request is served."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from rawhttp import Answer, exchange, post
from sidestream.testing import ScriptedUpstream, gateway

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CANARY = "sk-ant-canary"


@pytest.fixture
async def url(upstream: ScriptedUpstream) -> AsyncIterator[str]:
    async with gateway(upstream.url) as url:
        yield url


def line(target: str, *, method: str = "GET") -> bytes:
    return f"{method} {target} HTTP/1.1\r\nHost: g\r\n\r\n".encode()


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
