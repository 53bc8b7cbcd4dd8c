"""What one sink did, told to people: its counters, and a line of the log for each row that came to something.

It decides nothing, and no line has a key, a body, or the text of an exception that was not written for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from sidestream.store.rows import State

if TYPE_CHECKING:
    from sidestream.sinks.visits import Answer, Visit
    from sidestream.store.rows import Delivery

_MOST_TOLD = 10_000

_log = structlog.get_logger()


@dataclass(slots=True)
class Counters:
    """What one sink did since the start; never reset."""

    delivered: int = 0
    retried: int = 0
    """Attempts that failed and are followed by another one, or by a look whether they arrived."""
    looked_up: int = 0
    """Times the destination was asked whether a turn had arrived."""
    found: int = 0
    """... and it had. These are counted as delivered, too."""
    parked: int = 0
    dead: int = 0
    broken: int = 0
    """Attempts that ended in an unexpected exception: a defect of the sink."""
    store_failures: int = 0
    """Times the store could not be read or written."""
    restarts: int = 0
    """Times the engine itself ended in an unexpected exception, and began anew: a defect of sidestream."""


class Telling:
    """Counts and logs what becomes of the rows of the sink `name`."""

    def __init__(self, name: str) -> None:
        self.counters = Counters()
        self._name = name
        self._told: set[tuple[str, str]] = set()

    def row(self, delivery: Delivery, **facts: object) -> None:
        """What became of one row; `facts` are about a failure that is followed by another attempt."""
        about = {"sink": self._name, "exchange": delivery.exchange, "attempt": delivery.attempts}
        match delivery.state:
            case State.DELIVERED:
                self.counters.delivered += 1
                _log.debug("sink_delivered", **about)
            case State.RETRY_AT:
                self.counters.retried += 1
                _log.warning("sink_delivery_retried", **about, ambiguous=delivery.ambiguous, **facts)
            case State.PARKED:
                self.counters.parked += 1
                _log.warning("sink_trace_parked", **about, reason=delivery.reason)
            case State.DEAD:
                self.counters.dead += 1
                _log.error("sink_trace_dead", **about, reason=delivery.reason)

    def parked(self, visit: Visit, answer: Answer) -> None:
        """Rows parked at once; of each key and reason the first ones only, until it was given another chance."""
        for fingerprint, reasons in visit.unparks:
            self._told -= {(key, why) for key, why in self._told if key == fingerprint and why in reasons}
        for fingerprint, reason, traces in answer.parked:
            self.counters.parked += traces
            if len(self._told) >= _MOST_TOLD:
                self._told.clear()
            if traces and (fingerprint, reason) not in self._told:
                self._told.add((fingerprint, reason))
                _log.warning(
                    "sink_traces_parked", sink=self._name, fingerprint=fingerprint, reason=reason, traces=traces
                )
