"""Who may look: what a request has to show, by the machine's own names and elsewhere."""

from __future__ import annotations

import hashlib
import hmac
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from rawhttp import connect
from sidestream.errors import GatewayError
from sidestream.options import Secret
from sidestream.testing import running
from sidestream.viewer.access import Access, Standing, is_loopback

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    Shown = Callable[..., Awaitable[str | None]]

TOKEN = "a-token-of-more-than-16-characters"
HOME = Access(None, ("traces.example.com", "10.1.2.3"))
ANYWHERE = Access(None, any_host=True)
LOCKED = Access(Secret(TOKEN))
NAME = LOCKED.cookie_name()
OTHER = Access(Secret("another-token-of-some-length"))


@asynccontextmanager
async def guarded(access: Access) -> AsyncIterator[Shown]:
    """Gives what tells what a request with some headers has shown: a standing, or the code of the refusal."""

    async def tell(request: web.Request) -> web.Response:
        try:
            return web.Response(headers={"X-Shown": access.standing(request).value})
        except GatewayError as error:
            return web.Response(headers={"X-Shown": error.code})

    app = web.Application()
    app.router.add_route("*", "/", tell)
    async with running(app) as url, connect(url) as client:

        async def shown(headers: Mapping[str, str], method: str = "GET") -> str | None:
            fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            await client.send(f"{method} / HTTP/1.1\r\n{fields}\r\n".encode())
            return (await client.answer(method=method)).field("X-Shown")

        yield shown


async def test_by_a_name_of_the_machine_and_by_a_configured_one_all_may_look() -> None:
    hosts = [
        *("localhost", "localhost:8005", "LOCALHOST:80", "localhost.", "localhost.:8005"),
        *("127.0.0.1", "127.0.0.1:65535", "127.8.9.10:1", "[::1]", "[::1]:8005", "[0:0:0:0:0:0:0:1]:8005"),
        *("agents.localhost:8005", "Traces.Example.COM", "traces.example.com.:443", "10.1.2.3:8005"),
    ]
    async with guarded(HOME) as shown:
        assert dict.fromkeys(hosts, Standing.OPEN) == {host: await shown({"Host": host}) for host in hosts}


async def test_a_name_that_was_made_to_point_here_is_refused() -> None:
    hosts = [
        *("", "example.com", "attacker.example:8005", "localhost.example.com", "127.0.0.1.example.com", "xlocalhost"),
        *("traces.example.com.evil.example", "evil-traces.example.com", "sub.traces.example.com", "192.168.1.2:8005"),
        *("0.0.0.0:8005", "[::]:8005", "[::2]", "127.1", "0x7f.0.0.1", "2130706433", "localhost:", "localhost:8005x"),
        *("localhost:123456", "localhost:8005:8005", "user@localhost", "localhost/", "::1", "[::1", "[localhost]"),
        *("localhost..", ".", "[]", "localhost evil.example", "localhost,evil.example"),
    ]
    async with guarded(HOME) as shown:
        assert dict.fromkeys(hosts, "foreign_host") == {host: await shown({"Host": host}) for host in hosts}


async def test_where_others_look_after_it_or_a_token_is_needed_every_name_is_right() -> None:
    async with guarded(ANYWHERE) as shown:
        assert Standing.OPEN == await shown({"Host": "anything.example"})
    async with guarded(LOCKED) as shown:
        assert Standing.CLOSED == await shown({"Host": "anything.example"})


async def test_a_page_asks_only_where_it_comes_from() -> None:
    own = ["http://localhost:8005", "HTTP://LOCALHOST:8005", "https://localhost:8005"]  # something in front speaks TLS
    foreign = [
        *("http://localhost", "http://localhost:3000", "http://127.0.0.1:8005", "https://evil.example"),
        *("http://localhost:8005.evil.example", "http://evil.example://localhost:8005", "localhost:8005", "null", ""),
    ]
    expected = dict.fromkeys(own, Standing.OPEN) | dict.fromkeys(foreign, "foreign_origin")
    async with guarded(HOME) as shown:
        for method in ("GET", "POST", "DELETE", "HEAD"):
            asked = {each: await shown({"Host": "localhost:8005", "Origin": each}, method) for each in expected}
            assert expected == asked


@pytest.mark.parametrize("access", [ANYWHERE, LOCKED], ids=["any host", "token"])
async def test_an_origin_without_a_name_is_foreign_also_where_no_host_is_said(access: Access) -> None:
    async with guarded(access) as shown:
        for origin in ("null", ""):
            assert "foreign_origin" == await shown({"Host": "", "Origin": origin})


@pytest.mark.parametrize("access", [HOME, ANYWHERE], ids=["home", "any host"])
async def test_from_another_site_one_may_come_by_a_link_and_do_nothing_else(access: Access) -> None:
    expected = {
        ("GET", "none", "navigate", "document"): Standing.OPEN,
        ("GET", "same-origin", "cors", "empty"): Standing.OPEN,
        ("POST", "same-origin", "navigate", "document"): Standing.OPEN,
        ("DELETE", "same-origin", "cors", "empty"): Standing.OPEN,
        ("GET", "cross-site", "navigate", "document"): Standing.OPEN,
        ("GET", "same-site", "navigate", "document"): Standing.OPEN,
        ("GET", "cross-site", "navigate", "iframe"): "foreign_origin",
        ("GET", "cross-site", "navigate", "object"): "foreign_origin",
        ("GET", "cross-site", "no-cors", "script"): "foreign_origin",
        ("GET", "cross-site", "no-cors", "image"): "foreign_origin",
        ("GET", "cross-site", "cors", "empty"): "foreign_origin",
        ("GET", "same-site", "no-cors", "document"): "foreign_origin",
        ("GET", "Cross-Site", "cors", "empty"): "foreign_origin",
        ("GET", "whatever-comes-next", "cors", "empty"): "foreign_origin",
        ("HEAD", "cross-site", "navigate", "document"): "foreign_origin",
        ("POST", "cross-site", "navigate", "document"): "foreign_origin",
        ("POST", "same-site", "navigate", "document"): "foreign_origin",
        ("DELETE", "same-site", "cors", "empty"): "foreign_origin",
    }
    async with guarded(access) as shown:
        for (method, site, mode, dest), standing in expected.items():
            headers = {"Host": "localhost", "Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode, "Sec-Fetch-Dest": dest}
            assert (headers, standing) == (headers, await shown(headers, method))


async def test_a_token_does_not_let_another_sites_page_ask() -> None:
    headers = {"Host": "a.example", "Authorization": f"Bearer {TOKEN}", "Origin": "https://b.example"}
    async with guarded(LOCKED) as shown:
        assert "foreign_origin" == await shown(headers, "POST")


async def test_a_token_opens_as_a_bearer_or_as_the_cookie_that_was_made_of_it() -> None:
    right = [
        *(("Authorization", f"Bearer {TOKEN}"), ("Authorization", f"bearer   {TOKEN}")),
        *(("Cookie", f"{NAME}={LOCKED.cookie()}"), ("Cookie", f"theme=dark; {NAME}={LOCKED.cookie()}; x=y")),
    ]
    wrong = [
        *(("Authorization", TOKEN), ("Authorization", f"Basic {TOKEN}"), ("Authorization", f"Bearer {TOKEN}x")),
        *(("Authorization", f"Bearer {TOKEN[:-1]}"), ("Authorization", "Bearer "), ("Authorization", "Bearer üü")),
        *(("Authorization", f"Bearer {LOCKED.cookie()}"), ("Cookie", f"{NAME}={TOKEN}"), ("Cookie", f"{NAME}=")),
        *(("Cookie", f"{NAME}={OTHER.cookie()}"), ("Cookie", f"{NAME.upper()}={LOCKED.cookie()}")),
        ("X-Sidestream-Access", "open"),
    ]
    expected = dict.fromkeys(right, Standing.OPEN) | dict.fromkeys(wrong, Standing.CLOSED)
    async with guarded(LOCKED) as shown:
        assert expected == {given: await shown({"Host": "a.example", given[0]: given[1]}) for given in expected}


def test_what_a_browser_keeps_is_not_the_token() -> None:
    right = hmac.new(TOKEN.encode(), b"sidestream viewer session", hashlib.sha256).hexdigest()
    assert (right, "") == (LOCKED.cookie(), HOME.cookie())


def test_without_a_token_none_is_right() -> None:
    assert (True, False, False) == (LOCKED.is_token(TOKEN), LOCKED.is_token(""), HOME.is_token(""))


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        *(("localhost", True), ("LocalHost", True), ("127.0.0.1", True), ("127.255.0.9", True), ("::1", True)),
        *(("0.0.0.0", False), ("::", False), ("192.168.0.1", False), ("example.com", False), ("", False)),
    ],
)
def test_loopback_is_what_nobody_else_reaches(host: str, *, expected: bool) -> None:
    assert expected == is_loopback(host)
