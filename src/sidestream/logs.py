"""Logging of the standalone gateway: structlog, readable on a terminal and JSON otherwise, on standard error.

An embedding application configures structlog as it likes; where it does not, `fit_in` makes do with its `logging`. What
libraries log through `logging`
is cut down to the kind of error and its place, because their messages may quote what a client sent, keys included.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

import msgspec
import structlog

if TYPE_CHECKING:
    from typing import TextIO


def configure(stream: TextIO | None = None) -> None:
    """Set up structlog and take over the libraries' logging. `stream` is standard error unless given."""
    stream = sys.stderr if stream is None else stream
    readable = stream.isatty()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S" if readable else "iso", utc=not readable),
            structlog.dev.ConsoleRenderer() if readable else structlog.processors.JSONRenderer(serializer=_json),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(stream),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(handlers=[RedactingHandler()], level=logging.WARNING, force=True)


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
        structlog.get_logger().log(
            record.levelno,
            "library_warned",
            library=record.name,
            where=f"{record.filename}:{record.lineno}",
            error=error.__name__ if error is not None else None,
        )


def _json(event: object, **_: object) -> str:
    return msgspec.json.encode(event, enc_hook=repr).decode()
