"""Logs: JSON away from a terminal, and never a library's own words."""

from __future__ import annotations

import io
import json
import logging
from typing import TYPE_CHECKING

import pytest
import structlog

from sidestream import logs

if TYPE_CHECKING:
    from collections.abc import Iterator


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    root.handlers[:], root.level = handlers, level


def test_away_from_a_terminal_every_line_is_json() -> None:
    stream = io.StringIO()
    logs.configure(stream)
    structlog.get_logger().info("something_happened", exchange="1", odd={1, 2})
    entry = json.loads(stream.getvalue())
    assert ("something_happened", "info", "1") == (entry["event"], entry["level"], entry["exchange"])
    assert entry["timestamp"].endswith("Z")


def test_on_a_terminal_it_is_readable() -> None:
    stream = Terminal()
    logs.configure(stream)
    structlog.get_logger().info("something_happened", exchange="1")
    assert "something_happened" in stream.getvalue()
    assert not stream.getvalue().startswith("{")


def test_a_library_is_logged_by_place_and_kind_of_error_and_never_by_its_words() -> None:
    stream = io.StringIO()
    logs.configure(stream)
    try:
        int("sk-canary")
    except ValueError:
        logging.getLogger("aiohttp.server").exception("Error handling %s", "sk-canary")
    assert "sk-canary" not in stream.getvalue()
    entry = json.loads(stream.getvalue())
    assert ("library_warned", "aiohttp.server", "ValueError") == (entry["event"], entry["library"], entry["error"])


def test_in_a_host_without_structlog_events_go_to_its_logging(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    structlog.reset_defaults()
    logs.fit_in()
    with caplog.at_level(logging.INFO, "sidestream"):
        structlog.get_logger().info("something_happened", exchange="1")
        structlog.get_logger().debug("detail_seen")
    assert [("sidestream", "event='something_happened' exchange='1'")] == [
        (record.name, record.getMessage()) for record in caplog.records
    ]
    assert "" == capsys.readouterr().out


def test_a_host_that_has_set_structlog_up_keeps_its_own_way() -> None:
    stream = io.StringIO()
    logs.configure(stream)
    logs.fit_in()
    structlog.get_logger().info("something_happened")
    assert "something_happened" in stream.getvalue()


def test_debug_lines_are_left_out() -> None:
    stream = io.StringIO()
    logs.configure(stream)
    structlog.get_logger().debug("detail_seen")
    assert "" == stream.getvalue()
