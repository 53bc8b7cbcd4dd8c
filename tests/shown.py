"""Runs and turns as the viewer is given them, made by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sidestream.store.shapes import Related, Run, RunKind, RunSummary, Tokens, TurnMessages, TurnState, TurnSummary

if TYPE_CHECKING:
    from collections.abc import Sequence

Json = dict[str, Any]
BEGAN = 1_790_000_000.0


def a_turn(number: int = 1, **facts: Any) -> TurnSummary:
    """A turn of the run ``r1`` that took two seconds, ten seconds after the one before."""
    usual: Json = {
        "id": f"x{number}",
        "run": "r1",
        "number": number,
        "rule": "extends_tip" if number > 1 else "first",
        "parent": f"x{number - 1}" if number > 1 else None,
        "retry_of": None,
        "state": TurnState.ANSWERED,
        "status": 200,
        "model": "m",
        "stop_reason": "end_turn",
        "started_at": BEGAN + 10 * (number - 1),
        "duration": 2.0,
        "time_to_first_byte": 0.5,
        "tokens_per_second": None,
        "tokens": Tokens(),
        "cost": None,
        "tools": [],
        "tool_errors": 0,
    }
    return TurnSummary(**usual | facts)


def told(
    number: int,
    *messages: Json,
    answered: int = 0,
    facts: Json | None = None,
    system: Sequence[Json] = (),
    **summary: Any,
) -> TurnMessages:
    """What turn `number` added."""
    turn = a_turn(number, **summary)
    return TurnMessages(
        turn=turn, system=list(system), messages=list(messages), answered=answered, facts=facts or {}, changed=[]
    )


def a_summary(name: str = "r1", **facts: Any) -> RunSummary:
    """A run in a line."""
    usual: Json = {
        "id": name,
        "dataset": "demo",
        "title": f"Title of {name}",
        "model": "m",
        "state": TurnState.ANSWERED,
        "started_at": BEGAN,
        "ended_at": BEGAN + 60,
        "turns": 1,
        "tool_calls": 0,
        "tool_errors": 0,
        "errors": 0,
        "tokens": Tokens(),
        "cost": None,
    }
    return RunSummary(**usual | facts)


def a_relative(name: str, parent: str | None, turn: str | None = None, **facts: Any) -> Related:
    """A member of a family."""
    kind = {"kind": RunKind.CHILD} if parent is not None else {}
    return Related(run=a_summary(name, parent=parent, **kind | facts), turn=turn)


def a_run(*turns: TurnSummary, related: Sequence[Related] = (), **facts: Any) -> Run:
    """The run ``r1``."""
    return Run(summary=a_summary(turns=len(turns), **facts), turns=list(turns), related=list(related))


def said(role: str, content: Any, **more: Any) -> Json:
    """A message."""
    return {"role": role, "content": content} | more


def called(*calls: tuple[str, str, Any], content: str = "") -> Json:
    """An assistant's message with tool calls: of each the id, the name and the arguments."""
    made = [{"id": one, "type": "function", "function": {"name": two, "arguments": given}} for one, two, given in calls]
    return said("assistant", content, tool_calls=made)


def result(identity: str, content: Any, name: str = "look", **more: Any) -> Json:
    """What came of a tool call."""
    return said("tool", content, tool_call_id=identity, tool_name=name, **more)
