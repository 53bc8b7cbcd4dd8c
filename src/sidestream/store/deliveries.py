# ruff: noqa: S608  # statements are put together from this module's own words; values are bound
"""Where each turn is on its way to each sink. SQL only: who sends what, and when, is decided elsewhere.

`Delivery.ambiguous` outlives everything but a new delivery of what had arrived: whoever sends again looks first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from sidestream.providers.jsons import clean_text
from sidestream.store.rows import Delivery, Lane, Redelivered, State

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from sidestream.store.database import Database

NOT_CONFIGURED = "the sink is not configured"
"""The reason that `forget_sinks` parks rows for."""
_OPEN = "state IN ('pending', 'sending', 'retry_at')"  # word for word as in the index, or SQLite does not use it
_SAME = "id = ? AND sequence = (SELECT sequence FROM exchanges WHERE exchanges.id = ?)"
"""The very row: a store that took the place of a damaged one gives the same ids to other exchanges."""
_SETTLED = frozenset({State.DELIVERED, State.PARKED, State.DEAD})
_COLUMNS = """
    deliveries.id, deliveries.sequence, exchanges.id, sink, deliveries.fingerprint, deliveries.dataset, state,
    attempts, server_errors, ambiguous, tried_at, due_at, reason, remote, version, told_until
"""
_ROWS = "deliveries CROSS JOIN exchanges ON exchanges.sequence = deliveries.sequence"
_SELECT = f"SELECT {_COLUMNS} FROM {_ROWS}"
_SELECT_PLACED = (
    f"SELECT turns.trace, turns.parent, turns.retry_of, {_COLUMNS} FROM {_ROWS}"
    " LEFT JOIN turns ON turns.sequence = deliveries.sequence"
)
_UNCLEAR = "(ambiguous OR state = 'sending') AND state NOT IN ('delivered', 'parked')"
_SENT = "(ambiguous OR state IN ('sending', 'delivered'))"
"""What may be there: it is looked for where it was sent, and what is sent there later gets later times."""
_ANEW = f"""
    state = CASE WHEN {_UNCLEAR} THEN 'retry_at' ELSE 'pending' END, ambiguous = {_UNCLEAR}, version = version + 1,
    attempts = 0, server_errors = 0, tried_at = NULL, due_at = iif({_UNCLEAR}, due_at, 0), reason = NULL,
    remote = iif({_SENT}, remote, NULL), told_until = iif({_SENT}, told_until, NULL)
"""
_LONGEST_WAY = 10_000
_HEADS = f"sink = ? AND deliveries.fingerprint = ? AND deliveries.dataset = ? AND {_OPEN}"
_PASSED = """
    NOT EXISTS (SELECT 1 FROM deliveries WHERE sequence = turn AND sink = ? AND state NOT IN ('parked', 'dead'))
"""
"""Whether to look beyond a turn: not where the sink was told it, for what comes after it is told behind that."""
_FOLLOWED = f"""
    WITH RECURSIVE way (turn) AS (
        SELECT parent FROM turns WHERE sequence = ? UNION SELECT retry_of FROM turns WHERE sequence = ?
        UNION SELECT parent FROM way CROSS JOIN turns ON turns.sequence = turn WHERE {_PASSED}
        UNION SELECT retry_of FROM way CROSS JOIN turns ON turns.sequence = turn WHERE {_PASSED}
        LIMIT {_LONGEST_WAY}
    ) SELECT turn FROM way CROSS JOIN deliveries ON deliveries.sequence = turn WHERE {_HEADS} LIMIT 1
"""
"""The nearest turn that another one follows, or tries again, and that is still to be told."""
_SELECT_FOLLOWED = f"{_SELECT} WHERE sink = ? AND deliveries.sequence = ({_FOLLOWED})"

_FAMILY = """
    WITH RECURSIVE family (member) AS (
        SELECT ? UNION
        SELECT below.trace FROM family CROSS JOIN turns AS above ON above.trace = member
            CROSS JOIN turns AS below ON below.parent = above.sequence
    ) SELECT turns.sequence FROM family CROSS JOIN turns ON turns.trace = member
"""
"""The turns of a run, its branches and its children, and theirs."""
_UNDELIVERED = (
    "NOT EXISTS (SELECT 1 FROM deliveries WHERE deliveries.sequence = turns.sequence AND sink = ?"
    f" AND (state = 'delivered' OR {_OPEN})) ORDER BY turns.sequence"
)


class Deliveries:
    """The deliveries in one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def lanes(self, sink: str) -> list[Lane]:
        """Lanes with open deliveries."""
        found = self._database.rows(
            f"SELECT DISTINCT fingerprint, dataset FROM deliveries WHERE sink = ? AND {_OPEN}", sink
        )
        return [Lane(*row) for row in found]

    def head(self, sink: str, lane: Lane) -> Delivery | None:
        """The oldest open delivery of a lane; but before a turn, open deliveries of those that it follows."""
        found = self._database.rows(f"{_SELECT} WHERE {_HEADS} ORDER BY deliveries.sequence LIMIT 1", sink, *lane)
        head = None
        passed: set[int] = set()
        while found and len(passed) < _LONGEST_WAY:
            head = _delivery(*found[0])
            if head.sequence in passed:
                break
            passed.add(head.sequence)
            found = self._followed(head)
        return head

    def following(self, head: Delivery, most: int) -> list[Delivery]:
        """Open deliveries of the lane that come next after its head, `most` at most.

        None of them was ever tried, and what is told of each does not depend on what becomes of those before it: they
        are of traces of their own, and follow no turn that is still to be told. The first that may be another ends it.
        """
        found = self._database.rows(
            f"{_SELECT_PLACED} WHERE {_HEADS} ORDER BY deliveries.sequence LIMIT ?", head.sink, *head.lane, most + 1
        )
        if not found or found[0][3] != head.id:  # an earlier one follows the head
            return []
        traces, following = {found[0][0]}, list[Delivery]()
        for trace, parent, retry_of, *row in found[1:]:
            delivery = _delivery(*row)
            tried = delivery.state is not State.PENDING or delivery.attempts or delivery.remote is not None
            if tried or delivery.ambiguous or retry_of is not None or trace is None or trace in traces:
                break
            if parent is not None and self._followed(delivery):
                break
            traces.add(trace)
            following.append(delivery)
        return following

    def _followed(self, delivery: Delivery) -> list[Any]:
        """The row of the nearest delivery of the lane that a turn follows, or tries again, and that is open; if any."""
        at, sink = delivery.sequence, delivery.sink
        return self._database.rows(_SELECT_FOLLOWED, sink, at, at, sink, sink, sink, *delivery.lane)

    def forget_remote(self, sink: str, remote: str) -> None:
        """The destination does not have this trace any more: nothing was told there."""
        with self._database.transaction():
            self._database.run(
                "UPDATE deliveries SET remote = NULL, told_until = NULL WHERE sink = ? AND remote = ?",
                sink,
                clean_text(remote),
            )

    def add(self, sequence: int, lane: Lane, sinks: Collection[str]) -> None:
        """Inside a transaction: have an exchange delivered to these sinks, anew where it has been."""
        self._database.run_many(
            "INSERT INTO deliveries (sequence, sink, fingerprint, dataset, state) VALUES (?, ?, ?, ?, 'pending')"
            f" ON CONFLICT (sequence, sink) DO UPDATE SET {_ANEW}",
            [(sequence, sink, *lane) for sink in sinks],
        )

    def undelivered(self, run: str, sink: str) -> list[int]:
        """The turns of a run, its branches and its children that are neither delivered to a sink, nor on their way.

        `LookupError` if there is no such run.
        """
        if not self._database.rows("SELECT 1 FROM turns WHERE trace = ? LIMIT 1", clean_text(run)):
            raise LookupError("there is no such run")
        found = self._database.rows(f"{_FAMILY} WHERE {_UNDELIVERED}", clean_text(run), sink)
        return [sequence for (sequence,) in found]

    def still_undelivered(self, sequences: Sequence[int], sink: str) -> list[tuple[int, Lane]]:
        """Those of these turns of which that is true now, with their lanes."""
        found = self._database.rows(
            "SELECT turns.sequence, fingerprint, dataset FROM turns JOIN exchanges USING (sequence)"
            f" WHERE turns.sequence IN (SELECT value FROM json_each(?)) AND {_UNDELIVERED}",
            msgspec.json.encode(sequences).decode(),
            sink,
        )
        return [(sequence, Lane(fingerprint, dataset)) for sequence, fingerprint, dataset in found]

    def save(self, deliveries: Sequence[Delivery]) -> None:
        """Write everything that changes on the way, all rows or none, of those that are there and did not begin anew.

        What began anew while it was being sent was unclear; where the end of that is clear now, it is not any more.
        """
        with self._database.transaction():
            written = self._database.run_many(
                "UPDATE deliveries SET state = ?, attempts = ?, server_errors = ?, ambiguous = ?, tried_at = ?,"
                f" due_at = ?, reason = ?, remote = ?, told_until = ? WHERE {_SAME} AND version = ?",
                [
                    (
                        str(each.state),
                        each.attempts,
                        each.server_errors,
                        each.ambiguous,
                        each.tried_at,
                        each.due_at,
                        each.reason and clean_text(each.reason),
                        each.remote and clean_text(each.remote),
                        each.told_until,
                        each.id,
                        each.exchange,
                        each.version,
                    )
                    for each in deliveries
                ],
            )
            if written == len(deliveries):
                return
            self._database.run_many(
                f"UPDATE deliveries SET state = 'pending', ambiguous = 0 WHERE {_SAME}"
                " AND version > ? AND state = 'retry_at' AND attempts = 0",
                [
                    (each.id, each.exchange, each.version)
                    for each in deliveries
                    if each.state is not State.SENDING and not each.ambiguous
                ],
            )
            self._database.run_many(
                f"UPDATE deliveries SET due_at = ? WHERE {_SAME} AND version > ? AND state = 'retry_at' AND ambiguous",
                [(each.due_at, each.id, each.exchange, each.version) for each in deliveries if each.ambiguous],
            )

    def park(self, sink: str, fingerprint: str, reason: str) -> int:
        """Have all of a key's deliveries wait that are not being sent; how many."""
        with self._database.transaction():
            return self._database.run(
                "UPDATE deliveries SET state = 'parked', reason = ?"
                f" WHERE sink = ? AND fingerprint = ? AND {_OPEN} AND state <> 'sending'",
                reason,
                sink,
                fingerprint,
            )

    def unpark(self, sink: str, fingerprint: str | None, reasons: Collection[str] | None, now: float) -> list[Lane]:
        """Give parked deliveries another chance; their time to give up begins anew. The lanes they are in."""
        wanted, values = "sink = ? AND state = 'parked'", [sink]
        if fingerprint is not None:
            wanted, values = f"{wanted} AND fingerprint = ?", [*values, fingerprint]
        if reasons is not None:
            wanted, values = f"{wanted} AND reason IN ({_marks(reasons)})", [*values, *reasons]
        with self._database.transaction():
            lanes = self._database.rows(f"SELECT DISTINCT fingerprint, dataset FROM deliveries WHERE {wanted}", *values)
            if lanes:
                self._database.run(
                    "UPDATE deliveries SET state = CASE WHEN attempts OR ambiguous THEN 'retry_at' ELSE 'pending' END,"
                    f" due_at = iif(ambiguous, due_at, 0), reason = NULL, tried_at = iif(tried_at IS NULL, NULL, ?)"
                    f" WHERE {wanted}",
                    now,
                    *values,
                )
        return [Lane(*row) for row in lanes]

    def expire_leases(self, sink: str) -> int:
        """What was being sent when the process died may have arrived; how many deliveries that is."""
        with self._database.transaction():
            return self._database.run(
                f"UPDATE deliveries SET state = 'retry_at', ambiguous = 1, due_at = 0 WHERE sink = ? AND {_OPEN}"
                " AND state = 'sending'",
                sink,
            )

    def forget_sinks(self, configured: Collection[str], now: float) -> None:
        """Park what is open for a sink not among these, and take up again what was parked so for one that is."""
        for sink in self.counts():
            if sink in configured:
                self.unpark(sink, None, {NOT_CONFIGURED}, now)
                continue
            with self._database.transaction():
                self._database.run(
                    "UPDATE deliveries SET state = 'parked', reason = ?, ambiguous = ambiguous OR state = 'sending'"
                    f" WHERE sink = ? AND {_OPEN}",
                    NOT_CONFIGURED,
                    sink,
                )

    def counts(self) -> dict[str, dict[str, int]]:
        """How many deliveries are in which state, by sink; cheap."""
        counts: dict[str, dict[str, int]] = {}
        for sink, state, number in self._database.rows("SELECT * FROM delivery_counts WHERE number <> 0"):
            counts.setdefault(sink, {})[state] = number
        return counts

    def all(
        self,
        *,
        states: Collection[State] | None = None,
        sink: str | None = None,
        dataset: str | None = None,
        limit: int = 1000,
        before: int | None = None,
    ) -> list[Delivery]:
        """Deliveries, newest first; for the next page, `before` is the last one's id."""
        wanted, values = _filter(states, sink, dataset)
        if before is not None:
            wanted, values = f"{wanted} AND deliveries.id < ?", [*values, before]
        found = self._database.rows(f"{_SELECT} WHERE {wanted} ORDER BY deliveries.id DESC LIMIT ?", *values, limit)
        return [_delivery(*row) for row in found]

    def redeliver(
        self,
        *,
        states: Collection[State],
        sink: str | None = None,
        dataset: str | None = None,
        exchange: str | None = None,
    ) -> Redelivered:
        """Begin settled deliveries anew. Open ones are left alone."""
        wanted, values = _filter(_SETTLED.intersection(states), sink, dataset)
        if exchange is not None:
            wanted = f"{wanted} AND sequence = (SELECT sequence FROM exchanges WHERE exchanges.id = ?)"
            values.append(clean_text(exchange))
        with self._database.transaction():
            lanes = self._database.rows(
                f"SELECT DISTINCT sink, fingerprint, dataset FROM deliveries WHERE {wanted}", *values
            )
            count = self._database.run(f"UPDATE deliveries SET {_ANEW} WHERE {wanted}", *values)
        return Redelivered(count, [(sink, Lane(fingerprint, dataset)) for sink, fingerprint, dataset in lanes])


def _filter(
    states: Collection[State] | None, sink: str | None, dataset: str | None
) -> tuple[str, list[str | int | float]]:
    wanted, values = "1", list[str | int | float]()
    if states is not None:
        wanted, values = f"state IN ({_marks(states)})", [str(state) for state in states]
    if sink is not None:
        wanted, values = f"{wanted} AND sink = ?", [*values, sink]
    if dataset is not None:
        wanted, values = f"{wanted} AND deliveries.dataset = ?", [*values, clean_text(dataset)]
    return wanted, values


def _marks(values: Collection[str]) -> str:
    return ", ".join("?" * len(values))


def _delivery(
    number: int,
    sequence: int,
    exchange: str,
    sink: str,
    fingerprint: str,
    dataset: str,
    state: str,
    attempts: int,
    server_errors: int,
    ambiguous: int,
    tried_at: float | None,
    due_at: float,
    reason: str | None,
    remote: str | None,
    version: int,
    told_until: int | None,
) -> Delivery:
    return Delivery(
        id=number,
        sequence=sequence,
        exchange=exchange,
        sink=sink,
        lane=Lane(fingerprint, dataset),
        state=State(state),
        attempts=attempts,
        server_errors=server_errors,
        ambiguous=bool(ambiguous),
        tried_at=tried_at,
        due_at=due_at,
        reason=reason,
        remote=remote,
        version=version,
        told_until=told_until,
    )
