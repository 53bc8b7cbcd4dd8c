"""A record becomes a trace: bodies decoded, facts of transport and provider side by side, fit for every sink."""

from __future__ import annotations

import gzip
import json
import math
from typing import TYPE_CHECKING, Any

import brotli
import msgspec
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from sidestream.providers.anthropic import Anthropic
from sidestream.providers.base import Understood
from sidestream.traces.record import Record
from sidestream.traces.understanding import understand
from streams import NAMES, stream

if TYPE_CHECKING:
    from sidestream.traces.model import Trace

REQUEST = b'{"model": "claude-test-1", "messages": [{"role": "user", "content": "Hi"}]}'


def record(**changes: Any) -> Record:
    usual: dict[str, Any] = {
        "id": "ex_1",
        "dataset": "tests",
        "provider": "anthropic",
        "method": "POST",
        "path": "/v1/messages",
        "request_headers": {"content-type": "application/json"},
        "request_body": REQUEST,
        "status": 200,
        "response_headers": {"content-type": "text/event-stream"},
        "response_body": stream("text"),
        "outcome": "completed",
        "started_at": 1793527200.5,
        "time_to_first_byte": 0.25,
        "duration": 1.5,
    }
    facts = usual | changes
    for side in ("request", "response"):
        facts[f"{side}_chunks"] = (facts.pop(f"{side}_body"),)
    return Record(**facts)


def trace(**changes: Any) -> Trace:
    return understand(record(**changes), Anthropic())


def test_a_usual_exchange_has_these_facts_and_no_others() -> None:
    assert trace().metadata == {
        "model": "claude-test-1",
        "usage": {
            "input_tokens": 11,
            "cache_creation_input_tokens": 2,
            "cache_read_input_tokens": 3,
            "output_tokens": 9,
            "service_tier": "standard",
        },
        "stop_reason": "end_turn",
        "outcome": "completed",
        "message_complete": True,
        "exchange": "ex_1",
        "provider": "anthropic",
        "status": 200,
        "time_to_first_byte": 0.25,
        "duration": 1.5,
        "started_at": "2026-11-01T10:00:00.500000+00:00",
        "via_gateway": True,
    }


def test_the_trace_holds_history_and_answer() -> None:
    made = trace()
    assert (made.id, made.dataset) == ("ex_1", "tests")
    assert [(message["role"], message["content"]) for message in made.messages] == [
        ("user", "Hi"),
        ("assistant", "Grüße, Wörld 😀!"),
    ]


@pytest.mark.parametrize(
    ("encoding", "encode"),
    [("gzip", gzip.compress), ("br", brotli.compress), ("zstd", zstandard.ZstdCompressor().compress)],
)
def test_bodies_are_decoded(encoding: str, encode: Any) -> None:
    encoded = trace(
        request_headers={"content-encoding": encoding},
        request_body=encode(REQUEST),
        response_headers={"content-encoding": encoding, "content-type": "text/event-stream"},
        response_body=encode(stream("text")),
    )
    assert encoded == trace()


@pytest.mark.parametrize("name", ["request_complete", "end_verifiable", "exact"])
def test_what_is_not_as_usual_is_said(name: str) -> None:
    assert trace(**{name: False}).metadata == trace().metadata | {name: False}


def test_what_was_captured_in_part_is_named() -> None:
    assert trace(request_truncated=True).metadata["truncated"] == ["request"]
    assert trace(request_truncated=True, response_truncated=True).metadata["truncated"] == ["request", "response"]


def test_what_could_not_be_decoded_is_named() -> None:
    cut = trace(response_headers={"content-encoding": "gzip"}, response_body=gzip.compress(stream("text"))[:-9])
    assert cut.metadata["undecoded"] == {"response": "truncated"}
    assert cut.messages[-1]["content"].startswith("Grüße")
    unknown = trace(request_headers={"content-encoding": "secret"})
    assert unknown.metadata["undecoded"] == {"request": "unknown_encoding"}


def test_what_was_too_large_to_decode_is_truncated() -> None:
    bomb = gzip.compress(bytes(1 << 20))
    made = understand(
        record(response_headers={"content-encoding": "gzip"}, response_body=bomb), Anthropic(), limit=1 << 10
    )
    assert (made.metadata["undecoded"], made.metadata["truncated"]) == ({"response": "too_large"}, ["response"])


def test_errors_of_the_provider_and_of_the_transport_are_told_apart() -> None:
    made = trace(
        response_body=stream("error_in_mid_stream"), outcome="upstream_failed", error="the upstream closed too soon"
    )
    assert made.metadata["error"] == {"type": "overloaded_error", "message": "Overloaded"}
    assert made.metadata["transport_error"] == "the upstream closed too soon"
    assert (made.metadata["outcome"], made.metadata["message_complete"]) == ("upstream_failed", False)


def test_extras_are_kept() -> None:
    assert "unknown_blocks" in trace(response_body=stream("unknown_event_block_delta")).metadata["extras"]


def test_an_exchange_without_an_answer_is_its_request() -> None:
    made = trace(status=None, response_headers={}, response_body=b"", time_to_first_byte=None, outcome="timed_out")
    assert made.messages == [{"role": "user", "content": "Hi"}]
    assert (made.metadata["status"], made.metadata["model"]) == (None, "claude-test-1")


class Careless(Anthropic):
    """A provider module that lets through what sinks choke on."""

    def understand(self, *, request: bytes, response: bytes, content_type: str, status: int | None) -> Understood:
        del request, response, content_type, status
        return Understood(messages=[{"role": "user", "content": "\ud83d\ude00"}], usage={"tokens": math.nan})


def test_whatever_a_provider_module_lets_through_is_made_strict_json() -> None:
    made = understand(record(), Careless())
    assert made.messages == [{"role": "user", "content": "😀"}]
    assert made.metadata["usage"] == {"tokens": "NaN"}


@pytest.mark.parametrize("name", NAMES)
def test_every_stream_makes_an_encodable_trace(name: str) -> None:
    made = trace(response_body=stream(name))
    assert json.loads(msgspec.json.encode(made), parse_constant=pytest.fail)["messages"] == made.messages


@settings(deadline=None, max_examples=100)
@given(
    request_body=st.binary() | st.just(REQUEST),
    response_body=st.binary()
    | st.sampled_from([stream(name) for name in NAMES]).map(lambda body: body[: len(body) // 2]),
    encoding=st.sampled_from(["", "gzip", "deflate", "br", "zstd", "x, gzip", "\ud83d"]),
    content_type=st.sampled_from(["", "text/event-stream", "application/json", "\ud83d"]),
    status=st.sampled_from([None, 200, 404, 529]),
)
def test_no_bytes_make_it_raise(
    request_body: bytes, response_body: bytes, encoding: str, content_type: str, status: int | None
) -> None:
    made = trace(
        request_headers={"content-encoding": encoding},
        request_body=request_body,
        status=status,
        response_headers={"content-encoding": encoding, "content-type": content_type},
        response_body=response_body,
    )
    json.loads(msgspec.json.encode(made), parse_constant=pytest.fail)
