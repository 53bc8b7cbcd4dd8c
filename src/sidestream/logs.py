"""Logging of the standalone gateway: structlog, readable on a terminal and JSON otherwise, on standard error.

A log line is only put into a queue; a thread writes it. A full disk, a reader that has gone and one that does not read
are then the log's trouble and nobody else's: lines are dropped and counted, the gateway goes on.

An embedding application configures structlog as it likes; where it does not, `fit_in` makes do with its `logging`. What
libraries log through `logging` is cut down to the kind of error and its place, because their messages may quote what a
client sent, keys included.
"""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
import time
from pathlib import Path
from select import PIPE_BUF
from typing import TYPE_CHECKING

import msgspec
import structlog

if TYPE_CHECKING:
    from typing import TextIO

_MOST_LINES = 10_000
_GATHERING = 0.02
"""Seconds that the first line waits for others."""
_configured: list[LineWriter] = []


class LineWriter:
    """A structlog logger that never blocks and never raises: it hands lines to a thread that writes them to `stream`.

    At most `most` lines wait; `dropped` counts those that found no room or could not be written.
    """

    def __init__(self, stream: TextIO, *, most: int = _MOST_LINES) -> None:
        self.dropped = 0
        self._stream = stream
        self._most = most
        self._lines: queue.SimpleQueue[str | threading.Event] = queue.SimpleQueue()
        self._piece: list[str] = []
        self._size = 0
        threading.Thread(target=self._work, name="sidestream log", daemon=True).start()

    def msg(self, line: str) -> None:
        """Log one line."""
        if self._lines.qsize() < self._most:
            self._lines.put(line)
        else:
            self.dropped += 1

    debug = info = warning = error = critical = msg

    def flush(self, seconds: float) -> None:
        """Wait until what has been logged so far is written, `seconds` at most."""
        written = threading.Event()
        self._lines.put(written)
        written.wait(seconds)

    def _work(self) -> None:
        while True:
            item: str | threading.Event | None = self._lines.get()
            if isinstance(item, str):
                time.sleep(_GATHERING)  # waking up for each line would cost more than the line
            while item is not None:
                if isinstance(item, str):
                    self._add(item)
                else:
                    self._write()
                    item.set()
                item = None if self._lines.empty() else self._lines.get()
            self._write()

    def _add(self, line: str) -> None:
        """Have a line written with others; with no more than a pipe keeps whole, since processes may share one."""
        size = len(line.encode(errors="replace")) + 1
        if self._size + size > PIPE_BUF:
            self._write()
        self._piece.append(line)
        self._size += size

    def _write(self) -> None:
        lines, self._piece, self._size = self._piece, [], 0
        if not lines:
            return
        try:
            self._stream.write("\n".join([*lines, ""]))
            self._stream.flush()
        except (OSError, ValueError):  # a full disk, a closed pipe, a closed stream
            self.dropped += len(lines)


def configure(stream: TextIO | None = None, *, process: str | None = None) -> LineWriter:
    """Set up structlog and take over the libraries' logging. `stream` is standard error unless given.

    Where several processes log to one place, every line tells its `process` and pid; a line about another process has
    that one's pid.
    """
    stream = stream or sys.stderr or Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  # for the whole run
    readable = stream.isatty()
    writer = LineWriter(stream)
    _configured[:] = [writer]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            *([_told_by(process)] if process else []),
            structlog.processors.TimeStamper(fmt="%H:%M:%S" if readable else "iso", utc=not readable),
            structlog.dev.ConsoleRenderer() if readable else structlog.processors.JSONRenderer(serializer=_json),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=lambda *_: writer,
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(handlers=[RedactingHandler()], level=logging.WARNING, force=True)
    return writer


def _told_by(process: str) -> structlog.types.Processor:
    own = {"process": process, "pid": os.getpid()}
    return lambda _logger, _method, event: {**own, **event}


def lines_dropped() -> int:
    """How many lines of the log could not be written."""
    return sum(writer.dropped for writer in _configured)


def fit_in() -> None:
    """In somebody else's process: send events to `logging`, logger ``sidestream``, unless structlog is set up there."""
    if structlog.is_configured():
        return
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.contextvars.merge_contextvars,
            structlog.processors.KeyValueRenderer(key_order=["event"]),
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=lambda *_: logging.getLogger("sidestream"),
    )


class RedactingHandler(logging.Handler):
    """Logs of a library's record where it came from, its level, and the type of its exception; never its text."""

    def emit(self, record: logging.LogRecord) -> None:
        """Pass on what cannot hold a secret."""
        error = record.exc_info[0] if record.exc_info else None
        facts = {
            "library": record.name,
            "where": f"{record.filename}:{record.lineno}",
            "error": error.__name__ if error is not None else None,
        }
        if record.levelno >= logging.ERROR:
            structlog.get_logger().error("library_warned", **facts)
        else:
            structlog.get_logger().warning("library_warned", **facts)


def _json(event: object, **_: object) -> str:
    return msgspec.json.encode(event, enc_hook=repr).decode()
