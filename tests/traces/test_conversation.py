"""Where a call belongs: each rule, by example."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest

from conversing import START, Call, Conversed, assistant, text, tool_result, tool_use, user

if TYPE_CHECKING:
    from collections.abc import Iterator

ASK = user("What is the weather in Bern?")
LOOK = [{"type": "thinking", "thinking": "Hm.", "signature": "s"}, text("I look."), tool_use("t1", place="Bern")]
FOUND = user(tool_result("t1", "Rain."))
RAIN = [text("It rains.")]
THANKS = user("Thanks!")
WELCOME = [text("You are welcome.")]
FIRST = Call("c1", [ASK], LOOK, START)
SECOND = Call("c2", [ASK, assistant(LOOK), FOUND], RAIN, START + 10)
THIRD = Call("c3", [ASK, assistant(LOOK), FOUND, assistant(RAIN), THANKS], WELCOME, START + 20)
AGAIN = {"x-stainless-retry-count": "1"}
CLAUDE = "x-claude-code-session-id"
AGENT = "x-claude-code-agent-id"


@pytest.fixture
def known() -> Iterator[Conversed]:
    with Conversed() as conversed:
        yield conversed


def a_call(name: str, messages: list[Any], begun: float = 30, content: Any = WELCOME, **facts: Any) -> Call:
    return Call(name, messages, content, START + begun, **facts)


def with_headers(call: Call, headers: dict[str, str]) -> Call:
    return dataclasses.replace(call, headers=headers)


def rules(known: Conversed) -> list[tuple[str, str, str]]:
    """Exchange, trace and rule."""
    return [(turn.id, turn.trace, turn.rule) for turn in known.turns.values()]


def numbers(known: Conversed) -> list[tuple[str, str, int]]:
    """Exchange, trace and place in it."""
    return [(turn.id, turn.trace, turn.number) for turn in known.turns.values()]


def words(known: Conversed, name: str) -> list[Any]:
    """Role and content of what a turn added."""
    return [(message["role"], message["content"]) for message in known.turns[name].messages]


def test_a_call_that_extends_the_tip_adds_only_what_is_new_to_its_trace(known: Conversed) -> None:
    known.add(FIRST, SECOND, THIRD)
    assert [("c1", "c1", "first"), ("c2", "c1", "extends_tip"), ("c3", "c1", "extends_tip")] == rules(known)
    assert [("tool", "Rain."), ("assistant", "It rains.")] == words(known, "c2")
    assert [("user", "Thanks!"), ("assistant", "You are welcome.")] == words(known, "c3")
    assert [1, 2, 3] == [turn.number for turn in known.turns.values()]


def test_the_first_turn_has_the_system_prompt_and_the_trace_its_users_words_as_title(known: Conversed) -> None:
    known.add(FIRST, SECOND)
    assert [("system", "Be brief."), ("user", ASK["content"])] == words(known, "c1")[:2]
    assert {"What is the weather in Bern?"} == {turn.title for turn in known.turns.values()}


def test_a_turn_says_what_else_has_changed(known: Conversed) -> None:
    other = {"system": "Be wordy.", "tools": []}
    known.add(FIRST, SECOND, dataclasses.replace(THIRD, body=other))
    assert [None, None, ["system", "tools"]] == [turn.metadata.get("changed") for turn in known.turns.values()]


def test_an_edited_message_is_a_branch_that_names_the_turn_it_left(known: Conversed) -> None:
    edited = a_call("c4", [ASK, assistant(LOOK), user(tool_result("t1", "Sun."))])
    known.add(FIRST, SECOND, THIRD, edited)
    branch = known.turns["c4"]
    assert ("c4", "extends_earlier", 1) == (branch.trace, branch.rule, branch.number)
    assert branch.origin is not None
    assert ("branch", "c1", "c1", 1) == (
        branch.origin.kind,
        branch.origin.trace,
        branch.origin.turn,
        branch.origin.number,
    )
    assert ["What is the weather in Bern?"] == branch.origin.path
    assert [("tool", "Sun."), ("assistant", "You are welcome.")] == words(known, "c4")


def test_of_two_continuations_the_one_that_began_first_goes_on_with_the_trace(known: Conversed) -> None:
    other = a_call("c2b", [*SECOND.messages[:2], user(tool_result("t1", "Snow."))], 10.5)
    known.add(FIRST, other, SECOND, THIRD)
    assert [
        ("c1", "c1", "first"),
        ("c2b", "c2b", "extends_earlier"),
        ("c2", "c1", "extends_tip"),
        ("c3", "c1", "extends_tip"),
    ] == sorted(rules(known), key=lambda row: ["c1", "c2b", "c2", "c3"].index(row[0]))


def test_calls_that_come_in_another_order_end_where_they_would_have_in_order(known: Conversed) -> None:
    known.add(THIRD, SECOND, FIRST)
    assert [("c3", "c1", "extends_tip"), ("c2", "c1", "extends_tip"), ("c1", "c1", "first")] == sorted(
        rules(known), reverse=True
    )
    assert [("user", "Thanks!"), ("assistant", "You are welcome.")] == words(known, "c3")
    assert ["c1", "c2", "c3"] == known.path(THIRD)


def test_the_same_first_request_again_is_a_conversation_of_its_own(known: Conversed) -> None:
    known.add(FIRST, a_call("c4", [ASK]))
    assert ("c4", "c4", "repeated") == rules(known)[1]
    assert known.turns["c4"].origin is None


def test_the_same_later_request_again_is_a_branch(known: Conversed) -> None:
    known.add(FIRST, SECOND, a_call("c4", SECOND.messages))
    assert ("c4", "c4", "extends_earlier") == rules(known)[2]


def test_a_retry_that_the_client_announces_belongs_to_the_turn_it_repeats(known: Conversed) -> None:
    known.add(FIRST, SECOND, a_call("c4", SECOND.messages, headers=AGAIN))
    assert ("c4", "c1", "retry_announced") == rules(known)[2]


def test_of_parallel_samples_each_retry_belongs_to_a_call_of_its_own(known: Conversed) -> None:
    failed = [a_call(f"c{n}", [ASK], n / 100, content=None, seconds=0.2) for n in range(5)]
    again = [a_call(f"r{n}", [ASK], 1 + n / 100, headers=AGAIN) for n in range(5)]
    known.add(*failed, *again)
    assert {1: "c", 2: "r"} == {number: name[0] for name, _, number in numbers(known)}
    assert 5 == len({trace for _, trace, _ in numbers(known)})


def test_an_announced_retry_of_what_nobody_saw_fail_is_a_conversation_of_its_own(known: Conversed) -> None:
    known.add(FIRST, SECOND, a_call("c4", [ASK], headers=AGAIN))
    assert ("c4", "c4", "repeated") == rules(known)[2]


def test_what_failed_long_ago_is_not_retried(known: Conversed) -> None:
    known.add(a_call("c1", [ASK], 0, content=None), a_call("c2", [ASK], 3600))
    assert ("c2", "c2", "repeated") == rules(known)[1]


def test_another_session_retries_nothing(known: Conversed) -> None:
    known.add(
        a_call("c1", [ASK], 0, content=None, headers={CLAUDE: "s1"}), a_call("c2", [ASK], 5, headers={CLAUDE: "s2"})
    )
    assert "c2" == known.turns["c2"].trace


def test_a_retry_that_comes_when_something_else_went_on_is_a_branch(known: Conversed) -> None:
    failed = a_call("c2", SECOND.messages, 10, content=None)
    other = a_call("c3", [*SECOND.messages[:2], user(tool_result("t1", "Sun."))], 12)
    known.add(FIRST, failed, other, a_call("c4", SECOND.messages, 14))
    assert [("c3", "c1", "extends_tip"), ("c4", "c4", "extends_earlier")] == rules(known)[2:]


def test_more_words_after_a_failed_first_call_are_somebody_elses_a_day_later(known: Conversed) -> None:
    document = user("A document that many ask about.")
    known.add(a_call("c1", [document], 0, content=None), a_call("c2", [document, user("What?")], 86_400))
    assert ("c2", "c2", "first") == rules(known)[1]


def test_more_runs_with_one_answer_than_are_looked_at_stay_apart(known: Conversed) -> None:
    known.add(*(a_call(f"a{n}", [ASK], n) for n in range(150)))
    known.add(*(a_call(f"b{n}", [ASK, assistant(WELCOME), THANKS], 200 + n) for n in range(150)))
    assert {"first", "repeated", "extends_tip"} == {rule for _, _, rule in rules(known)}


def test_continuations_of_two_attempts_at_a_call_are_a_line_and_a_branch_in_any_order(known: Conversed) -> None:
    attempts = [a_call("c1", [ASK], 0, RAIN), a_call("c2", [ASK], 2, WELCOME, headers=AGAIN)]
    late = a_call("c3", [ASK, assistant(RAIN), THANKS], 4)
    known.add(*attempts, a_call("c4", [ASK, assistant(WELCOME), THANKS], 6), late)
    assert [("c4", "c4", "extends_earlier"), ("c3", "c1", "extends_tip")] == rules(known)[2:]


def test_a_first_answer_that_was_cut_off_is_found_also_when_it_comes_late(known: Conversed) -> None:
    cut = a_call("c1", [ASK], 0, [text("It rains, and it will")], complete=False)
    known.add(a_call("c2", [ASK, assistant([text("It rains,")]), user("Go on.")], 5), cut)
    assert ("c2", "c1", "continues_cut") in rules(known)


def test_a_call_that_was_not_answered_is_retried_without_a_word(known: Conversed) -> None:
    failed = a_call("c2", SECOND.messages, 10, content=None)
    known.add(FIRST, failed, a_call("c4", SECOND.messages, 12, content=RAIN), THIRD)
    assert [
        ("c1", "c1", "first"),
        ("c2", "c1", "extends_tip"),
        ("c4", "c1", "retry_incomplete"),
        ("c3", "c1", "extends_tip"),
    ] == rules(known)
    assert ["c1", "c4", "c3"] == known.path(THIRD)


def test_what_was_asked_while_the_other_was_still_under_way_is_no_retry(known: Conversed) -> None:
    known.add(a_call("c1", [ASK], 0, content=None, seconds=60.0), a_call("c2", [ASK], 5))
    assert ("c2", "c2", "repeated") == rules(known)[1]


def test_a_retry_with_another_system_prompt_is_none(known: Conversed) -> None:
    known.add(a_call("c1", [ASK], 0, content=None), a_call("c2", [ASK], 5, body={"system": "Name a title."}))
    assert ("c2", "c2", "first") == rules(known)[1]


def test_a_failed_call_does_not_stand_in_the_way_of_a_corrected_one(known: Conversed) -> None:
    failed = a_call("c2", [*SECOND.messages, user("too long")], 10, content=None)
    known.add(FIRST, failed, a_call("c3", SECOND.messages, 12, content=RAIN))
    assert ("c3", "c1", "extends_tip") == rules(known)[2]


def test_an_answer_that_was_cut_off_is_continued_from_what_the_client_had_of_it(known: Conversed) -> None:
    cut = a_call("c2", SECOND.messages, 10, content=[text("It rains, and it will go on")], complete=False)
    kept = [*SECOND.messages, assistant([text("It rains, and")]), user("Go on.")]
    known.add(FIRST, cut, a_call("c3", kept))
    assert ("c3", "c1", "continues_cut") == rules(known)[2]
    assert [("user", "Go on."), ("assistant", "You are welcome.")] == words(known, "c3")


def test_a_cut_answer_that_the_client_drops_is_continued_too(known: Conversed) -> None:
    cut = a_call("c2", SECOND.messages, 10, content=[text("It rains")], complete=False)
    known.add(FIRST, cut, a_call("c3", [*SECOND.messages, user("[Request interrupted by user]"), THANKS]))
    assert ("c3", "c1", "continues_cut") == rules(known)[2]


def test_a_cut_answer_is_retried_like_none(known: Conversed) -> None:
    cut = a_call("c2", SECOND.messages, 10, content=[text("It rains")], complete=False)
    known.add(FIRST, cut, a_call("c3", SECOND.messages, 20))
    assert ("c3", "c1", "retry_incomplete") == rules(known)[2]


def test_datasets_never_meet(known: Conversed) -> None:
    known.add(FIRST, a_call("c2", SECOND.messages, dataset="other"))
    assert ("c2", "c2", "first") == rules(known)[1]


def test_a_common_beginning_with_an_answer_that_nobody_saw_joins_nothing(known: Conversed) -> None:
    shots = [user("Example question"), assistant([text("Example answer")])]
    known.add(a_call("c1", [*shots, user("A?")], 0), a_call("c2", [*shots, user("B?")], 10))
    assert [("c1", "c1", "first"), ("c2", "c2", "first")] == rules(known)


def test_an_answer_prefilled_by_the_client_is_one_with_what_was_said_after_it(known: Conversed) -> None:
    prefill = a_call("c1", [ASK, assistant([text("It")])], 0, content=[text(" rains.")])
    known.add(prefill, a_call("c2", [ASK, assistant([text("It rains.")]), THANKS], 10))
    assert ("c2", "c1", "extends_tip") == rules(known)[1]
    assert [("user", "Thanks!"), ("assistant", "You are welcome.")] == words(known, "c2")


def test_a_paused_turn_goes_on_without_a_new_message(known: Conversed) -> None:
    known.add(FIRST, a_call("c2", [ASK, assistant(LOOK)], 10, content=RAIN))
    assert ("c2", "c1", "extends_tip") == rules(known)[1]
    assert [("assistant", "It rains.")] == words(known, "c2")


@pytest.mark.parametrize("headers", [{CLAUDE: "s1"}, {"x-session-id": "s1"}])
def test_a_session_goes_on_with_the_end_of_its_history(known: Conversed, headers: dict[str, str]) -> None:
    begun = [
        a_call(call.id, call.messages, call.begun - START, call.content, headers=headers) for call in (FIRST, SECOND)
    ]
    known.add(*begun, a_call("c3", [FOUND, assistant(RAIN), THANKS], headers=headers))
    assert ("c3", "c1", "history_truncated") == rules(known)[2]
    assert [("user", "Thanks!"), ("assistant", "You are welcome.")] == words(known, "c3")


def test_the_end_of_a_history_without_a_session_is_a_new_trace(known: Conversed) -> None:
    known.add(FIRST, SECOND, a_call("c3", [FOUND, assistant(RAIN), THANKS]))
    assert ("c3", "c3", "first") == rules(known)[2]


def test_the_first_message_may_be_kept_when_others_are_dropped(known: Conversed) -> None:
    headers = {CLAUDE: "s1"}
    begun = [
        a_call(call.id, call.messages, call.begun - START, call.content, headers=headers) for call in (FIRST, SECOND)
    ]
    known.add(*begun, a_call("c3", [ASK, assistant(RAIN), THANKS], headers=headers))
    assert ("c3", "c1", "history_truncated") == rules(known)[2]


def test_a_summary_goes_on_with_the_sessions_conversation(known: Conversed) -> None:
    summary = user("This session is being continued from a previous conversation that ran out of context. It rained.")
    known.add(a_call("c1", [ASK], 0, headers={CLAUDE: "s1"}), a_call("c2", [summary, THANKS], headers={CLAUDE: "s1"}))
    assert ("c2", "c1", "history_summarized") == rules(known)[1]


@pytest.mark.parametrize("headers", [{}, {CLAUDE: "s2"}, {CLAUDE: "s1", AGENT: "a1"}])
def test_a_summary_of_nobody_knows_what_does_not(known: Conversed, headers: dict[str, str]) -> None:
    summary = user("This session is being continued from a previous conversation that ran out of context. It rained.")
    known.add(a_call("c1", [ASK], 0, headers={CLAUDE: "s1"}), a_call("c2", [summary, THANKS], headers=headers))
    assert "c2" == known.turns["c2"].trace


def test_a_title_for_a_summary_does_not_take_the_conversations_place(known: Conversed) -> None:
    headers = {CLAUDE: "s1"}
    known.add(
        with_headers(FIRST, headers),
        a_call("c2", [user("Here is a summary of the conversation.")], 5, headers=headers, body={"system": "Title!"}),
        a_call("c3", SECOND.messages, 10, headers=headers),
    )
    assert [("c2", "c2", "first"), ("c3", "c1", "extends_tip")] == rules(known)[1:]


def test_another_conversation_of_a_session_is_one_of_its_own(known: Conversed) -> None:
    headers = {CLAUDE: "s1"}
    known.add(a_call("c1", [ASK], 0, headers=headers), a_call("c2", [user("Name a title.")], headers=headers))
    assert ("c2", "c2", "first") == rules(known)[1]


def test_what_the_provider_made_of_the_history_goes_on_with_it(known: Conversed) -> None:
    compaction = {"type": "compaction", "content": "It rained in Bern, and the user said thanks."}
    compacting = a_call("c3", [*SECOND.messages, assistant(RAIN), THANKS], 20, content=[compaction])
    known.add(FIRST, SECOND, compacting, a_call("c4", [assistant([compaction]), user("And now?")]))
    assert ("c4", "c1", "history_compacted") == rules(known)[3]
    assert [("user", "And now?"), ("assistant", "You are welcome.")] == words(known, "c4")


def test_a_history_that_the_provider_keeps_is_continued_by_the_name_of_an_answer(known: Conversed) -> None:
    begun = a_call("c1", [ASK], 0, content=LOOK, body={"thread": {"type": "create"}})
    goes_on = {"thread": {"type": "continue", "previous_message_id": "msg_c1"}}
    known.add(begun, a_call("c2", [FOUND], 10, content=RAIN, body=goes_on))
    assert ("c2", "c1", "continues_thread") == rules(known)[1]
    assert [("tool", "Rain."), ("assistant", "It rains.")] == words(known, "c2")


def test_a_client_that_resends_all_of_a_kept_history_stays_in_its_trace(known: Conversed) -> None:
    begun = a_call("c1", [ASK], 0, content=LOOK)
    goes_on = {"thread": {"type": "continue", "previous_message_id": "msg_c1"}, "system": "", "tools": []}
    refused = {"thread": {"type": "continue", "previous_message_id": "msg_c2"}, "system": "", "tools": []}
    known.add(
        a_call("c4", THIRD.messages, 21),
        a_call("c3", [THANKS], 15, content=None, body=refused),
        a_call("c2", [FOUND], 10, content=RAIN, body=goes_on),
        begun,
    )
    assert [
        ("c1", "c1", "first"),
        ("c2", "c1", "continues_thread"),
        ("c3", "c1", "continues_thread"),
        ("c4", "c1", "retry_incomplete"),
    ] == sorted(rules(known))


def test_a_client_that_clears_old_results_of_tools_stays_in_its_trace(known: Conversed) -> None:
    cleared = user(tool_result("t1", "[cleared]"))
    shortened = a_call("c3", [ASK, assistant(LOOK), cleared, assistant(RAIN), THANKS], 20)
    known.add(FIRST, SECOND, shortened, a_call("c4", [*shortened.messages, assistant(WELCOME), user("Bye.")], 30))
    assert [("c3", "c1", "history_rewritten"), ("c4", "c1", "extends_tip")] == rules(known)[2:]
    assert [("user", "Thanks!"), ("assistant", "You are welcome.")] == words(known, "c3")


def test_a_client_that_clears_results_is_known_again_also_when_what_it_goes_on_from_comes_late(
    known: Conversed,
) -> None:
    shortened = a_call("c3", [ASK, assistant(LOOK), user(tool_result("t1", "")), assistant(RAIN), THANKS], 20)
    known.add(FIRST, shortened, SECOND)
    assert ("c3", "c1", "history_rewritten") in rules(known)


def test_a_turn_in_which_only_the_provider_s_tools_worked_is_gone_on_from(known: Conversed) -> None:
    searching = [{"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {}}]
    known.add(a_call("c1", [ASK], 0, searching), a_call("c2", [ASK, assistant(searching)], 10))
    assert ("c2", "c1", "extends_tip") == rules(known)[1]


def test_an_agent_that_names_its_parent_becomes_its_child(known: Conversed) -> None:
    child = {CLAUDE: "s1", AGENT: "a1"}
    known.add(
        a_call("c1", [ASK], 0, LOOK, headers={CLAUDE: "s1"}),
        a_call("k1", [user("Look out of the window.")], 5, headers=child),
        a_call("k2", [user("Look out of the window."), assistant(WELCOME), THANKS], 7, RAIN, headers=child),
    )
    assert [("k1", "k1", "child_of_session"), ("k2", "k1", "extends_tip")] == rules(known)[1:]
    origin = known.turns["k2"].origin
    assert origin is not None
    assert ("child", "c1", "c1") == (origin.kind, origin.trace, origin.turn)


def test_a_session_that_names_its_parent_becomes_its_child(known: Conversed) -> None:
    headers = {"x-session-id": "s2", "x-parent-session-id": "s1"}
    known.add(a_call("k1", [user("Look.")], 5, headers=headers), a_call("c1", [ASK], 0, headers={"x-session-id": "s1"}))
    assert "child_of_session" == known.turns["k1"].rule
    assert known.turns["k1"].origin is not None


TASK = "Find out whether it rains in Bern today."


def test_a_task_that_an_open_tool_call_passes_on_becomes_its_child(known: Conversed) -> None:
    delegating = a_call("c1", [ASK], 0, [tool_use("t1", "delegate", prompt=TASK, kind="search")])
    known.add(delegating, a_call("k1", [user("<system-reminder>Be good.</system-reminder>", TASK)], 5))
    assert ("k1", "k1", "child_of_call") == rules(known)[1]


def test_a_task_whose_tool_call_has_been_answered_is_nobodys_child(known: Conversed) -> None:
    delegation = [tool_use("t1", "delegate", prompt=TASK)]
    delegating = a_call("c1", [ASK], 0, delegation)
    answered = a_call("c2", [ASK, assistant(delegation), user(tool_result("t1", "Yes."))], 3)
    known.add(delegating, a_call("k1", [user(TASK)], 5), answered)
    assert ("k1", "k1", "first") == rules(known)[1]


def test_a_task_that_was_passed_on_long_ago_has_no_parent(known: Conversed) -> None:
    known.add(a_call("c1", [ASK], 0, [tool_use("t1", "delegate", prompt=TASK)]), a_call("k1", [user(TASK)], 86_400))
    assert ("k1", "k1", "first") == rules(known)[1]


def test_a_child_that_came_before_its_parent_finds_it_later(known: Conversed) -> None:
    known.add(a_call("k1", [user(TASK)], 5), a_call("c1", [ASK], 0, [tool_use("t1", "delegate", prompt=TASK)]))
    assert ("k1", "k1", "child_of_call") == rules(known)[0]


def test_an_exchange_without_a_readable_request_is_a_trace_of_its_own(known: Conversed) -> None:
    known.add(a_call("c1", [], 0), a_call("c2", [], 10))
    assert [("c1", "c1", "first"), ("c2", "c2", "first")] == rules(known)


def test_reading_again_what_is_stored_changes_nothing(known: Conversed) -> None:
    calls = [FIRST, SECOND, THIRD, a_call("c4", SECOND.messages)]
    known.add(*calls)
    before = known.turns
    known.replace(*calls)
    assert before == known.turns


def test_what_nobody_refers_to_any_more_is_removed(known: Conversed) -> None:
    known.add(FIRST, a_call("c4", [ASK]))
    known.forget(FIRST)
    assert "c4" in known.turns
    known.forget(a_call("c4", [ASK]))
    assert [0] * 5 == [known.count(table) for table in ("turns", "said", "contents", "passed", "clues")]
