"""Conversations into an Invariant Explorer: the first turn of each as a new trace, and the others put behind it.

Explorer stores what it is sent before it is done with the request, and has no protection against duplicates. After a
lost connection, a timeout, and some replies (`sidestream.sinks.explorer_replies`), nobody knows whether it arrived.

So each push says in ``metadata.sidestream`` which exchange it is, and so does the last message of each turn.
`Explorer.find` looks for that before anything of which nobody knows is sent again: for a push among the traces of the
dataset, for an append in its trace.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import quote, urlsplit

import aiohttp
from aiohttp.http import SERVER_SOFTWARE
from multidict import CIMultiDict
from yarl import URL

from sidestream.errors import Ambiguous, Retryable, Unauthorized, Undeliverable, UpstreamFailed
from sidestream.options import Duration, Secret
from sidestream.sinks import explorer_replies as replies
from sidestream.sinks.base import Found, Sink
from sidestream.sinks.explorer_appends import Appends
from sidestream.sinks.explorer_list import Search
from sidestream.sinks.explorer_push import append_body, push_body
from sidestream.sinks.explorer_trace import TurnSearch
from sidestream.sinks.key_file import KeyFile, is_sendable
from sidestream.traces.model import Unit
from sidestream.wire.calling import Calls
from sidestream.wire.upload import in_pieces
from sidestream.wire.upstream import CleanConnector, Limits, Upstream

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator

    from sidestream.traces.model import Turn
    from sidestream.wire.calling import Answer

_TIMEOUT = Duration(30)
_SETTLE = Duration(10)
_CONNECT_SECONDS = 10.0
_IN_THREAD_FROM = 256 << 10
_IN_PIECES_FROM = 256 << 10
_LIST_SECONDS = 600.0
# Shorter than any server's of note (uvicorn: 5 s), or a push would meet a connection that is just being closed.
_KEEPALIVE_SECONDS = 2.0
_FAILURES: Final = (aiohttp.ClientError, OSError, UpstreamFailed)
"""Of a connection; a `TimeoutError` is an `OSError`."""


class Explorer(Sink):
    """Show every answered call in the Explorer at `url`.

    With the `mode` ``conversation`` there is one trace per conversation, and each call adds to it what is new; with
    ``exchange`` there is one per call, each with all of the history that the call sent along.
    The key is the one the call brought along. Where it brought none, or that key is not known any more after a
    restart, it is `api_key`, or the one in the file `api_key_file`, which may be replaced at any time. `concurrency`
    requests run at the same time, never two of them for one trace, and each for at most `timeout` seconds. What one
    brought whose end was not seen, or that was answered with 500 or the like, is looked for `settle` seconds later,
    before it is sent again.
    """

    def __init__(
        self,
        *,
        url: str,
        api_key: Secret | None = None,
        api_key_file: str | None = None,
        mode: Literal["conversation", "exchange"] = "conversation",
        concurrency: int = 4,
        timeout: Duration = _TIMEOUT,
        settle: Duration = _SETTLE,
    ) -> None:
        if concurrency < 1:
            raise ValueError("concurrency must be 1 or more")
        if not timeout > 0:
            raise ValueError("timeout must be more than 0")
        if api_key and api_key_file:
            raise ValueError("api_key and api_key_file must not both be given")
        if api_key and not is_sendable(api_key):
            raise ValueError("api_key must be printable ASCII without spaces: inv- and 64 hexadecimal digits")
        self.unit = Unit.TRACE if mode == "conversation" else Unit.EXCHANGE
        self.concurrency = concurrency
        self.settle = settle
        self._api = URL(f"{_origin(url)}/api/v1", encoded=True)
        self._api_key = api_key or None
        self._key_file = KeyFile(api_key_file) if api_key_file is not None else None
        self._timeout = timeout
        self._appends = Appends(settle, time.monotonic)
        self._connector: CleanConnector
        self._calls: Calls
        self._looking: asyncio.Lock

    @property
    def needs_trace_key(self) -> bool:
        """True when there is no key to fall back to."""
        return self._api_key is None and self._key_file is None

    def accepts(self, turn: Turn) -> bool:
        """Only calls the provider answered with a 2xx: its error answers are not conversations."""
        status = turn.metadata.get("status")
        return isinstance(status, int) and 200 <= status <= 299

    async def open(self) -> None:
        """Make ready to connect: no cookies, no redirects, no proxies from the environment."""
        connect = min(_CONNECT_SECONDS, self._timeout / 2)  # so that a timeout tells whether anything was sent
        limits = Limits(connect=connect, first_byte=self._timeout, idle=self._timeout, write=self._timeout)
        self._looking = asyncio.Lock()
        self._connector = CleanConnector(limit=0, keepalive_timeout=_KEEPALIVE_SECONDS)
        self._calls = Calls(Upstream(self._api.origin(), self._api.raw_path, limits), self._connector)

    async def close(self) -> None:
        """Close all connections."""
        await self._connector.close()

    async def deliver(self, turn: Turn, credential: Secret | None, attempt: int) -> str | None:
        """Put `turn` behind its trace, or push it as a new one; returns the trace's id there."""
        authorization = await self._authorization(credential)
        body = await _body(turn, attempt, self.unit)
        if turn.remote is None:
            return await self._push(body, authorization)
        with self._appends.one(turn.remote), _told(self._timeout):
            async with self._post(f"/trace/{quote(turn.remote, safe='')}/messages", body, authorization) as reply:
                await replies.appended(reply)
        return turn.remote

    async def find(self, turn: Turn, credential: Secret | None) -> Found | None:
        """Look for the turn in its trace, or for a trace that says to be this exchange, in the user's dataset."""
        authorization = await self._authorization(credential)
        look = self._search if turn.remote is None else self._search_trace
        try:
            async with self._looking:  # one at a time: a list can be long
                async with asyncio.timeout(_LIST_SECONDS):
                    return await look(turn, authorization)
        except _FAILURES as error:
            raise Retryable(f"Explorer could not be asked: {type(error).__name__}") from error

    async def _push(self, body: bytes, authorization: str) -> str | None:
        with _told(self._timeout):
            async with self._post("/push/trace", body, authorization) as reply:
                remote = await replies.pushed(reply)
        if remote is None and self.unit is Unit.TRACE:  # what follows must know where
            raise Ambiguous("the trace was stored, but the answer does not say as which")
        return remote

    async def _search(self, turn: Turn, authorization: str) -> Found | None:
        async with self._get("/user/identity", authorization) as reply:
            if reply.status != 200:
                raise replies.unanswered(reply)
            async with asyncio.timeout(self._timeout):
                user = quote(await replies.username(reply), safe="")
        search = Search(turn.id)
        async with self._get(f"/dataset/byuser/{user}/{quote(turn.dataset, safe='')}/traces", authorization) as reply:
            if reply.status == 404:
                return None  # the dataset does not exist
            if reply.status != 200:
                raise replies.unanswered(reply)
            async for data in self._pieces(reply):
                search.feed(data)
                if search.found is not None:
                    return search.found
        search.end()
        return search.found

    async def _search_trace(self, turn: Turn, authorization: str) -> Found | None:
        search = TurnSearch(turn.id)
        async with self._get(f"/trace/{quote(turn.remote or '', safe='')}", authorization) as reply:
            if reply.status == 404:
                raise await replies.missing(reply)
            if reply.status != 200:
                raise replies.unanswered(reply)
            async for data in self._pieces(reply):
                search.feed(data)
                if search.found:
                    return Found(turn.remote)
        search.end()
        return None

    async def _authorization(self, credential: Secret | None) -> str:
        key = credential or self._api_key
        if key is None and self._key_file is not None:
            key = await asyncio.to_thread(self._key_file.read)
        if not key or not is_sendable(key):
            raise Unauthorized("the key of the call cannot be sent in a header")
        return f"Bearer {key.reveal()}"

    @contextlib.asynccontextmanager
    async def _post(self, path: str, body: bytes, authorization: str) -> AsyncGenerator[Answer]:
        headers = _headers(authorization)
        headers["Content-Type"] = "application/json"
        headers["Content-Length"] = str(len(body))
        async with asyncio.timeout(self._timeout):
            data = body if len(body) < _IN_PIECES_FROM else in_pieces(body)
            answer = await self._calls.call("POST", path, headers, data, _nothing)
            with contextlib.closing(answer):
                yield answer

    @contextlib.asynccontextmanager
    async def _get(self, path: str, authorization: str) -> AsyncGenerator[Answer]:
        async with asyncio.timeout(self._timeout):
            answer = await self._calls.call("GET", path, _headers(authorization), None, _nothing)
        with contextlib.closing(answer):
            yield answer

    async def _pieces(self, answer: Answer) -> AsyncIterator[bytes]:
        """The body of an answer, as it comes, none of it too late."""
        while True:
            async with asyncio.timeout(self._timeout):
                data = await answer.content.readany()
            if not data:
                return
            yield data


def _headers(authorization: str) -> CIMultiDict[str]:
    return CIMultiDict(
        {"Accept": "*/*", "Accept-Encoding": "identity", "Authorization": authorization, "User-Agent": SERVER_SOFTWARE}
    )


def _nothing() -> None:
    """A request has been sent: nobody here waits for that."""


async def _body(turn: Turn, attempt: int, unit: Unit) -> bytes:
    try:
        if turn.weight < _IN_THREAD_FROM:
            return _encoded(turn, attempt, unit)
        return await asyncio.to_thread(_encoded, turn, attempt, unit)
    except (TypeError, ValueError, AttributeError, RecursionError) as error:
        # A surrogate, which Explorer would take and then choke on; or not a turn at all.
        raise Undeliverable(f"it cannot be sent as JSON: {type(error).__name__}") from error


def _encoded(turn: Turn, attempt: int, unit: Unit) -> bytes:
    if turn.remote is not None:
        return append_body(turn)
    return push_body(turn, {"exchange": turn.id, "attempt": attempt}, unit)


@contextlib.contextmanager
def _told(timeout: Duration) -> Iterator[None]:
    """What a failure of the connection says of a request that changes something."""
    try:
        yield
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
        raise Retryable(f"there is no connection: {type(error).__name__}") from error
    except TimeoutError as error:
        raise Ambiguous(f"no reply within {timeout}") from error
    except _FAILURES as error:
        raise Ambiguous(f"the connection failed: {type(error).__name__}") from error


def _origin(url: str) -> str:
    """`url` without trailing slashes, if it can be one; an error does not repeat it, it may hold a password."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 (raises for a bad one)
    except ValueError as error:
        raise ValueError("url is not a URL") from error
    if not url.isprintable() or " " in url or parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("url must be the address of an Explorer, such as https://explorer.example.com")
    if "@" in parts.netloc:
        raise ValueError("url must not hold a user name or password; the key goes into api_key")
    if "?" in url or "#" in url:
        raise ValueError("url must not have a query or a fragment")
    return url.rstrip("/")
