"""An Invariant Explorer for tests: a real server on a loopback port, with the real one's manners, bad ones included.

What it does was measured at the real one. The duplicates, the 500s for a client's mistakes, the connection closed after
a 200, and the standstill after two appends at a time are all on purpose.
"""

from __future__ import annotations

import asyncio
import heapq
import json
import re
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from aiohttp import web

from sidestream.testing.explorer_rules import PushedTrace, Refused, checked, stored

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

_KEY = re.compile(r"Bearer (inv-[0-9a-f]{64})")
_BODY_LIMIT = 1 << 30


@dataclass
class _Failure:
    method: str
    path: str
    status: int
    times: int
    retry_after: str | None
    store: bool
    hang: bool
    drop: bool


class FakeExplorer:
    """``async with FakeExplorer() as explorer:`` serves at `url` and keeps what is pushed in `traces`.

    `requests` has the method and path of every request so far, `sizes` the bytes of what was posted; `policies` is what
    the policy endpoint answers. Keys in `refused` get a 401. `appends` has the ids of the traces that were appended to,
    in order; an append takes `append_seconds`, and goes on to its end when the client has left. To delete a trace, take
    it out of `traces`.
    """

    def __init__(self) -> None:
        self.url = ""
        self.traces: list[PushedTrace] = []
        self.requests: list[tuple[str, str]] = []
        self.sizes: list[int] = []
        self.policies: list[dict[str, Any]] = []
        self.refused: set[str] = set()
        self.appends: list[str] = []
        self.append_seconds = 0.02
        """What its database takes, so that two appends can meet."""
        self.most_appending = 0
        """The most appends that have been under way at a time."""
        self._failures: list[_Failure] = []
        self._appending: dict[str, asyncio.Task[None]] = {}
        self._frozen = False
        self._closing = asyncio.Event()
        self._changed = asyncio.Condition()
        app = web.Application(middlewares=[self._front], client_max_size=_BODY_LIMIT)
        api = "/api/v1"
        app.router.add_post(f"{api}/push/trace", self._push)
        app.router.add_post(f"{api}/trace/{{id}}/messages", self._append)
        app.router.add_get(f"{api}/trace/{{id}}", self._get)
        app.router.add_get(f"{api}/user/identity", self._identity)
        app.router.add_get(f"{api}/dataset/byuser/{{user}}/{{dataset}}/policy", self._policy)
        app.router.add_get(f"{api}/dataset/byuser/{{user}}/{{dataset}}/traces", self._list)
        self._runner = web.AppRunner(
            app, access_log=None, auto_decompress=False, handler_cancellation=True, shutdown_timeout=1.0
        )

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        await self._listen(0)
        self.url = f"http://127.0.0.1:{self._port}"
        return self

    async def _listen(self, port: int) -> None:
        self._site = web.TCPSite(self._runner, "127.0.0.1", port)
        await self._site.start()
        self._port = self._runner.addresses[0][1]

    async def go_down(self) -> None:
        """Be gone: nobody listens, and what was connected is cut off. What was pushed is kept."""
        await self._site.stop()
        if self._runner.server:
            await self._runner.server.shutdown(0.01)  # 0 would be for ever

    async def come_back(self) -> None:
        """Listen again, at the same address."""
        await self._listen(self._port)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        for task in self._appending.values():
            task.cancel()
        await self._runner.cleanup()

    @property
    def frozen(self) -> bool:
        """Whether two appends to one trace at a time have brought the server to a standstill, for good."""
        return self._frozen

    @property
    def appending(self) -> int:
        """How many appends are under way."""
        return len(self._appending)

    def exchanges(self, dataset: str | None = None) -> list[str]:
        """Which exchanges the traces say to be, in order of arrival; of one dataset, or of all."""
        traces = [trace for trace in self.traces if dataset is None or trace.dataset == dataset]
        return [trace.metadata["sidestream"]["exchange"] for trace in traces]

    def fail_next(
        self,
        status: int = 503,
        times: int = 1,
        *,
        method: str = "POST",
        path: str = "",
        retry_after: str | float | None = None,
        store: bool = False,
        hang: bool = False,
        drop: bool = False,
    ) -> None:
        """Make the next `times` requests of `method` fail with `status` (after those already scripted for it).

        With `path`, only those whose path ends so: ``/messages`` for appends, ``/push/trace`` for pushes. `store`
        stores what was sent all the same; `hang` never answers; `drop` closes the connection without an answer.
        """
        header = None if retry_after is None else str(retry_after)
        self._failures.append(_Failure(method, path, status, times, header, store, hang, drop))

    async def wait_for(self, n: int, timeout: float = 5.0) -> list[PushedTrace]:  # noqa: ASYNC109 (reads best in a test)
        """The traces, once there are `n` of them; `TimeoutError` after `timeout` seconds."""
        await self._until(lambda: len(self.traces) >= n, timeout, f"{n} traces")
        return self.traces

    async def wait_for_appends(self, n: int, timeout: float = 5.0) -> list[str]:  # noqa: ASYNC109
        """`appends`, once there are `n`; `TimeoutError` after `timeout` seconds."""
        await self._until(lambda: len(self.appends) >= n, timeout, f"{n} appends")
        return self.appends

    async def wait_for_requests(self, n: int, timeout: float = 5.0) -> list[tuple[str, str]]:  # noqa: ASYNC109
        """The requests, once `n` have arrived, whatever became of them; `TimeoutError` after `timeout` seconds."""
        await self._until(lambda: len(self.requests) >= n, timeout, f"{n} requests")
        return self.requests

    async def _until(self, true: Callable[[], bool], seconds: float, what: str) -> None:
        try:
            async with asyncio.timeout(seconds), self._changed:
                await self._changed.wait_for(true)
        except TimeoutError:
            have = f"{len(self.requests)} requests and {len(self.traces)} traces"
            raise TimeoutError(f"waited {seconds:g} s for {what}; there are {have}") from None

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    @web.middleware
    async def _front(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        self.requests.append((request.method, request.path))
        await self._notify()
        if self._frozen:
            await self._never(request)
        if request.path.endswith("/"):
            return web.Response(status=307, headers={"Location": request.path.rstrip("/")})
        if request.method == "POST":
            self.sizes.append(len(await request.read()))
        if failure := self._next_failure(request):
            return await self._fail(failure, request, handler)
        return await self._answered(request, handler)

    async def _answered(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        try:
            self._let_in(request)
            return await handler(request)
        except Refused as refused:
            return _json({"detail": str(refused)}, refused.status)
        except web.HTTPNotFound:
            return _json({"detail": "Not Found"}, 404)

    def _let_in(self, request: web.Request) -> None:
        if _key_of(request) in self.refused:
            raise Refused(401, "You must provide a valid API key.")

    def _next_failure(self, request: web.Request) -> _Failure | None:
        failure = next(
            (f for f in self._failures if request.method == f.method and request.path.endswith(f.path)), None
        )
        if failure is None:
            return None
        failure.times -= 1
        if failure.times <= 0:
            self._failures.remove(failure)
        return failure

    async def _fail(
        self,
        failure: _Failure,
        request: web.Request,
        handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    ) -> web.StreamResponse:
        if failure.store:
            await self._answered(request, handler)
        if failure.hang:
            await self._never(request)
        if failure.drop:
            _hang_up(request)
        response = _json({"detail": "scripted"}, failure.status)
        if failure.retry_after is not None:
            response.headers["Retry-After"] = failure.retry_after
        return response

    async def _never(self, request: web.Request) -> None:
        """Wait until the client leaves (this is cancelled then) or the server ends."""
        await self._closing.wait()
        _hang_up(request)

    async def _push(self, request: web.Request) -> web.StreamResponse:
        payload = await _payload(request)
        conversations, metadata, annotations = checked(payload)
        key, dataset = _key_of(request), payload.get("dataset")
        new = [
            PushedTrace(key, dataset, [stored(message) for message in conversation], facts or {})
            for conversation, facts in zip(conversations, metadata, strict=True)
        ]
        self.traces += new
        await self._notify()
        for trace, notes in zip(new, annotations, strict=True):  # the traces are committed already
            if not all("content" in note and "address" in note for note in notes):
                raise Refused(500, "annotation")
            trace.annotations += notes
        answer = {"id": [trace.id for trace in new], "dataset": dataset, "username": _user(key)}
        response = _json(answer)
        if not all(trace.has_tool_registry for trace in new):
            await response.prepare(request)
            await response.write_eof()
            _hang_up(request)
        return response

    async def _append(self, request: web.Request) -> web.StreamResponse:
        payload = await _payload(request)
        messages = payload.get("messages")
        if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
            raise Refused(400, "messages must be a non-empty list of messages")
        trace = self._find(request)
        if trace.id in self._appending:
            self._frozen = True
            await self._never(request)
        new = [stored(message) for message in messages]
        task = self._appending[trace.id] = asyncio.ensure_future(self._merge(trace, new))
        self.most_appending = max(self.most_appending, self.appending)
        await asyncio.shield(task)
        if self._frozen:
            await self._never(request)
        return _json({"success": True})

    async def _merge(self, trace: PushedTrace, new: list[dict[str, Any]]) -> None:
        await asyncio.sleep(self.append_seconds)
        if self._frozen:
            return

        def when(message: dict[str, Any]) -> str:
            return str(message.get("timestamp") or trace.created)

        trace.messages = list(heapq.merge(new, trace.messages, key=when))  # a tie: the new one first
        self.appends.append(trace.id)
        del self._appending[trace.id]
        await self._notify()

    async def _get(self, request: web.Request) -> web.StreamResponse:
        return _json(self._find(request).shown())

    def _find(self, request: web.Request) -> PushedTrace:
        try:
            wanted = str(uuid.UUID(request.match_info["id"]))
        except ValueError:
            raise Refused(500, "not a uuid") from None
        for trace in self.traces:
            if trace.id == wanted and trace.key == _key_of(request):
                return trace
        raise Refused(404, "Trace not found")

    async def _identity(self, request: web.Request) -> web.StreamResponse:
        return _json({"username": _user(_key_of(request))})

    async def _policy(self, request: web.Request) -> web.StreamResponse:
        if not self._of_dataset(request):
            raise Refused(404, "Dataset not found")
        return _json({"policies": self.policies})

    async def _list(self, request: web.Request) -> web.StreamResponse:
        return _json([{"id": t.id, "extra_metadata": t.shown()["extra_metadata"]} for t in self._of_dataset(request)])

    def _of_dataset(self, request: web.Request) -> list[PushedTrace]:
        wanted = request.match_info["user"], request.match_info["dataset"]
        return [trace for trace in self.traces if (_user(trace.key), trace.dataset) == wanted]


def _json(payload: Any, status: int = 200) -> web.Response:
    try:
        return web.Response(
            body=json.dumps(payload, ensure_ascii=False, allow_nan=False).encode(),
            status=status,
            content_type="application/json",
        )
    except ValueError:  # a lone surrogate: from then on this cannot be shown
        return web.Response(status=500, text="Internal Server Error")


def _hang_up(request: web.Request) -> None:
    if request.transport:
        request.transport.close()
    raise asyncio.CancelledError


def _key_of(request: web.Request) -> str:
    header = request.headers.get("Authorization")
    if header is None and request.path.endswith("/user/identity"):
        raise Refused(403, "Not authenticated")
    if match := _KEY.fullmatch(header or ""):
        return match[1]
    raise Refused(401, "You must provide a valid API key.")


def _user(key: str) -> str:
    return f"user-{key[4:12]}"


async def _payload(request: web.Request) -> dict[str, Any]:
    """The body of a POST; compressed, or with a number JSON does not have, it is a 500."""
    if "Content-Encoding" in request.headers:
        raise Refused(500, "body")
    try:
        payload = json.loads(await request.read())
        json.dumps(payload, allow_nan=False)
    except ValueError:
        raise Refused(500, "body") from None
    if not isinstance(payload, dict):
        raise Refused(500, "body")
    return payload
