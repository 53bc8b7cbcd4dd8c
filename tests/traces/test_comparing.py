"""What changed between two requests is told, and where the prefix that the provider caches ends, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conversing import TOOLS, assistant, text, tool_result, tool_use, user
from sidestream.providers.jsons import clean
from sidestream.traces.comparing import Cause, Changes, Line, Mark, Parameter, Sent, causes, changes, prefix

if TYPE_CHECKING:
    from conversing import Json

EPHEMERAL = {"type": "ephemeral"}
TALK = [user("Is it dry?"), assistant([text("Let me look."), tool_use("t1", place="Bern")])]
RESULT = user(tool_result("t1", "Dry."))


def a_request(messages: list[Json], **changed: Any) -> Json:
    return {"model": "m", "max_tokens": 100, "system": "Be brief.", "tools": TOOLS, "messages": messages} | changed


def marked(block: Json, **mark: str) -> Json:
    return block | {"cache_control": EPHEMERAL | mark}


BEFORE = a_request([user(marked(text("Is it dry?")))])
NOW = a_request([user(text("Is it dry?")), TALK[1], user(marked(tool_result("t1", "Dry.")))])


def found(before: Json, now: Json) -> tuple[str, int]:
    difference = prefix(before, now).difference
    assert difference is not None
    return difference.path, difference.offset


# What changed


def test_nothing_changed_between_a_request_and_itself() -> None:
    assert changes(NOW, NOW).nothing


def test_messages_that_were_added_are_told_by_their_roles_and_not_as_a_difference() -> None:
    told = changes(a_request(TALK[:1]), a_request([*TALK, RESULT]))
    assert (1, 0, ["assistant", "user"], []) == (told.kept, told.removed, told.added, told.messages)


def test_a_mark_for_the_cache_that_moved_is_no_change() -> None:
    now = a_request([user(text("Is it dry?"))])
    assert changes(BEFORE, now).nothing


def test_a_string_and_one_block_of_text_are_the_same_message() -> None:
    assert changes(a_request([user("Hi")]), a_request([user(text("Hi"))])).nothing


def test_parameters_that_were_changed_added_and_removed_are_told_with_both_values() -> None:
    told = changes(a_request([], thinking=None, stop="x"), a_request([], thinking={"type": "enabled"}, top_k=3))
    expected = [
        Parameter(name="stop", before='"x"', now=None),
        Parameter(name="thinking", before="null", now='{"type":"enabled"}'),
        Parameter(name="top_k", before=None, now="3"),
    ]
    assert expected == told.parameters


def test_the_system_prompt_is_compared_line_by_line() -> None:
    told = changes(a_request([], system="One\nTwo\nThree"), a_request([], system=[text("One\nZwei\nThree")]))
    assert [Line("@", "…"), Line(" ", "One"), Line("-", "Two"), Line("+", "Zwei"), Line(" ", "Three")] == told.system


def test_tools_are_told_by_name() -> None:
    look, write, read = TOOLS[0], {"name": "write"}, {"name": "read", "description": "Read."}
    told = changes(
        a_request([], tools=[look, write, read]),
        a_request([], tools=[marked(look), read | {"description": "Read a file."}, {"name": "list"}]),
    )
    assert (["list"], ["write"], ["read"]) == (
        told.added_tools,
        told.removed_tools,
        [tool.name for tool in told.changed_tools],
    )
    assert Line("+", '  "description": "Read a file."') in told.changed_tools[0].lines
    assert not told.reordered_tools


def test_tools_in_another_order_are_told() -> None:
    tools = [TOOLS[0], {"name": "write"}]
    told = changes(a_request([], tools=tools), a_request([], tools=tools[::-1]))
    assert told.reordered_tools
    assert not told.nothing


def test_a_message_that_was_rewritten_is_shown_as_a_difference() -> None:
    told = changes(a_request([*TALK, RESULT]), a_request([*TALK, user(tool_result("t1", "[cleared]")), user("On?")]))
    assert (2, 1, ["user", "user"]) == (told.kept, told.removed, told.added)
    assert Line("-", '  "content": "Dry."') in told.messages
    assert Line("+", '  "content": "[cleared]"') in told.messages


def test_what_is_too_long_to_compare_says_how_much_is_not_shown() -> None:
    words = "\n".join(map(str, range(5000)))
    told = changes(a_request([], system=f"a{words}z"), a_request([], system=f"b{words}y"))
    assert 2 == sum(line.sign == "@" and "lines more" in line.text for line in told.system)


def test_a_long_line_says_how_much_of_it_is_not_shown() -> None:
    told = changes(a_request([], system=""), a_request([], system="x" * 5000))
    assert told.system[-1].text.endswith("… (3000 characters more)")


# Where the prefix ends


def test_a_request_that_only_adds_messages_keeps_its_prefix() -> None:
    told = prefix(BEFORE, NOW)
    assert (None, 3, 3, 6) == (told.difference, told.same, told.before, told.now)


def test_a_block_added_to_the_last_message_keeps_the_prefix() -> None:
    assert prefix(a_request([user("a")]), a_request([user("a", "b")])).difference is None


def test_a_shorter_request_that_ends_earlier_keeps_its_prefix() -> None:
    assert prefix(NOW, BEFORE).difference is None


def test_a_changed_text_is_found_with_what_stands_around_it() -> None:
    told = prefix(a_request([*TALK, user("It is Monday.")]), a_request([*TALK, user("It is Friday.")])).difference
    assert told is not None
    assert ("messages[2].content", 6, "It is Monday.", "It is Friday.") == (
        told.path,
        told.offset,
        told.before,
        told.now,
    )


def test_a_changed_text_in_a_block_is_found_by_its_path() -> None:
    before, now = (a_request([user("a", text(word))]) for word in ("one", "once"))
    assert ("messages[0].content[1].text", 2) == found(before, now)


def test_a_changed_argument_is_found_by_its_path() -> None:
    before, now = (a_request([assistant([tool_use("t", where={"x": [1, value]})])]) for value in (2, 3))
    assert ("messages[0].content[0].input.where.x[1]", 0) == found(before, now)


def test_the_system_prompt_comes_before_the_messages() -> None:
    before, now = a_request([user("a")], system="Day 1"), a_request([user("b")], system="Day 2")
    assert ("system", 4) == found(before, now)


def test_tools_come_before_the_system_prompt() -> None:
    before = a_request([], system="x")
    now = a_request([], system="y", tools=[{**TOOLS[0], "description": "Look!"}])
    assert ("tools[0].description", 4) == found(before, now)


@pytest.mark.parametrize(
    ("before", "now", "path", "sides"),
    [
        (a_request([]), a_request([], tools=[*TOOLS, {"name": "new"}]), "tools[1]", ("", '{"name":"new"}')),
        (a_request([], tools=[*TOOLS, {"name": "new"}]), a_request([]), "tools[1]", ('{"name":"new"}', "")),
        (
            a_request([user("a")], system=None),
            a_request([user("a")], system="S"),
            "system",
            ("", '{"type":"text","text":"S"}'),
        ),
        (
            a_request([user("a", "b"), user("c")]),
            a_request([user("a"), user("c")]),
            "messages[0].content[1]",
            ('{"type":"text","text":"b"}', ""),
        ),
        (
            a_request([user("a"), user("c")]),
            a_request([user("a", "b"), user("c")]),
            "messages[0].content[1]",
            ("", '{"type":"text","text":"b"}'),
        ),
    ],
)
def test_what_was_added_or_removed_before_the_end_is_found(
    before: Json, now: Json, path: str, sides: tuple[str, str]
) -> None:
    told = prefix(before, now).difference
    assert told is not None
    assert (path, *sides) == (told.path, told.before, told.now)


def test_another_role_is_found() -> None:
    assert ("messages[0].role", 0) == found(a_request([user("a")]), a_request([assistant([text("a")])]))


def test_another_order_of_keys_breaks_a_prefix_and_is_named() -> None:
    before, now = (
        a_request([assistant([tool_use("t") | {"input": value}])]) for value in ({"a": 1, "b": 2}, {"b": 2, "a": 1})
    )
    told = prefix(before, now).difference
    assert told is not None
    assert ("messages[0].content[0].input", True) == (told.path, told.order)


def test_marks_are_no_part_of_the_prefix_and_are_told_with_their_places() -> None:
    told = prefix(BEFORE, NOW)
    assert ([Mark("messages[0].content[0]")], [Mark("messages[2].content[0]")], True) == (
        told.marks_before,
        told.marks_now,
        told.moved,
    )


def test_marks_of_tools_of_the_system_prompt_and_of_the_whole_request_are_told() -> None:
    now = a_request([], tools=[marked(TOOLS[0], ttl="1h")], system=[marked(text("s"))], cache_control=EPHEMERAL)
    expected = [Mark("tools[0]", "1h"), Mark("system[0]", "5m"), Mark("cache_control", "5m")]
    assert expected == prefix(now, now).marks_now


def test_a_long_text_is_shown_around_the_difference_only() -> None:
    told = prefix(a_request([user(f"{'x' * 500}a{'y' * 500}")]), a_request([user(f"{'x' * 500}b{'y' * 500}")]))
    assert told.difference is not None
    assert (500, f"…{'x' * 80}a{'y' * 79}…") == (told.difference.offset, told.difference.before)


# Why the cache missed


def sent(**facts: Any) -> Sent:
    usual: dict[str, Any] = {"model": "m", "started_at": 0.0, "input": 5, "cache_read": 0, "cache_written": 3000}
    return Sent(**usual | facts)


def why(before: Json = BEFORE, now: Json = NOW, old: Sent | None = None, **facts: Any) -> list[Cause]:
    return causes(prefix(before, now), old or sent(), sent(**({"started_at": 60.0} | facts)))


def test_nothing_needs_a_cause_where_the_cache_was_read() -> None:
    assert [] == why(cache_read=3000)


def test_nothing_is_said_of_a_call_without_usage() -> None:
    assert [] == why(cache_read=None)


def test_a_request_without_marks_reads_nothing() -> None:
    assert [Cause.UNMARKED] == why(BEFORE, a_request(TALK))


def test_another_model_has_another_cache() -> None:
    assert [Cause.MODEL] == why(model="other")


def test_another_beginning_is_the_cause_even_where_some_was_read() -> None:
    now = a_request([user(marked(text("Is it wet?")))])
    assert ([Cause.PREFIX], [Cause.PREFIX]) == (why(now=now), why(now=now, cache_read=10))


def test_parameters_that_messages_are_cached_with_are_a_cause() -> None:
    assert [Cause.OPTIONS] == why(now=NOW | {"tool_choice": {"type": "any"}})


@pytest.mark.parametrize(("seconds", "ttl", "expected"), [(299, "5m", "unknown"), (301, "5m", "expired")])
def test_five_minutes_are_what_a_mark_keeps(seconds: float, ttl: str, expected: str) -> None:
    before = a_request([user(marked(text("Is it dry?"), ttl=ttl))])
    assert [Cause(expected)] == why(before, started_at=seconds)


@pytest.mark.parametrize(("seconds", "expected"), [(301, "unknown"), (3601, "expired")])
def test_a_mark_of_an_hour_keeps_for_an_hour(seconds: float, expected: str) -> None:
    before = a_request([user(marked(text("Is it dry?"), ttl="1h"))])
    assert [Cause(expected)] == why(before, started_at=seconds)


def test_a_turn_before_without_marks_left_nothing() -> None:
    assert [Cause.UNMARKED_BEFORE] == why(a_request(TALK[:1]), old=sent(cache_written=0))


def test_a_turn_before_that_had_nothing_cached_may_have_been_too_short() -> None:
    assert [Cause.NOTHING_CACHED] == why(old=sent(cache_written=0))


def test_calls_at_the_same_time_cannot_read_what_the_other_writes() -> None:
    assert [Cause.TOGETHER] == why(old=sent(time_to_first_byte=5.0), started_at=2.0)


def test_many_blocks_behind_the_last_mark_are_a_cause() -> None:
    many = a_request([user(text("Is it dry?"), *(text(str(number)) for number in range(30)), marked(text("End")))])
    assert [Cause.FAR] == why(now=many)


def test_every_cause_has_words() -> None:
    assert all(cause.words.endswith(".") for cause in Cause)


# Whatever comes


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["content", "text", "type", "role", "cache_control", "name"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)
REQUESTS = st.dictionaries(st.sampled_from(["tools", "system", "messages", "model", "cache_control"]), JSON, max_size=5)


@given(before=REQUESTS, now=REQUESTS)
def test_requests_of_any_shape_are_compared(before: Json, now: Json) -> None:
    before, now = clean(before), clean(now)
    told = prefix(before, now)
    assert isinstance(changes(before, now), Changes)
    assert 0 <= told.same <= min(told.before, told.now)
    assert (prefix(now, now).difference, changes(now, now).nothing) == (None, True)
