"""``sidestream tail``: turns as they end, from the running recorder's live feed.

It stays when the recorder goes, and goes on where it was when there is one again. What was missed meanwhile is caught
up on as far as the feed has it; where something may be missing, that is said.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import sys
from collections import deque
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import click

from sidestream.command import Command, printable, with_file

if TYPE_CHECKING:
    import aiohttp
    from aiohttp_sse_client.client import EventSource, MessageEvent

    from sidestream.config import Config
    from sidestream.store.directory import Directory
    from sidestream.store.shapes import RunSummary, TurnMessages, TurnSummary

# What it takes to follow and to print is imported when somebody does: the other commands start without it.
# ruff: noqa: PLC0415

_VIEWER: Final = "http://recorder/viewer"
_AGAIN: Final = 0.5
"""Seconds between two tries to reach the recorder."""
_SILENCE: Final = 30.0
"""Seconds without a word, after which the recorder counts as gone; it says something every ten."""
_REMEMBERED: Final = 2000
"""Turns that are not printed twice."""
_LONGEST: Final = 4000
"""Characters of one message that a person is shown."""
_INTERRUPTED: Final = 130
_ID: Final = re.compile(r"[0-9a-f]{32}")


class Printer(Protocol):
    """What is done with what happens."""

    kinds: str
    """Which kinds of events it needs, separated by commas."""

    def event(self, kind: str, data: str) -> None:
        """Something but the end of a turn; `data` is a JSON object."""

    def ended(self, run: RunSummary, turn: TurnSummary, messages: TurnMessages | None) -> None:
        """A turn has ended. `messages` is None where they are not there any more."""


@click.command(cls=Command)
@with_file
@click.option("--dataset", callback=printable, help="Only of this dataset.")
@click.option("--run", callback=printable, help="Only of this run, and of what it calls: an id, or its beginning.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per event, with all of it.")
@click.pass_context
def tail(context: click.Context, file: Path | None, dataset: str | None, run: str | None, as_json: bool) -> None:
    """Show turns as they end, until it is interrupted.

    Long messages are cut, which is said; thinking is left out. --json has everything, and what begins as well.
    """
    from sidestream import config as configuration
    from sidestream.looking.output import use_what_can_be_written
    from sidestream.store.directory import Directory

    loaded: Config = configuration.load(file)
    directory = Directory(Path(loaded.recorder.dir))
    use_what_can_be_written()
    printer = _Lines() if as_json else _Reading()
    follower = Follower(directory, printer, dataset=dataset, run=_run_named(directory, run))
    try:
        asyncio.run(follower.run())
    except KeyboardInterrupt:
        context.exit(_INTERRUPTED)
    except BrokenPipeError:  # nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        context.exit(0)


class Follower:
    """Follows the feed of whatever recorder has the directory."""

    def __init__(self, directory: Directory, printer: Printer, *, dataset: str | None, run: str | None) -> None:
        self._directory = directory
        self._printer = printer
        self._run = run
        wanted = {"kinds": printer.kinds, "dataset": dataset, "run": run}
        self._wanted = {name: value for name, value in wanted.items() if value is not None}
        self._printed: deque[str] = deque(maxlen=_REMEMBERED)
        self._complained = False

    async def run(self) -> None:
        """Follow it for good."""
        import aiohttp
        from aiohttp_sse_client.client import EventSource

        logging.getLogger("aiohttp_sse_client").setLevel(logging.CRITICAL)  # what it has to say is said here
        connector = aiohttp.UnixConnector(path=str(self._directory.socket))
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=_SILENCE)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            source = EventSource(
                f"{_VIEWER}/ui/api/events",
                session=session,
                params=self._wanted,
                reconnection_time=timedelta(seconds=_AGAIN / 2),
            )
            while True:
                try:
                    if await self._connected(source):
                        await self._follow(source, session)
                finally:  # interrupted, too: a session that ends does not close what its answers hold
                    await source.close()
                await asyncio.sleep(_AGAIN)

    async def _connected(self, source: EventSource) -> bool:
        """Whether there is a recorder that tells what happens; said once, if there is not."""
        import aiohttp

        if not self._is_there():
            self._wait(f"no recorder runs on {self._directory.path}; waiting for one")
            return False
        try:
            await source.connect()
        except (aiohttp.ClientError, TimeoutError):
            self._wait(f"no recorder answers on {self._directory.path}; waiting for one")
            return False
        except ConnectionError:  # it has answered, but with another status
            self._complain(
                "the recorder does not tell what happens: its viewer is switched off, or all places are taken"
            )
            return False
        self._complained = False
        self._wanted.pop("after", None)  # from now on the source knows
        return True

    def _is_there(self) -> bool:
        """Whether there is a socket; `SidestreamError` if somebody else could have put it there."""
        from sidestream.store.directory import private_parent

        if not self._directory.socket.exists():
            return False
        private_parent(self._directory.socket)
        return True

    async def _follow(self, source: EventSource, session: aiohttp.ClientSession) -> None:
        """Print what comes, until the recorder has gone."""
        import aiohttp

        while True:
            try:
                event = await anext(source)
            except (StopAsyncIteration, aiohttp.ClientError, ConnectionError, TimeoutError):
                return
            await self._take(event, session)

    async def _take(self, event: MessageEvent, session: aiohttp.ClientSession) -> None:
        if event.type == "reset":
            _remark("something may be missing here; `sidestream traces` has everything")
        if event.type != "ended":
            self._printer.event(event.type, event.data)
            return
        run, turn = _ended(event.data)
        if turn.id in self._printed or self._run not in {None, run.id, run.parent}:
            return
        self._printed.append(turn.id)
        self._printer.ended(run, turn, await _messages(turn.id, session))

    def _wait(self, text: str) -> None:
        """Whatever the next recorder tells is news."""
        self._wanted["after"] = "0"  # where there was one before, what it told last takes precedence
        self._complain(text)

    def _complain(self, text: str) -> None:
        if not self._complained:
            self._complained = True
            _remark(text)


class _Lines:
    """JSON, one object per line."""

    kinds = "began,ended,gone,removed"

    @staticmethod
    def event(kind: str, data: str) -> None:
        """``{"event": "began", …}``, with the event's own fields."""
        import msgspec

        from sidestream.looking.output import print_json

        print_json({"event": kind, **msgspec.json.decode(data)})

    @staticmethod
    def ended(run: RunSummary, turn: TurnSummary, messages: TurnMessages | None) -> None:
        """The run in a line, and all that the turn added: the fields of `TurnMessages`."""
        import msgspec

        from sidestream.looking.output import print_json

        print_json(
            {"event": "ended", "run": run, "turn": turn, **(msgspec.structs.asdict(messages) if messages else {})}
        )


class _Reading:
    """For somebody to read."""

    kinds = "ended"

    def __init__(self) -> None:
        from sidestream.looking.output import Page

        self._page = Page()

    def event(self, kind: str, data: str) -> None:
        """Says nothing."""

    def ended(self, run: RunSummary, turn: TurnSummary, messages: TurnMessages | None) -> None:
        """A line about the turn, and what was said in it."""
        from sidestream.figures import count, duration, money
        from sidestream.looking.output import clock, styled_state, tokens_in

        facts = [
            turn.model,
            f"{count(tokens_in(turn.tokens))} → {count(turn.tokens.output)} tokens",
            money(turn.cost) if turn.cost is not None else None,
            duration(turn.duration),
        ]
        self._page.line(
            (clock(turn.started_at + turn.duration).partition(" ")[2] or "unknown", "dim"),
            f"  {run.dataset}  ",
            (run.title or run.id, "bold"),
            f"  turn {turn.number} · ",
            styled_state(turn.state),
            f" · {' · '.join(fact for fact in facts if fact)}",
        )
        if messages is None:
            self._page.line(("what was said is not there any more", "dim"), indent=2)
        for message in messages.messages if messages is not None else ():
            self._message(message)
        self._page.line()

    def _message(self, message: dict[str, Any]) -> None:
        role, name = message.get("role"), message.get("tool_name")
        if role == "thinking":
            return
        label = f"{role} {name}" if name else str(role)
        if text := _text(message.get("content")):
            self._page.text(f"{label}: {_cut(text)}", 2)
        calls = message.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            self._page.text(f"→ {_cut(_called(call))}", 2)


async def _messages(exchange: str, session: aiohttp.ClientSession) -> TurnMessages | None:
    """All that a turn added; None where it cannot be had."""
    import aiohttp
    import msgspec

    from sidestream.store.shapes import TurnMessages

    try:
        async with session.get(f"{_VIEWER}/ui/api/turns/{exchange}") as answer:
            return msgspec.json.decode(await answer.read(), type=TurnMessages) if answer.status == 200 else None
    except (aiohttp.ClientError, TimeoutError, msgspec.MsgspecError):
        return None


def _ended(data: str) -> tuple[RunSummary, TurnSummary]:
    import msgspec

    from sidestream.errors import SidestreamError
    from sidestream.store.shapes import RunSummary, TurnSummary

    try:
        said = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
        return msgspec.json.decode(said["run"], type=RunSummary), msgspec.json.decode(said["turn"], type=TurnSummary)
    except (msgspec.MsgspecError, KeyError):
        raise SidestreamError("what the recorder tells cannot be understood; is it of another version?") from None


def _run_named(directory: Directory, name: str | None) -> str | None:
    """The id of the run that is meant. One that is not stored yet is known by its whole id only."""
    from sidestream.errors import SidestreamError
    from sidestream.store.library import Library

    if name is None or _ID.fullmatch(name):
        return name
    library = Library.open(directory.store)
    try:
        return library.find_run(name)
    except LookupError as error:
        raise SidestreamError(str(error)) from None
    finally:
        library.close()


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "\n".join(str(part.get("text") or f"[{part.get('type')}]") for part in parts if isinstance(part, dict))


def _called(call: Any) -> str:
    """``look(name="x")``."""
    import msgspec

    function = call.get("function") if isinstance(call, dict) else None
    function = function if isinstance(function, dict) else {}
    arguments = function.get("arguments")
    given = arguments.items() if isinstance(arguments, dict) else ()
    shown = ", ".join(f"{key}={msgspec.json.encode(value).decode()}" for key, value in given)
    return f"{function.get('name')}({shown})"


def _cut(text: str) -> str:
    left = len(text) - _LONGEST
    return text if left <= 0 else f"{text[:_LONGEST]}… {left:,} more characters"


def _remark(text: str) -> None:
    click.echo(text, err=True)
