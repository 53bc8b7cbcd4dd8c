"""Fixtures that every folder uses."""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from doubles import Witness, captures, ordinary_statuses
from sidestream.testing import ScriptedUpstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator
    from pathlib import Path

settings.register_profile("untimed", deadline=None)  # how long an example takes is the machine's affair
settings.load_profile("untimed")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, object, object]:
    """A test may keep files small, as a full disk does; what is reported of it is written when it is over."""
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    try:
        return (yield)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (unlimited, unlimited))


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
