from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from sidestream.store.folders import private, sync_folder

if TYPE_CHECKING:
    from pathlib import Path


def test_what_is_missing_is_made_for_this_user_alone_and_what_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there").chmod(0o755)
    umask = os.umask(0)
    try:
        private(tmp_path / "there" / "a" / "b")
        private(tmp_path / "there" / "a" / "b")
    finally:
        os.umask(umask)
    modes = [stat.S_IMODE((tmp_path / "there" / path).stat().st_mode) for path in ("", "a", "a/b")]
    assert [0o755, 0o700, 0o700] == modes


def test_only_a_directory_can_be_synced(tmp_path: Path) -> None:
    sync_folder(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        sync_folder(tmp_path / "file")
