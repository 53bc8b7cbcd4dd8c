from __future__ import annotations

import resource
from pathlib import Path

import pytest

from sidestream.traces.spool import BLOCK, Spool, SpoolError


def block(value: int) -> memoryview:
    return memoryview(bytes([value]) * BLOCK)


def descriptors() -> int:
    return len(list(Path("/dev/fd").iterdir()))


def test_blocks_come_back_in_any_order(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    first, second, third = (spool.write(block(value)) for value in (1, 2, 3))
    assert b"".join(map(block, (3, 1, 2))) == spool.read([third, first, second])
    assert b"" == spool.read([])
    spool.close()


def test_the_place_of_a_freed_block_is_used_again_and_the_others_stay(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    blocks = [spool.write(block(value)) for value in range(5)]
    spool.free([blocks[1], blocks[3]])
    assert {blocks[1], blocks[3]} == {spool.write(block(8)), spool.write(block(9))}
    assert bytes([0, 8, 2, 9, 4]) == spool.read(blocks)[::BLOCK]
    spool.close()


def test_the_file_is_there_only_while_something_is_in_it(tmp_path: Path) -> None:
    before = descriptors()
    spool = Spool(tmp_path)
    assert before == descriptors()
    for _ in range(3):
        blocks = [spool.write(block(1)), spool.write(block(2))]
        assert before + 1 == descriptors()
        assert [] == list(tmp_path.iterdir())
        spool.free(blocks)
        assert before == descriptors()


def test_a_spool_that_is_dropped_leaves_nothing_open(tmp_path: Path) -> None:
    before = descriptors()
    Spool(tmp_path).write(block(1))
    assert before == descriptors()


def test_a_block_without_room_takes_no_place(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    spool = Spool(tmp_path)
    first = spool.write(block(1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (BLOCK + BLOCK // 2, hard))
    try:
        with pytest.raises(OSError):
            spool.write(block(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    second = spool.write(block(3))
    assert bytes([1, 3]) == spool.read([first, second])[::BLOCK]
    spool.close()


def test_blocks_that_are_not_there_are_never_made_up(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    blocks = [spool.write(block(1))]
    with pytest.raises(SpoolError):
        spool.read([*blocks, blocks[0] + 1])
    spool.close()
    with pytest.raises(SpoolError):
        spool.read(blocks)
