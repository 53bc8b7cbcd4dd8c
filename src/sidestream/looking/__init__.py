"""The commands that show what was recorded: `traces`, `show`, `search`, `stats`, and `open` for the viewer.

They read the store themselves, beside a running recorder or without one. On a terminal they lay out what they find for
reading; elsewhere runs and hits are one per line, their fields separated by tabs; ``--json`` has everything.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from sidestream.command import Command, moment, printable, with_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sidestream.config import Config
    from sidestream.store.library import Library
    from sidestream.store.shapes import RunFilter

# What it takes to look into a store is imported when somebody looks: the other commands start without it.
# ruff: noqa: PLC0415

_STATES = ("answered", "refused", "cut", "abandoned", "failed")
_TIME = "2026-11-22T14:00, or 3d ago."
_TURNS = re.compile(r"(\d{1,9})?(-)?(\d{1,9})?", re.ASCII)
_MOST = 1_000_000

_limit = click.option(
    "--limit", type=click.IntRange(1, _MOST), default=50, show_default=True, help="The newest so many."
)
_json = click.option("--json", "as_json", is_flag=True, help="One JSON object per line, with everything.")
_dataset = click.option("--dataset", callback=printable, help="Only of this dataset.")
_run = click.argument("run", callback=printable)


def _filtered(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say which runs, as the fields of `RunFilter`."""
    for option in (
        click.option("--until", callback=moment, metavar="TIME", help=f"Only what began before: {_TIME}"),
        click.option("--since", callback=moment, metavar="TIME", help=f"Only what began since: {_TIME}"),
        click.option("--errors/--no-errors", default=None, help="Only where something, or nothing, went wrong."),
        click.option("--tool", callback=printable, help="Only where this tool was called."),
        click.option("--state", type=click.Choice(_STATES), help="Only where the latest turn is so."),
        click.option("--model", callback=printable, help="Only of this model."),
        _dataset,
    ):
        command = option(command)
    return command


def _turns(_context: click.Context, _parameter: click.Parameter, value: str | None) -> tuple[int, int | None]:
    """The first and the last turn of ``7``, ``3-7``, ``3-`` or ``-7``."""
    found = _TURNS.fullmatch(value or "-")
    first, dash, last = found.groups() if found else (None, None, None)
    if dash or first:
        begin = int(first or 1)
        end = (int(last) if last else None) if dash else begin
        if begin and (end is None or end >= begin):
            return begin, end
    raise click.BadParameter("expected turns such as 7, 3-7, 3- or -7")


def _words(context: click.Context, parameter: click.Parameter, value: tuple[str, ...]) -> str | None:
    """Words, however they were quoted."""
    return printable(context, parameter, " ".join(" ".join(value).split()))


@click.command(cls=Command)
@with_file
@_filtered
@click.option("--all", "everything", is_flag=True, help="Branches and sub-agents, too.")
@_limit
@_json
def traces(file: Path | None, limit: int, as_json: bool, **wanted: Any) -> None:
    """List what was recorded, the newest first.

    A terminal shows as much of each run as there is room for. Elsewhere each is a line of fields separated by tabs: id,
    begin, state, kind, dataset, model, turns, tool calls, turns that went wrong, tokens in (cached ones included),
    tokens out, cost in US dollars, seconds, title.
    """
    from sidestream.looking import listing

    with _library(file) as library:
        listing.show_runs(library, _wanted(wanted), limit, as_json=as_json)


@click.command(cls=Command)
@with_file
@_run
@click.option("--turns", callback=_turns, metavar="A-B", help="Only these turns: 7, 3-7, 3- or -7.")
@click.option("--thinking", is_flag=True, help="The thinking, too, not only how it begins.")
@click.option("--full", is_flag=True, help="Everything: thinking, system prompts, arguments and results.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object with everything.")
def show(file: Path | None, run: str, turns: tuple[int, int | None], thinking: bool, full: bool, as_json: bool) -> None:
    """Show the conversation of a RUN.

    RUN is its id or that of one of its turns, the beginning of either, or `last` for the newest run.
    """
    from sidestream.looking import telling

    first, last = turns
    with _library(file) as library:
        found = _found(library, run)
        if as_json:
            telling.as_json(library, found, first, last)
        else:
            telling.tell(library, found, first, last, thinking=thinking or full, full=full)


@click.command(cls=Command)
@with_file
@click.argument("words", nargs=-1, required=True, callback=_words)
@_filtered
@_limit
@_json
@click.pass_context
def search(context: click.Context, /, file: Path | None, words: str, limit: int, as_json: bool, **wanted: Any) -> None:
    """Find the messages that have all of these WORDS, the newest first, those of branches and sub-agents included.

    A terminal shows them by run. Elsewhere each is a line of fields separated by tabs: run, number of the turn, role,
    text. The exit status is 1 if there are none.
    """
    from sidestream.looking import listing

    with _library(file) as library:
        if not listing.show_hits(library, words, _wanted(wanted | {"everything": True}), limit, as_json=as_json):
            context.exit(1)


@click.command(cls=Command)
@with_file
@_dataset
@click.option("--since", callback=moment, metavar="TIME", default="24h", show_default=True, help=f"Since: {_TIME}")
@click.option("--json", "as_json", is_flag=True, help="One JSON object with everything.")
def stats(file: Path | None, dataset: str | None, since: float, as_json: bool) -> None:
    """Show how much was recorded since a TIME, how long it took and what it cost."""
    from sidestream.looking import numbers

    with _library(file) as library:
        numbers.show(library, dataset, since, as_json=as_json)


@click.command("open", cls=Command)
@with_file
@click.argument("run", callback=printable, required=False)
@click.option("--print", "only_print", is_flag=True, help="Print the address only.")
def open_(file: Path | None, run: str | None, only_print: bool) -> None:
    """Open the viewer in a browser: the list of runs, or a RUN.

    RUN is as in `show`. The gateway has to be running.
    """
    import webbrowser

    from sidestream.looking import browsing

    path = ""
    if run is not None:
        with _library(file) as library:
            path = browsing.path_of(_found(library, run))
    address = browsing.address(_config(file).server) + path
    if only_print:
        click.echo(address)
    elif not webbrowser.open(address):
        raise click.ClickException(f"there is no browser here to open {address} with")


def _config(file: Path | None) -> Config:
    from sidestream import config as configuration

    return configuration.load(file)


@contextlib.contextmanager
def _library(file: Path | None) -> Iterator[Library]:
    """The configured store, to be printed from."""
    from sidestream.looking import output
    from sidestream.store.directory import Directory
    from sidestream.store.library import Library
    from sidestream.store.shapes import Unclear

    output.use_what_can_be_written()
    library = Library.open(Directory(Path(_config(file).recorder.dir)).store)
    try:
        yield library
    except Unclear as error:
        raise click.UsageError(str(error)) from None
    except LookupError as error:
        if type(error) is not LookupError:  # a defect of ours
            raise
        _refuse(str(error))
    finally:
        library.close()


def _wanted(options: dict[str, Any]) -> RunFilter:
    import msgspec

    from sidestream.store.shapes import RunFilter

    return msgspec.convert(options, RunFilter)


def _found(library: Library, name: str) -> str:
    """The id of the run that somebody means."""
    from sidestream.store.shapes import RunFilter

    if name == "last":
        newest = library.runs(RunFilter(), limit=1).runs
        return newest[0].id if newest else _refuse("nothing has been recorded yet")
    return library.find_run(name)


def _refuse(message: str) -> NoReturn:
    raise click.ClickException(message)
