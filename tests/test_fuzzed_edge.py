"""A few cases of the edge's fuzzer, against a real gateway."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from fuzz import edge

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.timeout(120)
async def test_a_thousand_hostile_connections_change_nothing(tmp_path: Path) -> None:
    run, _lines = await edge.fuzz(20261123, 1000, tmp_path)
    assert {} == dict(run.problems)
    assert 1000 == sum(run.cases.values())
    assert run.answers["valid", "200"] >= run.cases["valid"]
