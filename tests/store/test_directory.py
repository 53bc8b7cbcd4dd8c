from __future__ import annotations

import errno
import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sidestream.errors import SidestreamError
from sidestream.store import directory
from sidestream.store.directory import Directory, private_parent


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({}, "~/.local/share/sidestream"),
        ({"XDG_DATA_HOME": "/data/"}, "/data/sidestream"),
        ({"XDG_DATA_HOME": "relative"}, "~/.local/share/sidestream"),
    ],
)
def test_the_default_is_where_the_user_keeps_data(env: dict[str, str], expected: str) -> None:
    assert expected == directory.default(env)


def test_nothing_is_created_before_it_is_prepared(tmp_path: Path) -> None:
    there = Directory(tmp_path / "a" / "b")
    assert [] == list(tmp_path.iterdir())
    there.prepare()
    assert there.journal.is_dir()
    there.prepare()


def test_only_the_owner_has_access_whatever_the_umask(tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        there = Directory(tmp_path / "a" / "b")
        there.fingerprint_key()
        lock = there.lock()
    finally:
        os.umask(umask)
    assert lock is not None
    os.close(lock)
    for path in (tmp_path / "a", *(tmp_path / "a").rglob("*")):
        assert (0o700 if path.is_dir() else 0o600) == stat.S_IMODE(path.stat().st_mode), path


def test_a_place_that_cannot_be_created_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError):
        Directory(tmp_path / "file" / "x").prepare()


def test_the_fingerprint_key_stays_the_same(tmp_path: Path) -> None:
    key = Directory(tmp_path).fingerprint_key()
    assert 32 == len(key)
    assert key == Directory(tmp_path).fingerprint_key()
    assert ["fingerprint.key", "journal"] == sorted(path.name for path in tmp_path.iterdir())


def test_all_who_make_the_fingerprint_key_at_once_get_the_same(tmp_path: Path) -> None:
    keys: set[bytes] = set()
    start = threading.Barrier(8)

    def make() -> None:
        start.wait()
        keys.add(Directory(tmp_path / "new").fingerprint_key())

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 == len(keys)


def test_a_damaged_fingerprint_key_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "fingerprint.key").write_bytes(b"short")
    with pytest.raises(OSError, match="delete it"):
        Directory(tmp_path).fingerprint_key()
    assert b"short" == (tmp_path / "fingerprint.key").read_bytes()


def test_there_is_one_recorder_at_a_time(tmp_path: Path) -> None:
    first = Directory(tmp_path).lock()
    assert first is not None
    assert Directory(tmp_path).lock() is None
    os.close(first)
    second = Directory(tmp_path).lock()
    assert second is not None
    os.close(second)


def test_a_socket_lies_in_the_directory_if_its_path_is_short_enough(tmp_path: Path) -> None:
    assert Path("/d/recorder.sock") == Directory(Path("/d")).socket
    long = Directory(tmp_path / ("x" * 100))
    assert len(os.fsencode(long.socket)) <= 100
    assert long.socket == Directory(tmp_path / ("x" * 100)).socket
    assert long.socket != Directory(tmp_path / ("y" * 100)).socket


def test_a_place_for_a_socket_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    parent = tmp_path / "sockets"
    private_parent(parent / "x.sock")
    assert 0o700 == stat.S_IMODE(parent.stat().st_mode)
    private_parent(parent / "x.sock")
    parent.chmod(0o770)
    with pytest.raises(SidestreamError):
        private_parent(parent / "x.sock")


def test_a_link_in_the_place_of_a_sockets_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    with pytest.raises(SidestreamError):
        private_parent(tmp_path / "link" / "x.sock")


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOTSUP])
def test_without_hard_links_there_is_one_fingerprint_key_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, "refused")

    monkeypatch.setattr(os, "link", refuse)
    with ThreadPoolExecutor(8) as threads:
        keys = set(threads.map(lambda _: Directory(tmp_path / "data").fingerprint_key(), range(8)))
    assert {(tmp_path / "data" / "fingerprint.key").read_bytes()} == keys
    assert 0o600 == stat.S_IMODE((tmp_path / "data" / "fingerprint.key").stat().st_mode)
    assert {32} == set(map(len, keys))
    assert ["fingerprint.key", "journal"] == sorted(path.name for path in (tmp_path / "data").iterdir())


@pytest.mark.parametrize(
    ("inside", "mode"), [(None, 0o700), ("store.db", 0o700), ("recorder.lock", 0o700), ("thesis.tex", 0o755)]
)
def test_a_directory_that_was_there_is_closed_to_others_if_it_is_ours(
    tmp_path: Path, inside: str | None, mode: int
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    data.chmod(0o755)
    if inside:
        (data / inside).touch()
    Directory(data).prepare()
    assert mode == stat.S_IMODE(data.stat().st_mode)
