"""The commands that carry runs out of a store and into one, and those for the keys of whoever pushes traces here."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from sidestream.command import Command, printable, with_file
from sidestream.errors import SidestreamError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidestream.config import Config
    from sidestream.store.api_keys import ApiKeys
    from sidestream.store.files import ImportFile
    from sidestream.store.library import Library
    from sidestream.traces.pushing import PushedTurn

# What it takes to look into a store is imported when somebody looks: the other commands start without it.
# ruff: noqa: PLC0415

_FORMATS = ("json", "jsonl", "openai", "html")
_TURNS = 50
_BATCH_TURNS = 50
_BATCH_BYTES = 1 << 20
"""Of turns that are stored at once: whoever else wants to write waits for that."""


@click.command(cls=Command)
@with_file
@click.argument("run", callback=printable)
@click.option("--format", "wanted", type=click.Choice(_FORMATS), default="json", show_default=True, help="As what.")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Where to.")
def export(file: Path | None, run: str, wanted: str, output: Path | None) -> None:
    """Write a RUN to a file, or to the standard output.

    RUN is its id or that of one of its turns, or the beginning of either. `json` and `jsonl` can be imported again.
    """
    from sidestream.store.directory import Directory
    from sidestream.store.library import Library

    library = Library.open(Directory(Path(_config(file).recorder.dir)).store)
    try:
        identity = library.find_run(run)
        with _written(output) as stream:
            for piece in _pieces(library, identity, wanted):
                stream.write(piece)
    except BrokenPipeError:
        _end_quietly()
    except LookupError as error:
        raise click.ClickException(str(error)) from None
    finally:
        library.close()


@click.command("import", cls=Command)
@with_file
@click.argument(
    "files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False), metavar="FILE..."
)
@click.option("--dataset", callback=printable, help="Put all of it into this dataset, whatever the files say.")
def import_(file: Path | None, files: tuple[Path, ...], dataset: str | None) -> None:
    """Store runs from FILEs: exports, files of the jsonl sink, and traces of an Explorer.

    All files are read before anything is stored. What is there already is passed over, so a file can be imported again.
    """
    from sidestream.store.files import ImportFile

    config = _config(file)
    _check_dataset(dataset, "--dataset")
    sources = [ImportFile(path, dataset) for path in files]
    for source in sources:
        for turn, place in source.check():
            _check_dataset(turn.dataset, place)
    counts = {"new": 0, "renamed": 0, "there": 0}
    try:
        for batch in _batches(sources):
            for name, count in _imported(config, batch).items():
                counts[name] += count
    except SidestreamError as error:
        raise SidestreamError(f"{error}; {counts['new']} turns had been imported by then") from error
    click.echo(f"{counts['new']} turns imported, {counts['there']} were there")
    if counts["renamed"]:
        click.echo(f"{counts['renamed']} got new ids, for another dataset has theirs", err=True)
    for source in sources:
        if source.passed_over:
            click.echo(f"{source.path}: {source.passed_over} values only speak of a dataset; left out", err=True)


@click.group()
def keys() -> None:
    """Make and revoke the keys that others push traces with.

    As long as there are none, whoever may use the viewer may push.
    """


@keys.command("create", cls=Command)
@with_file
@click.argument("name", callback=printable)
def create_key(file: Path | None, name: str) -> None:
    """Make a key called NAME, and print it. It is not shown again."""
    if not 0 < len(name) <= 100:
        raise click.BadParameter("expected a name of at most 100 characters")
    click.echo(_api_keys(file).create(name))


@keys.command("list", cls=Command)
@with_file
def list_keys(file: Path | None) -> None:
    """List the keys by their names, with when they were made."""
    for key in _api_keys(file).all():
        made = datetime.fromtimestamp(key.created_at, UTC).isoformat(timespec="seconds")
        click.echo(f"{made}  {key.name}")


@keys.command("revoke", cls=Command)
@with_file
@click.argument("name", callback=printable)
def revoke_key(file: Path | None, name: str) -> None:
    """Have the key called NAME not be taken any more, from now on."""
    _api_keys(file).revoke(name)
    click.echo("revoked")


def _config(file: Path | None) -> Config:
    from sidestream import config as configuration

    return configuration.load(file)


def _api_keys(file: Path | None) -> ApiKeys:
    from sidestream.store.api_keys import ApiKeys
    from sidestream.store.directory import Directory

    return ApiKeys(Directory(Path(_config(file).recorder.dir)).path)


def _pieces(library: Library, identity: str, wanted: str) -> Iterator[bytes]:
    """A run in a format."""
    from sidestream.traces.exporting import FORMATS

    run = library.run(identity)
    pages = _pages(library, identity)
    if wanted == "html":
        from sidestream.viewer import export_page

        yield export_page.standalone(run, [turn for page in pages for turn in page])
        return
    written = FORMATS[wanted](run, library.origin(identity))
    yield written.begin()
    for page in pages:
        yield from map(written.turn, page)
    yield written.end()


def _pages(library: Library, identity: str) -> Iterator[list[Any]]:
    first = 1
    while page := library.messages(identity, first=first, count=_TURNS):
        yield page
        first += len(page)


@contextlib.contextmanager
def _written(path: Path | None) -> Iterator[BinaryIO]:
    """The file, which is there when all of it is, for this user alone; or the standard output."""
    if path is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    except OSError as error:
        raise SidestreamError(f"{path} cannot be written: {error.strerror}") from error
    try:
        with os.fdopen(descriptor, "wb") as stream:
            yield stream
        Path(name).replace(path)
    except OSError as error:
        Path(name).unlink(missing_ok=True)
        raise SidestreamError(f"{path} cannot be written: {error.strerror}") from error
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _end_quietly() -> None:
    """Nobody reads on: have nothing be written when Python ends, either."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _check_dataset(dataset: str | None, where: str) -> None:
    from sidestream.wire.routes import DATASET

    if dataset is not None and not DATASET.fullmatch(dataset):
        raise SidestreamError(f"{where}: a dataset's name has 1 to 256 letters, digits, '-' and '_'")


def _batches(sources: list[ImportFile]) -> Iterator[list[PushedTurn]]:
    """All turns, so many at a time that storing them takes no time to speak of."""
    batch: list[PushedTurn] = []
    size = 0
    for source in sources:
        for turn, weight in source.turns():
            if batch and (len(batch) >= _BATCH_TURNS or size + weight > _BATCH_BYTES):
                yield batch
                batch, size = [], 0
            batch.append(turn)
            size += weight
    if batch:
        yield batch


def _imported(config: Config, turns: list[PushedTurn]) -> dict[str, int]:
    from sidestream.recorder.asking import ask
    from sidestream.recorder.requests import Import

    async def answer() -> dict[str, int]:
        return [said async for said in ask(config, Import(turns=turns))][-1]

    return asyncio.run(answer())
