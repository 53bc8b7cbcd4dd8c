"""What was captured, as rows that give each record back exactly.

Agents resend their history, so a request repeats most of the one before it. It is packed with that one as its
dictionary, and takes little more than what is new in it; to read it, the other has to be read first. Every so often one
is packed by itself, so that none is far from such a one. A base is always stored before what is packed with it.

Which request is most like which is decided elsewhere; what it is packed with never changes what it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sidestream.store.packing import PackedRecord, Packer

if TYPE_CHECKING:
    from collections.abc import Collection

    from sidestream.store.database import Database
    from sidestream.traces.record import Record

_LONGEST: Final = 32
"""Requests that are read, at most, to read one."""
_CHAIN: Final = (
    "WITH RECURSIVE chain (sequence, request, base) AS (SELECT sequence, request, base FROM captures WHERE sequence = ?"
    " UNION ALL SELECT captures.sequence, captures.request, captures.base FROM chain JOIN captures"
    " ON captures.sequence = chain.base WHERE captures.sequence < chain.sequence"
    " LIMIT 64) SELECT * FROM chain"
)
"""A request and those that it needs; in one statement, for its owner may pack them anew while somebody else reads.
None is as long as the limit."""
_RECENT_BYTES: Final = 16 << 20
_EACH: Final = 4 << 10
"""Bytes that each counts for besides its own: thousands of small ones would take much, and are quickly read anew."""
_GOOD: Final = 8
"""How many times smaller a request has to become for nobody to ask if it would be smaller by itself."""
_WORTH_IT: Final = 0.9
"""What it may take with a base, of what it takes by itself, for that to be worth depending on another."""


class Captures:
    """The captures in one database."""

    def __init__(self, database: Database, packer: Packer) -> None:
        self._database = database
        self._packer = packer
        self._recent = _Recent(_RECENT_BYTES)

    def add(self, sequence: int, packed: PackedRecord, base: int | None) -> int:
        """Inside a transaction: store what was captured; how many bytes that takes.

        `base` is the exchange whose request this one's is most like; it need not be there any more.
        """
        blob, base, depth = self._squeezed(packed.request, base)
        self._database.run(
            "INSERT INTO captures (sequence, facts, chunks, request, response, base) VALUES (?, ?, ?, ?, ?, ?)",
            sequence,
            packed.facts,
            packed.chunks,
            blob,
            packed.response,
            base,
        )
        self._recent.put(sequence, packed.request, depth)  # also takes the place of one whose transaction failed
        return len(packed.facts) + len(packed.chunks) + len(blob) + len(packed.response)

    def record(self, sequence: int) -> Record:
        """An exchange as it was captured; `LookupError` if it is not there or damaged."""
        found = self._database.rows("SELECT facts, chunks, response FROM captures WHERE sequence = ?", sequence)
        if not found:
            raise LookupError(f"there is no exchange {sequence}")
        facts, chunks, response = found[0]
        request, _ = self._request(sequence)
        try:
            return self._packer.unpack(PackedRecord(facts, chunks, request, response))
        except ValueError as error:
            raise LookupError(f"exchange {sequence} is damaged") from error

    def release(self, going: Collection[int], most: int) -> bool:
        """Inside a transaction: pack anew what is packed with these requests, and is not among them.

        So they can be removed. No more than about `most` bytes are packed, as they were captured; False if that was not
        enough, and is to be gone on with.
        """
        gone, heirs = set(going), set[int]()
        try:
            return self._release(gone, most, heirs)
        finally:  # what was read of them in here is not so if the transaction fails
            self._recent.drop(gone | heirs)

    def _release(self, gone: Collection[int], most: int, heirs: set[int]) -> bool:
        for base in sorted(gone):
            heir: int | None = None
            for (sequence,) in self._database.rows("SELECT sequence FROM captures WHERE base = ? ORDER BY 1", base):
                if sequence in gone:
                    continue
                if most <= 0:
                    return False
                size, readable = self._pack_anew(sequence, heir)
                most -= size
                if heir is None and readable:
                    heir = sequence
                    heirs.add(heir)
        return True

    def _pack_anew(self, sequence: int, base: int | None) -> tuple[int, bool]:
        """Pack a request by itself, or with another one; its size, and whether it could be read."""
        try:
            request, _ = self._request(sequence)
        except LookupError:
            self._database.run("UPDATE captures SET base = NULL WHERE sequence = ?", sequence)
            return 1, False
        blob, base, _ = self._squeezed(request, base)
        self._database.run(
            "UPDATE exchanges SET stored = stored + ?"
            " - (SELECT length(request) FROM captures WHERE captures.sequence = exchanges.sequence) WHERE sequence = ?",
            len(blob),
            sequence,
        )
        self._database.run("UPDATE captures SET request = ?, base = ? WHERE sequence = ?", blob, base, sequence)
        self._recent.drop((sequence,))
        return max(len(request), 1), True

    def _squeezed(self, request: bytes, base: int | None) -> tuple[bytes, int | None, int]:
        """A request packed, what with, and how many others must be read before it."""
        with_base, depth = self._with(request, base) if base is not None else (None, 0)
        if with_base is not None and len(with_base) * _GOOD <= len(request):
            return with_base, base, depth
        alone = self._packer.squeeze(request)
        if with_base is not None and len(with_base) <= _WORTH_IT * len(alone):
            return with_base, base, depth
        return alone, None, 0

    def _with(self, request: bytes, base: int) -> tuple[bytes | None, int]:
        if not self._database.rows("SELECT 1 FROM captures WHERE sequence = ?", base):
            return None, 0
        try:
            before, depth = self._request(base)
        except LookupError:
            return None, 0
        if depth + 1 >= _LONGEST:
            return None, 0
        return self._packer.squeeze_with(before, request), depth + 1

    def _request(self, sequence: int) -> tuple[bytes, int]:
        """A request, and how many others had to be read, or would have been, before it; `LookupError`."""
        if (known := self._recent.get(sequence)) is not None:
            return known
        chain = self._database.rows(_CHAIN, sequence)
        if not chain or chain[-1][2] is not None:
            raise LookupError(f"exchange {sequence} is damaged")
        data, depth = b"", -1
        for length, (at, _, _) in enumerate(chain):
            if (known := self._recent.get(at)) is not None:
                (data, depth), chain = known, chain[:length]
                break
        try:
            for _, blob, _ in reversed(chain):
                data, depth = self._packer.expand(blob, data), depth + 1
        except ValueError as error:
            raise LookupError(f"exchange {sequence} is damaged") from error
        self._recent.put(sequence, data, depth)
        return data, depth


class _Recent:
    """Requests that were read or stored lately, and may be needed again, in about `most` bytes.

    The oldest goes first, whether it was needed meanwhile or not: once another one is packed with it, that is the one
    which the next call of its run needs.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._bytes = 0
        self._kept: dict[int, tuple[bytes, int]] = {}

    def get(self, sequence: int) -> tuple[bytes, int] | None:
        return self._kept.get(sequence)

    def put(self, sequence: int, request: bytes, depth: int) -> None:
        """Keep one; the latest may take twice as much as all others, alone."""
        self.drop((sequence,))
        if len(request) > 2 * self._most:
            return
        self._kept[sequence] = request, depth
        self._bytes += len(request) + _EACH
        while self._bytes > self._most and len(self._kept) > 1:
            self.drop((next(iter(self._kept)),))

    def drop(self, sequences: Collection[int]) -> None:
        for sequence in sequences:
            if found := self._kept.pop(sequence, None):
                self._bytes -= len(found[0]) + _EACH
