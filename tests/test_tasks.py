import asyncio
import gc

import pytest
from structlog.testing import capture_logs

from sidestream.tasks import spawn, where


async def test_a_spawned_task_can_be_awaited() -> None:
    async def answer() -> int:
        return 42

    task = spawn(answer(), name="answer")

    assert await task == 42
    assert task.get_name() == "answer"


async def test_a_task_nobody_refers_to_runs_to_its_end() -> None:
    go = asyncio.Event()
    done = asyncio.Event()

    async def work() -> None:
        await go.wait()
        done.set()

    spawn(work(), name="work")
    gc.collect()
    go.set()

    await asyncio.wait_for(done.wait(), 5)


async def test_a_failure_is_logged_with_its_place_and_without_its_text() -> None:
    async def fail() -> None:
        raise ValueError("inv-canary")

    with capture_logs() as logs:
        task = spawn(fail(), name="unlucky")
        with pytest.raises(ValueError):
            await task
        await asyncio.sleep(0)

    assert [(log["event"], log["task"], log["error"]) for log in logs] == [("task_failed", "unlucky", "ValueError")]
    assert "test_tasks.py" in logs[0]["where"]
    assert "fail" in logs[0]["where"]
    assert "canary" not in str(logs)


async def test_a_cancelled_task_is_not_a_failure() -> None:
    with capture_logs() as logs:
        task = spawn(asyncio.Event().wait(), name="waiting")
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])

    assert task.cancelled()
    assert logs == []


def test_the_place_of_an_error_that_was_never_raised_is_empty() -> None:
    assert where(ValueError()) == ""
