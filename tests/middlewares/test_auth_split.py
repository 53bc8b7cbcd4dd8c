"""auth_split: the provider gets exactly its own key, and nothing of ours."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from rawhttp import exchange, post
from sidestream.errors import GatewayError
from sidestream.middlewares.auth_split import split
from sidestream.testing import ScriptedUpstream, gateway

if TYPE_CHECKING:
    from collections.abc import Iterable

PROVIDER = "sk-ant-provider"
TRACE = "inv-0123abcd"
PURE = "/api/v1/gateway/anthropic/v1/messages"
RECORDED = "/api/v1/gateway/my-agent/anthropic/v1/messages"


def fields(*pairs: tuple[str, str]) -> CIMultiDict[str]:
    return CIMultiDict(pairs)


def key_of(headers: CIMultiDict[str]) -> str | None:
    secret = split(headers, headers.getall("Invariant-Authorization", ()))
    return secret.reveal() if secret is not None else None


@pytest.mark.parametrize(
    ("sent", "cleaned"),
    [
        ([("x-api-key", f"{PROVIDER};invariant-auth={TRACE}")], [("x-api-key", PROVIDER)]),
        ([("x-api-key", f"{PROVIDER}|invariant-auth: {TRACE}")], [("x-api-key", PROVIDER)]),
        ([("Authorization", f"Bearer {PROVIDER};invariant-auth={TRACE}")], [("Authorization", f"Bearer {PROVIDER}")]),
        ([("Authorization", f"Bearer {PROVIDER}|invariant-auth: {TRACE}")], [("Authorization", f"Bearer {PROVIDER}")]),
        ([("Invariant-Authorization", f"Bearer {TRACE}"), ("x-api-key", PROVIDER)], [("x-api-key", PROVIDER)]),
        (
            [
                ("a", "1"),
                ("X-Api-Key", f"{PROVIDER};invariant-auth={TRACE}"),
                ("b", "2"),
                ("authorization", f"Bearer oauth;invariant-auth={TRACE}"),
            ],
            [("a", "1"), ("X-Api-Key", PROVIDER), ("b", "2"), ("authorization", "Bearer oauth")],
        ),
    ],
)
def test_the_trace_key_is_taken_off_and_everything_else_stays_in_place(
    sent: list[tuple[str, str]], cleaned: list[tuple[str, str]]
) -> None:
    headers = fields(*sent)
    assert TRACE == key_of(headers)
    assert cleaned == list(headers.items())


def test_the_explicit_header_wins_and_the_suffix_is_cleaned_all_the_same() -> None:
    headers = fields(
        ("invariant-authorization", "Bearer inv-explicit"), ("x-api-key", f"{PROVIDER};invariant-auth={TRACE}")
    )
    assert "inv-explicit" == key_of(headers)
    assert [("x-api-key", PROVIDER)] == list(headers.items())


def test_a_head_without_a_trace_key_is_left_alone() -> None:
    headers = fields(("x-api-key", "sk;odd|key"), ("Authorization", "Basic dXNlcjpwdw=="))
    before = list(headers.items())
    assert key_of(headers) is None
    assert before == list(headers.items())


@pytest.mark.parametrize(
    "sent",
    [
        [("x-api-key", f"{PROVIDER};invariant-auth=")],
        [("x-api-key", f";invariant-auth={TRACE}")],
        [("x-api-key", f"{PROVIDER}; invariant-auth={TRACE}")],
        [("x-api-key", f"{PROVIDER};Invariant-Auth={TRACE}")],
        [("x-api-key", f"{PROVIDER};invariant-auth: {TRACE}")],
        [("x-api-key", f"{PROVIDER}|invariant-auth:{TRACE}")],
        [("x-api-key", f"{PROVIDER};invariant-auth={TRACE};invariant-auth={TRACE}")],
        [("x-api-key", f"{PROVIDER};invariant-auth={TRACE} more")],
        [("Authorization", f"Bearer ;invariant-auth={TRACE}")],
        [("Authorization", f"Bearer;invariant-auth={TRACE}")],
        [("Authorization", f"Bearer {PROVIDER};invariant-auth=")],
        [("Invariant-Authorization", TRACE)],
        [("Invariant-Authorization", "Bearer ")],
        [("Invariant-Authorization", f"Basic {TRACE}")],
        [("Invariant-Authorization", ""), ("x-api-key", PROVIDER)],
        [("Invariant-Authorization", "Bearer a"), ("Invariant-Authorization", "Bearer b")],
        [("x-api-key", f"{PROVIDER};invariant-auth=a"), ("Authorization", f"Bearer {PROVIDER};invariant-auth=b")],
        [("x-api-key", f"{PROVIDER};invariant-auth=a"), ("x-api-key", f"{PROVIDER};invariant-auth=b")],
    ],
)
async def test_half_or_contradictory_keys_are_refused_and_nothing_is_forwarded(
    upstream: ScriptedUpstream, sent: list[tuple[str, str]]
) -> None:
    with pytest.raises(GatewayError):
        key_of(fields(*sent))
    async with gateway(upstream.url) as url:
        for path in (PURE, RECORDED):
            answer = await call(url, path, sent)
            assert (400, "bad_trace_key") == answer[:2]
            assert not any(secret in answer[2] for secret in (TRACE, PROVIDER))
    assert [] == upstream.requests


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["x-api-key", "Authorization", "Invariant-Authorization", "x-other"]),
            st.lists(st.sampled_from([*"ab;|=: ", "invariant-auth", "Bearer ", ";invariant-auth="]), max_size=9).map(
                "".join
            ),
        ),
        max_size=4,
    )
)
def test_whatever_is_sent_no_trace_key_stays_in_the_head(sent: list[tuple[str, str]]) -> None:
    headers = fields(*sent)
    try:
        key_of(headers)
    except GatewayError:
        return
    assert "Invariant-Authorization" not in headers
    assert not any("invariant-auth" in headers.getone(name, "") for name in ("x-api-key", "Authorization"))
    assert [pair for pair in sent if pair[0] == "x-other"] == [pair for pair in headers.items() if pair[0] == "x-other"]


async def call(url: str, path: str, sent: Iterable[tuple[str, str]]) -> tuple[int, str | None, str]:
    answer = await exchange(url, post(path=path, headers="".join(f"{name}: {value}\r\n" for name, value in sent)))
    return answer.status, answer.field("x-sidestream-error"), answer.body.decode()


async def test_the_provider_receives_its_own_key_in_the_header_it_came_in(upstream: ScriptedUpstream) -> None:
    combined = f"{PROVIDER};invariant-auth={TRACE}"
    async with gateway(upstream.url) as url:
        for path in (PURE, RECORDED):
            await call(url, path, [("x-api-key", combined), ("invariant-authorization", f"Bearer {TRACE}")])
            await call(url, path, [("Authorization", f"Bearer {combined}")])
    assert [[PROVIDER], []] * 2 == [request.header("x-api-key") for request in upstream.requests]
    assert [[], [f"Bearer {PROVIDER}"]] * 2 == [request.header("Authorization") for request in upstream.requests]
    assert not any(b"invariant" in request.head.lower() for request in upstream.requests)


@pytest.mark.parametrize("path", [PURE, RECORDED])
@pytest.mark.parametrize(
    "sent", [[], [("Authorization", "Bearer ")], [("x-api-key", "")], [("invariant-authorization", f"Bearer {TRACE}")]]
)
async def test_a_message_without_a_provider_key_is_refused(
    upstream: ScriptedUpstream, path: str, sent: list[tuple[str, str]]
) -> None:
    async with gateway(upstream.url) as url:
        status, code, body = await call(url, path, sent)
    assert (400, "missing_provider_key") == (status, code)
    assert "Missing Anthropic authorization header" == json.loads(body)["error"]["message"]
    assert [] == upstream.requests


async def test_elsewhere_the_provider_answers_for_itself(upstream: ScriptedUpstream) -> None:
    async with gateway(upstream.url) as url:
        assert (
            200 == (await exchange(url, b"GET /api/v1/gateway/anthropic/v1/models HTTP/1.1\r\nHost: g\r\n\r\n")).status
        )


NO_KEY: dict[str, Any] = {"explorer": {"url": "http://127.0.0.1:9"}}
OWN_KEY: dict[str, Any] = {"explorer": {"url": "http://127.0.0.1:9", "api_key": "inv-own"}}


@pytest.mark.parametrize(
    ("require", "sinks", "status"),
    [
        ("auto", [], 200),
        ("auto", [OWN_KEY], 200),
        ("auto", [NO_KEY], 400),
        ("auto", [OWN_KEY, NO_KEY], 400),
        (True, [], 400),
        (False, [NO_KEY], 200),
    ],
)
async def test_a_trace_key_is_asked_for_where_one_is_needed(
    upstream: ScriptedUpstream, require: str | bool, sinks: list[Any], status: int
) -> None:
    chain = [{"auth_split": {"require_trace_key": require}}]
    async with gateway(upstream.url, middlewares=chain, sinks=sinks) as url:
        recorded = await call(url, RECORDED, [("x-api-key", PROVIDER)])
        pure = await call(url, PURE, [("x-api-key", PROVIDER)])
        with_key = await call(url, RECORDED, [("x-api-key", f"{PROVIDER};invariant-auth={TRACE}")])
    assert (status, 200, 200) == (recorded[0], pure[0], with_key[0])
    if status == 400:
        assert "missing_trace_key" == recorded[1]
        assert "Missing invariant authorization header" == json.loads(recorded[2])["error"]["message"]
