"""The viewer as a relay shows it, in front of a stand-in of the recorder that tells what reaches it."""

from __future__ import annotations

import asyncio
import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec
import pytest
from aiohttp import web

from rawhttp import Answer, connect, exchange
from sidestream.options import Secret
from sidestream.testing import running
from sidestream.viewer.access import Access
from sidestream.viewer.front import Front

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

TOKEN = "a-token-of-more-than-16-characters"
HOME = Access(None)
LOCKED = Access(Secret(TOKEN))
BEARER = f"Authorization: Bearer {TOKEN}\r\n"
SESSION = f"Cookie: {LOCKED.cookie_name()}={LOCKED.cookie()}\r\n"
PAGE = "Accept: text/html,*/*;q=0.8\r\n"


class Recorder:
    """Answers on a unix socket with what it was asked; ``/ui/api/events`` answers bit by bit, as `told` says."""

    def __init__(self) -> None:
        self.reached: list[str] = []
        self.told: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def echo(self, request: web.Request) -> web.StreamResponse:
        self.reached.append(f"{request.method} {request.raw_path}")
        if request.path.endswith("/ui/api/events"):
            return await self._feed(request)
        body = len(await request.read())
        answer = {"path": request.raw_path, "headers": dict(request.headers), "body": body}
        return web.Response(body=msgspec.json.encode(answer), headers={"X-Echo": "1"})

    async def _feed(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while (piece := await self.told.get()) is not None:
            await response.write(piece)
        return response


@asynccontextmanager
async def fronted(folder: Path, access: Access, *, base: str = "") -> AsyncIterator[tuple[Recorder, str, Front]]:
    """A front, its recorder, and the address before the base."""
    recorder, inner, outer = Recorder(), web.Application(client_max_size=1 << 20), web.Application()
    inner.router.add_route("*", "/{tail:.*}", recorder.echo)
    front = Front(folder / "socket", lambda: access, base=base, raw_bodies=True)
    app = web.Application() if base else outer
    front.add_routes(app)
    if base:
        outer.add_subapp(base, app)
    runner = web.AppRunner(inner, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.UnixSite(runner, str(folder / "socket")).start()
        async with running(outer, auto_decompress=False, handler_cancellation=True) as url:
            yield recorder, url, front
    finally:
        await runner.cleanup()


def a_request(
    path: str, headers: str = "", *, method: str = "GET", host: str = "localhost", body: bytes = b""
) -> bytes:
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    return f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{headers}{length}\r\n".encode() + body


async def asked(url: str, path: str, headers: str = "", *, method: str = "GET", **more: Any) -> Answer:
    return await exchange(url, a_request(path, headers, method=method, **more), method=method)


async def seen(url: str, path: str, headers: str = "", **more: Any) -> tuple[str, dict[str, str]]:
    """The path and the headers (names in lower case) that reached the recorder."""
    answer = await asked(url, path, headers, **more)
    assert 200 == answer.status
    told = msgspec.json.decode(answer.body)
    return told["path"], {name.lower(): value for name, value in told["headers"].items()}


async def test_a_path_reaches_the_recorder_below_its_mount_as_it_came(tmp_path: Path) -> None:
    paths = [
        *(
            "/",
            "/overview?since=3d",
            "/deliveries",
            "/runs/a",
            "/runs/a/export/html",
            "/turns/a%20b",
            "/static/app.css",
        ),
        *("/ui/api/runs?q=%C3%BC&x", "/api/v1/trace/a", "/api/v1/dataset/byuser/a/b/traces"),
    ]
    async with fronted(tmp_path, LOCKED) as (_, url, _front):
        assert [f"/viewer{path}" for path in paths] == [(await seen(url, path, BEARER))[0] for path in paths]


async def test_nothing_but_the_viewer_is_reached(tmp_path: Path) -> None:
    paths = [
        *("/status", "/link", "/prune", "/delete", "/import", "/viewer/", "/viewer/ui/api/runs", "//status", "/runs"),
        *("/ui/../status", "/ui/../../status", "/ui/%2e%2e/status", "/static/.%2E/ui/api/runs", "/static/..\\ui/api"),
        *("/api/v1/push/../../../ui/api/runs", "/login/../ui/api/runs", "/api/v1/gateway/x", "/ui/%00", "/ui%2fapi/x"),
        *("http://localhost/ui/api/runs", "http://recorder/status", "*", "/ui/a#b"),
    ]
    async with fronted(tmp_path, HOME) as (recorder, url, _):
        for path in paths:
            for method in ("GET", "POST"):
                assert (await asked(url, path, method=method)).status in {400, 404}
    assert [] == recorder.reached


async def test_the_recorder_is_told_who_asks_by_the_relay_alone(tmp_path: Path) -> None:
    lies = (
        "X-Sidestream-Access: open\r\nx-sidestream-access: open\r\nX-SIDESTREAM-BASE: //evil\r\nX-Sidestream-New: 1\r\n"
    )
    async with fronted(tmp_path, LOCKED) as (_, url, _front):
        _, closed = await seen(url, "/api/v1/user/identity", lies)
        _, opened = await seen(url, "/api/v1/user/identity", lies + SESSION)
        _, hidden = await seen(url, "/static/app.css", f"Connection: X-Sidestream-Access, X-Sidestream-Base\r\n{lies}")
    for headers, access in ((closed, "closed"), (opened, "open"), (hidden, "closed")):
        ours = {name: value for name, value in headers.items() if name.startswith("x-sidestream")}
        assert {"x-sidestream-access": access, "x-sidestream-base": ""} == ours


async def test_credentials_end_at_the_relay_but_for_the_keys_of_those_who_push(tmp_path: Path) -> None:
    async with fronted(tmp_path, LOCKED) as (_, url, _front):
        _, looked = await seen(url, "/ui/api/runs", BEARER + SESSION)
        _, pushed = await seen(url, "/api/v1/push/trace", f"{SESSION}Authorization: Bearer inv-key\r\n", method="POST")
    assert set() == {"cookie", "authorization"} & set(looked)
    assert (None, "Bearer inv-key") == (pushed.get("cookie"), pushed["authorization"])


async def test_without_the_token_nothing_is_passed_on(tmp_path: Path) -> None:
    async with fronted(tmp_path, LOCKED) as (recorder, url, _):
        for path in ("/", "/runs/a", "/overview", "/ui/api/runs", "/ui/api/events", "/deliveries/redeliver"):
            for method in ("GET", "POST", "DELETE", "HEAD", "PUT", "OPTIONS"):
                answer = await asked(url, path, method=method)
                assert (401, "token_needed") == (answer.status, answer.field("x-sidestream-error"))
    assert [] == recorder.reached


async def test_a_browser_without_the_token_is_sent_to_the_page_that_asks_for_it(tmp_path: Path) -> None:
    async with fronted(tmp_path, LOCKED, base="/looking") as (recorder, url, _):
        answer = await asked(url, "/looking/runs/a", PAGE)
        page = await seen(url, "/looking/login", PAGE)
    assert (303, "/looking/login", ["GET /viewer/login"]) == (answer.status, answer.field("Location"), recorder.reached)
    assert ("closed", "/looking") == (page[1]["x-sidestream-access"], page[1]["x-sidestream-base"])


async def test_another_sites_page_is_refused_everywhere(tmp_path: Path) -> None:
    form = "Origin: https://evil.example\r\nContent-Type: text/plain\r\n"
    async with fronted(tmp_path, HOME) as (recorder, url, _):
        for path in ("/", "/ui/api/runs", "/api/v1/push/trace", "/login", "/static/app.css"):
            posted = await asked(url, path, form, method="POST", body=b'{"a": "="}')
            rebound = await asked(url, path, host="rebound.example")
            assert [(403, "foreign_origin"), (403, "foreign_host")] == [
                (answer.status, answer.field("x-sidestream-error")) for answer in (posted, rebound)
            ]
    assert [] == recorder.reached


def a_form(token: str) -> dict[str, Any]:
    headers = "Content-Type: application/x-www-form-urlencoded\r\n"
    return {"headers": headers, "method": "POST", "body": f"token={quote(token)}".encode()}


@pytest.mark.parametrize("base", ["", "/looking"])
async def test_who_knows_the_token_is_let_in_and_remembered(base: str, tmp_path: Path) -> None:
    async with fronted(tmp_path, LOCKED, base=base) as (_, url, _front):
        answers = [await asked(url, f"{base}/login", **a_form(TOKEN)), await asked(url, f"{base}/login?token={TOKEN}")]
        for answer in answers:
            kept = answer.field("Set-Cookie") or ""
            name, *attributes = kept.split("; ")
            assert (303, f"{base}/", f"{LOCKED.cookie_name()}={LOCKED.cookie()}") == (
                answer.status,
                answer.field("Location"),
                name,
            )
            assert {"HttpOnly", "SameSite=Lax", f"Path={base}/", "Max-Age=2592000"} == set(attributes)
            assert "no-store" == answer.field("Cache-Control")
            assert TOKEN.encode() not in answer.head + answer.body
            assert "open" == (await seen(url, f"{base}/runs/a", f"Cookie: {name}\r\n"))[1]["x-sidestream-access"]


async def test_who_does_not_know_the_token_is_asked_again(tmp_path: Path) -> None:
    async with fronted(tmp_path, LOCKED) as (recorder, url, _):
        for given in ("", "wrong", TOKEN[:-1], f"{TOKEN} ", "ü", LOCKED.cookie(), "x" * 5000):
            typed, linked = (
                await asked(url, "/login", **a_form(given)),
                await asked(url, f"/login?token={quote(given)}"),
            )
            assert [(303, "/login?wrong", None)] * 2 == [
                (answer.status, answer.field("Location"), answer.field("Set-Cookie")) for answer in (typed, linked)
            ]
    assert [] == recorder.reached


async def test_a_form_without_an_end_is_not_read_for_ever(tmp_path: Path) -> None:
    async with fronted(tmp_path, LOCKED) as (_, url, _front), connect(url) as client:
        await client.send(b"POST /login HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        await client.send(b"1000\r\n" + bytes(0x1000) + b"\r\n1\r\nx\r\n")
        assert re.match(rb"HTTP/1.1 303 .*", await client.head())


async def test_a_form_that_does_not_arrive_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidestream.viewer.front._PATIENCE", 0.05)
    async with fronted(tmp_path, LOCKED) as (_, url, _front), connect(url) as client:
        await client.send(b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\ntoken=")
        assert re.match(rb"HTTP/1.1 303 .*", await client.head())


async def test_a_form_that_is_not_well_formed_is_a_wrong_one(tmp_path: Path) -> None:
    async with fronted(tmp_path, LOCKED) as (_, url, _front), connect(url) as client:
        await client.send(b"POST /login HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n")
        assert re.match(rb"HTTP/1.\d (303|400) .*", await client.head())


async def test_who_is_known_already_does_not_have_to_say_the_token(tmp_path: Path) -> None:
    async with fronted(tmp_path, LOCKED) as (_, url, _front):
        known = await asked(url, "/login", SESSION)
    async with fronted(tmp_path, HOME) as (_, url, _front):
        nobody = await asked(url, "/login")
    assert [(303, "/")] * 2 == [(each.status, each.field("Location")) for each in (known, nobody)]
    assert nobody.field("Set-Cookie") is None


async def test_while_the_recorder_is_not_there_a_page_looks_again_and_a_program_is_told(tmp_path: Path) -> None:
    app = web.Application()
    Front(tmp_path / "nobody", lambda: HOME, raw_bodies=True).add_routes(app)
    async with running(app) as url:
        page, api = await asked(url, "/", PAGE), await asked(url, "/ui/api/runs")
        posted = await asked(url, "/runs/a/delete", PAGE, method="POST")
    assert (503, "1", "no-store") == (page.status, page.field("Refresh"), page.field("Cache-Control"))
    assert b"<script" not in page.body
    for answer in (api, posted):
        assert (503, "recorder_unavailable") == (answer.status, answer.field("x-sidestream-error"))
        assert {"error", "detail"} == set(msgspec.json.decode(answer.body))


async def test_a_piece_arrives_before_the_next_is_there_and_the_end_of_the_front_ends_it(tmp_path: Path) -> None:
    async with fronted(tmp_path, HOME) as (recorder, url, front), connect(url) as client:
        await client.send(a_request("/ui/api/events"))
        recorder.told.put_nowait(b"data: 1\n\n")
        assert (await client.until(b"data: 1\n\n")).startswith(b"HTTP/1.1 200")
        recorder.told.put_nowait(b"data: 2\n\n")
        assert (await client.until(b"data: 2\n\n")).endswith(b"data: 2\n\n")
        front.end_streams()
        await client.closed()
        again = await asked(url, "/ui/api/events")
    assert (503, "close") == (again.status, again.field("Connection"))


async def test_a_head_has_no_body(tmp_path: Path) -> None:
    async with fronted(tmp_path, HOME) as (recorder, url, _), connect(url) as client:
        await client.send(a_request("/runs/a", method="HEAD") + a_request("/overview", "Connection: close\r\n"))
        first = await client.answer(method="HEAD")
        second = await client.answer()
    assert (200, "1", b"") == (first.status, first.field("X-Echo"), first.body)
    assert "/viewer/overview" == msgspec.json.decode(second.body)["path"]
    assert ["HEAD /viewer/runs/a", "GET /viewer/overview"] == recorder.reached


async def test_a_body_that_the_recorder_does_not_take_is_refused_by_it(tmp_path: Path) -> None:
    async with fronted(tmp_path, HOME) as (_, url, _front):
        assert 413 == (await asked(url, "/api/v1/push/trace", method="POST", body=bytes(2 << 20))).status


async def test_a_request_that_two_could_read_differently_is_not_passed_on(tmp_path: Path) -> None:
    framings = [
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: 4\r\nContent-Length: 5\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Content-Length: +4\r\n",
        "Content-Length : 4\r\n",
        "Host: evil.example\r\n",
    ]
    smuggled = b"0\r\n\r\nGET /status HTTP/1.1\r\nHost: localhost\r\n\r\n"
    async with fronted(tmp_path, HOME) as (recorder, url, _):
        for framing in framings:
            async with connect(url) as client:
                await client.send(a_request("/api/v1/push/trace", framing, method="POST") + smuggled)
                assert b" 400 " in (await client.head())[:13]
    assert [] == recorder.reached
