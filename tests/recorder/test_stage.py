"""What the viewer may ask of a recorder: a real one, with a relay that writes."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from conversing import user
from sidestream.errors import SidestreamError
from sidestream.recorder.stage import Stage
from sidestream.store.library import Library
from sidestream.store.rows import State
from sidestream.store.shapes import RunFilter
from sidestream.viewer.feed import Wanted
from watching import Watched, found, watched

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

ALL = RunFilter(everything=True)


@asynccontextmanager
async def staged(folder: Path) -> AsyncIterator[tuple[Watched, Stage]]:
    async with watched(folder) as recorder:
        yield recorder, Stage(recorder.plane, recorder.desk, folder / "data")


async def test_what_is_recorded_and_what_is_under_way_can_be_looked_at(tmp_path: Path) -> None:
    async with staged(tmp_path) as (recorder, stage):
        await recorder.call(1)
        recorder.begin(2, b"{")
        [under_way] = await found(stage.running, len)
        assert "call-2" == (await stage.running_turn("call-2")).turn.id == under_way.id
        assert ["call-1"] == [run.id for run in (await stage.look(Library.runs, ALL)).runs]
        with pytest.raises(LookupError):
            await stage.running_turn("call-1")


async def test_what_is_removed_is_gone_and_told(tmp_path: Path) -> None:
    async with staged(tmp_path) as (recorder, stage):
        await recorder.call(1)
        [run] = (await stage.look(Library.runs, ALL)).runs
        with stage.feed.listen(wanted=Wanted(kinds=frozenset({"removed"}))) as listener:
            assert 1 == await stage.delete(run=run.id)
            assert 0 == await stage.delete(dataset="nothing")
            events = [await anext(listener), await anext(listener)]
        assert [] == (await stage.look(Library.runs, ALL)).runs
    assert [("removed", f'{{"run":"{run.id}"}}'.encode()), ("removed", b'{"dataset":"nothing"}')] == [
        (event.kind, event.data) for event in events
    ]


async def test_what_is_pushed_is_stored_and_told_to_those_who_listen(tmp_path: Path) -> None:
    async with staged(tmp_path) as (_, stage):
        with stage.feed.listen() as listener:
            run = await stage.push("pushed", [user("Hello")], {"a": 1})
            assert run == await stage.push("pushed", [user("Again")], {}, trace=run)
            told = [await anext(listener), await anext(listener)]
        with pytest.raises(LookupError):
            await stage.push("pushed", [user("Hello")], {}, trace="nobody")
        assert {"b": 2} == await stage.describe("pushed", {"b": 2}, replace=True)
        assert 2 == (await stage.look(Library.summary, run)).turns
    assert [("ended", "pushed", frozenset({run}))] * 2 == [(each.kind, each.dataset, each.runs) for each in told]


async def test_deliveries_are_begun_for_a_sink_that_is_there(tmp_path: Path) -> None:
    async with staged(tmp_path) as (recorder, stage):
        await recorder.call(1)
        [run] = (await stage.look(Library.runs, ALL)).runs
        assert [] == stage.sinks()
        with pytest.raises(LookupError):
            await stage.deliver(run.id, "nowhere")
        assert 0 == await stage.redeliver(states={State.DEAD}, sink=None, dataset=None, exchange=None)


async def test_without_a_store_nothing_under_way_can_be_seen(tmp_path: Path) -> None:
    async with watched(tmp_path) as recorder:
        stage = Stage(recorder.plane, recorder.desk, tmp_path)
        recorder.plane.under_way = None
        with pytest.raises(SidestreamError):
            await stage.running()
