"""Fuzzes the HTTP edge: a real gateway in its own processes, hostile clients before it, a strict provider behind it.

Cases are made by a grammar (valid requests, alone and pipelined, in any fragments; the tricks of request smuggling; odd
targets; broken syntax) and by mutating valid ones; they come over many connections at once, and some leave early, by
half a close or a reset. What must hold:

- the gateway stays alive and answers ``health`` after every batch of cases;
- nothing but valid requests is answered with a 200, each with its own answer, and nothing is answered with a 5xx;
- the provider, which reads strictly, sees only well-formed requests, the valid ones byte for byte, and never one that
  was hidden in another;
- no key is in an answer, the log, ``health``, ``metrics``, or a file;
- descriptors and memory of the relay do not grow once it is warm.

A case is known by its seed and number. Run it as ``PYTHONPATH=tests python -m fuzz.edge --count 100000``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import socket
import struct
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Final, NamedTuple, cast
from urllib.parse import urlsplit

import uvloop

from gateway_process import GatewayProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CANARY: Final = b"canary5e1f"
TRACE_KEY: Final = b"inv-" + b"5e1fca9a" * 8
SMUGGLED: Final = b"GET /api/v1/gateway/anthropic/smuggled HTTP/1.1\r\nHost: g\r\n\r\n"
PATIENCE: Final = 15.0
"""Seconds for what must come."""
MOMENT: Final = 0.25
"""Seconds for what may never come: the rest of a request that is not whole is waited for."""
MORE_MEMORY: Final = 48.0
"""Megabytes that the relay may grow by once it is warm."""
MORE_DESCRIPTORS: Final = 24

_TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_REQUEST_LINE: Final = re.compile(rb"(%s) (/[!-~]*) HTTP/1\.1" % _TOKEN)
_FIELD: Final = re.compile(rb"(%s):[ \t]*([\t -~\x80-\xff]*)" % _TOKEN)
_NOT_FORWARDED: Final = {b"invariant-authorization", b"proxy-authorization", b"te", b"upgrade", b"expect"}
_NAME: Final = re.compile(rb"[0-9.]{1,20}")
_VALID: Final = re.compile(rb"\d+\.\d")
"""The name of a valid request."""
_CHUNK: Final = re.compile(rb"[0-9a-f]{1,8}")


class Case(NamedTuple):
    """What one client does on one connection."""

    kind: str
    pieces: list[bytes]
    """Sent one after the other."""
    methods: list[bytes]
    """Of the requests that must be answered with a 200, in order; empty where that is not known."""
    bodies: list[bytes]
    """Theirs."""
    ending: str
    """What the client does then: ``read`` all its answers, wait a ``moment``, or ``close``, ``half`` or ``reset``."""


# What is sent.


def case(seed: int, number: int) -> Case:
    """One case."""
    random = Random(f"{seed}/{number}")  # to be had again
    kind = random.choices(tuple(_KINDS), (4, 4, 2, 3, 5, 1))[0]
    return _KINDS[kind](random, b"%d" % number)


def _valid(random: Random, number: bytes) -> Case:
    requests = [_request(random, b"%s.%d" % (number, place)) for place in range(random.choice((1, 1, 1, 2, 5)))]
    data = b"".join(request for _method, _body, request in requests)
    methods, bodies = [method for method, _, _ in requests], [body for _, body, _ in requests]
    return Case("valid", list(_fragments(random, data)), methods, bodies, "read")


def _request(random: Random, name: bytes) -> tuple[bytes, bytes, bytes]:
    """Method, body, and all of a valid request."""
    method = random.choice((b"POST", b"POST", b"POST", b"GET", b"PUT", b"DELETE", b"HEAD", b"PATCH", b"OPTIONS"))
    body = random.randbytes(random.choice((0, 1, 2, 100, 5000, 70_000))) if random.random() < 0.8 else SMUGGLED
    fields = [b"Host: g", b"x-case: " + name, random.choice(_CREDENTIALS)]
    fields += random.sample(_FIELDS, random.randrange(4))
    if random.random() < 0.5:
        fields.append(b"Content-Length: %d" % len(body))
        framed = body
    else:
        fields.append(random.choice((b"Transfer-Encoding: chunked", b"transfer-encoding:Chunked")))
        framed = _chunked(random, body)
    random.shuffle(fields)
    target = random.choice(_TARGETS)
    return method, body, b"%s %s HTTP/1.1\r\n%s\r\n\r\n%s" % (method, target, b"\r\n".join(fields), framed)


_ENDINGS: Final = ("moment", "moment", "moment", "moment", "close", "half", "reset")


def _chunked(random: Random, body: bytes) -> bytes:
    framed, at = b"", 0
    while at < len(body):
        size = random.choice((1, 7, 4000, 1 << 17)) if len(body) < 200 else random.choice((4000, 1 << 17))
        piece = body[at : at + size]
        extension = random.choice((b"", b"", b"", b";a=b", b';a="' + CANARY + b'"', b";" + b"x" * 200))
        framed += random.choice((b"%x", b"%X", b"00%x")) % len(piece) + extension + b"\r\n" + piece + b"\r\n"
        at += size
    return framed + random.choice(
        (b"0\r\n\r\n", b"0\r\n\r\n", b"0;x\r\n\r\n", b"0\r\nX-Trailer: " + CANARY + b"\r\n\r\n")
    )


_TARGETS: Final = (
    *(b"/api/v1/gateway/anthropic/v1/messages",) * 6,
    b"/api/v1/gateway/fuzz/anthropic/v1/messages",
    b"/api/v1/gateway/anthropic/v1/messages?beta=true&key=" + CANARY,
    b"/api/v1/gateway/anthropic/v1/mess%61ges//x;y=1,2:3@!$&'()*+=~?%zz",
    b"/api/v1/gateway/anthropic/" + b"x" * 5000,
)
_CREDENTIALS: Final = (
    b"x-api-key: sk-" + CANARY,
    b"X-API-KEY:   sk-" + CANARY + b"   ",
    b"Authorization: Bearer sk-" + CANARY,
    b"x-api-key: sk-" + CANARY + b";invariant-auth=" + TRACE_KEY,
    b"x-api-key: sk-" + CANARY + b"\r\nInvariant-Authorization: Bearer " + TRACE_KEY,
)
_FIELDS: Final = (
    b"anthropic-beta: a\r\nAnthropic-Beta: b",
    b"Cookie: " + CANARY,
    b"Proxy-Authorization: Basic " + CANARY,
    b"Referer: https://e.test/?k=" + CANARY,
    b"X-Long: " + b"x" * 9000,
    "X-Umlaut: grün".encode(),
    b"Empty:",
    b"Connection: keep-alive, X-Hop\r\nX-Hop: " + CANARY,
    b"TE: trailers",
    b"Upgrade: h2c",
    b"Content-Encoding: gzip",
    b"Expect: 100-continue",
)


def _framing(random: Random, number: bytes) -> Case:
    """One request that two servers may read differently, with another hidden where one of them stops."""
    version, fields = random.choice(_FRAMINGS)
    head = [b"Host: g", b"x-case: " + number, random.choice(_CREDENTIALS[:3]), *fields]
    body = random.choice((b"0\r\n\r\n", b"", b"5\r\nabcde\r\n0\r\n\r\n", b"1\r\nZ\r\nQ\r\n")) + SMUGGLED
    data = b"POST %s HTTP/%s\r\n%s\r\n\r\n%s" % (random.choice(_TARGETS), version, b"\r\n".join(head), body)
    return Case("framing", list(_fragments(random, data)), [], [], random.choice(_ENDINGS))


_FRAMINGS: Final[tuple[tuple[bytes, list[bytes]], ...]] = (
    *(
        (b"1.1", fields)
        for fields in (
            [b"Content-Length: 5", b"Transfer-Encoding: chunked"],
            [b"Transfer-Encoding: chunked", b"Content-Length: 5"],
            [b"Content-Length: 0", b"Content-Length: 5"],
            [b"Content-Length: 5", b"content-length: 5"],
            [b"Content-Length: 0, 5"],
            [b"Content-Length: +5"],
            [b"Content-Length: -1"],
            [b"Content-Length: 0x5"],
            [b"Content-Length: 5 5"],
            [b"Content-Length: 1e1"],
            [b"Content-Length: "],
            [b"Content-Length: 99999999999999999999999"],
            [b"Content-Length : 5"],
            [b"Content-Length\t: 5"],
            [b"Content-Length\x00: 5"],
            [b" Content-Length: 5"],
            [b"Content-Length:\r\n 5"],
            [b"Content-Length: 5\x0b"],
            [b"Transfer-Encoding: gzip, chunked"],
            [b"Transfer-Encoding: chunked, gzip"],
            [b"Transfer-Encoding: identity, chunked"],
            [b"Transfer-Encoding: identity"],
            [b"Transfer-Encoding: chunked, chunked"],
            [b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"],
            [b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"],
            [b"Transfer-Encoding: xchunked"],
            [b"Transfer-Encoding: chunked\x0b"],
            [b"Transfer-Encoding: \x0bchunked"],
            [b"Transfer-Encoding: chunked;q=1"],
            [b'Transfer-Encoding: "chunked"'],
            [b"Transfer-Encoding : chunked"],
            [b"Transfer-Encoding:\r\n chunked"],
            [b"Transfer-Encoding\x00: chunked"],
            [b" Transfer-Encoding: chunked"],
            [b"X: y\rTransfer-Encoding: chunked", b"Content-Length: 5"],
            [b"X: y\nTransfer-Encoding: chunked", b"Content-Length: 5"],
            [b"Transfer-Encoding: chunked", b"Connection: Transfer-Encoding", b"Content-Length: 5"],
            [b"Transfer_Encoding: chunked", b"Content-Length: 5", b"Content-Length: 6"],
        )
    ),
    (b"1.0", [b"Transfer-Encoding: chunked"]),
    (b"1.0", [b"Transfer-Encoding: chunked", b"Content-Length: 5"]),
    (b"0.9", [b"Content-Length: 5"]),
    (b"2.0", [b"Content-Length: 5"]),
    (b"1.2", [b"Transfer-Encoding: chunked"]),
    (b"11", [b"Content-Length: 5"]),
)


def _targets(random: Random, number: bytes) -> Case:
    """A request whose target, host or method leads nowhere, or elsewhere."""
    method = random.choice(
        (b"GET", b"POST", b"CONNECT", b"TRACE", b"OPTIONS", b"G\x00ET", b"get", b"PRI", b"\x16\x03\x01")
    )
    target = random.choice(_ODD_TARGETS)
    fields = [random.choice(_HOSTS), b"x-case: " + number, b"x-api-key: " + CANARY, b"Connection: close"]
    data = b"%s %s HTTP/1.1\r\n%s\r\n\r\n" % (method, target, b"\r\n".join(fields))
    return Case("target", list(_fragments(random, data)), [], [], "moment")


_ODD_TARGETS: Final = (
    *(b"*", b"/", b"", b"//", b"?", b"#", b"/api/v1/gateway", b"/api/v1/gateway/", b"/api/v1/gateway/anthropic"),
    *(
        b"http://evil.test/api/v1/gateway/anthropic/v1/x",
        b"//evil.test/api/v1/gateway/anthropic/v1/x",
        b"evil.test:443",
    ),
    *(
        b"/api/v1/gateway/anthropic/../../health",
        b"/api/v1/gateway/anthropic/%2e%2e/x",
        b"/api/v1/gateway/anthropic/x\\y",
    ),
    *(b"/api/v1/gateway/anthropic/%00", b"/api/v1/gateway/anthropic/\xff", b"/api/v1/gateway/anthropic/x#y"),
    *(b"/api/v1/gateway/sk-ant-" + CANARY + b"/anthropic/v1/messages", b"/api/v1/gateway/health?" + CANARY),
    *(b"/api/v1/gateway/" + CANARY, b"/" + CANARY, b"/api/v1/gateway/anthropic@evil.test/x", b"/%s%n%x"),
    *(
        b"/api/v1/gateway/anthropic/" + b"../" * 500,
        b"/" + b"x" * 80_000,
        b"/static/../../etc/passwd",
        b"/?" + b"&" * 9999,
    ),
)
_HOSTS: Final = (
    *(b"Host: g", b"Host: g", b"Host: g", b"Host:", b"Host: a b", b"Host: a/../@evil", b"Host: g\r\nHost: h", b"X: y"),
    *(b"Host: \xff", b"Host: [::1]:80", b"Host: " + b"x" * 70_000, b"Host: g:99999999", b"Host : g"),
)


def _syntax(random: Random, number: bytes) -> Case:
    """A request with something broken in its head; what follows it must not be served either."""
    line, field = b"POST /api/v1/gateway/fuzz/anthropic/v1/messages HTTP/1.1", b""
    if random.random() < 0.4:
        line = random.choice(_BROKEN_LINES)
    else:
        field = random.choice(_BROKEN_FIELDS) + b"\r\n"
    data = b"%s\r\nHost: g\r\nx-case: %s\r\n%sContent-Length: 0\r\n\r\n" % (line, number, field)
    return Case("syntax", list(_fragments(random, data)), [], [], random.choice(_ENDINGS))


_BROKEN_LINES: Final = (
    *(b"", b" ", b"\0", b"GET", b"GET /", b"GET / HTTP", b"GET / HTTP/", b"GET / HTTP/1.1 x", b"GET  /  HTTP/1.1"),
    *(b"GET / HTTP/1.1\rX: y", b"GET\t/\tHTTP/1.1", b" GET / HTTP/1.1", b"GET / http/1.1", b"GET / HTTP/1,1"),
    *(b"GET / HTTP/\xb9.1", b"GET / HTTP/999999.9", b"x" * 70_000, b"\xff" * 100, CANARY, b"PRI * HTTP/2.0"),
    *(b"SSH-2.0-" + CANARY, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET / " + CANARY),
)
_BROKEN_FIELDS: Final = (
    *(b"x-api-key " + CANARY, b"x-api-key: " + CANARY + b"\x01", b"x-api-key: a\r\n " + CANARY, b": " + CANARY),
    *(
        b"x-api-key: " + CANARY + b"\0",
        b"x-api-key\x00: " + CANARY,
        b"x-api-key : " + CANARY,
        b"x-api-key: " + CANARY + b"\xff",
    ),
    *(b"x-api-key: " + CANARY + b"\rX: y", b"X-\xff: " + CANARY, b"x-api-key: " + CANARY * 8000, CANARY),
    b"\r\n".join(b"X-%d: %s" % (number, CANARY) for number in range(300)),
    b"x-api-key: sk-" + CANARY + b";invariant-auth=",
    b"x-api-key: sk-" + CANARY + b";invariant-auth=" + TRACE_KEY + b";invariant-auth=" + TRACE_KEY,
    b"Expect: " + CANARY,
    b"Invariant-Authorization: " + TRACE_KEY,
)


def _mutated(random: Random, number: bytes) -> Case:
    """A valid request with bytes changed, lost, doubled and foreign; nobody knows what it means then."""
    body = random.randbytes(random.choice((0, 2, 100)))
    fields = [b"Host: g", b"x-case: " + number, b"x-api-key: sk-" + CANARY, *random.sample(_FIELDS, 2)]
    chunked = random.random() < 0.5
    fields.append(b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(body))
    framed = _chunked(random, body) if chunked else body
    data = b"POST /api/v1/gateway/anthropic/v1/messages HTTP/1.1\r\n%s\r\n\r\n%s" % (b"\r\n".join(fields), framed)
    for _ in range(random.choice((1, 1, 2, 4))):
        at, size = random.randrange(len(data)), random.choice((1, 1, 2, 20))
        data = random.choice(
            (
                data[:at] + bytes([data[at] ^ (1 << random.randrange(8))]) + data[at + 1 :],
                data[:at] + data[at + size :],
                data[: at + size] + data[at:],
                data[:at] + random.choice(_FOREIGN) + data[at:],
            )
        )
    return Case("mutated", list(_fragments(random, data)), [], [], random.choice(_ENDINGS))


_FOREIGN: Final = (
    *(
        b"\r",
        b"\n",
        b"\r\n",
        b"\r\n\r\n",
        b"\0",
        b"\t",
        b" ",
        b":",
        b";",
        b",",
        b"\xff",
        b"\x7f",
        b"0\r\n\r\n",
        b"chunked",
    ),
    *(
        b"HTTP/1.1",
        b"Content-Length: 1\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Host: h\r\n",
        b"Expect: 100-continue\r\n",
    ),
)


def _left(random: Random, number: bytes) -> Case:
    """A valid request that is not finished, or whose client does not wait for the answer."""
    _method, _body, data = _request(random, number)
    if random.random() < 0.7:
        data = data[: random.randrange(len(data))]
    return Case("left", list(_fragments(random, data)), [], [], random.choice(("close", "half", "reset")))


_KINDS: Final[dict[str, Callable[[Random, bytes], Case]]] = {
    "valid": _valid,
    "framing": _framing,
    "target": _targets,
    "syntax": _syntax,
    "mutated": _mutated,
    "left": _left,
}


def _fragments(random: Random, data: bytes) -> Iterator[bytes]:
    cuts = sorted(random.randrange(len(data) + 1) for _ in range(random.choice((0, 0, 0, 1, 3))))
    at = 0
    for cut in (*cuts, len(data)):
        yield data[at:cut]
        at = cut


# The provider behind the gateway.


class Provider(asyncio.Protocol):
    """One connection of it: reads strictly, and answers each request with the name that it came with."""

    problems: Counter[str]
    """Shared by all connections: what was wrong with what came."""
    bodies: dict[bytes, bytes]
    """Shared: the bodies of requests that came whole, by name."""
    host: bytes

    def __init__(self) -> None:
        self._data = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._data += data
        while self._read():
            pass

    def _read(self) -> bool:
        """Read one request, if it is here; whether it was."""
        head, found, rest = self._data.partition(b"\r\n\r\n")
        if not found:
            return False
        line, *lines = head.split(b"\r\n")
        request, fields = _REQUEST_LINE.fullmatch(line), [_FIELD.fullmatch(each) for each in lines]
        if request is None or None in fields:
            return self._wrong(f"a head like {head[:300]!r}")
        named = [(match[1].lower(), match[2].rstrip()) for match in fields if match is not None]
        values = {name: [value for other, value in named if other == name] for name, _ in named}
        if fault := self._fault(request[2], values, head):
            return self._wrong(fault)
        body = self._body(values.get(b"content-length", []), values.get(b"transfer-encoding", []), rest)
        if body is None:
            return False
        name = values.get(b"x-case", [b""])[0]
        self.bodies[name] = body
        if self._transport is not None and not self._transport.is_closing():
            told = b"" if request[1] == b"HEAD" else b"ok"
            name = name if _NAME.fullmatch(name) else b"?"  # mutated: it may have run into another field
            self._transport.write(b"HTTP/1.1 200 OK\r\nx-case: %s\r\nContent-Length: 2\r\n\r\n%s" % (name, told))
        return True

    def _fault(self, target: bytes, values: dict[bytes, list[bytes]], head: bytes) -> str:
        """What is wrong with a request; "" if nothing is."""
        if values.get(b"host") != [self.host]:
            return f"host {values.get(b'host')!r}"
        if b"smuggled" in target:
            return "a smuggled request"
        if forwarded := _NOT_FORWARDED & values.keys():
            return f"fields {sorted(forwarded)!r}"
        if TRACE_KEY in head:
            return "a trace key"
        valid = _VALID.fullmatch(values.get(b"x-case", [b""])[0])
        return "a field that Connection names" if valid and b"x-hop" in values else ""  # unless that was mutated

    def _body(self, lengths: list[bytes], codings: list[bytes], data: bytes) -> bytes | None:
        """The body, taken off what was received; None while it is not whole, or when it is wrong."""
        if (codings and lengths) or len(lengths) > 1 or codings not in ([], [b"chunked"]):
            self._wrong(f"framing {lengths} {codings}")
            return None
        if not codings:
            size = int(lengths[0]) if lengths else 0
            if len(data) < size:
                return None
            self._data = data[size:]
            return data[:size]
        body = b""
        while True:
            line, found, data = data.partition(b"\r\n")
            if not found:
                return None
            if not _CHUNK.fullmatch(line):
                self._wrong(f"chunk size {line[:50]!r}")
                return None
            size = int(line, 16)
            if len(data) < size + 2:
                return None
            if data[size : size + 2] != b"\r\n":
                self._wrong("chunk end")
                return None
            body += data[:size]
            data = data[size + 2 :]
            if not size:
                self._data = data
                return body

    def _wrong(self, what: str) -> bool:
        self.problems[f"the provider got: {what}"] += 1
        self._data = b""
        if self._transport is not None:
            self._transport.abort()
        return False


# The clients before it.


class Client(asyncio.Protocol):
    """One client's end of its connection: takes the answers apart. `waiting` is done when all have come, or the end."""

    def __init__(self, methods: list[bytes], waiting: asyncio.Future[None]) -> None:
        self._methods = methods
        self._waiting = waiting
        self.data = b""
        self.answers: list[tuple[int, bytes]] = []
        """Status and head of each whole one."""
        self.problem = ""
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.data += data
        while self._read():
            pass
        if len(self.answers) >= max(len(self._methods), 1) and not self._waiting.done():
            self._waiting.set_result(None)

    def connection_lost(self, _exc: Exception | None) -> None:
        if not self._waiting.done():
            self._waiting.set_result(None)

    def _read(self) -> bool:
        head, found, rest = self.data.partition(b"\r\n\r\n")
        if not found:
            return False
        match = re.match(rb"HTTP/1\.[01] (\d{3}) ", head)
        if match is None:
            self.problem = f"an answer that is not HTTP: {head[:100]!r}"
            return False
        status = int(match[1])
        if status < 200:
            self.data = rest
            return True
        length = re.search(rb"\r\ncontent-length: (\d+)", head.lower())
        place = len(self.answers)
        is_head = place < len(self._methods) and self._methods[place] == b"HEAD"
        size = 0 if is_head or length is None else int(length[1])
        if len(rest) < size:
            return False
        if CANARY in head + rest[:size] or TRACE_KEY in head + rest[:size]:
            self.problem = f"a key in an answer: {head[:200]!r}"
        self.answers.append((status, head))
        self.data = rest[size:]
        return True


class Fuzz:
    """One run: its `problems`, with how often each was seen, and the answers by kind of case and status."""

    def __init__(self, seed: int, host: str, port: int) -> None:
        self.problems: Counter[str] = Counter()
        self.answers: Counter[tuple[str, str]] = Counter()
        self.cases: Counter[str] = Counter()
        self.bodies: dict[bytes, bytes] = {}
        self._seed = seed
        self._address = host, port

    async def run(self, number: int) -> None:
        """Run one case."""
        what = case(self._seed, number)
        self.cases[what.kind] += 1
        loop = asyncio.get_running_loop()
        waiting: asyncio.Future[None] = loop.create_future()
        try:
            transport, client = await loop.create_connection(lambda: Client(what.methods, waiting), *self._address)
        except OSError as error:
            self._found(number, f"no connection: {type(error).__name__}")
            return
        try:
            for piece in what.pieces:
                if transport.is_closing():  # refused before it was whole
                    break
                transport.write(piece)
                if len(what.pieces) > 1:
                    await asyncio.sleep(0)
            await self._end(what, transport, waiting)
        finally:
            transport.abort()
        self._judge(number, what, client)

    async def _end(self, what: Case, transport: asyncio.Transport, waiting: asyncio.Future[None]) -> None:
        if what.ending == "half" and not transport.is_closing():
            with contextlib.suppress(OSError):
                transport.write_eof()
        if what.ending == "reset" and not transport.is_closing():
            sock = transport.get_extra_info("socket")
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if what.ending in {"read", "moment", "half"}:
            await asyncio.wait([waiting], timeout=PATIENCE if what.ending == "read" else MOMENT)

    def _judge(self, number: int, what: Case, client: Client) -> None:
        if client.problem:
            self._found(number, client.problem)
        for status, head in client.answers:
            self.answers[what.kind, str(status)] += 1
            if status >= 500:
                self._found(number, f"a {status}: {head[:200]!r}")
            if b"\r\nx-case: " in head and what.kind in {"framing", "syntax"}:
                self._found(number, "a request was relayed that nobody understands")
        if not client.answers:
            self.answers[what.kind, "none"] += 1
        if what.kind == "valid":
            self._compare(number, what, client)

    def _compare(self, number: int, what: Case, client: Client) -> None:
        """Each valid request has its own answer, and its body arrived as it was."""
        for place, body in enumerate(what.bodies):
            name = b"%d.%d" % (number, place)
            if len(client.answers) <= place:
                self._found(number, f"a valid request without an answer ({place + 1} of {len(what.bodies)})")
                return
            status, head = client.answers[place]
            if status != 200 or b"\r\nx-case: " + name not in head:
                self._found(number, f"a valid request with another answer: {head[:200]!r}")
            elif self.bodies.pop(name, None) != body:
                self._found(number, "a valid request whose body changed on the way")

    def _found(self, number: int, problem: str) -> None:
        self.problems[problem] += 1
        if self.problems[problem] == 1:
            print(f"seed {self._seed}, number {number}: {problem}", file=sys.stderr)


async def fuzz(seed: int, count: int, folder: Path, *, at_once: int = 64, batch: int = 256) -> tuple[Fuzz, list[str]]:
    """Run so many cases against a gateway whose files are in `folder`; the run, and lines that say how it went."""
    Provider.problems, Provider.bodies = Counter(), {}
    loop = asyncio.get_running_loop()
    provider = await loop.create_server(Provider, "127.0.0.1", 0)
    upstream = f"127.0.0.1:{provider.sockets[0].getsockname()[1]}"
    Provider.host = upstream.encode()
    lines: list[str] = []
    async with GatewayProcess(folder, f"http://{upstream}", server={"prefix": "/api/v1/gateway"}) as gateway:
        address = urlsplit(gateway.url)
        run = Fuzz(seed, address.hostname or "", address.port or 0)
        Provider.problems, Provider.bodies = run.problems, run.bodies
        (relay,) = gateway.children("relay")
        warm: tuple[float, int] | None = None
        began = time.monotonic()
        for start in range(0, count, batch):
            await _all(run, range(start, min(start + batch, count)), at_once)
            await _is_healthy(run, gateway, relay)
            if warm is None and (start + batch) * 5 >= count:
                warm = await _resources(gateway, relay)
        took = time.monotonic() - began
        assert warm is not None  # noqa: S101
        now = await _resources(gateway, relay)
        if now[0] > warm[0] + MORE_MEMORY or now[1] > warm[1] + MORE_DESCRIPTORS:
            run.problems["the relay grows"] += 1
        shown = b"".join([(await gateway.get(page)).body for page in ("health", "ready", "metrics")])
        await gateway.end()
        if gateway.children("relay"):
            run.problems["the relay does not end"] += 1
        _look_for_keys(run, gateway, shown)
    provider.close()
    lines.append(f"{count:,} cases in {took:.0f} s, {count / took:,.0f} a second; health asked every {batch} cases")
    lines.append(
        f"relay: {warm[0]:.0f} MB and {warm[1]} descriptors when warm, {now[0]:.0f} MB and {now[1]} at the end"
    )
    return run, lines


async def _all(run: Fuzz, numbers: range, at_once: int) -> None:
    left = iter(numbers)

    async def work() -> None:
        for number in left:
            await run.run(number)

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(work())


async def _is_healthy(run: Fuzz, gateway: GatewayProcess, relay: int) -> None:
    try:
        status = (await gateway.get("health")).status
    except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
        run.problems[f"health: {type(error).__name__}"] += 1
        return
    if status != 200:
        run.problems[f"health: {status}"] += 1
    if gateway.children("relay") != [relay]:
        run.problems["the relay died"] += 1


async def _resources(gateway: GatewayProcess, relay: int) -> tuple[float, int]:
    """Memory in megabytes and descriptors of the relay, when those that have left are gone."""
    before = -1
    for _ in range(20):
        await asyncio.sleep(0.25)
        now = len(os.listdir(f"/proc/{relay}/fd"))  # noqa: PTH208  # names are all that is wanted
        if now == before:
            break
        before = now
    return gateway.memory()["relay"], now


def _look_for_keys(run: Fuzz, gateway: GatewayProcess, shown: bytes) -> None:
    places = {"health or metrics": shown, "the log": gateway.log.read_bytes()}
    places |= {str(file.name): file.read_bytes() for file in gateway.data.rglob("*") if file.is_file()}
    for place, data in places.items():
        if CANARY in data or TRACE_KEY in data:
            run.problems[f"a key in {place}"] += 1
    for line in gateway.events():
        if line.get("level") in {"error", "critical"}:
            run.problems[f"logged: {line.get('event')} {line.get('error', '')} {line.get('where', '')}"] += 1


def main() -> int:
    """Run it as told, and print what was found; 1 if something was."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--at-once", type=int, default=64)
    told = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fuzz-edge-") as folder:
        run, lines = uvloop.run(fuzz(told.seed, told.count, Path(folder), at_once=told.at_once))
    print("\n".join(lines))
    for kind, cases in sorted(run.cases.items()):
        statuses = sorted((status, count) for (other, status), count in run.answers.items() if other == kind)
        print(
            f"  {kind:8} {cases:8,} cases; answers: " + ", ".join(f"{status} x {count:,}" for status, count in statuses)
        )
    for problem, times in run.problems.most_common(30):
        print(f"  PROBLEM, {times} times: {problem}")
    print("no problem" if not run.problems else f"{len(run.problems)} kinds of problems")
    return 1 if run.problems else 0


if __name__ == "__main__":
    sys.exit(main())
