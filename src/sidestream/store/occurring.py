# ruff: noqa: S608  # statements are put together from this module's own words; values are bound
"""What the calls of one batch are placed by, and whether any turn has it at all.

Nearly all that a call is looked for by occurs nowhere: a conversation that begins has nothing before it, and nothing
that comes late. So all calls of a batch are looked up at once, in a statement for each kind, and most questions need
not be asked any more. What is not known to be nowhere may be somewhere: asking it all the same is always right.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final

from sidestream.traces.states import DIGEST, digest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sidestream.store.database import Database
    from sidestream.traces.conversation import Call

ASKING: Final = "asking"
INCOMPLETE: Final = "incomplete"
LEAVING: Final = "leaving"
PASSED: Final = "passed"
CUT: Final = "cut"
"""Any answer that was cut off; looked up by itself, as b""."""
_LATEST: Final = 8
"""The latest states of a call: one of them is nearly always what it goes on from."""
_KINDS: Final = {
    ASKING: "turns WHERE scope = ? AND asking = each",
    INCOMPLETE: "turns INDEXED BY turns_incomplete WHERE NOT complete AND scope = ? AND asking = each",
    LEAVING: "turns WHERE scope = ? AND leaving = each",
    PASSED: "passed WHERE scope = ? AND state = each",
}
_ANY_CUT: Final = "SELECT 1 FROM turns INDEXED BY turns_cut WHERE cut IS NOT NULL AND scope = ? LIMIT 1"
_CLUES: Final = "clues WHERE scope = ? AND kind = ? AND digest = each"
_EACH: Final = (
    "WITH RECURSIVE at (place) AS"
    f" (SELECT 1 UNION ALL SELECT place + {DIGEST} FROM at WHERE place + {DIGEST} <= length(?)),"
    f" wanted (each) AS (SELECT substr(?, place, {DIGEST}) FROM at)"
    " SELECT each FROM wanted WHERE EXISTS (SELECT 1 FROM "
)
"""Those of a row of digests which occur; one statement for any number of them."""


class Occurring:
    """What is known so of one database. It holds within the transaction in which it was looked up."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._epoch = database.epoch
        self._occurs: dict[tuple[bytes, str, bytes], bool] = {}

    def look(self, calls: Iterable[Call]) -> None:
        """Inside a transaction: look up what these calls are placed by; what was known of others is forgotten."""
        wanted: defaultdict[tuple[bytes, str], set[bytes]] = defaultdict(set)
        scopes: set[bytes] = set()
        for call in calls:
            scopes.add(call.scope)
            for kind, each in _placed_by(call):
                if len(each) == DIGEST:
                    wanted[call.scope, kind].add(each)
        self._epoch = self._database.epoch
        self._occurs = {(scope, CUT, b""): bool(self._database.rows(_ANY_CUT, scope)) for scope in scopes}
        self._occurs |= {(*key, each): False for key, several in wanted.items() for each in several}
        for (scope, kind), several in wanted.items():
            row = b"".join(several)
            values = (row, row, scope) if kind in _KINDS else (row, row, scope, kind)
            for (each,) in self._database.rows(f"{_EACH}{_KINDS.get(kind, _CLUES)})", *values):
                self._occurs[scope, kind, each] = True

    def may(self, scope: bytes, kind: str, each: bytes) -> bool:
        """Whether there may be a turn with this; `kind` is one of the above, or that of a clue."""
        return self._occurs.get((scope, kind, each), True) or self._epoch != self._database.epoch

    def note(self, scope: bytes, kind: str, each: bytes | None) -> None:
        """A turn that has just been written has this."""
        if each is not None and (key := (scope, kind, each)) in self._occurs:
            self._occurs[key] = True


def left_outline(call: Call) -> bytes | None:
    """The outline that a call's answer leaves; None without an answer."""
    return call.outlines[-1] if call.answered and call.outlines else None


def passing(call: Call) -> list[bytes]:
    """The states that a later call passes through if it goes on from this one."""
    left = [call.leaving, left_outline(call), call.states[-1] if call.states and call.cut is not None else None]
    return [state for state in left if state is not None]


def seeking(call: Call) -> list[tuple[str, bytes]]:
    """The clues by which later calls are found that follow this one: kinds and digests."""
    clues = [("opening", text) for text in call.arguments]
    clues += [("previous", call.answer)] if call.answer is not None else []
    clues += [("compacted", call.compaction)] if call.compaction else []
    clues += [("parent", digest(*call.session.key))] if call.session is not None else []
    return clues


def _placed_by(call: Call) -> Iterator[tuple[str, bytes]]:
    if call.states:
        yield ASKING, call.states[-1]
        yield INCOMPLETE, call.states[-1]
        yield from ((LEAVING, state) for state in call.states[-_LATEST:])
    yield from ((PASSED, state) for state in passing(call))
    yield from (("argument", text) for text in call.openings)
    yield from seeking(call)
