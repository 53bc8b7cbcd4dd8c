"""What the viewer stands on: all it can look up, and all it can have changed. The recorder provides it.

The viewer knows neither the plane nor its threads; a test can stand it on a library alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from sidestream.store.api_keys import ApiKeys
    from sidestream.store.library import Library
    from sidestream.store.rows import State
    from sidestream.store.shapes import Running, TurnMessages
    from sidestream.viewer.feed import Feed

P = ParamSpec("P")
T = TypeVar("T")


class Backstage(Protocol):
    """See above. Any call may raise `SidestreamError`: not now."""

    feed: Feed
    """What happens, as it happens."""

    api_keys: ApiKeys
    """The keys that others may push traces with."""

    async def look(self, what: Callable[Concatenate[Library, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """``await backstage.look(Library.run, identity)``."""

    async def running(self) -> list[Running]:
        """The turns under way, in order of their beginnings."""

    async def running_turn(self, exchange: str) -> TurnMessages:
        """What there is so far of a turn under way; `LookupError` if it is not (any more)."""

    def sinks(self) -> list[str]:
        """The names of the configured sinks."""

    async def redeliver(
        self, *, states: Collection[State], sink: str | None, dataset: str | None, exchange: str | None
    ) -> int:
        """Have deliveries begin anew; how many."""

    async def deliver(self, run: str, sink: str) -> int:
        """Have a run delivered to a sink, what has been delivered left out; how many turns. `LookupError`."""

    async def delete(self, *, run: str | None = None, dataset: str | None = None) -> int:
        """Remove a run, its branches and children, or a whole dataset; how many turns. Bytes are gone minutes later."""

    async def push(
        self, dataset: str, messages: Sequence[dict[str, Any]], metadata: dict[str, Any], *, trace: str | None = None
    ) -> str:
        """Store messages that were not captured here: a new run, or a turn more of the run `trace`; the run's id.

        `LookupError` if there is no such run, or it is not one that was pushed.
        """

    async def describe(self, dataset: str, metadata: dict[str, Any], *, replace: bool) -> dict[str, Any]:
        """Add to what is said of a dataset as a whole, or `replace` that; what is said of it now."""


BACKSTAGE: web.AppKey[Backstage] = web.AppKey("backstage")
