"""Logs: JSON away from a terminal, and never a library's own words."""

from __future__ import annotations

import io
import json
import logging
import os
import threading
from select import PIPE_BUF
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
    writer = logs.configure(stream)
    structlog.get_logger().info("something_happened", exchange="1", odd={1, 2})
    writer.flush(5)
    entry = json.loads(stream.getvalue())
    assert ("something_happened", "info", "1") == (entry["event"], entry["level"], entry["exchange"])
    assert entry["timestamp"].endswith("Z")


def test_where_several_processes_log_to_one_place_every_line_tells_whose_it_is() -> None:
    stream = io.StringIO()
    writer = logs.configure(stream, process="relay")
    structlog.get_logger().info("something_happened")
    structlog.get_logger().info("process_died", pid=7)
    writer.flush(5)
    entries = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [("relay", os.getpid()), ("relay", 7)] == [(entry["process"], entry["pid"]) for entry in entries]


def test_on_a_terminal_it_is_readable() -> None:
    stream = Terminal()
    writer = logs.configure(stream)
    structlog.get_logger().info("something_happened", exchange="1")
    writer.flush(5)
    assert "something_happened" in stream.getvalue()
    assert not stream.getvalue().startswith("{")


def test_a_library_is_logged_by_place_and_kind_of_error_and_never_by_its_words() -> None:
    stream = io.StringIO()
    writer = logs.configure(stream)
    try:
        int("sk-canary")
    except ValueError:
        logging.getLogger("aiohttp.server").exception("Error handling %s", "sk-canary")
    writer.flush(5)
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
    writer = logs.configure(stream)
    logs.fit_in()
    structlog.get_logger().info("something_happened")
    writer.flush(5)
    assert "something_happened" in stream.getvalue()


def test_debug_lines_are_left_out() -> None:
    stream = io.StringIO()
    writer = logs.configure(stream)
    structlog.get_logger().debug("detail_seen")
    writer.flush(5)
    assert "" == stream.getvalue()


def test_a_library_may_log_at_a_level_of_its_own() -> None:
    stream = io.StringIO()
    writer = logs.configure(stream)
    logging.getLogger("odd").log(35, "between")
    writer.flush(5)
    assert "library_warned" == json.loads(stream.getvalue())["event"]


class Stuck(io.StringIO):
    """A reader that does not read, until told to."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []
        self.go_on = threading.Event()
        self.blocked = threading.Event()

    def write(self, text: str) -> int:
        self.blocked.set()
        assert self.go_on.wait(10)
        self.pieces.append(text)
        return super().write(text)


def test_a_reader_that_does_not_read_holds_nobody_up_and_lines_without_room_are_counted() -> None:
    stream = Stuck()
    writer = logs.LineWriter(stream, most=2)
    writer.msg("first")
    assert stream.blocked.wait(10)
    for line in ("second", "third", "fourth", "fifth"):
        writer.msg(line)
    assert 2 == writer.dropped
    stream.go_on.set()
    writer.flush(5)
    assert ["first", "second", "third"] == stream.getvalue().splitlines()


def test_lines_that_came_meanwhile_go_out_together_but_no_more_than_a_pipe_keeps_whole() -> None:
    stream = Stuck()
    writer = logs.LineWriter(stream)
    writer.msg("first")
    assert stream.blocked.wait(10)
    lines = [f"{number:03}" + "é" * (PIPE_BUF // 9) for number in range(12)]
    for line in lines:
        writer.msg(line)
    stream.go_on.set()
    writer.flush(5)
    assert ["first", *lines] == stream.getvalue().splitlines()
    assert [1, 4, 4, 4] == [text.count("\n") for text in stream.pieces]
    assert PIPE_BUF >= max(len(text.encode()) for text in stream.pieces)


def test_a_stream_that_cannot_be_written_to_raises_nothing_and_is_counted() -> None:
    stream = io.StringIO()
    stream.close()
    writer = logs.LineWriter(stream)
    writer.msg("lost")
    writer.flush(5)
    assert 1 == writer.dropped


def test_lines_that_were_lost_are_counted_for_everybody_to_see() -> None:
    stream = io.StringIO()
    writer = logs.configure(stream)
    before = logs.lines_dropped()
    stream.close()
    structlog.get_logger().info("something_happened")
    writer.flush(5)
    assert before + 1 == logs.lines_dropped()
