"""Fixtures that every folder uses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from doubles import Witness, captures, ordinary_statuses
from sidestream.testing import ScriptedUpstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _own_data_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test writes where a user's data is."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))


@pytest.fixture(autouse=True)
def _forget() -> None:
    Witness.seen.clear()
    ordinary_statuses.clear()
    captures.clear()


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream() as upstream:
        yield upstream
