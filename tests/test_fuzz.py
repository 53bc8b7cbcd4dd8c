"""The fuzzers find nothing in a few cases of theirs, nor in what they once found, and would find what they look for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
from fuzz import edge, streams

from sidestream.traces import understanding

if TYPE_CHECKING:
    from pathlib import Path

    from sidestream.traces.model import Reading
    from sidestream.traces.record import Record


@pytest.mark.parametrize("path", sorted(streams.CORPUS.glob("*.msgpack")), ids=lambda path: path.stem)
def test_what_once_failed_is_read(path: Path) -> None:
    streams.check(streams.saved(path))


def test_any_exchange_is_read() -> None:
    for number in range(150):
        streams.check(streams.case(20261123, number))


def test_a_case_is_the_same_for_the_same_seed_and_number() -> None:
    for number in range(30):
        assert streams.case(1, number) == streams.case(1, number)
        assert edge.case(1, number) == edge.case(1, number)
    assert streams.case(1, 1) != streams.case(2, 1)
    assert edge.case(1, 1) != edge.case(2, 1)


def test_a_case_can_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "CORPUS", tmp_path)
    case = streams.case(3, 4)
    assert case == streams.saved(streams.save(case, "kept"))


def test_what_an_exchange_leaves_in_the_next_one_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    read = 0

    def forgetful(record: Record, *args: object, **options: object) -> Reading:
        nonlocal read
        read += 1
        reading = understanding.understand(record, *args, **options)  # type: ignore[arg-type]
        return msgspec.structs.replace(reading, dataset=f"tests-{read}")

    monkeypatch.setattr(streams, "understand", forgetful)
    with pytest.raises(streams.Failed, match="not read the same"):
        streams.check(streams.case(1, 1))
