"""The gateway and nginx, in front of it and beside it, must not read the same bytes differently.

Two nginx servers that differ in nothing but where they send requests: one to the gateway, one to an upstream that says
what nginx has made of them. Needs an ``nginx``; without one these tests are skipped, unless ``SIDESTREAM_NGINX`` is
``required``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

from raw_requests import PREFIX, REFUSED, RELAYED, Refused, Relayed, Seen, request
from sidestream.testing import ScriptedUpstream, gateway

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
CASES: list[Refused | Relayed] = [*REFUSED, *RELAYED]
LAST = request("Connection: close\r\n", method="GET", target=f"{PREFIX}/last")
"""The request after each: whether it is heard, and where it begins, depends on where the one before it ends."""

if os.environ.get("SIDESTREAM_NGINX") != "required":
    pytestmark = pytest.mark.skipif(NGINX is None, reason="there is no nginx here")

STRICTER = {
    "100,000 extensions",
    "100,000 trailers",
    "257 fields",
    "HTTP/0.9",
    "HTTP/1.10",
    "HTTP/1.2",
    "NUL in an extension",
    "a chunk size of 1 MB",
    "a field too long",
    "a name that is not ASCII",
    "a name too long",
    "a target too long",
    "a trailer too long",
    "a value that is not UTF-8",
    "absolute target",
    "absolute target, our host",
    "an expectation",
    "an extension of 1 MB",
    "backslash",
    "bare LF",
    "bare LF after a field",
    "bare LF at the end",
    "bare LF in an extension",
    "brackets in a name",
    "chunk before a bare LF",
    "chunk size before a bare LF",
    "chunk size before a space",
    "coding in a trailer",
    "delete in a value",
    "dots between encoded slashes",
    "encoded backslash",
    "encoded dots",
    "encoded line end",
    "encoded prefix",
    "escape in a value",
    "fragment",
    "fragment after a query",
    "half encoded dots",
    "host with a long port",
    "host with a user",
    "length in a trailer",
    "length with 25 digits",
    "no colon",
    "no host in HTTP/1.0",
    "old WebSocket",
    "one dot",
    "quotation mark",
    "target in UTF-8",
    "target that is not ASCII",
    "trailer without a colon",
    "two CR",
    "two dots",
    "two dots at the end",
    "two dots before the prefix",
    "two expectations",
    "two slashes",
    "unknown method",
}
"""Refused here, and served by nginx."""

LAXER = {
    "escape that is none",
    "length between blanks",
}
"""Served here, and refused by nginx."""

_CONFIG = """
daemon off;
master_process off;
pid {folder}/pid;
error_log {folder}/errors crit;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    client_max_body_size 0;
    large_client_header_buffers 16 128k;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_buffering off;
    proxy_request_buffering off;
    server {{ listen unix:{folder}/gateway; location / {{ proxy_pass {gateway}; }} }}
    server {{ listen unix:{folder}/oracle; location / {{ proxy_pass {oracle}; }} }}
}}
"""


@dataclass(frozen=True, slots=True)
class Readings:
    """What was made of one case and `LAST`: by nginx, by the gateway behind it, and by the gateway alone."""

    nginx: list[Seen]
    behind: list[Seen]
    alone: list[Seen]
    refusals_behind: int

    @property
    def by_nginx(self) -> bool:
        """Whether nginx accepts it."""
        return self.nginx[:1] not in ([], [_LAST_SEEN])

    @property
    def by_us(self) -> bool:
        """Whether the gateway accepts it."""
        return self.alone[:1] not in ([], [_LAST_SEEN])


_LAST_SEEN = Seen("GET", "/last")


async def ask(where: Path | str, raw: bytes, upstream: ScriptedUpstream) -> tuple[list[Seen], bytes]:
    """What an upstream has understood of a case and `LAST`, and all that came back."""
    upstream.requests.clear()
    answer = b""
    if isinstance(where, Path):
        reader, writer = await asyncio.open_unix_connection(where)
    else:
        reader, writer = await asyncio.open_connection(urlsplit(where).hostname, urlsplit(where).port)
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(10):
            writer.write(raw + LAST)
            while data := await reader.read(1 << 16):
                answer += data
    writer.close()
    understood = [Seen(one.method, one.target, bytes(one.body)) for one in upstream.requests if one.complete]
    return [replace(one, target=one.target.removeprefix(PREFIX)) for one in understood], answer


@contextlib.asynccontextmanager
async def nginx(**upstreams: str) -> AsyncIterator[Path]:
    """An nginx with two sockets, ``gateway`` and ``oracle``, in a folder."""
    assert NGINX is not None, "SIDESTREAM_NGINX=required, and there is no nginx here"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "nginx.conf").write_text(_CONFIG.format(folder=folder, **upstreams))
        process = await asyncio.create_subprocess_exec(
            *(NGINX, "-e", str(folder / "errors"), "-p", str(folder), "-c", str(folder / "nginx.conf"))
        )
        try:
            async with asyncio.timeout(10):
                while not (folder / "pid").exists():  # noqa: ASYNC110  # another process
                    await asyncio.sleep(0.01)
            yield folder
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await process.wait()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def readings() -> dict[str, Readings]:
    """Every case, read three times."""
    found = {}
    async with (
        ScriptedUpstream() as upstream,
        ScriptedUpstream() as oracle,
        gateway(upstream.url) as url,
        nginx(gateway=url.removesuffix("/api/v1/gateway"), oracle=oracle.url) as folder,
    ):
        for case in CASES:
            understood, _ = await ask(folder / "oracle", case.raw, oracle)
            behind, answer = await ask(folder / "gateway", case.raw, upstream)
            alone, _ = await ask(url, case.raw, upstream)
            found[case.name] = Readings(understood, behind, alone, answer.count(b"x-sidestream-error"))
    return found


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.asyncio(loop_scope="module")
async def test_behind_nginx_the_gateway_reads_what_nginx_has_read(
    readings: dict[str, Readings], case: Refused | Relayed
) -> None:
    """Or it refuses it; never is it another request, or one more."""
    read = readings[case.name]
    assert read.behind == [one for one in read.nginx if one in read.behind]
    assert len(read.nginx) == len(read.behind) + read.refusals_behind


@pytest.mark.asyncio(loop_scope="module")
async def test_what_nginx_refuses_as_ambiguous_is_refused_here(readings: dict[str, Readings]) -> None:
    ambiguous = {case.name for case in REFUSED if case.framing and not readings[case.name].by_nginx}
    assert ambiguous
    assert set() == {name for name in ambiguous if readings[name].by_us}


@pytest.mark.asyncio(loop_scope="module")
async def test_what_only_one_of_the_two_refuses_is_known(readings: dict[str, Readings]) -> None:
    assert STRICTER == {name for name, read in readings.items() if read.by_nginx and not read.by_us}
    assert LAXER == {name for name, read in readings.items() if read.by_us and not read.by_nginx}
