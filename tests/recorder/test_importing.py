"""Turns of elsewhere, brought to a recorder that runs, and to a directory where none does."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recording import Running, a_config
from sidestream.recorder.asking import ask
from sidestream.recorder.requests import Import
from sidestream.store.directory import Directory
from sidestream.store.library import Library
from sidestream.traces.pushing import PushedTurn

if TYPE_CHECKING:
    from sidestream.config import Config

IMAGE = "x" * (5 << 20)


def a_turn(name: str, words: str = "Hello") -> PushedTurn:
    return PushedTurn(id=name, trace="x1", dataset="d", messages=[{"role": "user", "content": words}], facts={})


async def answers(config: Config, *turns: PushedTurn) -> list[dict[str, Any]]:
    async with asyncio.timeout(15):
        return [answer async for answer in ask(config, Import(turns=list(turns)))]


def stored(config: Config) -> list[str]:
    library = Library.open(Directory(Path(config.recorder.dir)).store)
    try:
        return [turn.id for turn in library.run("x1").turns]
    finally:
        library.close()


async def test_the_running_recorder_takes_turns_in_however_large_they_are(tmp_path: Path) -> None:
    config = a_config(tmp_path, [])
    async with Running(config):
        assert [{"new": 2, "renamed": 0, "there": 0}] == await answers(config, a_turn("x1"), a_turn("x2", IMAGE))
        assert [{"new": 0, "renamed": 0, "there": 1}] == await answers(config, a_turn("x1"))
    assert ["x1", "x2"] == stored(config)


async def test_without_a_recorder_they_make_the_store(tmp_path: Path) -> None:
    config = a_config(tmp_path / "new" / "folder", [])
    assert [{"new": 1, "renamed": 0, "there": 0}] == await answers(config, a_turn("x1"))
    assert ["x1"] == stored(config)
