"""A store with something in it, and what the commands show of that."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import yaml
from click.testing import CliRunner, Result

from sidestream.cli import main
from sidestream.store.contents import Contents
from sidestream.store.database import Database
from sidestream.store.indexing import Indexing
from sidestream.store.packing import Packer
from sidestream.store.rows import Item
from sidestream.store.store import Store

if TYPE_CHECKING:
    from pathlib import Path

    from conversing import Call

_STYLE = re.compile(r"\x1b\[[0-9;]*m")


def recorded(folder: Path, *calls: Call, indexed: bool = True) -> Path:
    """A configuration whose store has these calls."""
    data = folder / "data"
    data.mkdir(mode=0o700)
    store = Store.open(data / "store.db")
    try:
        for call in calls:
            store.commit([Item(call.record(), call.reading(), None, ())])
    finally:
        store.close()
    if indexed:
        _index(data / "store.db")
    file = folder / "sidestream.yaml"
    file.write_text(yaml.safe_dump({"recorder": {"dir": str(data)}}))
    return file


def look(file: Path, *arguments: object, columns: int = 0) -> Result:
    """Run a command, on a terminal if that has `columns`."""
    terminal = {"FORCE_COLOR": "1", "COLUMNS": str(columns), "TERM": "xterm"} if columns else {"FORCE_COLOR": None}
    runner = CliRunner(env={"NO_COLOR": None, "SIDESTREAM_CONFIG": str(file), **terminal})
    return runner.invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)


def lines(result: Result) -> list[str]:
    """What was printed, without its styles."""
    assert 0 == result.exit_code, result.stderr
    return _STYLE.sub("", result.stdout).splitlines()


def _index(path: Path) -> None:
    database = Database.open(path)
    try:
        index = Indexing(database, Contents(database, Packer()))
        while index.step(1 << 20):
            pass
    finally:
        database.close()
