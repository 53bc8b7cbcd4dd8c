"""What the command line wants changed: asked of the running recorder, or done here where none runs.

Only one process writes to a store. Without a recorder to answer, this one takes its lock and does the same by itself.
"""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import msgspec

from sidestream import registry
from sidestream.errors import SidestreamError
from sidestream.providers import PROVIDERS
from sidestream.recorder import chores
from sidestream.recorder.indexer import Indexer
from sidestream.recorder.requests import PATHS, Delete, Import, Prune, Redeliver
from sidestream.store.directory import Directory, private_parent
from sidestream.store.shelf import Shelf

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from sidestream.config import Config
    from sidestream.recorder.requests import Change

_PATIENCE = 600.0
"""Seconds without a word from the recorder."""


async def ask(config: Config, change: Change) -> AsyncGenerator[dict[str, Any], None]:
    """Have something changed; yields the answers, the last one final. `SidestreamError` if it cannot be."""
    directory = Directory(Path(config.recorder.dir))
    try:
        if isinstance(change, Import):
            directory.prepare()  # it can be the first that comes in
        elif not directory.store.exists():
            raise SidestreamError(f"there is no store in {directory.path}")
        private_parent(directory.socket)
    except OSError as error:
        raise SidestreamError(f"{directory.path} cannot be used: {error.strerror}") from error
    connector = aiohttp.UnixConnector(path=str(directory.socket))
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=_PATIENCE)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        body = msgspec.json.encode(change)
        try:
            async with session.post(f"http://recorder{PATHS[type(change)]}", data=io.BytesIO(body)) as answer:
                await _refuse_errors(answer)
                async for line in answer.content:
                    said = msgspec.json.decode(line)
                    if problem := said.get("error"):
                        raise SidestreamError(f"the recorder could not do it: {problem}")
                    yield said
            return
        except aiohttp.ClientConnectorError:
            pass  # none runs
        except TimeoutError:
            raise SidestreamError(f"the recorder has said nothing for {_PATIENCE:.0f} s") from None
        except aiohttp.ClientError:
            raise SidestreamError("the recorder ended before it was done") from None
    async with contextlib.aclosing(_here(config, directory, change)) as answers:
        async for own in answers:
            yield own


async def _refuse_errors(answer: aiohttp.ClientResponse) -> None:
    if answer.status == 503:
        raise SidestreamError(f"the recorder cannot do it now: {await answer.text()}")
    if answer.status != 200:
        raise SidestreamError(f"the recorder answered {answer.status}; is it of another version?")


async def _here(config: Config, directory: Directory, change: Change) -> AsyncGenerator[dict[str, Any], None]:
    try:
        lock = directory.lock()
    except OSError as error:
        raise SidestreamError(f"{directory.path} cannot be used: {error.strerror}") from error
    if lock is None:
        raise SidestreamError(f"a recorder holds {directory.path}, but does not answer")
    shelf = Shelf(directory.store, full_sync=config.recorder.durability == "strict")
    try:
        if isinstance(change, Prune):
            pruned = await chores.prune(shelf, change.age, change.max_bytes)
            await Indexer(shelf).purge()
            yield {"exchanges": pruned.exchanges, "bytes": pruned.bytes}
        elif isinstance(change, Delete):
            turns = await chores.delete(shelf, run=change.run, dataset=change.dataset, quietly=True)
            yield {"turns": turns, "purged": await Indexer(shelf).purge()}
        elif isinstance(change, Import):
            yield msgspec.to_builtins(await shelf.call(shelf.store.take_in, change.turns))
        elif isinstance(change, Redeliver):
            redelivered = await shelf.call(shelf.store.redeliver, **msgspec.structs.asdict(change))
            yield {"count": redelivered.count}
        else:
            sinks = registry.build("sinks", config.sinks)
            async for progress in chores.reprocess(shelf, PROVIDERS, sinks, **msgspec.structs.asdict(change)):
                yield msgspec.to_builtins(progress)
    finally:
        await shelf.close()
        os.close(lock)
