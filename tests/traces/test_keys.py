from __future__ import annotations

import time
from typing import TYPE_CHECKING

from sidestream.options import Secret
from sidestream.traces import keys as module
from sidestream.traces.keys import Keys

if TYPE_CHECKING:
    import pytest

KEY = Secret("inv-canary")


def test_a_key_has_the_same_fingerprint_for_all_who_share_the_secret() -> None:
    fingerprint = Keys(b"secret").seen(KEY)
    assert fingerprint == Keys(b"secret").seen(Secret("inv-canary"))
    assert fingerprint != Keys(b"another").seen(KEY)
    assert fingerprint != Keys(b"secret").seen(Secret("inv-other"))


def test_a_fingerprint_is_32_digits_that_say_nothing_of_the_key() -> None:
    fingerprint = Keys(b"secret").seen(KEY)
    assert 32 == len(fingerprint)
    assert 0 <= int(fingerprint, 16)
    assert "canary" not in fingerprint


def test_a_key_is_found_by_its_fingerprint() -> None:
    keys = Keys(b"secret")
    fingerprint = keys.seen(KEY)
    assert KEY == keys.get(fingerprint)
    assert keys.get("0" * 32) is None
    assert {fingerprint: KEY} == keys.all()


def test_a_key_that_was_added_is_as_good_as_one_that_was_seen() -> None:
    keys = Keys(b"another secret")
    keys.add("f" * 32, KEY)
    assert KEY == keys.get("f" * 32)
    assert "f" * 32 == keys.seen(KEY)
    assert 1 == len(keys)


def test_a_key_is_told_when_it_is_first_seen_and_again_only_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, Secret]] = []
    keys = Keys(b"secret", lambda fingerprint, key: told.append((fingerprint, key)))
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    fingerprint = keys.seen(KEY)
    keys.seen(KEY)
    assert [(fingerprint, KEY)] == told
    now += 61
    keys.seen(KEY)
    assert 2 == len(told)


def test_of_too_many_keys_the_oldest_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST", 3)
    keys = Keys(b"secret", lambda _fingerprint, _key: None)
    fingerprints = [keys.seen(Secret(f"inv-{number}")) for number in range(5)]
    assert fingerprints[2:] == list(keys.all())
    assert fingerprints[0] == keys.seen(Secret("inv-0"))


def test_a_key_that_was_told_again_outlives_those_that_were_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST", 3)
    keys = Keys(b"secret")
    for number in (0, 1, 2, 0, 3, 0, 4):
        keys.add(str(number), Secret(f"inv-{number}"))
    assert ["3", "0", "4"] == list(keys.all())
    assert Secret("inv-0") == keys.get("0")


def test_looking_at_keys_shows_none() -> None:
    keys = Keys(b"secret")
    keys.seen(KEY)
    assert "canary" not in repr(keys.all())
