"""What is kept of a request's parameters is bounded, and holds no credential."""

from __future__ import annotations

from typing import Any

import pytest

from sidestream.providers.anthropic.parameters import MOST_CHARACTERS, _without_credentials, parameters_of

SECRET = "s3cr3t-0123456789abcdef"


@pytest.mark.parametrize(
    "field",
    [
        {"servers": [{"type": "url", "url": "https://example.org", "authorization_token": SECRET}]},
        {"servers": [{"env": {"WIKI_API_KEY": SECRET}}]},
        {"mcp_servers": {"url": SECRET}},
        {"mcp_servers": [{"type": "url", "url": f"//{SECRET}"}]},
        {"mcp_servers": [{"type": "url", "url": f"http://[{SECRET}"}]},
        {"headers": [{"name": "Authorization", "value": f"Basic {SECRET}"}]},
        {"headers": [{"key": "X-Api-Key", "value": SECRET, "more": {"a": [SECRET]}}]},
        {"headers": [{"header": "Cookie", "text": SECRET}]},
        {"headers": [{"Name": "Authorization", "Key": SECRET, "Value": SECRET}]},
        {"env": {"PAT": SECRET, "GITHUB_PAT": SECRET}},
        {"headers": {"Authorization": f"Bearer {SECRET}"}},
        {"headers": [{"name": "Authorization", "value": f"Bearer {SECRET}"}]},
        {"authorization": {"type": "bearer", "value": [SECRET]}},
        {"extra": {"apiKey": SECRET, "access-key": SECRET, "private_key": SECRET}},
        {"extra": {"password": SECRET, "PASSWD": SECRET, "clientSecret": SECRET, "cookie": SECRET, "auth": SECRET}},
        {"token": SECRET},
        {"tokens": [SECRET]},
        {"api_key": SECRET},
        {"servers": [f"https://me:{SECRET}@example.org/mcp"]},
        {"url": f"https://{SECRET}@example.org/mcp"},
        {"url": f"https://example.org/mcp?a=1&api_key={SECRET}&b=2"},
        {"url": f"https://example.org/mcp?key={SECRET}"},
        {"url": f"https://example.org/mcp#access_token={SECRET}"},
        {"notes": f"use sk-ant-{SECRET} for it"},
    ],
)
def test_credentials_are_removed_wherever_they_are(field: dict[str, Any]) -> None:
    parameters, _ = parameters_of(field)
    assert (True, False) == ("[removed]" in str(parameters), SECRET in str(parameters))


@pytest.mark.parametrize(
    "field",
    [
        {"max_tokens": 1024, "thinking": {"type": "enabled", "budget_tokens": 1000}},
        {"token_counting": True, "secret": None},
        {"metadata": {"user_id": "user_1"}},
        {"tool_choice": {"type": "tool", "name": "get_token", "disable_parallel_tool_use": True}},
        {"mcp_servers": [{"type": "url", "url": "https://example.org/mcp", "name": "wiki"}]},
        {"url": "https://example.org/mcp?page=2#top"},
        {"notes": "Basic information, Basic English, eyJ and AKIA, xox-ray"},
        {"context_management": {"edits": [{"trigger": {"type": "input_tokens", "value": 100}}]}},
        {"stop_sequences": ["a@b", "key=value", "?", "://", ""]},
    ],
)
def test_what_is_no_credential_stays(field: dict[str, Any]) -> None:
    assert (field, True) == parameters_of(field)


@pytest.mark.parametrize(
    "secret",
    [
        "Basic dXNlcjpwYXNz",
        "basic dXNlcjpwYXNz",
        "ghp_0123456789abcdefABCD",
        "ghs_0123456789abcdefABCD",
        "github_pat_0123456789abcdef_ABCD",
        "xoxb-1234567890-abcdef",
        "AKIAIOSFODNN7EXAMPLE",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln-bmF0_dXJl",
        "glpat-0123456789abcdefABCD",
    ],
)
def test_what_looks_like_a_key_is_removed_from_texts(secret: str) -> None:
    assert {"notes": "use [removed], please"} == parameters_of({"notes": f"use {secret}, please"})[0]


def test_of_mcp_servers_what_they_are_called_and_where_they_are_is_kept() -> None:
    server = {"name": "wiki", "type": "url", "url": f"https://me:{SECRET}@example.org:8443/mcp?q={SECRET}#{SECRET}"}
    kept = {"name": "wiki", "type": "url", "url": "https://example.org:8443/mcp"}
    parameters, _ = parameters_of({"mcp_servers": [server | {"env": {"X": SECRET}, "args": [SECRET]}, SECRET]})
    assert {"mcp_servers": [kept]} == parameters


def test_what_is_read_elsewhere_is_left_out() -> None:
    assert ({"stream": True}, True) == parameters_of(
        {"messages": [], "system": "S", "tools": [], "model": "m", "stream": True}
    )


def test_the_largest_fields_are_left_out_where_there_is_no_room() -> None:
    request = {"format": "x" * MOST_CHARACTERS, "max_tokens": 1, "stop": "y" * 1000}
    assert ({"max_tokens": 1, "stop": "y" * 1000}, False) == parameters_of(request)


def test_many_fields_are_as_bounded_as_large_ones() -> None:
    parameters, had_room = parameters_of({f"field_{number}": 1 for number in range(10_000)})
    assert (True, False) == (0 < len(str(parameters)) < 4 * MOST_CHARACTERS, had_room)


@pytest.mark.parametrize(
    "piece",
    [
        "?",
        "&key",
        "://",
        "://a",
        "?key=",
        "Bearer ",
        "sk-",
        "#a&",
        "@",
        "Basic ",
        "Basic a",
        "eyJ",
        "eyJ-",
        "-eyJaaaa",
        "eyJaaaa.",
        "xoxb-",
        "a",
    ],
)
@pytest.mark.timeout(30)
def test_no_text_makes_looking_for_credentials_slow(piece: str) -> None:
    """Were it looked through once from each of its characters, that would take minutes."""
    _without_credentials(piece * (500_000 // len(piece)))
