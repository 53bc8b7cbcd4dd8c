"""Where a call seems to belong while it is under way is where it belongs once it is stored."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import msgspec
import pytest

from conversing import START, Call, assistant, text, tool_use, user
from sidestream.providers import PROVIDERS
from sidestream.store.library import Library
from sidestream.store.rows import Item
from sidestream.store.store import Store
from sidestream.traces.conversation import Rule
from sidestream.traces.understanding import understand

if TYPE_CHECKING:
    from pathlib import Path

    from sidestream.store.predicting import Prediction
    from sidestream.traces.model import Reading

TASK = "Find out how many moons the fourth planet has, and whether anybody lives on them."
FIRST = [user("One?")]
SECOND = [*FIRST, assistant([text("1")]), user("Two?")]
THIRD = [*SECOND, assistant([text("2")]), user("Three?")]
CALLS = [
    Call("a1", FIRST, [text("1")], START),
    Call("a2", SECOND, [text("2")], START + 10),
    Call("a3", THIRD, None, START + 20),
    Call("a3-again", THIRD, [tool_use("t", "ask", prompt=TASK)], START + 30, headers={"x-stainless-retry-count": "1"}),
    Call("child", [user(TASK)], [text("Two.")], START + 40),
    Call("branch", [*FIRST, assistant([text("1")]), user("Else?")], [text("x")], START + 50, body={"system": "Other."}),
    Call("other", [user("Something else.")], [text("y")], START + 60),
]
RULES = ["first", "extends_tip", "extends_tip", "retry_announced", "child_of_call", "extends_earlier", "first"]


def asked(call: Call) -> Reading:
    """What is known of a call before anything has been answered."""
    record = msgspec.structs.replace(call.record(), status=None, response_chunks=(), outcome="running")
    return understand(record, PROVIDERS["anthropic"])


def stored(store: Store, *calls: Call) -> None:
    for call in calls:
        store.commit([Item(call.record(), call.reading(), None, ())])


def test_each_call_is_predicted_to_belong_where_it_is_stored_then(tmp_path: Path) -> None:
    file = tmp_path / "store.db"
    predicted: list[Prediction] = []
    with closing(Store.open(file)) as store, closing(Library.open(file)) as library:
        for call in CALLS:
            predicted.append(library.predict(asked(call)))
            stored(store, call)
        found = [library.turn(call.id) for call in CALLS]
    assert RULES == [each.rule for each in predicted]
    for prediction, messages in zip(predicted, found, strict=True):
        turn = messages.turn
        assert (turn.run, turn.number, turn.rule, turn.parent, turn.retry_of, messages.changed) == (
            prediction.run,
            prediction.number,
            prediction.rule,
            prediction.parent,
            prediction.retry_of,
            prediction.changed,
        )
        assert bool(messages.system) == (prediction.begins or "system" in prediction.changed)


def test_one_that_has_ended_meanwhile_is_not_taken_for_its_own_repetition(tmp_path: Path) -> None:
    file = tmp_path / "store.db"
    with closing(Store.open(file)) as store, closing(Library.open(file)) as library:
        stored(store, *CALLS[:3])
        prediction = library.predict(asked(CALLS[2]))
    assert (Rule.EXTENDS_TIP, None, 3) == (prediction.rule, prediction.retry_of, prediction.number)


@pytest.mark.parametrize("answer", [[], [text("Th")]])
def test_what_has_been_answered_so_far_changes_nothing(tmp_path: Path, answer: list[dict[str, str]]) -> None:
    file = tmp_path / "store.db"
    call = Call("a3", THIRD, answer, START + 20, complete=False)
    with closing(Store.open(file)) as store, closing(Library.open(file)) as library:
        stored(store, *CALLS[:2])
        assert library.predict(asked(call)) == library.predict(call.reading())
