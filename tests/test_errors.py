"""The tree of errors."""

from __future__ import annotations

import inspect
import re

import pytest

from sidestream import errors

CLASSES = [item for item in vars(errors).values() if inspect.isclass(item) and issubclass(item, errors.SidestreamError)]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_error_is_drawn_in_the_tree(kind: type) -> None:
    assert re.search(rf"^ +[│├└─ ]*{kind.__name__}\b", errors.__doc__ or "", re.MULTILINE)


@pytest.mark.parametrize(
    ("kind", "base"),
    [
        (errors.ConfigError, errors.SidestreamError),
        (errors.GatewayError, errors.SidestreamError),
        (errors.UpstreamFailed, errors.RelayError),
        (errors.TimedOut, errors.RelayError),
        (errors.ClientDisconnected, errors.RelayError),
        (errors.Retryable, errors.DeliveryError),
        (errors.Undeliverable, errors.DeliveryError),
    ],
)
def test_errors_hang_where_they_are_drawn(kind: type, base: type) -> None:
    assert issubclass(kind, base)


def test_a_problem_names_its_path() -> None:
    assert str(errors.Problem("server.port", "expected a port")) == "server.port: expected a port"


def test_a_problem_of_the_whole_file_has_no_path() -> None:
    assert str(errors.Problem("", "there is no such file")) == "there is no such file"


def test_a_config_error_holds_every_problem() -> None:
    problems = [errors.Problem("a", "one"), errors.Problem("b", "two")]
    error = errors.ConfigError(problems)
    assert problems == error.problems
    assert str(error) == "a: one\nb: two"


def test_a_gateway_error_knows_its_answer() -> None:
    error = errors.GatewayError(400, "bad_trace_key", "the key is malformed")
    assert (error.status, error.code, error.message) == (400, "bad_trace_key", "the key is malformed")
    assert str(error) == "the key is malformed"


def test_retryable_may_say_how_long_to_wait() -> None:
    assert errors.Retryable("busy").after is None
    assert errors.Retryable("busy", after=7.0).after == 7.0
