"""What the demo says in the end: the run as the viewer has it, and that no byte was changed on the way."""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from sidestream.demo.calls import sha256
from sidestream.demo.screen import BOLD, CYAN, DIM, GREEN, RED
from sidestream.figures import duration

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sidestream.demo.calls import Call
    from sidestream.demo.screen import Screen

_DIGITS = 12


def show_setting(screen: Screen, provider_url: str, base_url: str, viewer: str) -> None:
    """What is about to run: the one string that an agent changes for the gateway, and where to watch."""
    screen.line(screen.styled("An agent, a gateway, a provider", BOLD))
    screen.line(screen.styled("Nothing leaves this machine, and no key is needed: the provider is scripted.", DIM))
    screen.line()
    screen.paragraph("base URL", f"{provider_url}\n→ {base_url}")
    screen.paragraph("watch it", f"{viewer}/", BOLD)
    screen.heading("The run", "as it streams")


def show_turns(screen: Screen, turns: Sequence[Mapping[str, Any]]) -> None:
    """What became of the calls, a line each."""
    screen.heading("The run, as it was recorded", f"{len(turns)} calls, each with all of its history, are one run")
    for turn in turns:
        tokens = turn["tokens"]
        done = f"calls {', '.join(turn['tools'])}" if turn["tools"] else "answers"
        figures = f"{tokens['input']:,} tokens in, {tokens['output']:,} out · {duration(turn['duration'])}"
        screen.paragraph(f"turn {turn['number']}", f"{done} · {figures}")


def show_proof(screen: Screen, sent: Sequence[Call], seen: Sequence[Call]) -> bool:
    """Compare what the agent sent and received with what the provider received and sent; whether all is identical."""
    screen.heading("The proof", "size and SHA-256 of every body, at both ends")
    whole = bool(sent)
    screen.line(screen.styled(f"{'agent':>18}{'provider':>29}", DIM))
    for number, (ours, theirs) in enumerate(zip_longest(sent, seen), 1):
        for name in ("request", "response"):
            here, there = (bytes(getattr(end, name)) if end else b"" for end in (ours, theirs))
            same = here == there and ours is not None and theirs is not None
            whole = whole and same
            verdict = screen.styled("identical", GREEN) if same else screen.styled("DIFFERENT", RED)
            label = screen.styled(f"{number if name == 'request' else '':>3} {name:<8}", CYAN)
            screen.line(f"{label} {_body(here)}  {_body(there)}  {verdict}")
    return whole


def show_promises(screen: Screen, promises: Mapping[str, bool]) -> None:
    """Sentences, and whether each is true."""
    screen.line()
    for sentence, true in promises.items():
        screen.line(f"  {screen.styled('✓', GREEN) if true else screen.styled('✗ NOT TRUE:', RED)} {sentence}")


def show_viewer(screen: Screen, url: str, *, opened: bool) -> None:
    """Where the run can be looked at, and for how long."""
    screen.heading("The viewer", "opened in your browser" if opened else "open this in a browser")
    screen.line()
    screen.line(f"  {screen.styled(url, BOLD)}")
    screen.line()
    screen.line(screen.styled("  Ctrl-C ends the demo, and removes what it recorded.", DIM))


def _body(body: bytes) -> str:
    return f"{len(body):>7,} B  {sha256(body)[:_DIGITS]}"
