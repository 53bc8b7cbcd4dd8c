"""The option types of sidestream.options."""

from __future__ import annotations

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidestream.options import Duration, Secret, Size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("7", 7),
        ("7B", 7),
        ("500kB", 500_000),
        ("500 KB", 500_000),
        (" 2 MB ", 2_000_000),
        ("1GB", 1_000_000_000),
        ("4KiB", 4096),
        ("32MiB", 32 << 20),
        ("1.5GiB", 3 << 29),
        (4096, 4096),
    ],
)
def test_size_reads_units_and_plain_bytes(text: object, size: int) -> None:
    assert size == Size.parse(text)


@pytest.mark.parametrize("value", ["", "MiB", "-1", "1 MiB 2", "1mib", "0x10", "1e3", -1, 1.5, True, None, [], "1\n2"])
def test_size_refuses_everything_else(value: object) -> None:
    with pytest.raises(ValueError, match=r"expected a size such as 32MiB, 500kB or a number of bytes"):
        Size.parse(value)


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0B"), (1000, "1000B"), (1024, "1KiB"), (1536, "1536B"), (32 << 20, "32MiB"), (1 << 30, "1GiB")],
)
def test_size_prints_the_largest_whole_unit(size: int, text: str) -> None:
    assert text == str(Size(size))


@given(st.integers(0, 1 << 50))
def test_size_reads_what_it_prints(value: int) -> None:
    assert value == Size.parse(str(Size(value)))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("20", 20.0),
        ("20s", 20.0),
        ("500ms", 0.5),
        (" 1.5 m ", 90.0),
        ("2h", 7200.0),
        ("1d", 86400.0),
        (20, 20.0),
        (0.25, 0.25),
    ],
)
def test_duration_reads_units_and_plain_seconds(text: object, seconds: float) -> None:
    assert seconds == Duration.parse(text)


@pytest.mark.parametrize(
    "value", ["", "s", "-1s", "1:30", "1h30m", "1 week", -1, float("nan"), float("inf"), True, None, {}]
)
def test_duration_refuses_everything_else(value: object) -> None:
    with pytest.raises(ValueError, match=r"expected a duration such as 20s, 500ms, 15m or a number of seconds"):
        Duration.parse(value)


@pytest.mark.parametrize(("seconds", "text"), [(0, "0s"), (0.5, "500ms"), (20, "20s"), (1.5, "1.5s"), (600, "600s")])
def test_duration_prints_seconds_or_milliseconds(seconds: float, text: str) -> None:
    assert text == str(Duration(seconds))


@given(st.integers(0, 99_999))
def test_duration_reads_what_it_prints(milliseconds: int) -> None:
    value = Duration.parse(f"{milliseconds}ms")
    assert value == pytest.approx(Duration.parse(str(value)), rel=1e-4)


@pytest.mark.parametrize("form", [str, repr, "{}".format, "{!r}".format, lambda secret: "%s" % [secret]])
def test_a_secret_never_prints(form: object) -> None:
    assert callable(form)
    assert "sk-canary" not in form(Secret("sk-canary"))


def test_a_secret_reveals_itself_on_request() -> None:
    assert Secret("sk-canary").reveal() == "sk-canary"


def test_an_empty_secret_is_false() -> None:
    assert (bool(Secret("")), bool(Secret("x"))) == (False, True)


def test_secrets_compare_by_value() -> None:
    assert Secret("a") == Secret("a")
    assert len({Secret("a"), Secret("a"), Secret("b")}) == 2
    assert Secret("a") != "a"


@pytest.mark.parametrize("serialise", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_secret_is_not_serialised(serialise: object) -> None:
    assert callable(serialise)
    with pytest.raises(TypeError, match="not to be serialised"):
        serialise(Secret("sk-canary"))
