"""The viewer on a real store, without a recorder: what its pages stand on, and the application on a loopback port."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from aiohttp import web

from sidestream.store.api_keys import ApiKeys
from sidestream.store.desk import Desk
from sidestream.store.store import Store
from sidestream.testing import running
from sidestream.viewer.app import viewer_app
from sidestream.viewer.feed import Feed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
    from pathlib import Path

    from sidestream.store.library import Library
    from sidestream.store.rows import Item, State
    from sidestream.store.shapes import Running, TurnMessages

P = ParamSpec("P")
T = TypeVar("T")


class Stage:
    """A `Backstage` over the store of a folder. What is under way, and the sinks, are as a test says.

    ``async with staged(tmp_path) as stage:`` closes it at the end.
    """

    def __init__(self, folder: Path) -> None:
        self.store = Store.open(folder / "store.db")
        self.feed = Feed()
        self.api_keys = ApiKeys(folder)
        self.under_way: list[tuple[Running, TurnMessages]] = []
        self.sink_names: list[str] = []
        self._desk = Desk(folder / "store.db")

    def add(self, *items: Item) -> None:
        """Store exchanges."""
        self.store.commit(items)

    async def close(self) -> None:
        """Close the store."""
        await self._desk.close()
        self.store.close()

    async def look(self, what: Callable[Concatenate[Library, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._desk.look(what, *args, **kwargs)

    async def running(self) -> list[Running]:
        return [under_way for under_way, _ in self.under_way]

    async def running_turn(self, exchange: str) -> TurnMessages:
        for under_way, messages in self.under_way:
            if under_way.id == exchange:
                return messages
        raise LookupError(exchange)

    def sinks(self) -> list[str]:
        return self.sink_names

    async def redeliver(
        self, *, states: Collection[State], sink: str | None, dataset: str | None, exchange: str | None
    ) -> int:
        return self.store.redeliver(states=states, sink=sink, dataset=dataset, exchange=exchange).count

    async def deliver(self, run: str, sink: str) -> int:
        return self.store.deliver(self.store.undelivered(run, sink), sink).count

    async def delete(self, *, run: str | None = None, dataset: str | None = None) -> int:
        raise NotImplementedError

    async def push(
        self, dataset: str, messages: Sequence[dict[str, Any]], metadata: dict[str, Any], *, trace: str | None = None
    ) -> str:
        return self.store.push(dataset, messages, metadata, trace=trace)

    async def describe(self, dataset: str, metadata: dict[str, Any], *, replace: bool) -> dict[str, Any]:
        return self.store.describe(dataset, metadata, replace=replace)


@asynccontextmanager
async def staged(folder: Path, *items: Item) -> AsyncIterator[Stage]:
    """A stage with these exchanges."""
    stage = Stage(folder)
    try:
        stage.add(*items)
        yield stage
    finally:
        await stage.close()


@asynccontextmanager
async def viewer(stage: Stage, **headers: str) -> AsyncIterator[str]:
    """The viewer on a loopback port; its address. `headers` are what a relay in front adds to each request."""

    @web.middleware
    async def relayed(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        added = {name.replace("_", "-"): value for name, value in headers.items()}
        return await handler(request.clone(headers={**request.headers, **added}))

    app = viewer_app(stage)
    if headers:
        app.middlewares.insert(0, relayed)
    async with running(app) as url:
        yield url
