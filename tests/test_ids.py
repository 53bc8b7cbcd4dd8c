from __future__ import annotations

import time

from sidestream.ids import new_id


def test_ids_sort_by_time_and_never_repeat() -> None:
    ids = [new_id() for _ in range(1000)]
    assert 1000 == len(set(ids))
    assert {32} == set(map(len, ids))
    now = time.time_ns() // 1_000_000
    assert abs(int(ids[0][:12], 16) - now) < 60_000
    assert {"7"} == {identity[12] for identity in ids}
