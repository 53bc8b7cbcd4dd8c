"""Fixtures that every folder uses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from doubles import Witness, captures, ordinary_statuses
from sidestream.testing import ScriptedUpstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture(autouse=True)
def _forget() -> None:
    Witness.seen.clear()
    ordinary_statuses.clear()
    captures.clear()


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream() as upstream:
        yield upstream
