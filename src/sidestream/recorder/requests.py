"""What can be asked of a recorder over its socket, as JSON."""

from __future__ import annotations

import msgspec

from sidestream.store.rows import State  # noqa: TC001  # msgspec resolves it at run time
from sidestream.traces.pushing import PushedTurn  # noqa: TC001  # likewise


class Keys(msgspec.Struct, forbid_unknown_fields=True):
    """A message of a relay over ``/link``: Explorer keys by fingerprint."""

    keys: dict[str, str]


class Redeliver(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """``POST /redeliver``: send these rows again."""

    states: list[State]
    sink: str | None = None
    dataset: str | None = None
    exchange: str | None = None


class Prune(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """``POST /prune``: remove what is older (seconds), and the oldest beyond so many bytes."""

    age: float | None = None
    max_bytes: int | None = None


class Delete(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """``POST /delete``: remove a run with its branches and children, or a dataset."""

    run: str | None = None
    dataset: str | None = None

    def __post_init__(self) -> None:
        """One of the two, or it would not be clear what is meant: `ValueError`."""
        if (self.run is None) is (self.dataset is None):
            raise ValueError("either a run or a dataset")


class Reprocess(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """``POST /reprocess``: read what is stored again; `since` is Unix time. The answer is one line per step."""

    dataset: str | None = None
    since: float | None = None
    redeliver: bool = False


class Import(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """``POST /import``: store turns that were not captured here, unless they are there (`Store.take_in`)."""

    turns: list[PushedTurn]


PATHS: dict[type[msgspec.Struct], str] = {
    Delete: "/delete",
    Import: "/import",
    Prune: "/prune",
    Redeliver: "/redeliver",
    Reprocess: "/reprocess",
}
Change = Delete | Import | Prune | Redeliver | Reprocess
