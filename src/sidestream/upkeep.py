"""The commands that look into the store, and those that have something changed there.

Looking opens the store read-only. Changes are asked of the running recorder; without one, they are made here.
"""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sidestream.command import Command, moment, printable, with_file

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidestream.config import Config
    from sidestream.recorder.requests import Prune, Redeliver, Reprocess
    from sidestream.store.rows import Delivery

_STATES = ("pending", "sending", "delivered", "retry_at", "parked", "dead")
_COLUMNS = ("STATE", "SINK", "DATASET", "EXCHANGE", "ATTEMPTS", "DUE", "REASON")


def _parsed(kind: str) -> Callable[[click.Context, click.Parameter, str | None], Any]:
    """A callback that reads a size or a duration as a configuration would have it."""

    def parse(_context: click.Context, _parameter: click.Parameter, value: str | None) -> Any:
        from sidestream import options  # noqa: PLC0415 - the other commands start without it

        try:
            return None if value is None else getattr(options, kind).parse(value)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None

    return parse


@click.command(cls=Command)
@with_file
@click.option("--state", "states", type=click.Choice(_STATES), multiple=True, help="Only these; may be repeated.")
@click.option("--sink", callback=printable, help="Only to this sink.")
@click.option("--dataset", callback=printable, help="Only of this dataset.")
@click.option("--limit", type=click.IntRange(1, 1_000_000), default=100, show_default=True, help="The newest so many.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
def deliveries(
    file: Path | None, states: tuple[str, ...], sink: str | None, dataset: str | None, limit: int, as_json: bool
) -> None:
    """Show where the delivery of traces stands, the newest first."""
    from sidestream.store.directory import Directory  # noqa: PLC0415 - the other commands start without it
    from sidestream.store.rows import State  # noqa: PLC0415
    from sidestream.store.store import Store  # noqa: PLC0415

    store = Store.open_reader(Directory(Path(_config(file).recorder.dir)).store)
    try:
        rows = store.deliveries(states=[*map(State, states)] or None, sink=sink, dataset=dataset, limit=limit)
        counts = store.counts()
    finally:
        store.close()
    if as_json:
        for row in rows:
            click.echo(json.dumps(_fields(row)))
        return
    _table([_cells(row) for row in rows])
    for name, by_state in sorted(counts.items()):
        shown = ", ".join(f"{count} {state}" for state, count in by_state.items() if count)
        click.echo(f"{name}: {shown or 'nothing'}", err=True)


@click.command(cls=Command)
@with_file
@click.option(
    "--state",
    "states",
    type=click.Choice(("parked", "dead", "delivered")),
    multiple=True,
    default=("parked", "dead"),
    show_default=True,
    help="Those that are so; may be repeated.",
)
@click.option("--sink", callback=printable, help="Only to this sink.")
@click.option("--dataset", callback=printable, help="Only of this dataset.")
@click.option("--exchange", callback=printable, help="Only this exchange.")
def redeliver(
    file: Path | None, states: tuple[str, ...], sink: str | None, dataset: str | None, exchange: str | None
) -> None:
    """Have traces sent again that were parked or given up."""
    from sidestream.recorder.requests import Redeliver  # noqa: PLC0415
    from sidestream.store.rows import State  # noqa: PLC0415

    asked = Redeliver(states=[State(state) for state in states], sink=sink, dataset=dataset, exchange=exchange)
    answer = _asked(_config(file), asked)
    click.echo(f"{answer['count']} to be sent again")


@click.command(cls=Command)
@with_file
@click.option("--age", callback=_parsed("Duration"), help="Remove what is older: 30d. [default: retention.age]")
@click.option("--bytes", "max_bytes", callback=_parsed("Size"), help="Keep so much: 5GiB. [default: retention.bytes]")
def prune(file: Path | None, age: float | None, max_bytes: int | None) -> None:
    """Remove old exchanges from the store. What is still to be delivered stays."""
    from sidestream.recorder.requests import Prune  # noqa: PLC0415

    config = _config(file)
    retention = config.recorder.retention
    asked = Prune(
        age=float(retention.age if age is None else age),
        max_bytes=int(retention.bytes if max_bytes is None else max_bytes),
    )
    answer = _asked(config, asked)
    click.echo(f"{answer['exchanges']} exchanges removed, {answer['bytes']} bytes")


@click.command(cls=Command)
@with_file
@click.option("--dataset", callback=printable, help="Only this dataset.")
@click.option("--since", callback=moment, metavar="TIME", help="Only what began since: 2026-11-22T14:00, or 3d ago.")
@click.option("--redeliver", "again", is_flag=True, help="Send the result again, to all sinks.")
def reprocess(file: Path | None, dataset: str | None, since: float | None, again: bool) -> None:
    """Read what is stored again, with this version's converter.

    The place of each call in its conversation is found anew, and its cost is computed with the prices that this version
    knows. Without --redeliver nothing is sent again.
    """
    from sidestream.recorder.requests import Reprocess  # noqa: PLC0415

    asked = Reprocess(dataset=dataset, since=since, redeliver=again)
    with click.progressbar(length=1, label="reading again", file=sys.stderr) as bar:

        def advance(answer: dict[str, int]) -> None:
            bar.length = answer["total"]
            bar.update(answer["done"] - bar.pos)

        answer = _asked(_config(file), asked, advance)
    click.echo(f"{answer['done']} exchanges read again, {answer['failed']} could not be understood")


def _config(file: Path | None) -> Config:
    from sidestream import config as configuration  # noqa: PLC0415 - the other commands start without it

    return configuration.load(file)


def _asked(
    config: Config, change: Prune | Redeliver | Reprocess, so_far: Callable[[dict[str, Any]], None] | None = None
) -> dict[str, Any]:
    """The final answer; `so_far` is given each one on the way."""
    from sidestream.recorder.asking import ask  # noqa: PLC0415 - the other commands start without it

    async def answers() -> dict[str, Any]:
        last: dict[str, Any] = {}
        async for answer in ask(config, change):
            last = answer
            if so_far:
                so_far(answer)
        return last

    return asyncio.run(answers())


def _fields(row: Delivery) -> dict[str, Any]:
    return {
        "state": row.state.value,
        "sink": row.sink,
        "dataset": row.lane.dataset,
        "exchange": row.exchange,
        "attempts": row.attempts,
        "due_at": row.due_at or None,
        "reason": row.reason,
        "remote": row.remote,
        "ambiguous": row.ambiguous,
    }


def _cells(row: Delivery) -> tuple[str, ...]:
    waits = row.state.value == "retry_at"
    due = datetime.fromtimestamp(row.due_at, UTC).isoformat(timespec="seconds") if waits else ""
    return (
        row.state.value,
        row.sink,
        row.lane.dataset,
        row.exchange,
        str(row.attempts),
        due,
        row.reason or "",
    )


def _table(rows: list[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(_COLUMNS, *rows, strict=True)]
    for cells in (_COLUMNS, *rows):
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())
