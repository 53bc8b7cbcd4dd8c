"""How far the journal has been read, committed together with what was read from it.

What an exchange under way has brought so far may outlive the segments it came in; it is carried here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from sidestream.store.packing import Packer
from sidestream.store.rows import Carried, Position

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sidestream.store.database import Database

log = structlog.get_logger()


class Positions:
    """The journal's positions in one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._packer = Packer()

    def note(
        self,
        positions: Mapping[str, Position | None],
        carried: Sequence[Carried],
        released: Sequence[tuple[str, int]],
    ) -> None:
        """Inside a transaction: as `Store.commit` says."""
        gone = [(relay,) for relay, position in positions.items() if position is None]
        self._database.run_many("DELETE FROM positions WHERE relay = ?", gone)
        self._database.run_many("DELETE FROM carried WHERE relay = ?", gone)
        self._database.run_many(
            "INSERT OR REPLACE INTO positions VALUES (?, ?, ?)",
            [(relay, *position) for relay, position in positions.items() if position is not None],
        )
        self._database.run_many(
            "INSERT OR REPLACE INTO carried VALUES (?, ?, ?, ?, ?)",
            self._packed(carried),
        )
        self._database.run_many("DELETE FROM carried WHERE relay = ? AND number = ?", released)

    def all(self) -> dict[str, Position]:
        """How far the journal of each relay has been read."""
        return {relay: Position(*place) for relay, *place in self._database.rows("SELECT * FROM positions")}

    def carried(self) -> list[Carried]:
        """The exchanges under way that outlive their segments; damaged ones are logged, and passed over."""
        found = []
        for relay, number, segment, place, state in self._database.rows("SELECT * FROM carried"):
            try:
                found.append(Carried(relay, number, Position(segment, place), self._packer.expand(state)))
            except ValueError:
                log.error("carried_exchange_unreadable", relay=relay, number=number)
        return found

    def _packed(self, carried: Sequence[Carried]) -> Iterator[tuple[str, int, int, int, bytes]]:
        most = self._database.row_bytes()
        for each in carried:
            state = self._packer.squeeze(each.state)
            if len(state) <= most:
                yield each.relay, each.number, *each.position, state
            else:
                log.error("exchange_not_stored", relay=each.relay, number=each.number, reason="too large to be carried")
