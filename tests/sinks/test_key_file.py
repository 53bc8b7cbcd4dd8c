import os
from pathlib import Path

import pytest

from sidestream.errors import Retryable
from sidestream.options import Secret
from sidestream.sinks.key_file import KeyFile, is_sendable

KEY = "inv-" + "a" * 64


def test_the_key_is_what_stands_in_the_file_without_space_around_it(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"\n {KEY} \n")
    assert KeyFile(str(file)).read() == Secret(KEY)


def test_a_link_is_followed_each_time(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)
    link = tmp_path / "key"
    link.symlink_to("one")
    keys = KeyFile(str(link))
    first = keys.read()
    link.unlink()
    link.symlink_to("two")

    assert (first, keys.read()) == (Secret("one"), Secret("two"))


@pytest.mark.parametrize("content", [b"", b"  \n", b"canary canary", b"canary\n\ncanary", b"canary\xff"])
def test_a_file_without_a_key_is_tried_again_and_not_repeated(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "key"
    file.write_bytes(content)
    with pytest.raises(Retryable, match="holds no key") as caught:
        KeyFile(str(file)).read()

    assert "canary" not in str(caught.value)
    file.write_text(KEY)
    assert KeyFile(str(file)).read() == Secret(KEY)


def test_what_is_not_there_or_no_file_is_tried_again(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place, problem in (("none", "No such file"), ("", "not a file"), ("pipe", "not a file"), ("a\0", "ValueError")):
        with pytest.raises(Retryable, match=problem):
            KeyFile(f"{tmp_path}/{place}").read()


def test_a_home_that_does_not_exist_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="no such home directory"):
        KeyFile("~nobody-of-that-name/key")


@pytest.mark.parametrize(("key", "fits"), [(KEY, True), ("a b", False), ("a\r\n", False), ("ü", False)])
def test_what_can_stand_in_a_header(key: str, fits: bool) -> None:
    assert is_sendable(Secret(key)) is fits
