"""A file's bytes, bounded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sidestream.errors import ConfigError
from sidestream.sources import MAX_BYTES, fetch

if TYPE_CHECKING:
    from pathlib import Path


def test_all_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_bytes(bytes(MAX_BYTES))
    assert bytes(MAX_BYTES) == fetch(file)


def test_what_cannot_be_read_is_refused_in_words(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    with pytest.raises(ConfigError, match="no such file"):
        fetch(file)
    with pytest.raises(ConfigError, match="directory"):
        fetch(tmp_path)
    with pytest.raises(ConfigError, match="cannot be the name"):
        fetch(tmp_path / "\0")
    file.write_bytes(bytes(MAX_BYTES + 1))
    with pytest.raises(ConfigError, match="larger than 1 MiB"):
        fetch(file)
