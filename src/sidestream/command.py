"""What every command has in common: the option that names a configuration, and how it says what is wrong."""

from __future__ import annotations

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


def _refuse(context: click.Context, error: ConfigError) -> NoReturn:
    for problem in error.problems:
        if problem.path == "--host":
            raise click.BadParameter(problem.message, context, param_hint="'--host'")
        click.echo(str(problem), err=True)
    count = len(error.problems)
    click.echo(f"{count} problem{'s'[: count > 1]} in {context.params.get('file') or 'the defaults'}", err=True)
    context.exit(2)
