"""``python -m bench.relay``: run, print, write the figures down; ``python -m bench.relay readme``: show them there."""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import json
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bench.relay import machine, programs, report
from bench.relay.peers import PEERS, Running, found, start
from bench.relay.programs import BenchError
from bench.relay.scenarios import SCENARIOS, Measured, measure

if TYPE_CHECKING:
    from bench.relay.peers import Peer
    from bench.relay.programs import Mock

RESULTS: Final = Path(__file__).parent.parent / "results" / "relay.json"
README: Final = Path(__file__).parent.parent.parent / "README.md"


def main() -> int:
    """The exit status: 1 when bytes were changed, traces lost, or nothing could be measured."""
    options = _options()
    if options.action == "readme":
        README.write_text(report.inserted(README.read_text(), json.loads(RESULTS.read_text())))
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        results = run(options)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    print(report.peers_table(results), report.goals_table(results), sep="\n")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    return 0 if report.sound(results) else 1


def run(options: argparse.Namespace) -> dict[str, Any]:
    """All peers are up, idle; the load goes to one at a time, in turn, scenario by scenario."""
    programs.build()
    with programs.mock() as mock, contextlib.ExitStack() as stack:
        peers, missing = found(options.peers, mock, options.tools)
        running = list[Running]()
        for peer, port in peers:
            try:
                one = start(peer, port, mock)
            except BenchError as error:
                missing.append(str(error))
                continue
            stack.callback(one.end)
            running.append(one)
        for each in missing:
            print(f"bench: left out: {each}", file=sys.stderr)
        measured = _measured(options, mock, running)
    return {
        "date": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d"),
        "command": " ".join(["python -m bench.relay", *sys.argv[1:]]),
        "machine": machine.describe(),
        "versions": {each.peer.name: each.peer.version for each in running if each.peer.version},
        "left_out": missing,
        "measured": measured,
    }


def _measured(options: argparse.Namespace, mock: Mock, running: list[Running]) -> dict[str, dict[str, Any]]:
    """By peer and scenario, what each repetition showed."""
    results: dict[str, dict[str, Any]] = {each.peer.name: {} for each in running}
    for repetition in range(options.repetitions):
        for name in options.scenarios:
            if SCENARIOS[name].once and repetition:
                continue
            for one in running:
                kept = _least_disturbed(options, mock, one, name, repetition)
                results[one.peer.name].setdefault(name, []).append(kept._asdict())
                _say(one.peer, name, kept)
    return results


def _least_disturbed(options: argparse.Namespace, mock: Mock, one: Running, name: str, repetition: int) -> Measured:
    tries = list[Measured]()
    for _ in range(1 if options.quick else 2):
        machine.wait_until_quiet(options.most_foreign, 0 if options.quick else 10)
        tries.append(measure(one, mock, SCENARIOS[name], repetition, quick=options.quick))
        if tries[-1].foreign <= options.most_foreign:
            break
    lost = max(each.lost for each in tries), max(each.differing for each in tries)
    return min(tries, key=lambda each: each.foreign)._replace(lost=lost[0], differing=lost[1])


def _say(peer: Peer, name: str, one: Measured) -> None:
    print(
        f"# {one.repetition + 1} {peer.name:12} {name:10} {one.done / max(one.seconds, 0.001):9,.1f}/s"
        f" {1000 * one.cpu / max(one.served, 1):8.3f} ms CPU p50 {one.latency[0] / 1000:8.2f} p99"
        f" {one.latency[2] / 1000:8.2f} ms, age p50 {one.age[0] / 1000:7.3f}, {one.memory / 1e6:4.0f} MB,"
        f" recorder {1000 * one.recorder_cpu / max(one.served, 1):.3f} ms, drained in {one.drained:.1f} s,"
        f" errors {one.errors} ({one.bad_status}), differing {one.differing}, lost {one.lost},"
        f" foreign {one.foreign:.2f}, speed {1000 * one.speed:.1f}",
        file=sys.stderr,
        flush=True,
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.relay", description=__doc__)
    parser.add_argument("action", nargs="?", choices=["run", "readme"], default="run")
    parser.add_argument("--peers", type=lambda words: words.split(","), help=f"of {','.join(PEERS)}; all unless given")
    parser.add_argument("--scenarios", type=lambda words: words.split(","), default=list(SCENARIOS))
    parser.add_argument("--repetitions", type=int, default=0, help="3 unless given; 1 when quick")
    parser.add_argument("--quick", action="store_true", help="short loads, each once: is it all in order?")
    parser.add_argument("--most-foreign", type=float, default=0.15, help="cores that others may use, else once more")
    parser.add_argument("--tools", type=Path, default=Path.home() / ".cache/sidestream-bench/tools")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    if unknown := set(options.scenarios) - set(SCENARIOS):
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}")
    options.repetitions = options.repetitions or (1 if options.quick else 3)
    return options


if __name__ == "__main__":
    sys.exit(main())
