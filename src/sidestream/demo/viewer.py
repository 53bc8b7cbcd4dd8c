"""What the demo asks the gateway's viewer, as any script may: through its JSON API."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

from sidestream.demo import DemoFailed

_SECONDS_TO_SHOW: Final = 10
_SECONDS_BETWEEN: Final = 0.05
_NOT_YET: Final = {502, 503}
"""While the recorder starts: the gateway relays before that."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A run as the viewer has it; the shapes are those of `sidestream.store.shapes`."""

    url: str
    """Of its page."""
    turns: list[dict[str, Any]]
    """In lines."""
    messages: list[dict[str, Any]]
    """From the first to the last."""
    captured: str
    """All that is kept of its calls, as JSON."""


async def run_of(viewer: str, turns: int) -> Shown:
    """The one run that is shown, once it has so many turns; `DemoFailed` if that does not come to be."""
    api = f"{viewer}/ui/api"
    try:
        async with aiohttp.ClientSession() as session, asyncio.timeout(_SECONDS_TO_SHOW):
            run = await _whole(session, f"{api}/runs", turns)
            lines = (await _asked(session, f"{api}/runs/{run}"))["turns"]
            added = await _asked(session, f"{api}/runs/{run}/messages")
            captured = [await _asked(session, f"{api}/turns/{turn['id']}/record") for turn in lines]
    except TimeoutError:
        raise DemoFailed(f"the viewer did not show the run within {_SECONDS_TO_SHOW} s") from None
    except (aiohttp.ClientError, ValueError) as error:
        raise DemoFailed(f"the viewer did not answer as it should: {type(error).__name__}") from error
    messages = [message for turn in added for message in turn["messages"]]
    return Shown(f"{viewer}/runs/{run}", lines, messages, json.dumps(captured))


async def _whole(session: aiohttp.ClientSession, url: str, turns: int) -> str:
    """The id of the only run there is, when it has so many turns."""
    while True:
        try:
            runs = (await _asked(session, url))["runs"]
        except aiohttp.ClientResponseError as error:
            if error.status not in _NOT_YET:
                raise
        else:
            if [turns] == [run["turns"] for run in runs]:
                return str(runs[0]["id"])
        await asyncio.sleep(_SECONDS_BETWEEN)


async def _asked(session: aiohttp.ClientSession, url: str) -> Any:
    async with session.get(url, raise_for_status=True) as answer:
        return await answer.json()
