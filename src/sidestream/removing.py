"""The command that deletes what somebody wants gone: a run, or a dataset.

It is asked of the running recorder; without one, it is done here.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sidestream.command import Command, printable, with_file
from sidestream.errors import SidestreamError

if TYPE_CHECKING:
    from sidestream.config import Config
    from sidestream.recorder.requests import Delete


@click.command(cls=Command)
@with_file
@click.argument("run", required=False, callback=printable)
@click.option("--dataset", callback=printable, help="Delete this dataset, with all that is in it.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def delete(file: Path | None, run: str | None, dataset: str | None, *, yes: bool) -> None:
    """Delete a RUN with its branches and children, or a dataset, for good.

    RUN is its id, the id of one of its turns, or the beginning of one. What is still to be delivered is deleted, too;
    what was delivered is where it was delivered to.
    """
    from sidestream import config as configuration  # noqa: PLC0415 - the other commands start without it
    from sidestream.recorder.requests import Delete  # noqa: PLC0415

    if (run is None) is (dataset is None):
        raise click.UsageError("say which: either a RUN or --dataset NAME")
    config = configuration.load(file)
    identity, question = _meant(config, run, dataset)
    if not yes:
        click.confirm(question, abort=True)
    answer = _asked(config, Delete(run=identity, dataset=dataset))
    rest = "" if answer["purged"] else "; the last of their bytes go within minutes"
    click.echo(f"{answer['turns']} turns deleted{rest}")


def _meant(config: Config, run: str | None, dataset: str | None) -> tuple[str | None, str]:
    """The run's whole id, and what to ask before it is deleted; `SidestreamError` if it is not there."""
    from sidestream.store.directory import Directory  # noqa: PLC0415 - the other commands start without it
    from sidestream.store.library import Library  # noqa: PLC0415

    library = Library.open(Directory(Path(config.recorder.dir)).store)
    try:
        if run is None:
            known = [each for each in library.datasets() if each.name == dataset]
            what = f"{known[0].runs} runs with {known[0].turns} turns" if known else "whatever there is"
            return None, f"Delete the dataset {dataset}, {what}?"
        found = library.run(library.find_run(run))
    except LookupError as error:
        raise SidestreamError(str(error)) from None
    finally:
        library.close()
    summary = found.summary
    return summary.id, f"Delete the run {summary.id} of {summary.dataset}, {summary.turns} turns, and all that left it?"


def _asked(config: Config, change: Delete) -> dict[str, Any]:
    from sidestream.recorder.asking import ask  # noqa: PLC0415 - the other commands start without it

    async def answer() -> dict[str, Any]:
        (last,) = [each async for each in ask(config, change)]
        return last

    return asyncio.run(answer())
