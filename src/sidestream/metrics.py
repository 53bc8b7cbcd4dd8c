"""The counts of a gateway in Prometheus' text format.

It knows each number's name, help text and labels, and nothing of where the numbers come from (`sidestream.stats`). A
label's values are few by their nature; a dataset, a key or a fingerprint is never one.

The format is left to prometheus-client: an extra, imported when the first metrics are asked for. Its global registry is
an embedding host's own, so it stays untouched.
"""

from __future__ import annotations

import re
from collections import Counter
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from sidestream.errors import SidestreamError
from sidestream.stats import BUCKETS, merge

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prometheus_client.metrics_core import Metric
    from prometheus_client.registry import Collector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
LABELS = frozenset({"code", "outcome", "process", "provider", "reason", "sink", "state", "status"})
"""All there are, beside a bucket's ``le``."""

_LABEL = re.compile(r"[\w.:-]{1,64}")


class _Family(NamedTuple):
    name: str
    path: str
    """Where in the totals it is; the keys below are the values of `labels`."""
    labels: tuple[str, ...]
    help: str


_COUNTERS = (
    _Family("exchanges", "relay.exchanges", ("provider", "status", "outcome"), "Ended exchanges."),
    _Family("rejected", "relay.rejected", ("code",), "Answers of the gateway's own, by x-sidestream-error."),
    _Family("captured", "relay.captured", (), "Exchanges handed over to the trace plane."),
    _Family("dropped", "relay.dropped", ("reason",), "Exchanges that were to become traces and will not."),
    _Family("requests_truncated", "relay.truncated.request", (), "Request bodies longer than the capture's limit."),
    _Family("responses_truncated", "relay.truncated.response", (), "Response bodies longer than the capture's limit."),
    _Family("journal_bytes", "relay.journal.bytes", (), "Bytes written to the journal."),
    _Family("journal_write_failures", "relay.journal.write_failures", (), "Writes to the journal that failed."),
    _Family("observer_failures", "relay.observer_failures", (), "Observers detached because they raised."),
    _Family("middleware_failures", "relay.middleware_failures", (), "Exceptions out of middlewares."),
    _Family("inexact", "relay.inexact", (), "Responses with a header that could not be carried."),
    _Family("log_lines_dropped", "relay.log_lines_dropped", (), "Lines of the log that could not be written."),
    _Family("records_received", "recorder.received", (), "Exchanges read by the recorder."),
    _Family("records_understood", "recorder.understood", (), "Exchanges that became traces."),
    _Family("records_failed", "recorder.failed", (), "Exchanges that could not be understood: a defect of sidestream."),
    _Family("store_failures", "recorder.store_failures", (), "Commits to the store that failed."),
    _Family("segments_set_aside", "recorder.set_aside.segments", (), "Journal segments that could not be read."),
    _Family(
        "stores_set_aside", "recorder.set_aside.stores", (), "Stores that were damaged, and replaced by a new one."
    ),
    _Family("pruned", "recorder.pruned", (), "Exchanges removed from the store for their age or its size."),
    _Family("delivery_events", "recorder.deliveries", ("sink", "outcome"), "What happened to deliveries."),
    _Family("restarts", "supervisor.restarts", ("process",), "Processes that had died and were started again."),
)
_GAUGES = (
    _Family("live_exchanges", "relay.gauges.live", (), "Exchanges under way."),
    _Family("live_exchanges_limit", "relay.gauges.most_live", (), "How many may be under way; 0 is any number."),
    _Family("waiting_bytes", "relay.gauges.waiting_bytes", (), "Memory of what was captured and is not written yet."),
    _Family("backlog_bytes", "recorder.gauges.backlog_bytes", (), "Journal that waits to be read."),
    _Family("oldest_unread_seconds", "recorder.gauges.oldest_unread_seconds", (), "Age of the oldest unread journal."),
    _Family("store_bytes", "recorder.gauges.store_bytes", (), "Size of the store."),
    _Family("deliveries", "recorder.gauges.deliveries", ("sink", "state"), "Deliveries by where they stand."),
    _Family("breakers_open", "recorder.gauges.breakers_open", ("sink",), "Keys held back: their destination fails."),
    _Family("explorer_keys", "recorder.gauges.keys", (), "Explorer keys in the recorder's memory."),
    _Family("workers", "supervisor.gauges.workers", (), "Relay processes that run."),
)
_FIRST_BYTE = _Family(
    "time_to_first_byte_seconds",
    "relay.time_to_first_byte",
    ("provider",),
    "From the request's head to the response's head.",
)
_RECORDER_UP = _Family("recorder_up", "", (), "Whether the recorder runs, and tells what it counts.")


def render(totals: Mapping[str, object], *, recorder: bool = True) -> bytes:
    """`totals` (`sidestream.stats.Totals`) as text of `CONTENT_TYPE`.

    What is missing there is missing here; what is not a number is passed over. ``sidestream_recorder_up`` says whether
    the recorder has gauges there, as one that is alive has; it is left out where `recorder` is False because there is
    not meant to be one.

    `SidestreamError` if prometheus-client is not installed. The first call imports it, which takes some 50 ms: call
    it in a thread.
    """
    try:
        from prometheus_client import CollectorRegistry, generate_latest  # noqa: PLC0415  # an extra
    except ImportError as error:
        raise SidestreamError("metrics need prometheus-client: install sidestream[metrics]") from error
    registry = CollectorRegistry(auto_describe=False)
    registry.register(cast("Collector", _Snapshot(merge(totals), recorder=recorder)))
    return generate_latest(registry)


class _Snapshot:
    """A collector of one moment. Not a subclass of prometheus-client's: that would take importing it."""

    def __init__(self, totals: dict[str, Any], *, recorder: bool) -> None:
        self._totals = totals
        self._recorder = recorder

    def collect(self) -> Iterator[Metric]:
        """All that there are numbers for."""
        from prometheus_client import core  # noqa: PLC0415  # an extra

        if self._recorder:
            part = self._totals.get("recorder")
            up = isinstance(part, dict) and "gauges" in part  # what a dead one had counted is in the sum, too
            yield core.GaugeMetricFamily(_name(_RECORDER_UP), _RECORDER_UP.help, value=float(up))
        for kind, families in ((core.CounterMetricFamily, _COUNTERS), (core.GaugeMetricFamily, _GAUGES)):
            for family in families:
                if samples := _samples(self._totals, family):
                    metric = kind(_name(family), family.help, labels=family.labels)
                    for labels, value in samples.items():
                        metric.add_metric(labels, value)
                    yield metric
        if distributions := _distributions(self._totals):
            histogram = core.HistogramMetricFamily(_name(_FIRST_BYTE), _FIRST_BYTE.help, labels=_FIRST_BYTE.labels)
            for labels, (counts, total) in distributions.items():
                histogram.add_metric(labels, list(zip(BUCKETS, accumulate(counts), strict=True)), total)
            yield histogram


def _name(family: _Family) -> str:
    return f"sidestream_{family.name}"


def _samples(totals: dict[str, Any], family: _Family) -> Mapping[tuple[str, ...], float]:
    samples: Counter[tuple[str, ...]] = Counter()
    for labels, value in _values(totals, family):
        if _is_number(value):
            samples[labels] += value
    return samples


def _distributions(totals: dict[str, Any]) -> dict[tuple[str, ...], tuple[list[float], float]]:
    """By labels: how many fell into each bucket, and the sum."""
    merged: dict[tuple[str, ...], dict[str, Any]] = {}
    for labels, value in _values(totals, _FIRST_BYTE):
        if isinstance(value, dict):
            merged[labels] = merge(merged.get(labels, {}), value)
    return {
        labels: ([_number(value["buckets"].get(name)) for name in BUCKETS], _number(value.get("sum")))
        for labels, value in merged.items()
        if isinstance(value.get("buckets"), dict)
    }


def _values(totals: dict[str, Any], family: _Family) -> Iterator[tuple[tuple[str, ...], Any]]:
    there: Any = totals
    for key in family.path.split("."):
        there = there.get(key) if isinstance(there, dict) else None
    return _below(there, len(family.labels))


def _below(there: Any, depth: int) -> Iterator[tuple[tuple[str, ...], Any]]:
    """What lies `depth` keys deeper, with these keys as labels."""
    if not depth:
        yield (), there
    elif isinstance(there, dict):
        for key, value in there.items():
            label = key if _LABEL.fullmatch(key) else "other"
            for labels, number in _below(value, depth - 1):
                yield (label, *labels), number


def _is_number(value: Any) -> bool:
    """`merge` leaves numbers and dicts only."""
    return isinstance(value, int | float)


def _number(value: Any) -> float:
    return value if _is_number(value) else 0
