"""What a healthy client notices while others attack: its latency, one attack at a time, each on a gateway of its own.

The healthy client is the relay bench's load: 50 JSON requests per second on one connection, counted from when each was
due, and a stream of 20 events per second. Everything but the gateway's relay shares one core with the attackers, who
yield to the rest; requests that go to the mock beside the gateway tell how slow that core is.

``make attacks`` runs them for ten seconds each; ``--seconds 2`` is the short form. The exit status
is 1 when, at the 99th percentile, a request takes 100 ms or an event is as old by then; when one fails; or when a
process of the gateway dies.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from bench.attackers import ATTACKS, write_answers
from bench.relay import machine, programs
from bench.relay.peers import sidestream, start
from bench.relay.programs import BUILD, BenchError

if TYPE_CHECKING:
    from bench.relay.peers import Running
    from bench.relay.programs import Mock

LIMIT: Final = 100.0
"""Milliseconds."""

_ANSWERS: Final = BUILD / "answers"
_NONE: Final = "none"
_COLUMNS: Final = (
    *("attack", "healthy p50 ms", "p99", "longest", "event age p99", "beside p99"),
    *("failed", "restarts", "relay MB", "recorder MB", ""),
)
_PER_KEY: Final = 500
"""Calls that one provider key may have under way; without a cap, one client can have all that there are."""
_RATE: Final = 50
_EVENTS: Final = 20
_HEAD_START: Final = 0.5
"""Seconds that attackers have before the healthy client begins."""


class Noticed(NamedTuple):
    """What the healthy client, and whoever looks at the gateway, noticed. Milliseconds and bytes."""

    p50: float
    p99: float
    longest: float
    age: float
    """Of the stream's events, at the 99th percentile."""
    beside: float
    """What a request that does not go through the gateway takes, at the 99th percentile: that is the bench's own."""
    failed: int
    restarts: int
    memory: int
    recorder: int

    @property
    def harmless(self) -> bool:
        """Whether the attack did not reach the client."""
        return max(self.p99, self.age) < LIMIT and not (self.failed or self.restarts)


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.attacks", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--only", help="attacks whose names have this")
    options = parser.parse_args()
    names = [name for name in (_NONE, *ATTACKS) if not options.only or options.only in name]
    try:
        programs.build()
    except BenchError as error:
        print(f"attacks: {error}", file=sys.stderr)
        return 1
    write_answers(_ANSWERS)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    print(f"{', '.join(machine.describe().values())}\n")
    print("| " + " | ".join(_COLUMNS) + " |\n" + "|---" * len(_COLUMNS) + "|", flush=True)
    harmful = [name for name in names if not _harmless(name, options.seconds)]
    print(f"\nThe client noticed: {', '.join(harmful) or 'nothing'}.")
    return 1 if harmful else 0


def _harmless(name: str, seconds: float) -> bool:
    """Run one attack, and print a row."""
    with programs.mock(_ANSWERS) as mock:
        port = programs.free_port()
        running = start(sidestream("attacked", port, mock, limits={"exchanges_per_key": _PER_KEY}), port, mock)
        try:
            found = _noticed(name, seconds, running, mock)
        finally:
            running.end()
    numbers = f"{found.p50:.1f} | {found.p99:.1f} | {found.longest:.1f} | {found.age:.1f} | {found.beside:.1f}"
    counts = f"{found.failed} | {found.restarts} | {found.memory / 1e6:.0f} | {found.recorder / 1e6:.0f}"
    print(f"| {name} | {numbers} | {counts} | {'' if found.harmless else '**harm**'} |", flush=True)
    return found.harmless


def _noticed(name: str, seconds: float, running: Running, mock: Mock) -> Noticed:
    attacker = None
    if name != _NONE:
        with machine.pinned(machine.HARNESS):
            attacker = subprocess.Popen([sys.executable, "-m", "bench.attackers", name, str(running.port)])  # noqa: S603
    try:
        time.sleep(_HEAD_START)
        requests = {"m": "open", "c": 1, "r": _RATE, "t": seconds, "w": 0}
        stream = {"m": "stream", "n": 1, "e": int(_EVENTS * seconds), "d": 1_000_000 // _EVENTS, "t": seconds, "w": 0}
        through, direct = (running.port, running.peer.path, running.peer.headers), (mock.port, "/v1/messages", ())
        loads = [
            programs.start_load(*way, options)
            for way, options in ((through, requests), (through, stream), (direct, requests))
        ]
        memory = recorder = 0
        while any(load.poll() is None for load in loads):
            pids = running.pids()
            memory = max(memory, machine.memory(pids["relay"]))
            recorder = max(recorder, machine.memory(pids["recorder"]))
            time.sleep(0.1)
    finally:
        if attacker is not None:
            attacker.kill()
            attacker.wait()
    serial, paced, beside = (json.loads(load.communicate()[0]) for load in loads)
    return Noticed(
        p50=serial["latency_us"][0] / 1000,
        p99=serial["latency_us"][2] / 1000,
        longest=serial["latency_us"][3] / 1000,
        age=paced["age_us"][2] / 1000,
        beside=beside["latency_us"][2] / 1000,
        failed=sum(each["errors"] + each["unfinished"] + each["differing"] for each in (serial, paced)),
        restarts=programs.restarts(running.port),
        memory=memory,
        recorder=recorder,
    )


if __name__ == "__main__":
    sys.exit(main())
