"""Tasks that are passed on, and summaries, are known again; anything else is not."""

from __future__ import annotations

import pytest

from sidestream.traces.clues import clues, is_summary

TASK = "Find out what the weather is like."


def test_a_task_is_known_again_whatever_its_white_space() -> None:
    assert clues([TASK]) == clues([f"\n{TASK.replace(' ', '  ')} "])
    assert clues([TASK]) != clues([TASK.replace("weather", "traffic")])


def test_what_is_short_is_no_clue() -> None:
    assert () == clues(["", "Hello!", "a b c d e f g h i j k l m n o"])


def test_there_are_only_so_many_and_each_once() -> None:
    assert 64 == len(clues([f"{TASK} {number}" for number in range(100)] * 2))


@pytest.mark.parametrize(
    "text",
    [
        "This session is being continued from a previous conversation that ran out of context.",
        "<system-reminder>Be good.</system-reminder>\n<summary>We met.</summary>",
        "Here is a summary of the conversation: we met.",
        "[Conversation summary] We met.",
        "Previous conversation summary: we met.",
    ],
)
def test_summaries_are_known_by_how_they_begin(text: str) -> None:
    assert is_summary([text])
    assert is_summary(["Hello", text])


@pytest.mark.parametrize(
    "text", ["", "Summarize this text: …", "Write a title for this conversation.", f"Hello. <summary>{TASK}</summary>"]
)
def test_other_beginnings_are_none(text: str) -> None:
    assert not is_summary([text])


def test_reminders_without_end_hold_nothing_up() -> None:
    """Looked at twice, so many would take longer than anybody waits."""
    assert not is_summary(["<system-reminder></system-reminder>" * 500, "<system-reminder>" * 1000])
