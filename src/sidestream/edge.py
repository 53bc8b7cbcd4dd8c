"""One connection of a client: aiohttp's protocol, with limits, and with answers that never quote what came in.

Only aiohttp's public classes are used. The protocol is subclassed because aiohttp's own answer to a malformed request,
and its log line, repeat raw header bytes: keys included. What aiohttp sets no limit to has one here: the time and the
size of a head, the framing of a body, and requests sent ahead of their turn.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any, cast

import structlog
from aiohttp import EMPTY_PAYLOAD, web
from aiohttp.http_exceptions import HttpProcessingError

from sidestream.app import refuse
from sidestream.errors import GatewayError
from sidestream.wire.sockets import bound_unsent, closed_by_peer

if TYPE_CHECKING:
    from aiohttp import StreamReader

    from sidestream.server import Doors

log = structlog.get_logger()

_HEAD = 1 << 19
"""Bytes of a head, at least, before it is refused: more than one read, since a body may come in the same."""
_FRAMING = 1 << 14
_FRAMING_PER_BYTE = 1
"""A chunked body may have so many bytes of framing, and so many more per byte of content. Chunks of a byte need five:
each costs as much as one of a thousand."""
_SLICE = 1 << 12
"""Bytes of a chunked body that are parsed before somebody looks at what they were: a read has up to 256,000."""
_FINE = 8
"""The share of a slice, one of so many, that is framing where chunks are so small that others are to have a turn."""
_AHEAD = 1 << 22
"""Bytes of further requests that may come while one is being answered."""
_PARTING = 2.0
"""Seconds that a client has to take in a last answer while it still sends."""
_LOOK_EVERY = 1 << 18
"""Bytes between two looks at what a connection has sent, and those that are read of what will be thrown away."""
_UNSENT = 1 << 17
"""Bytes of an answer that the kernel takes beyond what is on its way to the client; by itself, it takes megabytes for
one who does not read."""
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,15})\r\n", re.IGNORECASE)
_NO_HEAD = b"\0"
"""What no head may contain: it ends the parser's wait for the rest of one."""
_NOTHING = memoryview(b"")


class FrontDoor(web.RequestHandler):
    """aiohttp's protocol, with another answer to what cannot be parsed, limits, and an end to idle connections.

    When aiohttp starts to shut down, it leaves idle connections open but stops serving them: a pooled client that used
    one would wait for nothing. Here they are closed at once.

    A read costs an addition and a comparison. Only every so many bytes somebody looks at what they were; in a chunked
    body, after each slice.
    """

    __slots__ = (
        "_ahead_from",
        "_app",
        "_chunked",
        "_content",
        "_doors",
        "_full",
        "_idle",
        "_leaving",
        "_pauses_late",
        "_refusal",
        "_rest",
        "_room",
        "_taken",
        "_turn",
    )

    def __init__(self, app: web.Application, doors: Doors, manager: web.Server, **options: Any) -> None:
        super().__init__(manager, **options)
        self._app = app
        self._doors = doors
        self._idle = True
        self._leaving = False
        self._content: StreamReader = EMPTY_PAYLOAD
        self._chunked = False
        self._full = False
        self._pauses_late = False
        self._rest = _NOTHING
        self._turn: asyncio.Handle | None = None
        self._taken = 0
        self._room = _HEAD
        self._ahead_from: int | None = None
        self._refusal: GatewayError | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a connection in, or turn it away where there are too many."""
        there = cast("asyncio.Transport", transport)  # it is TCP
        if self._doors.entered(self):
            super().connection_made(transport)
            bound_unsent(there, _UNSENT)
            return
        error = GatewayError(503, "too_many_connections", "the gateway has as many connections as it can serve")
        there.write(_on_the_wire(refuse(self._app, error)))
        self._doors.turned_away(there)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget a connection."""
        super().connection_lost(exc)
        self._doors.left(self)

    def data_received(self, data: bytes) -> None:
        """Take in bytes of a request."""
        if self._leaving:
            self._throw_away(data)
            return
        if self._idle and data and self._content.is_eof():  # else the rest of a body that has been answered
            self._idle = False
            self._taken, self._room = 0, _HEAD
            self._doors.expected(self)
        if self._rest and data:
            self._rest = memoryview(bytes(self._rest) + data)
            self._wait_a_turn()
        elif len(data) > _SLICE and self._portion(data) < len(data):
            self._rest = memoryview(data)
            self._hand_on()
        elif self._taken <= self._room or self._bearable():
            self._taken += len(data)
            super().data_received(data)

    def pause_reading(self) -> None:
        """Read no more until the body's reader has caught up."""
        self._full = True
        super().pause_reading()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Go on; aiohttp says so for each piece that its reader takes, whether or not reading has paused.

        A body may end while reading pauses. Then the parser pauses once more within a later one, unasked.
        """
        if self._full and not resume_parser:
            self._pauses_late = True
        if self._full or self._pauses_late:
            self._full = False
            super().resume_reading(resume_parser)
            if self._rest:
                self._wait_a_turn()  # the parser may be at work: the end of a body makes room, too

    def begun(self, content: StreamReader, *, chunked: bool, last: bool) -> None:
        """Learn that the handling of a request begins: with pipelining, its bytes came before the last answer.

        What comes behind the `last` one is nobody's. The parser, which has failed perhaps, would look at all of it.
        """
        self._idle = False
        self._content = content
        self._chunked = chunked
        self._taken, self._room = 0, _FRAMING
        self._ahead_from = None
        self._doors.came(self)
        if last and content.is_eof():
            super().close()

    def head_overdue(self) -> None:
        """Refuse a request whose head does not come to an end."""
        self._refuse_head(GatewayError(408, "request_timeout", "the request's head did not arrive in time"))

    def look_for_client(self) -> None:
        """End a connection that nothing is read from any more, if its client has left before its answer."""
        if self.transport is not None and not self._idle and closed_by_peer(self.transport):
            self.transport.abort()

    @property
    def idle(self) -> bool:
        """Whether no request has begun to come, and none is being answered."""
        return self._idle

    def take_no_more(self) -> None:
        """Throw away what comes, and soon read nothing any more; the connection ends after the answer under way."""
        super().close()
        self._leaving = True
        self._room = self._taken + _LOOK_EVERY

    def log_access(self, request: web.BaseRequest, response: web.StreamResponse, time: float | None) -> None:  # noqa: ARG002
        """Learn that a request has been answered; nothing is logged here."""
        self._idle = True
        if response.status == 408 and "x-sidestream-error" in response.headers and not self._content.is_eof():
            self._content.feed_eof()  # its body has stopped arriving: there is no sense in waiting for the rest
            self.take_no_more()

    def log_exception(self, *args: Any, **kwargs: Any) -> None:
        """Log what went wrong with a connection: not as a defect of ours, where its client broke the rest of a body."""
        error = kwargs.get("exc_info")
        if isinstance(error, HttpProcessingError):
            log.warning("request_refused", status=None, error=type(error).__name__)
        else:
            super().log_exception(*args, **kwargs)

    def close(self) -> None:
        """Stop serving this connection: at once when it is idle, else after the request under way."""
        super().close()
        if self._idle and self.transport is not None:
            self.transport.close()

    def _portion(self, data: bytes | memoryview) -> int:
        """How much of a read the parser may see before somebody looks at what it was.

        All of it, if it belongs to one body, and that one has a length: then nothing in it has to be looked for.
        """
        if not self._content.is_eof():
            return _SLICE if self._chunked else len(data)
        if self._taken or not self._doors.expects(self):
            return _SLICE
        head = bytes(data[:_SLICE])
        end = head.find(b"\r\n\r\n") + 4
        stated = _LENGTH.search(head, 0, end)
        return len(data) if stated and len(data) <= end + int(stated[1]) else _SLICE

    def _hand_on(self) -> None:
        """Hand a read on by portions, as long as the body's reader keeps up.

        Behind a head, and where chunks are fine, the next portion has to wait for the loop's next turn: what is in one
        read can keep the parser busy for longer than everybody else should wait.
        """
        self._turn = None
        transport, content = self.transport, self._content
        if transport is None or transport.is_closing() or self._leaving:
            self._rest = _NOTHING
        while self._rest and not self._full:
            if self._taken > self._room and not self._bearable():
                self._rest = _NOTHING
                break
            portion, before = self._portion(self._rest), content.total_bytes
            data, self._rest = bytes(self._rest[:portion]), self._rest[portion:]
            self._taken += len(data)
            super().data_received(data)
            if self._overframed():
                self._rest = _NOTHING
                break
            fine = len(data) - (content.total_bytes - before) > len(data) // _FINE
            if self._rest and (fine or self._doors.expects(self)):
                self._wait_a_turn()
                return
        if not self._full:
            super().resume_reading(resume_parser=False)

    def _throw_away(self, data: bytes) -> None:
        """Read some more, so that a client's leaving is noticed at once; but not without end."""
        self._taken += len(data)
        if self._taken > self._room and self.transport is not None:
            self.transport.pause_reading()
            self._doors.deaf(self)

    def _wait_a_turn(self) -> None:
        """Hand the rest on later, and read no more before."""
        if self.transport is not None:
            self.transport.pause_reading()
        if self._turn is None and not self._full:
            self._turn = asyncio.get_running_loop().call_soon(self._hand_on)

    def _bearable(self) -> bool:
        """Look at what has come, and refuse what is too much."""
        content = self._content
        if self._doors.expects(self):
            self._refuse_head(GatewayError(431, "head_too_large", "the request's head is too large"))
            return False
        if content.is_eof():
            if self._ahead_from is None:
                self._ahead_from = self._taken
            if self._taken - self._ahead_from > _AHEAD:
                log.warning("request_refused", status=None, error="too_much_ahead")
                self.take_no_more()
                return False
        elif self._overframed():
            return False
        self._room = self._taken + _LOOK_EVERY
        return True

    def _overframed(self) -> bool:
        """Whether a body has more framing than it may have: then it is refused."""
        content = self._content
        if content.is_eof() or self._taken - content.total_bytes <= _FRAMING + _FRAMING_PER_BYTE * content.total_bytes:
            return False
        content.set_exception(web.RequestPayloadError("more framing than body"))
        content.feed_eof()
        self.take_no_more()
        return True

    def _refuse_head(self, error: GatewayError) -> None:
        self._doors.came(self)
        self._refusal = error
        super().data_received(_NO_HEAD)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002  # it quotes the input
    ) -> web.StreamResponse:
        """Answer a malformed request (400), or a defect of ours (500), in the provider's error shape."""
        if isinstance(exc, ConnectionError):  # the client has merely left
            raise exc
        if self._refusal is not None:
            status, exc = self._refusal.status, self._refusal
        what = exc.code if isinstance(exc, GatewayError) else type(exc).__name__ if exc is not None else None
        log.warning("request_refused", status=status, error=what)
        if request.writer.output_size > 0:
            raise ConnectionError("the response has begun; there can be no second one")
        error = self._refusal or GatewayError(status, "bad_request", "the request is not well-formed HTTP")
        if status >= 500:
            error = GatewayError(status, "internal_error", "the gateway failed")
        self.take_no_more()
        return refuse(self._app, error)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Write an answer to its end; after the last one to somebody who may still be sending, wait until he has gone.

        Closing a socket that holds unread bytes resets the connection, and the answer would be lost. So the client is
        told that this was all, and has `_PARTING` seconds to leave; what it sends meanwhile is thrown away. Who means
        harm has to wait as long until he can come again.
        """
        if self._leaving:
            resp.force_close()
        finished = await super().finish_response(request, resp, start_time)
        transport = self.transport
        if self._leaving and transport is not None and transport.can_write_eof() and not transport.is_closing():
            transport.write_eof()
            await asyncio.sleep(_PARTING)  # cancelled as soon as the client has left
        return finished


class TurnedAway(asyncio.Protocol):
    """A connection whose client has its last answer: some bytes of it are thrown away, and in `_PARTING` s it ends."""

    def __init__(self, transport: asyncio.Transport, others: set[TurnedAway]) -> None:
        self._transport = transport
        self._others = others
        self._taken = 0
        self._end = asyncio.get_running_loop().call_later(_PARTING, self.close)
        others.add(self)
        transport.set_protocol(self)
        transport.write_eof()

    def data_received(self, data: bytes) -> None:
        """Throw them away, and read nothing more where there are too many."""
        self._taken += len(data)
        if self._taken > _LOOK_EVERY:
            self._transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """It has left."""
        self._end.cancel()
        self._others.discard(self)

    def close(self) -> None:
        """Wait no longer."""
        self._transport.close()


def _on_the_wire(response: web.Response) -> bytes:
    """An answer to a connection of which no request is read."""
    body = response.body
    assert isinstance(body, bytes)  # noqa: S101  # `refuse` made it
    fields = {**response.headers, "Content-Length": str(len(body)), "Connection": "close"}
    lines = [f"HTTP/1.1 {response.status} {response.reason}", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body
