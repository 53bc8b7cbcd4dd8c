"""A record is read: bodies decoded, facts of transport and provider side by side, and what the call is placed by."""

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
from sidestream.providers.base import Said, Understood
from sidestream.traces.clues import clues
from sidestream.traces.conversation import Earlier, Placement, Rule, place
from sidestream.traces.record import Record
from sidestream.traces.sessions import Session
from sidestream.traces.states import digest_of, scope_of, states_of
from sidestream.traces.understanding import understand
from streams import NAMES, stream

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sidestream.traces.conversation import Call
    from sidestream.traces.model import Reading

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


def reading(**changes: Any) -> Reading:
    return understand(record(**changes), Anthropic())


class Scripted(Anthropic):
    """A provider module that reads the same out of every exchange."""

    def __init__(self, **facts: Any) -> None:
        self.facts = facts

    def understand(self, *, request: bytes, response: bytes, content_type: str, status: int | None) -> Understood:
        del request, response, content_type, status
        return Understood(**self.facts)


def user(text: str) -> Said:
    return Said(role="user", shown=[{"role": "user", "content": text}], units=(text.encode(),))


def assistant(text: str, *units: bytes) -> Said:
    return Said(role="assistant", shown=[{"role": "assistant", "content": text}], text=text, units=units)


ASKED = [user("What is the matter?"), assistant("Nothing."), user("Then go on.")]
ANSWER = assistant("Gladly.")


def call(changes: dict[str, Any] | None = None, **facts: Any) -> Call:
    """What the call is placed by; with `changes` to the record."""
    usual = {"asked": ASKED, "answer": ANSWER, "message_complete": True}
    return understand(record(**(changes or {})), Scripted(**usual | facts)).call


def metadata(changes: dict[str, Any] | None = None, **facts: Any) -> dict[str, Any]:
    usual = {"asked": ASKED, "answer": ANSWER, "message_complete": True}
    return understand(record(**(changes or {})), Scripted(**usual | facts)).metadata


def test_a_usual_exchange_has_these_facts_and_no_others() -> None:
    assert reading().metadata == {
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
        "cache": {"read": 3, "written": 2},
    }


def test_the_weight_of_a_reading_is_that_of_its_values_and_texts() -> None:
    assert reading().weight + 100_000 == reading(request_body=REQUEST + b" " * 100_000).weight
    values = b'{"messages": [%s]}' % b",".join([b"{}"] * 10_000)
    assert 1_000_000 < reading(request_body=values).weight
    delta = (
        b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"type":"x","y":"z"}}\n\n'
    )
    assert 1000 * len(delta) == reading(response_body=1000 * delta).weight - reading(response_body=b"").weight


def test_a_reading_holds_history_and_answer() -> None:
    made = reading()
    assert (made.id, made.dataset) == ("ex_1", "tests")
    assert [(message["role"], message["content"]) for message in made.turn().messages] == [
        ("user", "Hi"),
        ("assistant", "Grüße, Wörld 😀!"),
    ]


@pytest.mark.parametrize(
    ("encoding", "encode"),
    [("gzip", gzip.compress), ("br", brotli.compress), ("zstd", zstandard.ZstdCompressor().compress)],
)
def test_bodies_are_decoded(encoding: str, encode: Any) -> None:
    encoded = reading(
        request_headers={"content-encoding": encoding},
        request_body=encode(REQUEST),
        response_headers={"content-encoding": encoding, "content-type": "text/event-stream"},
        response_body=encode(stream("text")),
    )
    assert encoded == reading()


@pytest.mark.parametrize("name", ["request_complete", "end_verifiable", "exact"])
def test_what_is_not_as_usual_is_said(name: str) -> None:
    assert reading(**{name: False}).metadata == reading().metadata | {name: False}


def test_what_was_captured_in_part_is_named() -> None:
    assert reading(request_truncated=True).metadata["truncated"] == ["request"]
    assert reading(request_truncated=True, response_truncated=True).metadata["truncated"] == ["request", "response"]


def test_what_could_not_be_decoded_is_named() -> None:
    cut = reading(response_headers={"content-encoding": "gzip"}, response_body=gzip.compress(stream("text"))[:-9])
    assert cut.metadata["undecoded"] == {"response": "truncated"}
    assert cut.turn().messages[-1]["content"].startswith("Grüße")
    unknown = reading(request_headers={"content-encoding": "secret"})
    assert unknown.metadata["undecoded"] == {"request": "unknown_encoding"}


def test_what_was_too_large_to_decode_is_truncated() -> None:
    bomb = gzip.compress(bytes(1 << 20))
    made = understand(
        record(response_headers={"content-encoding": "gzip"}, response_body=bomb), Anthropic(), limit=1 << 10
    )
    assert (made.metadata["undecoded"], made.metadata["truncated"]) == ({"response": "too_large"}, ["response"])


def test_errors_of_the_provider_and_of_the_transport_are_told_apart() -> None:
    made = reading(
        response_body=stream("error_in_mid_stream"), outcome="upstream_failed", error="the upstream closed too soon"
    )
    assert made.metadata["error"] == {"type": "overloaded_error", "message": "Overloaded"}
    assert made.metadata["transport_error"] == "the upstream closed too soon"
    assert (made.metadata["outcome"], made.metadata["message_complete"]) == ("upstream_failed", False)


def test_extras_are_kept() -> None:
    assert "unknown_blocks" in reading(response_body=stream("unknown_event_block_delta")).metadata["extras"]


def test_an_exchange_without_an_answer_is_its_request() -> None:
    made = reading(status=None, response_headers={}, response_body=b"", time_to_first_byte=None, outcome="timed_out")
    assert made.turn().messages == [{"role": "user", "content": "Hi"}]
    assert (made.metadata["status"], made.metadata["model"]) == (None, "claude-test-1")


def test_whatever_a_provider_module_lets_through_is_made_strict_json() -> None:
    half = {"text": "\ud83d\ude00", "number": math.nan}
    clean = {"text": "😀", "number": "NaN"}
    facts = {
        "system": [half],
        "asked": [Said(role="\ud83d", shown=[half])],
        "answer": Said(role="assistant", shown=[half], text="\ud83d\ude00"),
        "tools": [half],
        "parameters": half,
        "usage": half,
        "extras": half,
    }
    made = understand(record(), Scripted(**facts))
    assert ([clean], [clean]) == (made.system, made.tools)
    assert [Said(role="\ufffd", shown=[clean])] == made.asked
    assert Said(role="assistant", shown=[clean], text="😀") == made.answer
    assert [clean] * 3 == [made.metadata[name] for name in ("parameters", "usage", "extras")]
    assert ("\ufffd", "😀") == (made.call.roles[0], made.call.cut)


@pytest.mark.parametrize("name", NAMES)
def test_every_stream_makes_an_encodable_reading(name: str) -> None:
    made = reading(response_body=stream(name))
    sent = json.loads(msgspec.json.encode(made.turn()), parse_constant=pytest.fail)
    assert made.turn().messages == sent["messages"]


@settings(max_examples=100)
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
    made = reading(
        request_headers={"content-encoding": encoding},
        request_body=request_body,
        status=status,
        response_headers={"content-encoding": encoding, "content-type": content_type},
        response_body=response_body,
    )
    json.loads(msgspec.json.encode(made.turn()), parse_constant=pytest.fail)


def test_the_providers_name_for_the_exchange_is_told() -> None:
    assert metadata({"response_headers": {"request-id": " req_1 "}})["request_id"] == "req_1"
    assert "request_id" not in metadata({"response_headers": {"request-id": "r" * 201}})


def test_the_parameters_are_told() -> None:
    assert metadata(parameters={"max_tokens": 5})["parameters"] == {"max_tokens": 5}
    assert "parameters" not in metadata(parameters={})


def test_system_prompt_and_tools_are_told_by_digests_that_are_the_same_for_the_same() -> None:
    prompt, tools = [{"role": "system", "content": "Be kind."}], [{"name": "look"}, {"name": "touch"}]
    told, again = metadata(system=prompt, tools=tools), metadata(system=prompt, tools=tools[:1])
    assert told["tools"]["count"] == 2
    assert len(bytes.fromhex(told["tools"]["digest"])) == len(bytes.fromhex(told["system"]["digest"])) == 16
    assert told["system"] == again["system"]
    assert told["tools"]["digest"] != again["tools"]["digest"]
    assert not {"system", "tools"} & metadata().keys()


STREAM = {"response_headers": {"content-type": "text/event-stream; charset=utf-8"}}


def test_the_speed_of_a_stream_is_that_between_its_first_chunk_and_its_last() -> None:
    timed = STREAM | {"response_times": (0.5, 0.75, 2.5), "duration": 100.0}
    assert metadata(timed, usage={"output_tokens": 25})["tokens_per_second"] == 12.5


def test_the_speed_of_what_was_not_streamed_is_that_of_the_whole_exchange() -> None:
    plain = {"response_headers": {"content-type": "application/json"}, "response_times": (0.5, 0.6), "duration": 3.0}
    assert metadata(plain, usage={"output_tokens": 100})["tokens_per_second"] == 33.33


@pytest.mark.parametrize(
    ("changes", "facts"),
    [
        ({}, {}),
        ({"response_times": ()}, {}),
        ({"response_times": (0.5,)}, {}),
        ({"response_times": (2.5, 0.5)}, {}),
        ({"response_times": (math.nan, 0.5)}, {}),
        ({"response_times": (0.5, 2.5), "response_truncated": True}, {}),
        ({"response_times": (0.5, 2.5)}, {"message_complete": False}),
        *(
            ({"response_times": (0.5, 2.5)}, {"usage": {"output_tokens": count}})
            for count in (0, -5, 2.5, "25", None, True, math.nan, 10**30)
        ),
        ({"response_times": (0.5, 2.5)}, {"usage": None}),
    ],
)
def test_an_unknown_speed_is_not_told(changes: dict[str, Any], facts: dict[str, Any]) -> None:
    assert "tokens_per_second" not in metadata(STREAM | changes, **{"usage": {"output_tokens": 25}} | facts)


@pytest.mark.parametrize(
    ("usage", "cache"),
    [
        ({"cache_read_input_tokens": 5}, {"read": 5}),
        ({"cache_read_input_tokens": 0, "cache_creation_input_tokens": 7}, {"read": 0, "written": 7}),
        ({"cache_read_input_tokens": -1, "cache_creation_input_tokens": "7"}, None),
        ({"cache_read_input_tokens": math.nan, "cache_creation_input_tokens": None}, None),
        (None, None),
    ],
)
def test_what_the_cache_did_is_told_as_far_as_it_is_known(usage: Any, cache: Any) -> None:
    assert metadata(usage=usage).get("cache") == cache


def test_a_whole_answer_has_a_cost() -> None:
    facts: dict[str, Any] = {"model": "claude-sonnet-4-6", "usage": {"input_tokens": 1000, "output_tokens": 100}}
    assert metadata(**facts)["cost"]["usd"] == 0.0045
    assert "cost" not in metadata(**facts, message_complete=False)
    assert "cost" not in metadata(**facts, parameters={"inference_geo": "us"})
    assert "cost" not in metadata({"provider": "another"}, **facts)


def test_a_call_is_placed_by_the_states_of_its_messages() -> None:
    made = call({"fingerprint": "f"})
    *states, leaving = states_of([*ASKED, ANSWER])
    assert (tuple(states), leaving) == (made.states, made.leaving)
    assert tuple(map(digest_of, [*ASKED, ANSWER])) == made.digests
    assert ("user", "assistant", "user") == made.roles
    assert ("", "Nothing.", "") == made.texts
    assert scope_of("tests", "anthropic", "f") == made.scope
    assert (1793527200.5, 1793527202.0) == (made.started_at, made.ended_at)
    assert (True, True, None) == (made.answered, made.complete, made.cut)


@pytest.mark.parametrize("answer", [None, assistant("")])
def test_without_anything_said_the_state_that_a_call_leaves_is_that_of_its_request(answer: Said | None) -> None:
    made = call(answer=answer)
    assert made.states[-1] == made.leaving
    assert made.answered is (answer is not None)


def test_a_tool_call_without_words_is_an_answer_like_any_other() -> None:
    made = call(answer=assistant("", b"unit"))
    assert made.states[-1] != made.leaving


@pytest.mark.parametrize("answer", [None, ANSWER])
def test_a_call_without_messages_leaves_no_state(answer: Said | None) -> None:
    made = call(asked=[], answer=answer)
    assert ((), None) == (made.states, made.leaving)


def test_what_is_there_of_a_cut_answer_is_kept() -> None:
    made = call(answer=assistant("Gla"), message_complete=False)
    assert (False, "Gla") == (made.complete, made.cut)


def test_the_same_messages_in_another_manner_are_told_apart() -> None:
    prompt, tools = [{"role": "system", "content": "Be kind."}], [{"name": "look"}]
    made = [
        call(),
        call(system=prompt),
        call(tools=tools),
        call(system=tools),
        call(system=prompt, tools=tools),
        call(system=prompt, tools=tools),
    ]
    assert len({each.manner for each in made}) == 5
    assert made[-1].manner == made[-2].manner


@pytest.mark.parametrize(
    ("told", "retries"),
    [("0", 0), ("2", 2), (" 999 ", 999), ("", 0), ("-1", 0), ("1.5", 0), ("1000", 0), ("²", 0), ("٣", 0), ("0, 1", 0)],
)
def test_the_client_says_how_often_it_has_tried_before(told: str, retries: int) -> None:
    assert retries == call({"request_headers": {"x-stainless-retry-count": told}}).retries


def test_the_client_says_which_session_calls() -> None:
    assert Session("s") == call({"request_headers": {"x-claude-code-session-id": "s"}}).session
    assert call().session is None


def test_texts_by_which_a_task_is_known_again_are_the_same_however_they_were_sent() -> None:
    made = call(openings=["Look at the \ud83d\ude00 that is in there"])
    passed_on = call(arguments=["Look at  the 😀 that is in there", "short"])
    assert clues(["Look at the 😀 that is in there"]) == made.openings == passed_on.arguments
    assert not made.summary


def test_what_a_call_was_itself_asked_it_passes_on_to_nobody() -> None:
    asked = "What is the weather like in Bern?"
    assert () == call(openings=[asked], arguments=[asked]).arguments


def test_a_conversation_that_begins_with_a_summary_is_known_as_such() -> None:
    assert call(openings=["<summary>What happened</summary>"]).summary


def test_an_answer_and_the_one_before_are_known_by_their_names() -> None:
    first, second = call(id="msg_1"), call(id="msg_2", previous="msg_1")
    assert first.answer == second.previous
    assert first.answer != second.answer
    assert (None, None) == (first.previous, call().answer)


def test_what_the_provider_made_of_the_history_is_known_in_the_answer_and_where_a_request_begins() -> None:
    made = Said(role="assistant", shown=[], text="Much.", compaction=b"digest")
    first, second = call(answer=made), call(asked=[made, *ASKED])
    assert (b"", b"digest") == (first.compacted, first.compaction)
    assert (b"digest", b"") == (second.compacted, second.compaction)


CUT: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"request_truncated": True}, {}),
    ({"request_headers": {"content-encoding": "gzip"}, "request_body": gzip.compress(REQUEST)[:-9]}, {}),
    ({"request_headers": {"content-encoding": "secret"}}, {}),
    ({}, {"extras": {"request": "cut"}}),
]


class Everywhere:
    """One turn, which is the answer to every question of what is known."""

    def __init__(self, call: Call) -> None:
        states = states_of(ASKED)
        self.turn = Earlier(
            turn=1,
            parent=None,
            retry_of=None,
            known=0,
            length=4,
            rule=Rule.FIRST,
            started_at=0.0,
            ended_at=1.0,
            asking=states[-1],
            leaving=states[0],
            outline=None,
            answered=True,
            complete=False,
            manner=call.manner,
            session="s",
            agent="",
            cut=None,
            retries=0,
            last=b"",
        )

    def leaving(self, _: Sequence[bytes], /) -> Iterator[Earlier]:
        return iter([self.turn])

    def outlined(self, _: Sequence[bytes], /) -> Iterator[Earlier]:
        return iter([])

    def asking(self, _: bytes, /, *, incomplete: bool) -> list[Earlier]:
        return [self.turn] if incomplete else []

    def was_asked(self, _state: bytes, _manner: bytes, /) -> bool:
        return True

    def is_done(self, _: int, /) -> bool:
        return False

    def cut(self, _: Sequence[bytes], /) -> list[Earlier]:
        return [self.turn]

    def free(self, _: bytes, /) -> Earlier | None:
        return self.turn

    def is_taken(self, _: int, /, but: int | None = None) -> bool:
        return but is not None

    def naming(self, _kind: str, _name: bytes, /) -> list[Earlier]:
        return [self.turn]

    def tips(self, _session: str, _agent: str, /) -> list[Earlier]:
        return [self.turn]

    def passing_on(self, _: Sequence[bytes], /) -> list[Earlier]:
        return [self.turn]

    def history(self, _: int, /) -> list[bytes]:
        return [digest_of(said) for said in ASKED[1:]]


@pytest.mark.parametrize(("changes", "facts"), CUT)
def test_a_request_that_was_captured_in_part_joins_nothing_and_is_joined_by_nothing(
    changes: dict[str, Any], facts: dict[str, Any]
) -> None:
    texts = ["Look around in there"]
    compacted = Said(role="assistant", shown=[], text="Much.", compaction=b"digest")
    made = call(changes, asked=[compacted], openings=texts, arguments=texts, previous="msg_1", **facts)
    assert ((), None, None, b"") == (made.states, made.leaving, made.previous, made.compacted)
    assert ((), ()) == (made.openings, made.arguments)
    assert Placement(Rule.FIRST) == place(made, Everywhere(made))
    assert Rule.FIRST != place(call(), Everywhere(made)).rule


def test_what_was_said_in_a_request_that_was_captured_in_part_is_kept() -> None:
    made = understand(record(request_truncated=True), Scripted(asked=ASKED, answer=ANSWER))
    assert (ASKED, ANSWER, 4) == (made.asked, made.answer, len(made.call.digests))
