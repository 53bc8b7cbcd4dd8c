"""The demo tells when the viewer does not show what it should. The rest is in test_gateway.py and test_run.py."""

from __future__ import annotations

import pytest
from aiohttp import web

from sidestream.demo import DemoFailed
from sidestream.demo.viewer import run_of
from sidestream.testing import running


async def test_a_viewer_that_answers_otherwise_is_a_failure() -> None:
    async with running(web.Application()) as origin:
        with pytest.raises(DemoFailed, match="did not answer as it should: ClientResponseError"):
            await run_of(origin, 1)
