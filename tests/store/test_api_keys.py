"""The keys that others push traces with."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from sidestream.errors import SidestreamError
from sidestream.store.api_keys import ApiKeys

if TYPE_CHECKING:
    from pathlib import Path


def test_a_key_is_known_until_it_is_revoked(tmp_path: Path) -> None:
    keys, elsewhere = ApiKeys(tmp_path), ApiKeys(tmp_path)
    one, other = keys.create("one"), keys.create("other")
    assert re.fullmatch(r"inv-[0-9a-f]{64}", one)
    assert (True, True, False) == (elsewhere.knows(one), elsewhere.knows(other), elsewhere.knows("inv-"))
    keys.revoke("one")
    assert (False, True) == (elsewhere.knows(one), elsewhere.knows(other))
    assert ["other"] == [key.name for key in elsewhere.all()]


def test_only_digests_are_kept_for_this_user_alone(tmp_path: Path) -> None:
    key = ApiKeys(tmp_path).create("one")
    file = tmp_path / "api-keys.json"
    assert 0o600 == file.stat().st_mode & 0o777
    assert key.removeprefix("inv-") not in file.read_text()
    assert ["api-keys.json"] == [path.name for path in tmp_path.iterdir()]


def test_the_data_directory_is_made_for_the_first_one(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "sidestream"
    ApiKeys(folder).create("one")
    assert 0o700 == folder.stat().st_mode & 0o777


def test_names_are_given_once(tmp_path: Path) -> None:
    keys = ApiKeys(tmp_path)
    keys.create("one")
    with pytest.raises(SidestreamError, match="there is a key of this name"):
        keys.create("one")
    with pytest.raises(SidestreamError, match="there is no key of this name"):
        keys.revoke("other")


def test_without_a_file_there_are_no_keys(tmp_path: Path) -> None:
    keys = ApiKeys(tmp_path / "none")
    assert ([], False) == (keys.all(), keys.knows("x"))


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff", b"[" * 100_000, b'[{"name": "n"}]'])
def test_a_damaged_file_opens_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "api-keys.json").write_bytes(content)
    with pytest.raises(SidestreamError, match="is damaged"):
        ApiKeys(tmp_path).knows("x")


@pytest.mark.parametrize("key", ["", "ä", "\udcff", "x" * 10_000])
def test_what_is_no_key_is_not_known(tmp_path: Path, key: str) -> None:
    keys = ApiKeys(tmp_path)
    keys.create("one")
    assert not keys.knows(key)
