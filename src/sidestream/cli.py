"""The command line. It loads the configuration and says what is wrong with it; the work is done elsewhere.

Exit statuses: 0 for success, 1 where sidestream cannot run here at all, 2 for a configuration or a command line that
cannot work, else the command's own.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import click

from sidestream import carrying, looking, removing, tailing, upkeep
from sidestream.command import Command, with_file

if TYPE_CHECKING:
    from pathlib import Path

    from sidestream import registry
    from sidestream.processes.control import Control

# Each command imports what it needs and no other does: `serve` stays small for as long as the gateway runs.
# ruff: noqa: PLC0415

_HEADINGS: dict[registry.Kind, str] = {
    "middlewares": "Middlewares, for the list `middlewares` (the outermost comes first there):",
    "sinks": "Sinks, for the list `sinks`:",
}


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="sidestream", message="%(prog)s %(version)s")
def main() -> None:
    """Relay LLM calls untouched, and trace them from the sidestream."""


main.command_class = Command
main.add_command(tailing.tail)
_carrying = (carrying.export, carrying.import_, carrying.keys)
_looking = (looking.traces, looking.show, looking.search, looking.stats, looking.open_)
for _command in (
    *_looking,
    *_carrying,
    upkeep.deliveries,
    upkeep.redeliver,
    upkeep.prune,
    removing.delete,
    upkeep.reprocess,
):
    main.add_command(_command)


@main.command()
@with_file
@click.option("--host", help="Listen here instead of server.host.")
@click.option("--port", type=click.IntRange(0, 65535), help="Listen here instead of server.port; 0 takes any free one.")
@click.pass_context
def serve(context: click.Context, file: Path | None, host: str | None, port: int | None) -> None:
    """Run the gateway until it is told to stop.

    SIGTERM or Ctrl-C end it in order, a second one at once. SIGHUP has it read its file again.
    """
    _keep_small()
    from sidestream.processes import supervisor
    from sidestream.processes.channel import Document
    from sidestream.sources import fetch

    document = Document(None if file is None else str(file), None if file is None else fetch(file), host, port)
    context.exit(supervisor.serve(document))


@main.command()
@with_file
@click.option("--control", type=int, hidden=True)
@click.pass_context
def recorder(context: click.Context, file: Path | None, control: int | None) -> None:
    """Run a recorder alone, beside gateways that have `recorder.mode: external`."""
    _keep_small()
    from sidestream import config
    from sidestream.processes import checking
    from sidestream.recorder import process

    orders = _control(control)
    if control is None:
        loaded = config.load(file)
    else:
        document = orders.document()
        context.params["file"] = document.file
        loaded = checking.configured(document)
    context.exit(process.main(loaded, orders))


@main.command(hidden=True)
@click.option("--control", type=int, required=True)
@click.option("--listen", type=int, multiple=True)
@click.pass_context
def relay(context: click.Context, control: int, listen: tuple[int, ...]) -> None:
    """Relay for a supervisor, which starts this itself."""
    _keep_small()
    orders = _control(control)
    from sidestream.processes import checking
    from sidestream.processes import relay as process

    document = orders.document()
    context.params["file"] = document.file
    context.exit(process.main(checking.configured(document), orders, listen))


@main.command(hidden=True)
@click.pass_context
def plan(context: click.Context) -> None:
    """Check a configuration for a supervisor, which starts this itself."""
    from sidestream.processes import checking

    context.exit(checking.main())


def _keep_small() -> None:
    """To be called before anything is imported."""
    from sidestream.processes import lean

    lean.import_structlog()


def _control(number: int | None) -> Control:
    """The way to the supervisor that started this process, if one did."""
    import signal
    import socket

    from sidestream.processes.control import Control

    if number is None:
        return Control()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the supervisor's business, from the first moment on
    return Control(socket.socket(fileno=number))


@main.command()
@with_file
def check_config(file: Path | None) -> None:
    """Print the configuration with every default filled in, secrets masked; or what is wrong with it."""
    import yaml

    from sidestream import config as configuration
    from sidestream import registry

    config = configuration.load(file)
    registry.build_all(config.middlewares, config.sinks)
    click.echo(yaml.safe_dump(configuration.to_yaml(config), sort_keys=False, width=1000), nl=False)


@main.command()
@with_file
def token(file: Path | None) -> None:
    """Print what opens the viewer where it asks for a token."""
    from pathlib import Path

    from sidestream import config as configuration
    from sidestream.errors import SidestreamError
    from sidestream.store.directory import Directory

    config = configuration.load(file)
    if config.viewer.token is not None:
        click.echo(config.viewer.token.reveal())
        return
    directory = Directory(Path(config.recorder.dir))
    try:
        click.echo(directory.viewer_token())
    except OSError as error:
        raise SidestreamError(f"{directory.path} cannot be used: {error.strerror}") from error


@main.command()
def middlewares() -> None:
    """List the middlewares and sinks that are installed, with their options."""
    from sidestream import registry

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
@click.option(
    "--wait/--no-wait", default=None, help="Keep the viewer open until Ctrl-C. On a terminal that is the default."
)
@click.pass_context
def demo(context: click.Context, *, wait: bool | None) -> None:
    """Show an agent run through the gateway, and in its viewer; needs no key and no network."""
    import sys

    from sidestream.demo import run

    context.exit(run.main(wait=sys.stdout.isatty() if wait is None else wait))
