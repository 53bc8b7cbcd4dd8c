"""Files to be imported: read twice, first to see that all of it can be, then in the order in which turns began.

A file whose first line is JSON by itself has one value in each line; only where each line is, and when what it says
began, is kept of those. Any other file is one value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, BinaryIO, Final, NamedTuple

from sidestream.errors import SidestreamError
from sidestream.providers.jsons import UNREADABLE, parse
from sidestream.traces.importing import Importer, Unusable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sidestream.traces.pushing import PushedTurn

_LARGEST: Final = 256 << 20
"""Bytes of one value."""


class _Place(NamedTuple):
    """Where a value is in the file, and when it began: Unix time, 0 where it does not say."""

    began: float
    line: int
    offset: int
    size: int


class ImportFile:
    """One file; `SidestreamError` names it, and the line, where it cannot be read."""

    def __init__(self, path: Path, dataset: str | None) -> None:
        self.path = path
        self.passed_over = 0
        """Values that only speak of a dataset."""
        self._dataset = dataset
        self._places: list[_Place] = []

    def check(self) -> Iterator[tuple[PushedTurn, str]]:
        """Read it for the first time, to its end; each turn, and where that is, in words."""
        importer = Importer(self._dataset)
        self._places, self.passed_over = [], 0
        for line, offset, data in self._values():
            where = f"{self.path}:{line}" if line else str(self.path)
            turns = self._understood(importer, data, where)
            self.passed_over += not turns
            for turn in turns:
                yield turn, where
            began = turns[0].started_at if turns else None
            self._places.append(_Place(began or 0.0, line, offset, len(data)))

    def turns(self) -> Iterator[tuple[PushedTurn, int]]:
        """After that: the turns, those of each run in order, and about how many bytes each has."""
        importer = Importer(self._dataset)
        with self._opened() as file:
            for place in sorted(self._places):
                file.seek(place.offset)
                turns = self._understood(importer, file.read(place.size), f"{self.path}:{place.line}")
                for turn in turns:
                    yield turn, place.size // len(turns)

    def _understood(self, importer: Importer, data: bytes, where: str) -> list[PushedTurn]:
        value: Any = parse(data)
        if value is UNREADABLE:
            raise SidestreamError(f"{where}: not JSON, or nested too deeply")
        try:
            return importer.turns(value)
        except Unusable as error:
            raise SidestreamError(f"{where}: {error}") from None

    def _values(self) -> Iterator[tuple[int, int, bytes]]:
        """Each value with its line, counted from 1, and its place; line 0 stands for the whole file."""
        with self._opened() as file:
            first = next((line for line in iter(lambda: self._line(file, 1), b"") if line.strip()), b"")
            if parse(first) is UNREADABLE and (rest := self._bounded(file)):
                yield 0, 0, first + rest
                return
            file.seek(0)
            number = offset = 0
            while data := self._line(file, number := number + 1):
                if data.strip():
                    yield number, offset, data
                offset += len(data)

    def _line(self, file: BinaryIO, number: int) -> bytes:
        try:
            data = file.readline(_LARGEST + 1)
        except OSError as error:
            raise SidestreamError(f"{self.path} cannot be read: {error.strerror}") from error
        if len(data) > _LARGEST:
            raise SidestreamError(f"{self.path}:{number}: more than {_LARGEST >> 20} MiB in one line")
        return data

    def _bounded(self, file: BinaryIO) -> bytes:
        data = file.read(_LARGEST + 1)
        if len(data) > _LARGEST:
            raise SidestreamError(f"{self.path}: more than {_LARGEST >> 20} MiB in one value")
        return data

    def _opened(self) -> BinaryIO:
        try:
            return self.path.open("rb")
        except OSError as error:
            raise SidestreamError(f"{self.path} cannot be read: {error.strerror}") from error
