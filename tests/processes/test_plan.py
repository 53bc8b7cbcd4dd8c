"""What the supervisor learns of a configuration, from a process that lives for a moment."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from sidestream.errors import ConfigError, Problem, SidestreamError
from sidestream.processes import plan
from sidestream.processes.channel import Document
from sidestream.processes.plan import NotChecked, Plan, answer, understood

PLAN = Plan(
    host="::1",
    port=0,
    prefix="/p",
    workers=2,
    mode="process",
    directory="/d",
    viewer="open",
    notice=0.5,
    drain=15.0,
    flush=5.0,
    digest="0",
)


def test_a_plan_survives_the_way() -> None:
    line, status = answer(PLAN)
    assert (0, PLAN) == (status, understood(line, status))


def test_problems_survive_the_way() -> None:
    problems = [Problem("a.b", "no"), Problem("", "nor that")]
    line, status = answer(ConfigError(problems))
    with pytest.raises(ConfigError) as raised:
        understood(line, status)
    assert (2, problems) == (status, raised.value.problems)


def test_another_error_survives_the_way() -> None:
    line, status = answer(SidestreamError("cannot"))
    assert status == 1
    with pytest.raises(SidestreamError, match=r"^cannot$"):
        understood(line, status)


@pytest.mark.parametrize("line", [b"", b"\xff", b"[]", b"{}", b'{"plan":{}}', b'{"plan":7}', b'{"problems":[1]}'])
def test_what_is_no_plan_has_the_status_of_who_made_it(line: bytes) -> None:
    for status, expected in ((3, 3), (-9, 1), (0, 1)):
        with pytest.raises(NotChecked) as raised:
            understood(line, status)
        assert expected == raised.value.status


async def test_one_who_does_not_answer_is_ended() -> None:
    command = (sys.executable, "-c", "import time; time.sleep(60)")
    with pytest.raises(SidestreamError, match="could not be checked within"):
        await plan.ask(command, Document(), patience=0.2)


async def test_one_who_does_not_listen_may_still_answer() -> None:
    line = answer(replace(PLAN, port=7))[0].decode()
    command = (sys.executable, "-c", f"print({line!r})")
    assert 7 == (await plan.ask(command, Document("f", bytes(1 << 20)))).port
