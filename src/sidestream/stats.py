"""What the processes of a gateway count: one shape of plain numbers, and how the counts of several become one.

Every process counts for itself, from its start, and gives its numbers away as a snapshot: nested dicts with strings for
keys and numbers for leaves, so that it can be sent as JSON. Snapshots are merged by adding. What a process that has
ended had counted must stay in the sum, all but its ``gauges``: a sum that falls looks like a restart to Prometheus.

This module knows the shape. It does not know who counts, nor who looks (`sidestream.metrics`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, TypedDict

BOUNDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0)
"""Upper bounds of a histogram's buckets, in seconds; one more bucket takes what is slower."""
BUCKETS = (*map(str, BOUNDS), "+Inf")
"""The buckets' names, in ascending order."""

_KNOWN = {str(status.value) for status in HTTPStatus} | {"529"}
_DEEPEST = 8
_MOST = 1e300


class Distribution(TypedDict, total=False):
    """A histogram's snapshot."""

    buckets: dict[str, int]
    """How many fell into each of `BUCKETS`, those below not included."""
    sum: float
    """Of all values, in seconds."""


class Truncated(TypedDict, total=False):
    """Captures that reached their limit."""

    request: int
    response: int


class Journal(TypedDict, total=False):
    """What a relay wrote down."""

    bytes: int
    write_failures: int


class RelayGauges(TypedDict, total=False):
    """What is so in a relay at this moment."""

    live: int
    """Exchanges under way."""
    most_live: int
    """How many may be; 0 is any number."""
    waiting_bytes: int
    """Memory of what was captured and is not written down yet."""


class RelayStats(TypedDict, total=False):
    """What a relay counts."""

    exchanges: dict[str, dict[str, dict[str, int]]]
    """Ended exchanges by provider, status (`status_name`) and outcome."""
    time_to_first_byte: dict[str, Distribution]
    """From the request's head to the response's head, by provider."""
    rejected: dict[str, int]
    """Answers of our own by ``x-sidestream-error`` code."""
    captured: int
    """Exchanges handed over whole to the journal."""
    dropped: dict[str, int]
    """Exchanges that were to become traces and will not, by reason."""
    truncated: Truncated
    journal: Journal
    observer_failures: int
    middleware_failures: int
    inexact: int
    """Responses with a header field that could not be carried."""
    log_lines_dropped: int
    gauges: RelayGauges


class SetAside(TypedDict, total=False):
    """Files that could not be read, and were kept under another name."""

    segments: int
    stores: int


class RecorderGauges(TypedDict, total=False):
    """What is so in the recorder at this moment."""

    backlog_bytes: int
    """Journal that waits to be read."""
    oldest_unread_seconds: float
    """The age of the oldest of it; 0 if nothing waits."""
    store_bytes: int
    deliveries: dict[str, dict[str, int]]
    """Deliveries by sink and state (`sidestream.store.rows.State`)."""
    breakers_open: dict[str, int]
    """By sink: keys whose traces are held back because their destination fails."""
    keys: int
    """Explorer keys in memory."""


class RecorderStats(TypedDict, total=False):
    """What the recorder counts."""

    received: int
    understood: int
    failed: int
    """Records that could not be understood."""
    store_failures: int
    set_aside: SetAside
    pruned: int
    """Exchanges removed from the store for their age or its size."""
    deliveries: dict[str, dict[str, int]]
    """By sink, and by what happened to a delivery."""
    gauges: RecorderGauges


class Restarts(TypedDict, total=False):
    """Processes that had died and were started again."""

    relay: int
    recorder: int


class SupervisorGauges(TypedDict, total=False):
    """What is so in the supervisor at this moment."""

    workers: int
    """Relays that run."""


class SupervisorStats(TypedDict, total=False):
    """What the supervisor counts."""

    restarts: Restarts
    gauges: SupervisorGauges


class Totals(TypedDict, total=False):
    """The whole gateway. A part that cannot be reached is left out."""

    relay: RelayStats
    recorder: RecorderStats
    supervisor: SupervisorStats


class Histogram:
    """How long something took, counted in buckets. `add` costs some hundred nanoseconds; one thread only."""

    __slots__ = ("_counts", "_sum")

    def __init__(self) -> None:
        self._counts = [0] * len(BUCKETS)
        self._sum = 0.0

    def add(self, seconds: float) -> None:
        """Count a value; one that no clock can have measured (negative, not a number) is passed over."""
        if 0.0 <= seconds < _MOST:
            self._counts[bisect_left(BOUNDS, seconds)] += 1
            self._sum += seconds

    def snapshot(self) -> Distribution:
        """What was counted so far."""
        return {"buckets": dict(zip(BUCKETS, self._counts, strict=True)), "sum": self._sum}


def status_name(status: int | None) -> str:
    """A status as a key, of a bounded set whatever an upstream makes up: ``200``, ``4xx`` if unknown, or ``none``."""
    if status is None:
        return "none"
    if (name := str(status)) in _KNOWN:
        return name
    return f"{name[0]}xx" if 100 <= status <= 599 else "other"


def merge(*snapshots: Mapping[str, object]) -> dict[str, Any]:
    """The sum of snapshots, a new dict; the order does not matter.

    Keys become strings. What is neither a number from zero up nor a mapping is left out, and where one snapshot has a
    number and another a mapping, the mapping stays.
    """
    total: dict[str, Any] = {}
    for snapshot in snapshots:
        _add(total, snapshot, _DEEPEST)
    return total


def _add(total: dict[str, Any], snapshot: Mapping[str, object], deeper: int) -> None:
    for key, value in snapshot.items():
        name = str(key)
        there = total.get(name, 0)
        if isinstance(value, Mapping):
            if deeper:
                total[name] = below = there if isinstance(there, dict) else {}
                _add(below, value, deeper - 1)
        elif _counts(value) and not isinstance(there, dict):
            total[name] = there + value


def _counts(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < _MOST
