"""What is left of every exchange when processes are killed, a disk is full, or the Explorer is down: short runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from chaos.disk import full_disk
from chaos.kills import kills
from chaos.outage import outage

if TYPE_CHECKING:
    from pathlib import Path


async def test_strict_loses_nothing_whose_clean_end_was_seen_whatever_is_killed(tmp_path: Path) -> None:
    found = await kills(tmp_path, "strict", 3)
    assert found.calls.clean
    assert [] == found.lost
    assert (0, 0, True, True) == (found.stored_twice, found.left.undelivered, found.left.sound, found.delivered)
    assert found.pushed_twice <= 3


async def test_async_loses_at_most_its_window_when_something_is_killed(tmp_path: Path) -> None:
    found = await kills(tmp_path, "async", 2)
    assert found.calls.clean
    assert [] == found.unexplained
    assert (0, 0, True, True) == (found.stored_twice, found.left.undelivered, found.left.sound, found.delivered)


async def test_after_an_outage_of_the_explorer_everything_arrives_once_and_in_order(tmp_path: Path) -> None:
    found = await outage(tmp_path, 150)
    assert len(found.calls.clean) == found.left.deliveries["delivered"]
    assert (True, True, {1}) == (found.delivered, found.in_order, set(found.pushed.values()))


async def test_a_full_disk_is_no_trouble_of_the_relay_and_mends_itself(tmp_path: Path) -> None:
    found = await full_disk(tmp_path, 20)
    if found is None:
        pytest.skip("no file system can be mounted here")
    assert (0, 0, 0) == (found.before.failed, found.during.failed, found.after.failed)
    assert found.before.clean.keys() <= found.left.markers.keys()
    assert found.after.clean.keys() <= found.left.markers.keys()
    lost = [marker for marker in found.during.clean if marker not in found.left.markers]
    assert (0, True) == (found.restarts, found.dropped >= len(lost))
