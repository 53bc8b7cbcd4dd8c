"""A long run with 1,000 streams of ten events per second: is every byte relayed, every trace kept, memory flat?

A real ``sidestream serve``; its provider and Explorer are the relay bench's mock, its clients the bench's load, which
compares every byte. Streams last 20 seconds, begin at different times, and are replaced as they end, so that what an
exchange leaves behind would add up. ``make soak`` runs it for ten minutes; ``--seconds 60`` is the short form.

Memory is flat when no process of the gateway has, in the last third of the time, more than 5 % above the most that it
had in the second third; in a run of less than five minutes, 15 %, for the recorder's caches are still filling then. The
exit status is 1 when it is not, or when a byte is changed, a stream broken or a trace
lost. A machine that is too slow for ten events per second and stream is told so, and is no failure.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from bench.relay import machine, programs
from bench.relay.peers import Running, sidestream, start
from bench.relay.programs import BUILD, BenchError, Mock
from sidestream.errors import SidestreamError
from sidestream.store.store import Store

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Sequence

EVENTS: Final = 200
"""Of a stream."""
PER_SECOND: Final = 10
FLAT: Final = 1.05
WARMING: Final = 1.15
LONG: Final = 300.0
"""Seconds from which on a run is long enough to have warmed up in its second third."""

_NAME: Final = "soak"
_SPARE: Final = 300
"""Descriptors of the relay that are not for streams."""
_NO_PROGRESS: Final = 20.0


@dataclass
class Memory:
    """Resident bytes of the gateway's processes, by kind, once per second."""

    samples: dict[str, list[int]] = field(default_factory=dict)

    def look(self, running: Running) -> None:
        """Take a sample."""
        for kind, pids in running.pids().items():
            self.samples.setdefault(kind, []).append(machine.memory(pids))

    def thirds(self, kind: str) -> list[int]:
        """The most in each third of the time."""
        return thirds(self.samples[kind])


def thirds(samples: Sequence[int]) -> list[int]:
    """The most in each third of the samples; three of them at least."""
    size = len(samples) / 3
    return [max(samples[int(part * size) : int((part + 1) * size)]) for part in range(3)]


def flat(most: Sequence[int], seconds: float = LONG) -> bool:
    """Whether the last third of so many seconds had hardly more than the second."""
    return most[2] <= (FLAT if seconds >= LONG else WARMING) * most[1]


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--streams", type=int, default=1000)
    options = parser.parse_args()
    try:
        _allow(2 * options.streams + _SPARE)
        programs.build()
        with programs.mock() as mock:
            return _soak(mock, options.seconds, options.streams)
    except BenchError as error:
        print(f"soak: {error}", file=sys.stderr)
        return 1


def _allow(files: int) -> None:
    """Have so many files open at a time, in what is started from here."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < files:
        raise BenchError(f"{files} open files are needed, and {most} allowed: raise the hard limit (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (files if most == resource.RLIM_INFINITY else most, most))


def _soak(mock: Mock, seconds: float, streams: int) -> int:
    port = programs.free_port()
    peer = sidestream(_NAME, port, mock, limits={"exchanges": 2 * streams})
    running, memory = start(peer, port, mock), Memory()
    try:
        _settle(mock)
        before = mock.stats(), stored()
        length = EVENTS / PER_SECOND
        options = {"m": "stream", "c": streams, "e": EVENTS, "d": 1_000_000 // PER_SECOND, "s": length, "w": 0}
        load = programs.start_load(port, peer.path, peer.headers, {**options, "t": seconds})
        try:
            _watch(load, running, memory)
        finally:
            load.kill()
        found = json.loads(load.communicate()[0])
        _settle(mock)
        pushed = _traces(mock.stats()) - _traces(before[0])
        kept, restarts = stored() - before[1], programs.restarts(port)
        dropped = programs.health(port)["relay"]["dropped"]
    finally:
        running.end()
    return _judged(found, pushed, kept, memory, sum(dropped.values()), restarts)


def _watch(load: subprocess.Popen[bytes], running: Running, memory: Memory) -> None:
    """Until the load has ended; what is over by then is all but the last of what it prints."""
    while load.poll() is None:
        if not running.alive:
            raise BenchError("the gateway has ended")
        memory.look(running)
        time.sleep(1)


def stored() -> int:
    """Exchanges in the store of the gateway."""
    try:
        store = Store.open_reader(BUILD / _NAME / "data" / "store.db")
    except SidestreamError:
        return 0
    try:
        return store.count()
    finally:
        store.close()


def _traces(stats: dict[str, int]) -> int:
    return stats["traces"] + stats["appends"]


def _settle(mock: Mock) -> None:
    """Wait until a trace of everything has come, or none comes any more."""
    least, since = sys.maxsize, time.monotonic()
    while time.monotonic() - since < _NO_PROGRESS:
        stats = mock.stats()
        missing = stats["messages"] + stats["streams_done"] - _traces(stats)
        if missing <= 0:
            return
        if missing < least:
            least, since = missing, time.monotonic()
        time.sleep(0.2)


def _judged(found: dict[str, Any], pushed: int, kept: int, memory: Memory, dropped: int, restarts: int) -> int:
    """Print what was found; the exit status."""
    # There is a sample per second.
    steady = {kind: flat(memory.thirds(kind), len(samples)) for kind, samples in memory.samples.items()}
    served = found["started"] - found["errors"] - found["unfinished"]
    pace = EVENTS / (found["latency_us"][0] / 1e6) if found["done"] else 0
    most = {kind: memory.thirds(kind) for kind in memory.samples}
    print(f"{', '.join(machine.describe().values())}\n")
    print("| | |\n|---|---|")
    print(f"| streams, each {EVENTS} events | {served:,} |")
    print(f"| events per second and stream | {pace:.2f} |")
    print(f"| age of events, p50 and p99 | {found['age_us'][0] / 1000:.2f} and {found['age_us'][2] / 1000:.1f} ms |")
    print(f"| streams with a byte changed | {found['differing']} |")
    print(f"| streams broken | {found['errors'] + found['unfinished']} |")
    print(f"| traces not in the store | {served - kept} |")
    print(f"| traces not at the Explorer | {served - pushed} |")
    print(f"| dropped, restarts | {dropped}, {restarts} |")
    for kind, sizes in most.items():
        shown = ", ".join(f"{size / 1e6:.1f}" for size in sizes)
        verdict = "flat" if steady[kind] else f"**grew by {100 * (sizes[2] / sizes[1] - 1):.1f} %**"
        print(f"| MB of the {kind}, the most in each third | {shown}: {verdict} |")
    if pace < 0.98 * PER_SECOND:
        print(
            f"\nThis machine is too slow for {PER_SECOND} events per second and stream; the rest counts all the same."
        )
    whole = not (found["differing"] or found["errors"] or found["unfinished"] or dropped or restarts)
    return 0 if served and whole and served <= min(kept, pushed) and all(steady.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
