"""The loads, and what one of them shows of one peer."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from bench.relay import machine

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.relay.peers import Running
    from bench.relay.programs import Mock

_LONGEST_DRAIN: Final = 120.0
_NO_PROGRESS: Final = 10.0


class Scenario(NamedTuple):
    """A load (options of load.c), in its full and its quick form, and what is left of it for a slow peer."""

    about: str
    options: Mapping[str, object]
    quick: Mapping[str, object]
    slow: Mapping[str, object] | None = None
    """None: the same. What a peer cannot carry shows as errors."""
    once: bool = False
    """Whether it is run in the first repetition only."""


SCENARIOS: Final[Mapping[str, Scenario]] = {
    "memory": Scenario(
        "500 streams at a time, 5 events/s each",
        {"m": "stream", "c": 500, "n": 500, "e": 20, "d": 200_000, "t": 3, "w": 0},
        {"e": 12},
        slow={"c": 200, "n": 200},
        once=True,
    ),
    "serial": Scenario("one connection, one request after the other", {"m": "closed", "t": 3, "w": 0.3}, {"t": 1}),
    "saturated": Scenario("32 connections, as fast as they go", {"m": "closed", "c": 32, "t": 4}, {"t": 1.5}),
    "rate": Scenario(
        "100 requests/s, by when they were due", {"m": "open", "r": 100, "c": 64, "t": 4, "w": 0.3}, {"t": 2}
    ),
    "burst": Scenario(
        "32 streams of 100 events without a pause", {"m": "stream", "c": 32, "e": 100, "t": 4}, {"t": 1.5}
    ),
    "paced": Scenario(
        "100 streams of 50 events/s: 5,000 events/s",
        {"m": "stream", "c": 100, "n": 300, "e": 50, "d": 20_000, "t": 4, "w": 0},
        {"n": 100},
        slow={"n": 100},
    ),
    "large": Scenario(
        "one connection; a request of 200 KB, an answer of 2 MB",
        {"m": "closed", "k": 200, "a": 2_000_000, "n": 150, "t": 60, "w": 0},
        {"n": 40},
        slow={"n": 20},
    ),
}


class Measured(NamedTuple):
    """One run of a scenario. Times are seconds of CPU, sizes bytes, latencies microseconds.

    `latency`, `first_byte` and `age` are at the 50th, 90th and 99th percentile, and the longest.
    """

    repetition: int
    served: int
    done: int
    seconds: float
    events: int
    errors: int
    bad_status: int
    differing: int
    """Answers that were not, byte for byte, what the mock had sent."""
    lost: int
    """Traces that had not come to the fake Explorer."""
    drained: float
    """Seconds from the end of the load until all traces had come."""
    latency: list[float]
    first_byte: list[float]
    age: list[float]
    cpu: float
    """Of the gateway without its recorder."""
    recorder_cpu: float
    """Until all traces had come."""
    memory: int
    """The most that the gateway had, without recorder and supervisor."""
    recorder_memory: int
    supervisor_memory: int
    connections: int
    speed: float
    """Seconds of CPU that the fixed piece of work took, before and after."""
    foreign: float
    """Cores that everything else on the machine used."""


class _Peak:
    """The most resident memory that a peer's processes have had, by kind."""

    def __init__(self, running: Running) -> None:
        self.pids = running.pids()
        self.sizes = dict.fromkeys(self.pids, 0)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._look()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.1):
            self._look()

    def _look(self) -> None:
        for kind, pids in self.pids.items():
            self.sizes[kind] = max(self.sizes[kind], machine.memory(pids))


def measure(running: Running, mock: Mock, scenario: Scenario, repetition: int, *, quick: bool) -> Measured:
    """Run one load on one peer."""
    options = {**scenario.options, **(scenario.quick if quick else {})}
    if running.peer.slow and scenario.slow:
        options |= scenario.slow
    missing = _missing(mock)
    speed = machine.calibrate()
    with _Peak(running) as peak:
        relay = [*peak.pids["relay"], *peak.pids["supervisor"]]
        before = machine.cpu(relay), machine.cpu(peak.pids["recorder"]), machine.cpu([mock.pid])
        busy, ours, begun = machine.busy(), time.process_time(), time.monotonic()
        found: Any = running.load(options)
        cpu = machine.cpu(relay) - before[0]
        ended = time.monotonic()
        lost = _drain(mock, missing) if running.peer.traced else 0
    took, drained = time.monotonic() - begun, time.monotonic() - ended
    recorder_cpu = machine.cpu(peak.pids["recorder"]) - before[1]
    own = found["cpu"] + machine.cpu([mock.pid]) - before[2] + time.process_time() - ours
    everything = machine.busy() - busy
    return Measured(
        repetition=repetition,
        served=found["started"] - found["errors"] - found["unfinished"],
        done=found["done"],
        seconds=found["seconds"],
        events=found["events"],
        errors=found["errors"] + found["unfinished"],
        bad_status=found["bad_status"],
        differing=found["differing"],
        lost=lost,
        drained=drained,
        latency=found["latency_us"],
        first_byte=found["first_byte_us"],
        age=found["age_us"],
        cpu=cpu,
        recorder_cpu=recorder_cpu,
        memory=peak.sizes["relay"],
        recorder_memory=peak.sizes["recorder"],
        supervisor_memory=peak.sizes["supervisor"],
        connections=int(str(options.get("c", 1))),
        speed=(speed + machine.calibrate()) / 2,
        foreign=max(0.0, everything - own - cpu - recorder_cpu) / took,
    )


def _missing(mock: Mock) -> int:
    """Calls that the mock has answered and not got a trace of."""
    stats = mock.stats()
    return stats["messages"] + stats["streams_done"] - stats["traces"] - stats["appends"]


def _drain(mock: Mock, before: int) -> int:
    """Wait until there is a trace of every call; how many are missing when no more come."""
    until = time.monotonic() + _LONGEST_DRAIN
    least, since = _missing(mock), time.monotonic()
    while least > before and time.monotonic() < until and time.monotonic() - since < _NO_PROGRESS:
        time.sleep(0.05)
        if (missing := _missing(mock)) < least:
            least, since = missing, time.monotonic()
    return max(least - before, 0)
