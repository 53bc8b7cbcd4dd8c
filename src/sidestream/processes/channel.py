"""What the supervisor and its children say to each other: lines of JSON over a pair of sockets, and nothing else.

It knows how a message travels, not what it makes anybody do. The supervisor's whole memory is a few megabytes, so
nothing is imported here but the standard library and the log.

Down go ``document`` (first, and once), ``not_ready``, ``stop``, ``retire``, ``report`` and ``totals``; up go ``ready``,
``retired``, ``stats`` and ``totals``. A line that is no message is passed over: a defect at one end is not to end the
other.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import structlog

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from typing import Self

log = structlog.get_logger()

LONGEST = 4 << 20
"""Bytes of a line: the largest configuration there may be is a megabyte, and a third more in base64."""


@dataclass(frozen=True, slots=True)
class Document:
    """A configuration as it was read once, so that all processes go by the same one; its secrets are still in it.

    `data` is the file's bytes, None for the defaults; `file` is its name for messages. `host` and `port` come from the
    command line and go before those of the file.
    """

    file: str | None = None
    data: bytes | None = None
    host: str | None = None
    port: int | None = None

    def with_data(self, data: bytes | None) -> Document:
        """The same, read again."""
        return replace(self, data=data)

    def encode(self) -> bytes:
        """One line of JSON."""
        data = None if self.data is None else base64.b64encode(self.data).decode()
        return encode({"kind": "document", "file": self.file, "data": data, "host": self.host, "port": self.port})

    @classmethod
    def decode(cls, line: bytes) -> Self:
        """What `encode` made; `ValueError` if it did not."""
        try:
            fields = json.loads(line)
            data = fields["data"]
            return cls(
                file=fields["file"],
                data=None if data is None else base64.b64decode(data, validate=True),
                host=fields["host"],
                port=fields["port"],
            )
        except (ValueError, LookupError, TypeError, RecursionError):
            raise ValueError("not a document") from None


class Channel:
    """One end of a conversation."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._complained = False

    @classmethod
    async def over(cls, sock: socket.socket, *, limit: int = LONGEST) -> Self:
        """Talk over one socket of a pair; messages that come may have `limit` bytes."""
        return cls(*await asyncio.open_unix_connection(sock=sock, limit=limit))

    @property
    def congested(self) -> bool:
        """Whether the other end does not read what is sent."""
        return self._writer.transport.get_write_buffer_size() > 0

    def send(self, kind: str, **fields: Any) -> None:
        """Send a message; it gets lost if the other end is gone."""
        self.send_line(encode({"kind": kind, **fields}))

    def send_line(self, line: bytes) -> None:
        """Send what is one line already."""
        if not self._writer.transport.is_closing():
            self._writer.write(line)

    async def messages(self) -> AsyncIterator[dict[str, Any]]:
        """What comes in, until the other end is gone. Each has a ``kind``, and is otherwise anything."""
        while True:
            try:
                line = await self._reader.readline()
            except OSError:
                return
            except ValueError:  # too long; asyncio has thrown it away
                self._complain()
                continue
            if not line:
                return
            message = decode(line)
            if message is None:
                self._complain()
            else:
                yield message

    async def close(self) -> None:
        """Say goodbye, once all that was sent has gone out; half a second at most."""
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(0.5):
                self._writer.close()
                await self._writer.wait_closed()

    def _complain(self) -> None:
        if not self._complained:
            self._complained = True
            log.warning("control_message_refused")


def encode(message: dict[str, Any]) -> bytes:
    """A message as one line."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> dict[str, Any] | None:
    """The message of a line, or None if that is none."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) and isinstance(message.get("kind"), str) else None


def first_line(sock: socket.socket) -> bytes:
    """Exactly the first line, whatever has followed it by now; `EOFError` if the other end goes away before its end."""
    parts = []
    while True:
        ahead = sock.recv(1 << 16, socket.MSG_PEEK)
        if not ahead:
            raise EOFError("the supervisor is gone")
        end = ahead.find(b"\n") + 1
        parts.append(sock.recv(end or len(ahead)))
        if end:
            return b"".join(parts)
