"""The pass-through: opens the upstream and relays both ways, byte for byte, a chunk as soon as it has been read.

It knows no provider. It never parses, decompresses, buffers, retries a POST, follows a redirect, or awaits anything but
the two sockets. How an exchange ends matters as much as what it carries: an upstream that breaks off never looks like a
clean end, a client that leaves ends the upstream at once, and the outcome is settled where it becomes known.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import aiohttp
from aiohttp import web

from sidestream.errors import (
    ClientDisconnected,
    GatewayError,
    NotRecorded,
    RelayError,
    ShutDown,
    TimedOut,
    UpstreamFailed,
)
from sidestream.wire import headers
from sidestream.wire.calling import Calls, transfer_coding
from sidestream.wire.exchange import EXCHANGE, Exchange, Outcome, ResponseHead
from sidestream.wire.live import Waiting
from sidestream.wire.sockets import closed_by_peer, reset
from sidestream.wire.upload import Upload

if TYPE_CHECKING:
    from collections.abc import Mapping

    from multidict import CIMultiDict

    from sidestream.wire.calling import Answer
    from sidestream.wire.live import Live
    from sidestream.wire.upstream import Limits, Upstream

NOT_OURS_TO_ADD: web.ResponseKey[list[str]] = web.ResponseKey("not_ours_to_add", list)
"""On a relayed response: the header fields the upstream did not send, though aiohttp would."""

# A UnicodeError is a host's name that there cannot be.
_UNREACHABLE = (aiohttp.ClientConnectorError, aiohttp.ClientHttpProxyError, UnicodeError)

# aiohttp adds these where they are absent; the promise is the sender's head and nothing else.
_ADDED_TO_RESPONSES = ("Server", "Date", "Content-Type")


class PassThrough:
    """The innermost handler of the chain."""

    def __init__(self, connector: aiohttp.BaseConnector, upstreams: Mapping[str, Upstream], live: Live) -> None:
        self._upstreams = {name: (upstream, Calls(upstream, connector)) for name, upstream in upstreams.items()}
        self._live = live

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        """Relay the request and write the response to its last byte.

        Raises `GatewayError` where the upstream gave nothing to relay, and a `RelayError` when a response that had
        begun could not be finished; the client's transport has been broken off by then.
        """
        exchange = request[EXCHANGE]
        upstream, calls = self._upstreams[exchange.provider.name]
        relay = _Relay(request, exchange, upstream.limits, self._live)
        self._live.watch(exchange, relay)
        try:
            return await relay.run(calls)
        finally:
            self._live.unwatch(exchange)


async def only_upstream_head(_request: web.Request, response: web.StreamResponse) -> None:
    """Take back what aiohttp added to a relayed head; an ``on_response_prepare`` signal."""
    for name in response.get(NOT_OURS_TO_ADD, ()):
        response.headers.pop(name, None)


class _Relay:
    """One exchange on its way.

    It says what it waits for; the sweep sees a limit pass, and interrupts the task.
    """

    def __init__(self, request: web.Request, exchange: Exchange, limits: Limits, live: Live) -> None:
        self._request = request
        self._exchange = exchange
        self._limits = limits
        self._live = live
        self._task = asyncio.current_task()
        self._waiting = Waiting()
        self._swept = -1
        self._swept_at = 0.0
        self._interrupted: RelayError | None = None
        self._upload = Upload(request, exchange, self._waiting)
        self._content: aiohttp.StreamReader | None = None
        self._upstream_closed = False
        self._upstream_reset = False

    def check(self, now: float) -> None:
        """Interrupt the relay when its client has gone or a limit has passed."""
        limit, steps = self._waiting.limit, self._waiting.steps
        # Who is not read from is not seen to leave: the upstream takes no more, or has answered before the body's end.
        unread = not self._request.content.is_eof() if self._upload.answered else limit == "write"
        if self._client_gone() or (unread and self._client_closed()):
            self._interrupt(ClientDisconnected("the client closed the connection"))
        elif steps != self._swept or not limit:
            self._swept = steps
            self._swept_at = now
        elif now - self._swept_at >= getattr(self._limits, limit):
            self._interrupt(TimedOut(f"nothing moved for as long as '{limit}' allows"))

    def cancel(self) -> None:
        """Interrupt the relay because the gateway shuts down."""
        self._interrupt(ShutDown("the gateway is shutting down"))

    async def run(self, calls: Calls) -> web.StreamResponse:
        """Relay; see `PassThrough.__call__`."""
        try:
            answer = await self._open(calls)
        except BaseException as error:  # noqa: BLE001  # whatever it is, the outcome is settled by it
            raise self._unanswered(error) from None
        closed = self._watch_connection(answer)
        try:
            return await self._relay(answer)
        finally:
            if closed is not None:  # a pooled connection outlives the exchange
                closed.remove_done_callback(self._connection_ended)
            answer.close()  # changes nothing once the body was read to its end; else it ends the upstream at once

    # Opening the upstream: everything before the response's head.

    async def _open(self, calls: Calls) -> Answer:
        exchange, upload = self._exchange, self._upload
        body = await upload.body()
        answer = await calls.call(exchange.method, exchange.target, exchange.request_headers, body, upload.sent)
        self._upload.answered = True
        if answer.status < 200:
            answer.close()
            raise UpstreamFailed("the upstream switched protocols")
        return answer

    def _unanswered(self, error: BaseException) -> BaseException:
        """What a failure before the head means: settles the outcome, and says what is to leave the chain."""
        settle = self._exchange.settle
        error = self._upload.misused or self._meant(error)
        if isinstance(error, asyncio.CancelledError):
            return error
        if isinstance(error, ClientDisconnected) or self._client_gone():
            settle(Outcome.CLIENT_DISCONNECTED, error)
            return error if isinstance(error, ClientDisconnected) else ClientDisconnected("the client left")
        if self._request.content.exception() is not None:
            settle(Outcome.REJECTED, error)
            return GatewayError(400, "bad_request_body", "the request's body is malformed")
        if isinstance(error, ShutDown):
            settle(Outcome.CANCELLED, error)
            return GatewayError(503, "shutting_down", "the gateway is shutting down")
        if isinstance(error, aiohttp.ConnectionTimeoutError):
            settle(Outcome.TIMED_OUT, error)
            return GatewayError(502, "upstream_unreachable", "the upstream could not be reached in time")
        if isinstance(error, TimedOut | TimeoutError):
            settle(Outcome.TIMED_OUT, error)
            if self._upload.receiving:
                return GatewayError(408, "request_timeout", "the request's body stopped arriving")
            return GatewayError(504, "upstream_timeout", "the upstream did not answer in time")
        if isinstance(error, _UNREACHABLE):
            settle(Outcome.UPSTREAM_FAILED, error)
            return GatewayError(502, "upstream_unreachable", "the upstream could not be reached")
        if isinstance(error, aiohttp.ClientError | OSError | UpstreamFailed):
            settle(Outcome.UPSTREAM_FAILED, error)
            return GatewayError(
                502, "upstream_failed", "the upstream broke off before it answered, or did not speak HTTP"
            )
        return error

    # Relaying the response.

    async def _relay(self, answer: Answer) -> web.StreamResponse:
        exchange, content = self._exchange, answer.content
        kept, reason = self._head(answer)
        # What has come along with the head goes out along with the head.
        first = b"" if exchange.before_end or content.exception() is not None else content.read_nowait()
        down = self._response(answer, kept, reason, first)
        try:
            self._waiting.on("write")
            self._check_first()
            head = ResponseHead(answer.status, answer.reason or "", kept)
            head_is_all = not first and content.at_eof()
            if exchange.before_end and head_is_all:
                exchange.response_head(head)
                await self._hold_the_end()
            try:
                await down.prepare(self._request)
            except (ConnectionError, aiohttp.ClientError) as error:
                raise ClientDisconnected("the client left before the response's head") from error
            exchange.response = down
            if exchange.head is None:
                exchange.response_head(head)
            if exchange.before_end and not head_is_all:
                await self._copy_but_the_end(content, down)
            elif not (isinstance(down, web.Response) and down.body):
                await self._copy(content, down, first)
                first = b""
            try:
                await down.write_eof()
            except (ConnectionError, aiohttp.ClientError) as error:
                raise ClientDisconnected("the client left before the response's end") from error
            finally:
                if first:
                    exchange.response_chunk(first)
        except BaseException as error:  # noqa: BLE001  # whatever it is, the client must see the cut
            raise self._broken(error, down) from None
        exchange.settle(Outcome.COMPLETED)
        return down

    def _check_first(self) -> None:
        if self._request.writer.output_size or self._exchange.ended is not None:
            raise RuntimeError("a middleware has begun a response of its own")

    def _head(self, answer: Answer) -> tuple[CIMultiDict[str], str | None]:
        """The fields that travel on, and the reason phrase; None for one that cannot."""
        exchange = self._exchange
        kept, exact = headers.response_headers(answer.headers)
        reason: str | None = answer.reason or ""
        if not headers.carriable_text(reason or ""):
            reason, exact = None, False
        exchange.exact = exact
        chunked = transfer_coding(answer.headers) == "chunked"
        framed = chunked or "Content-Length" in answer.headers
        exchange.end_verifiable = framed or answer.content.at_eof()
        return kept, reason

    def _response(self, answer: Answer, kept: CIMultiDict[str], reason: str | None, first: bytes) -> web.StreamResponse:
        """A response with this head, not yet prepared; its `body` is `first` where that is all there is."""
        measured = "Content-Length" in kept
        down: web.StreamResponse
        if first and (measured or self._request.version >= aiohttp.HttpVersion11):
            # aiohttp sends the head of a `Response` along with its first bytes, and that of any other at once.
            whole = self._exchange.end_verifiable and answer.content.at_eof()
            down = web.Response(status=answer.status, reason=reason, headers=kept, body=first if whole else None)
            if not measured:
                down.enable_chunked_encoding()
        else:
            down = web.StreamResponse(status=answer.status, reason=reason, headers=kept)
        down[NOT_OURS_TO_ADD] = [name for name in _ADDED_TO_RESPONSES if name not in kept]
        return down

    async def _copy(self, content: aiohttp.StreamReader, down: web.StreamResponse, chunk: bytes) -> None:
        """Copy `chunk`, and all that follows."""
        while chunk := chunk or await self._read(content):
            await self._write(down, chunk, chunk)
            chunk = b""

    async def _copy_but_the_end(self, content: aiohttp.StreamReader, down: web.StreamResponse) -> None:
        """Copy, and hold the end back until `Exchange.before_end` is done: a length's last byte, or the chunks' end."""
        left = down.content_length
        last = b""
        while chunk := await self._read(content):
            if left is not None:
                left -= len(chunk)
                chunk, last = (chunk[:-1], chunk[-1:]) if left == 0 else (chunk, b"")
            await self._write(down, chunk, chunk + last)
        await self._hold_the_end()
        await self._write(down, last, b"")

    async def _hold_the_end(self) -> None:
        """Await `Exchange.before_end`; how long that may take is for those to say who hold it."""
        self._waiting.on("")
        await self._exchange.hold_the_end()
        self._waiting.on("write")

    async def _read(self, content: aiohttp.StreamReader) -> bytes:
        """The upstream's next chunk; empty at the end."""
        self._waiting.on("idle")
        try:
            chunk = content.read_nowait() if self._upstream_closed else await content.readany()
        except (aiohttp.ClientError, OSError) as error:
            raise UpstreamFailed("the upstream broke off in the middle of its response") from error
        cut = not content.is_eof() or (self._upstream_reset and not self._exchange.end_verifiable)
        if not chunk and cut:
            raise UpstreamFailed("the upstream closed the connection in the middle of its response")
        return chunk

    async def _write(self, down: web.StreamResponse, data: bytes, seen: bytes) -> None:
        """Write `data` to the client; then the observers may know of what is `seen`, also when the client has gone."""
        self._waiting.on("write")
        try:
            if data:
                await down.write(data)
        except (ConnectionError, aiohttp.ClientError) as error:
            raise ClientDisconnected("the client left in the middle of the response") from error
        finally:
            if seen:
                self._exchange.response_chunk(seen)

    def _watch_connection(self, answer: Answer) -> asyncio.Future[None] | None:
        """See the upstream's connection end: aiohttp does not always tell the reader of a body (bad chunk size)."""
        self._content = answer.content
        if not answer.connected or answer.protocol is None:
            return None
        closed = answer.protocol.closed
        if closed is None:
            self._upstream_closed = True
        else:
            closed.add_done_callback(self._connection_ended)
        return closed

    def _connection_ended(self, closed: asyncio.Future[None]) -> None:
        self._upstream_closed = True
        self._upstream_reset = not closed.cancelled() and closed.exception() is not None
        content = self._content
        if (
            self._waiting.limit == "idle"
            and content is not None
            and not content.is_eof()
            and content.exception() is None
        ):
            content.set_exception(aiohttp.ClientPayloadError("the connection ended"))

    def _broken(self, error: BaseException, down: web.StreamResponse) -> BaseException:
        """What a failure after the head means: settles the outcome and breaks the client's transfer off."""
        settle = self._exchange.settle
        error = self._meant(error)
        if isinstance(error, ClientDisconnected) or self._client_gone():
            settle(Outcome.CLIENT_DISCONNECTED, error)
        elif isinstance(error, UpstreamFailed):
            settle(Outcome.UPSTREAM_FAILED, error)
        elif isinstance(error, TimedOut):
            settle(Outcome.TIMED_OUT, error)
        else:
            settle(Outcome.CANCELLED, error)
        self._break_off(down, gently=isinstance(error, UpstreamFailed | NotRecorded))
        return error

    def _break_off(self, down: web.StreamResponse, *, gently: bool) -> None:
        """End the client's connection so that the cut is seen.

        With a length or chunks a close without the end shows it, and what is on its way still arrives. A body that only
        the connection's end delimits needs a reset.
        """
        transport = self._request.transport
        if transport is None:
            return
        framed = down.content_length is not None or self._request.version >= aiohttp.HttpVersion11
        if gently and framed:
            transport.close()
            asyncio.get_running_loop().call_later(self._limits.write, transport.abort)
        else:
            reset(transport)

    # What the two halves share.

    def _client_gone(self) -> bool:
        transport = self._request.transport
        return transport is None or transport.is_closing()

    def _client_closed(self) -> bool:
        transport = self._request.transport
        return transport is not None and closed_by_peer(transport)

    def _interrupt(self, why: RelayError) -> None:
        if self._interrupted is None and self._task is not None:
            self._interrupted = why
            self._task.cancel()

    def _meant(self, error: BaseException) -> BaseException:
        """The reason behind a cancellation: ours, the client's leaving, or somebody else's."""
        if self._interrupted is not None and self._task is not None:
            self._task.uncancel()
            return self._interrupted
        if not isinstance(error, asyncio.CancelledError):
            return error
        self._exchange.settle(self._live.meaning_of_cancellation(self._request), error)
        return error
