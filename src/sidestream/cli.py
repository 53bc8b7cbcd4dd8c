"""The command line. It loads the configuration and says what is wrong with it; the work is done elsewhere.

Exit statuses: 0 for success, 1 where sidestream cannot run here at all, 2 for a configuration or a command line that
cannot work, else the command's own.
"""

from __future__ import annotations

import textwrap
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import yaml

from sidestream import config as configuration
from sidestream import registry
from sidestream.errors import ConfigError, SidestreamError

if TYPE_CHECKING:
    from collections.abc import Callable

_HEADINGS: dict[registry.Kind, str] = {
    "middlewares": "Middlewares, for the list `middlewares` (the outermost comes first there):",
    "sinks": "Sinks, for the list `sinks`:",
}


def _host(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    try:
        return value if value is None else configuration.host_name(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _with_file(command: Callable[..., Any]) -> Callable[..., Any]:
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


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="sidestream", message="%(prog)s %(version)s")
def main() -> None:
    """Relay LLM calls untouched, and trace them from the sidestream."""


@main.command()
@_with_file
@click.option("--host", callback=_host, help="Listen here instead of server.host.")
@click.option("--port", type=click.IntRange(0, 65535), help="Listen here instead of server.port; 0 takes any free one.")
@click.pass_context
def serve(context: click.Context, file: Path | None, host: str | None, port: int | None) -> None:
    """Run the gateway until it is told to stop."""
    try:
        config = configuration.load(file)
        server = config.server
        server = replace(server, host=server.host if host is None else host, port=server.port if port is None else port)
        from sidestream import daemon  # noqa: PLC0415 - the other commands start without it

        context.exit(daemon.serve(replace(config, server=server)))
    except ConfigError as error:
        _refuse(context, error, file)
    except SidestreamError as error:
        raise click.ClickException(str(error)) from None


@main.command()
@_with_file
@click.pass_context
def check_config(context: click.Context, file: Path | None) -> None:
    """Print the configuration with every default filled in, secrets masked; or what is wrong with it."""
    try:
        config = configuration.load(file)
        registry.build_all(config.middlewares, config.sinks)
    except ConfigError as error:
        _refuse(context, error, file)
    else:
        click.echo(yaml.safe_dump(configuration.to_yaml(config), sort_keys=False, width=1000), nl=False)


@main.command()
def middlewares() -> None:
    """List the middlewares and sinks that are installed, with their options."""
    for kind, heading in _HEADINGS.items():
        click.echo(heading)
        for plugin in registry.describe(kind):
            click.echo(f"\n  {plugin.name}  ({plugin.origin}, {plugin.target})")
            if plugin.summary:
                click.echo(textwrap.indent(textwrap.fill(plugin.summary, 100), "    "))
            for option in plugin.options:
                default = "required" if option.required else f"default {option.default_text}"
                click.echo(f"      {option.name}: {option.type_text}; {default}")
        click.echo()


@main.command()
@click.pass_context
def demo(context: click.Context) -> None:
    """Show an agent run through the gateway, traced; needs no key and no network."""
    from sidestream.demo import run  # noqa: PLC0415 - the other commands start without it

    context.exit(run.main())


def _refuse(context: click.Context, error: ConfigError, file: Path | None) -> None:
    for problem in error.problems:
        click.echo(str(problem), err=True)
    count = len(error.problems)
    click.echo(f"{count} problem{'s'[: count > 1]} in {file or 'the defaults'}", err=True)
    context.exit(2)
