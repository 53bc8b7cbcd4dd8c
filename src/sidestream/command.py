"""What commands have in common: which configuration they go by, what options may be, how they say what is wrong."""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from sidestream.errors import ConfigError, SidestreamError

if TYPE_CHECKING:
    from collections.abc import Callable


class Command(click.Command):
    """A command that says what sidestream itself found wrong: exit status 2 for a configuration, else 1."""

    def invoke(self, context: click.Context) -> Any:
        """Run it."""
        try:
            return super().invoke(context)
        except ConfigError as error:
            _refuse(context, error)
        except SidestreamError as error:
            raise click.ClickException(str(error)) from None


def with_file(command: Callable[..., Any]) -> Callable[..., Any]:
    """The option that says which configuration, as the parameter `file`."""
    return click.option(
        "-c",
        "--config",
        "file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        envvar="SIDESTREAM_CONFIG",
        show_envvar=True,
        help="A YAML file; without one, all defaults.",
    )(command)


def printable(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    """What can be a name at all: a command line may have bytes that are no text."""
    if value is not None and not value.isprintable():
        raise click.BadParameter("expected printable text")
    return value


def moment(_context: click.Context, _parameter: click.Parameter, value: str | None) -> float | None:
    """Unix time of ``2026-11-22``, ``2026-11-22T14:00``, or so long ago: ``3d``."""
    from sidestream.options import Duration  # noqa: PLC0415 - the other commands start without it

    if value is None:
        return None
    try:
        return time.time() - Duration.parse(value)
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(value).astimezone().timestamp()
    except (ValueError, OverflowError):
        raise click.BadParameter("expected a time such as 2026-11-22T14:00, or how long ago: 3d, 12h") from None


def _refuse(context: click.Context, error: ConfigError) -> NoReturn:
    for problem in error.problems:
        if problem.path == "--host":
            raise click.BadParameter(problem.message, context, param_hint="'--host'")
        click.echo(str(problem), err=True)
    count = len(error.problems)
    click.echo(f"{count} problem{'s'[: count > 1]} in {context.params.get('file') or 'the defaults'}", err=True)
    context.exit(2)
