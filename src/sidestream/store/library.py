"""The library: what a person looks through in a store. Reads only, over a connection of its own, beside the writer.

Everything is synchronous, and for one thread at a time. Each method answers with plain values
(`sidestream.store.shapes`); `LookupError` where what was asked for is not there, `SidestreamError` where the store
cannot be read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sidestream.store.captures import Captures
from sidestream.store.contents import Contents
from sidestream.store.database import Database
from sidestream.store.deliveries import Deliveries
from sidestream.store.overviews import Overviews
from sidestream.store.packing import Packer
from sidestream.store.predicting import predict
from sidestream.store.pushed import described
from sidestream.store.runs import Runs
from sidestream.store.search import Search
from sidestream.store.shapes import TurnMessages
from sidestream.store.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from sidestream.store.predicting import Prediction
    from sidestream.store.rows import Delivery, State
    from sidestream.store.shapes import (
        DatasetSummary,
        HitPage,
        Overview,
        Run,
        RunFilter,
        RunPage,
        RunSummary,
        TurnSummary,
    )
    from sidestream.traces.model import Origin, Reading
    from sidestream.traces.record import Record

PAGE: Final = 50
"""Runs or hits of a page, unless another number is asked for."""


class Library:
    """One store, opened to be looked through."""

    def __init__(self, database: Database) -> None:
        packer = Packer()
        contents = Contents(database, packer)
        self._database = database
        self._captures = Captures(database, packer)
        self._turns = Turns(database, contents)
        self._runs = Runs(database)
        self._search = Search(database, contents, self._runs)
        self._overviews = Overviews(database)
        self._deliveries = Deliveries(database)

    @classmethod
    def open(cls, path: Path) -> Library:
        """Open an existing store; `SidestreamError` if there is none."""
        return cls(Database.open_reader(path))

    def gone(self) -> bool:
        """Whether the file has been deleted or replaced."""
        return self._database.gone()

    def close(self) -> None:
        """Close it; safe to call twice."""
        self._database.close()

    def datasets(self) -> list[DatasetSummary]:
        """All datasets, the one with the latest turn first."""
        return self._runs.datasets()

    def runs(self, wanted: RunFilter, *, limit: int = PAGE, before: str | None = None) -> RunPage:
        """Runs as wanted, newest first; `before` is the `next` of the page before. `Unclear` if it is not."""
        return self._runs.page(wanted, limit=limit, before=before)

    def summary(self, run: str) -> RunSummary:
        """One run in a line."""
        return self._runs.summary(run)

    def run(self, run: str) -> Run:
        """A run with all its turns in lines, and its family."""
        return self._runs.run(run)

    def find_run(self, name: str) -> str:
        """The id of a run, from the beginning of its id or of one of its turns'; `LookupError` unless there is one."""
        return self._runs.find(name)

    def messages(self, run: str, *, first: int = 1, count: int = 100) -> list[TurnMessages]:
        """What so many turns of a run added, from number `first` on."""
        return [self._messages(sequence, turn) for sequence, turn in self._runs.turns(run, first=first, count=count)]

    def turn(self, exchange: str) -> TurnMessages:
        """What one turn added."""
        return self._messages(*self._runs.turn(exchange))

    def turn_summary(self, exchange: str) -> TurnSummary:
        """The same in a line."""
        return self._runs.turn(exchange)[1]

    def origin(self, run: str) -> Origin | None:
        """Where a run left another one, or was called from."""
        return self._turns.origin(run)

    def facts(self, exchange: str) -> dict[str, Any]:
        """What is known of one exchange; the same as `TurnMessages.facts`."""
        sequence, _ = self._runs.turn(exchange)
        return self._turns.facts(sequence)

    def dataset_metadata(self, dataset: str) -> dict[str, Any]:
        """What those who push traces say of a dataset as a whole (`Store.describe`)."""
        return described(self._database, dataset)

    def predict(self, reading: Reading) -> Prediction:
        """Where a call that is not stored yet seems to belong."""
        return predict(self._database, self._turns, reading)

    def record(self, exchange: str) -> Record:
        """An exchange as it was captured."""
        sequence, _ = self._runs.turn(exchange)
        return self._captures.record(sequence)

    def search(self, words: str, wanted: RunFilter, *, limit: int = PAGE, before: str | None = None) -> HitPage:
        """Messages with all of these words, in runs as wanted, newest first; `Unclear` if there is no word."""
        return self._search.find(words, wanted, limit=limit, before=before)

    def overview(self, dataset: str | None, since: float, until: float, *, buckets: int = 60) -> Overview:
        """What began from `since` until `until`; of all datasets for None."""
        return self._overviews.overview(dataset, since, until, buckets)

    def deliveries(
        self,
        *,
        states: Collection[State] | None = None,
        sink: str | None = None,
        dataset: str | None = None,
        limit: int = 100,
        before: int | None = None,
    ) -> list[Delivery]:
        """Deliveries, newest first; for the next page, `before` is the last one's id."""
        return self._deliveries.all(states=states, sink=sink, dataset=dataset, limit=limit, before=before)

    def delivery_counts(self) -> dict[str, dict[str, int]]:
        """How many deliveries are in which state, by sink."""
        return self._deliveries.counts()

    def _messages(self, sequence: int, turn: TurnSummary) -> TurnMessages:
        step = next(self._turns.path(sequence), None)
        if step is None:
            raise LookupError(f"there is no turn {sequence}")
        asked, answer = self._turns.asked_and_answered(sequence)
        changed = self._turns.changes(sequence)
        shows_system = self._turns.begins(step) or "system" in changed
        return TurnMessages(
            turn=turn,
            system=self._turns.system(step) if shows_system else [],
            messages=[*asked, *answer],
            answered=len(answer),
            facts=self._turns.facts(sequence),
            changed=changed,
        )
