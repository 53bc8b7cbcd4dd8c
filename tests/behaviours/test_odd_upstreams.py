"""Whatever an upstream sends, a client sees a whole answer, a refusal or a cut; the trace says so; the next call works.

Each table is one gateway with one pool of connections: what a case leaves behind would show in those after it.
"""

from __future__ import annotations

import asyncio
import enum
import json
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from doubles import Witness
from rawhttp import KEYS, Answer, connect, exchange, post
from sidestream import Outcome
from sidestream.testing import ScriptedUpstream, gateway
from sidestream.testing.upstream import STREAM_HEAD, Connection, Received, chunk, response

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

OK = b"HTTP/1.1 200 OK\r\n"
LENGTH = b"Content-Length: 2\r\n\r\nok"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
WHOLE_CHUNKS = chunk(b"ok") + chunk(b"")
WELL = response(b"well")


class Seen(enum.Enum):
    """What a client may see of an answer."""

    WHOLE = "whole"
    REFUSED = "refused"
    """A 502 of the gateway's own."""
    CUT = "cut"
    """Begun and broken off; or refused, where the fault came so soon that nothing had begun."""


class Case(NamedTuple):
    """What an upstream sends for a request, and whether it ends the connection then."""

    sends: bytes
    seen: Seen
    closes: bool = False
    body: bytes = b"ok"


def whole(sends: bytes, body: bytes = b"ok", *, closes: bool = False) -> Case:
    return Case(sends, Seen.WHOLE, closes, body)


def refused(sends: bytes, *, closes: bool = False) -> Case:
    return Case(sends, Seen.REFUSED, closes)


def cut(sends: bytes, *, closes: bool = False) -> Case:
    return Case(sends, Seen.CUT, closes)


STATUS_LINES = {
    "nothing": refused(b"", closes=True),
    "half a head": refused(OK + b"X: ", closes=True),
    "garbage": refused(b"\x00\xff\x16\x03\r\n\r\n"),
    "HTTP/0.9": refused(b"<html>hello</html>\r\n\r\n", closes=True),
    "a TLS alert": refused(b"\x15\x03\x01\x00\x02\x02\x46"),
    "HTTP/2": refused(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00"),
    "status 99": refused(b"HTTP/1.1 99 X\r\n" + LENGTH),
    "status 099": refused(b"HTTP/1.1 099 X\r\n" + LENGTH),
    "status 000": refused(b"HTTP/1.1 000 X\r\n" + LENGTH),
    "status 1000": refused(b"HTTP/1.1 1000 X\r\n" + LENGTH),
    "status abc": refused(b"HTTP/1.1 abc X\r\n" + LENGTH),
    "status -20": refused(b"HTTP/1.1 -20 X\r\n" + LENGTH),
    "status 999": whole(b"HTTP/1.1 999 X\r\n" + LENGTH),
    "no reason": whole(b"HTTP/1.1 200\r\n" + LENGTH),
    "a carriage return in the reason": refused(b"HTTP/1.1 200 O\rK\r\n" + LENGTH),
    "NUL in the reason": whole(b"HTTP/1.1 200 O\x00K\r\n" + LENGTH),
    "Latin-1 in the reason": whole(b"HTTP/1.1 200 O\xffK\r\n" + LENGTH),
    "an endless reason": refused(b"HTTP/1.1 200 " + bytes(70_000).replace(b"\0", b"x") + b"\r\n" + LENGTH),
    "HTTP/1.0": whole(b"HTTP/1.0 200 OK\r\n" + LENGTH),
    "HTTP/1.0 with chunks": whole(b"HTTP/1.0 200 OK\r\n" + CHUNKED + WHOLE_CHUNKS, closes=True),
    "empty lines first": whole(b"\r\n\r\n" + OK + LENGTH),
    "a connection that closes": whole(OK + b"Connection: close\r\n" + LENGTH, closes=True),
    "a connection that stays": whole(OK + b"Connection: keep-alive\r\nKeep-Alive: timeout=5\r\n" + LENGTH),
    "an upgrade that nobody asked for": whole(OK + b"Upgrade: websocket\r\nConnection: Upgrade\r\n" + LENGTH),
}

FIELDS = {
    "10 KB": whole(OK + b"X: " + b"x" * 10_240 + b"\r\n" + LENGTH),
    "60 KB": whole(OK + b"X: " + b"x" * 60_000 + b"\r\n" + LENGTH),
    "70 KB": refused(OK + b"X: " + b"x" * 70_000 + b"\r\n" + LENGTH),
    "a name of 70 KB": refused(OK + b"x" * 70_000 + b": x\r\n" + LENGTH),
    "300 fields": whole(OK + b"".join(b"X-%d: 1\r\n" % number for number in range(300)) + LENGTH),
    "3000 fields": refused(OK + b"".join(b"X-%d: 1\r\n" % number for number in range(3000)) + LENGTH),
    "NUL": refused(OK + b"X: a\0b\r\n" + LENGTH),
    "a carriage return": refused(OK + b"X: a\rb\r\n" + LENGTH),
    "a control character": whole(OK + b"X: a\x01b\r\n" + LENGTH),
    "bytes that are not UTF-8": whole(OK + b"X: a\xffb\r\n" + LENGTH),
    "a name that is not ASCII": refused(OK + b"X\xff: b\r\n" + LENGTH),
    "a space before the colon": refused(OK + b"X : b\r\n" + LENGTH),
    "a space after the name of a length": refused(OK + b"Content-Length : 2\r\n\r\nok"),
    "a space after the name of a coding": refused(OK + b"Transfer-Encoding : chunked\r\n\r\n" + WHOLE_CHUNKS),
    "a space after the name of a list": refused(OK + b"Connection : X-Y\r\nX-Y: 1\r\n" + LENGTH),
    "no name": refused(OK + b": b\r\n" + LENGTH),
    "no colon": refused(OK + b"garbage\r\n" + LENGTH),
    "a folded line": whole(OK + b"X: a\r\n b\r\n" + LENGTH),
}

FRAMINGS = {
    "two lengths that differ": refused(OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nokk"),
    "two lengths that agree": refused(OK + b"Content-Length: 2\r\n" + LENGTH),
    "a list of lengths": refused(OK + b"Content-Length: 2, 2\r\n\r\nok"),
    "a negative length": refused(OK + b"Content-Length: -2\r\n\r\nok"),
    "a signed length": refused(OK + b"Content-Length: +2\r\n\r\nok"),
    "a hexadecimal length": refused(OK + b"Content-Length: 0x2\r\n\r\nok"),
    "a length of nothing": refused(OK + b"Content-Length: \r\n\r\nok", closes=True),
    "a length beyond 64 bits": refused(OK + b"Content-Length: 99999999999999999999999\r\n\r\nok"),
    "a length that never comes": cut(OK + b"Content-Length: 999999999999999999\r\n\r\nok", closes=True),
    "a folded length": whole(OK + b"Content-Length:\r\n 2\r\n\r\nok"),
    "a length and chunks": refused(OK + b"Content-Length: 2\r\n" + CHUNKED + WHOLE_CHUNKS),
    "chunks and a length": refused(OK + b"Transfer-Encoding: chunked\r\n" + LENGTH),
    "another coding": refused(OK + b"Transfer-Encoding: gzip\r\n\r\nok", closes=True),
    "another coding before chunks": refused(OK + b"Transfer-Encoding: gzip\r\n" + CHUNKED + WHOLE_CHUNKS, closes=True),
    "another coding after chunks": refused(
        OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n\r\n" + WHOLE_CHUNKS, closes=True
    ),
    "chunks twice": refused(OK + b"Transfer-Encoding: chunked\r\n" + CHUNKED + WHOLE_CHUNKS, closes=True),
    "chunks behind a vertical tab": refused(OK + b"Transfer-Encoding: \x0bchunked\r\n\r\n" + WHOLE_CHUNKS, closes=True),
    "no coding": refused(OK + b"Transfer-Encoding: \r\n\r\nok", closes=True),
    "a coding like chunked": refused(OK + b"Transfer-Encoding: xchunked\r\n\r\n" + WHOLE_CHUNKS, closes=True),
    "chunks in capitals": whole(OK + b"Transfer-Encoding: CHUNKED\r\n\r\n" + WHOLE_CHUNKS),
    "identity": whole(OK + b"Transfer-Encoding: identity\r\n\r\nok", closes=True),
    "a bad chunk size at once": cut(OK + CHUNKED + b"zz\r\n"),
    "a bad chunk size": cut(OK + CHUNKED + chunk(b"ok") + b"zz\r\n"),
    "a negative chunk size": cut(OK + CHUNKED + chunk(b"ok") + b"-1\r\n"),
    "a chunk size like a number": cut(OK + CHUNKED + chunk(b"ok") + b"0x1\r\nk\r\n"),
    "a chunk size beyond 64 bits": cut(OK + CHUNKED + chunk(b"ok") + b"fffffffffffffffff\r\n"),
    "a chunk that never comes": cut(OK + CHUNKED + chunk(b"ok") + b"ffffffffffffffff\r\nxx", closes=True),
    "a chunk longer than it says": cut(OK + CHUNKED + b"2\r\nokkk\r\n" + chunk(b"")),
    "line feeds around a chunk": cut(OK + CHUNKED + b"2\nok\n0\n\n"),
    "a cut chunk": cut(OK + CHUNKED + chunk(b"ok") + b"5\r\nab", closes=True),
    "no last chunk": cut(OK + CHUNKED + chunk(b"ok"), closes=True),
    "half of the last chunk": cut(OK + CHUNKED + chunk(b"ok") + b"0\r\n", closes=True),
    "extensions of chunks": whole(OK + CHUNKED + b"2;a=b\r\nok\r\n0;c\r\n\r\n"),
    "trailers": whole(OK + b"Trailer: X\r\n" + CHUNKED + chunk(b"ok") + b"0\r\nX: 1\r\n\r\n"),
    "bad trailers": cut(OK + CHUNKED + chunk(b"ok") + b"0\r\ngarb age\0\r\n\r\n"),
    "less than its length": cut(OK + b"Content-Length: 9\r\n\r\nok", closes=True),
    "a second response after a length": whole(OK + LENGTH + response(b"bad")),
    "a second response after chunks": whole(OK + CHUNKED + WHOLE_CHUNKS + response(b"bad")),
    "a body until the end": whole(OK + b"\r\nok", closes=True),
    "205 with a body": whole(b"HTTP/1.1 205 Reset Content\r\n" + LENGTH),
}

LINKED = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
INTERIM = {
    "100": whole(b"HTTP/1.1 100 Continue\r\n\r\n" + OK + LENGTH),
    "102": whole(b"HTTP/1.1 102 Processing\r\n\r\n" + OK + LENGTH),
    "103": whole(LINKED + OK + LENGTH),
    "199": whole(b"HTTP/1.1 199 Whatever\r\n\r\n" + OK + LENGTH),
    "several": whole(LINKED * 20 + b"HTTP/1.1 100 Continue\r\n\r\n" + OK + LENGTH),
    "a flood": refused(LINKED * 2000),
    "103 and nothing": refused(LINKED, closes=True),
    "103 with a body": refused(b"HTTP/1.1 103 Early Hints\r\nContent-Length: 3\r\n\r\nbad" + OK + LENGTH),
    "101": refused(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nxxx"),
    "101 to nothing": refused(b"HTTP/1.1 101 Switching Protocols\r\n\r\n"),
}


def _seen(answer: Answer) -> Seen:
    if answer.field("x-sidestream-error") is not None:
        assert (502, "upstream_failed") == (answer.status, answer.field("x-sidestream-error"))
        return Seen.REFUSED
    return Seen.WHOLE if answer.complete else Seen.CUT


def _may_be(case: Case) -> set[Seen]:
    return {Seen.CUT, Seen.REFUSED} if case.seen is Seen.CUT else {case.seen}


def facts_by_dataset(file: Path) -> dict[str, dict[str, Any]]:
    lines = map(json.loads, file.read_text().splitlines())
    return {line["dataset"]: line["metadata"] for line in lines}


def path(dataset: str) -> str:
    return f"/api/v1/gateway/{dataset}/anthropic/v1/messages"


@pytest.mark.parametrize("table", [STATUS_LINES, FIELDS, FRAMINGS, INTERIM], ids=["status", "fields", "framing", "1xx"])
async def test_what_an_upstream_sends_is_relayed_whole_or_refused_or_seen_to_be_cut(
    upstream: ScriptedUpstream, tmp_path: Path, table: dict[str, Case]
) -> None:
    async def script(received: Received, connection: Connection) -> None:
        if received.body == b"well":
            return await connection.send(WELL)
        case = table[received.body.decode()]
        await connection.send(case.sends)
        if case.closes:
            await connection.close()
        return None

    upstream.script = script
    file = tmp_path / "traces.jsonl"
    wrong: dict[str, Any] = {}
    async with gateway(upstream.url, sinks=[{"jsonl": {"path": str(file)}}]) as url:
        for number, (name, case) in enumerate(table.items()):
            answer = await exchange(url, post(name.encode(), path=path(f"case-{number}")))
            well = await exchange(url, post(b"well"))
            if _seen(answer) not in _may_be(case) or (_seen(answer) is Seen.WHOLE and case.body != answer.body):
                wrong[name] = (_seen(answer), answer.head, answer.body)
            if (200, b"well", True) != (well.status, well.body, well.complete):
                wrong[name + ", and then"] = well
    facts = facts_by_dataset(file)
    outcomes = {name: facts[f"case-{number}"]["outcome"] for number, name in enumerate(table)}
    assert {} == wrong
    assert {
        name: "completed" if case.seen is Seen.WHOLE else "upstream_failed" for name, case in table.items()
    } == outcomes
    assert 2 * len(table) == len(upstream.requests)  # nothing was asked for twice


async def test_a_body_without_a_length_is_marked_and_what_could_not_be_carried_too(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    sends = {
        "until-the-end": OK + b"\r\nok",
        "identity": OK + b"Transfer-Encoding: identity\r\n\r\nok",
        "length": OK + LENGTH,
        "chunks": OK + CHUNKED + WHOLE_CHUNKS,
        "control": OK + b"X: a\x01b\r\n" + LENGTH,
        "latin": OK + b"X: a\xffb\r\n" + LENGTH,
        "reason": b"HTTP/1.1 200 O\x00K\r\n" + LENGTH,
    }

    async def script(received: Received, connection: Connection) -> None:
        await connection.send(sends[received.body.decode()])
        await connection.close()

    upstream.script = script
    file = tmp_path / "traces.jsonl"
    async with gateway(upstream.url, sinks=[{"jsonl": {"path": str(file)}}]) as url:
        for name in sends:
            answer = await exchange(url, post(name.encode(), path=path(name)))
            assert (b"ok", True, None) == (answer.body, answer.complete, answer.field("X"))
    facts = facts_by_dataset(file)
    assert {"until-the-end", "identity"} == {name for name in sends if facts[name].get("end_verifiable") is False}
    assert {"control", "latin", "reason"} == {name for name in sends if facts[name].get("exact") is False}


@pytest.mark.parametrize("bodiless", ["204 No Content", "304 Not Modified", "HEAD"])
@pytest.mark.parametrize(
    "late", [b"bad", response(b"bad"), chunk(b"bad") + chunk(b"")], ids=["bytes", "http", "chunks"]
)
async def test_a_body_where_there_can_be_none_is_nobodys_answer(
    upstream: ScriptedUpstream, bodiless: str, late: bytes
) -> None:
    """It comes late: when the client has the end of the answer already."""
    seen, sent = asyncio.Event(), asyncio.Event()

    async def script(received: Received, connection: Connection) -> None:
        if received.body == b"well":
            return await connection.send(WELL)
        status = "200 OK" if bodiless == "HEAD" else bodiless
        await connection.send(f"HTTP/1.1 {status}\r\nContent-Length: {len(late)}\r\n\r\n".encode())
        await seen.wait()
        await connection.send(late)
        sent.set()
        return None

    upstream.script = script
    method = "HEAD" if bodiless == "HEAD" else "POST"
    async with gateway(upstream.url) as url:
        answer = await exchange(url, post().replace(b"POST", method.encode(), 1), method=method)
        assert b"" == answer.body
        seen.set()
        await sent.wait()
        for _ in range(3):
            assert (200, b"well") == ((well := await exchange(url, post(b"well"))).status, well.body)


@pytest.mark.parametrize("late", [b"extra", response(b"bad"), b"\r\n"], ids=["bytes", "http", "line"])
async def test_what_follows_a_response_reaches_no_other_client(upstream: ScriptedUpstream, late: bytes) -> None:
    seen, sent = asyncio.Event(), asyncio.Event()

    async def script(received: Received, connection: Connection) -> None:
        if received.body == b"well":
            return await connection.send(WELL)
        await connection.send(OK + LENGTH)
        await seen.wait()
        await connection.send(late)
        sent.set()
        return None

    upstream.script = script
    async with gateway(upstream.url) as url:
        assert b"ok" == (await exchange(url, post())).body
        seen.set()
        await sent.wait()
        for _ in range(3):
            assert (200, b"well") == ((well := await exchange(url, post(b"well"))).status, well.body)


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
async def test_every_redirect_is_passed_on_and_not_followed(upstream: ScriptedUpstream, status: str) -> None:
    elsewhere = upstream.url + "/elsewhere"

    async def script(_received: Received, connection: Connection) -> None:
        fields = [("Location", elsewhere), ("Set-Cookie", "a=b; Path=/"), ("Retry-After", "7")]
        await connection.send(response(b"moved", status=status, headers=fields))

    upstream.script = script
    async with gateway(upstream.url) as url:
        answer = await exchange(url, post())
        again = await exchange(url, post())
    assert (status, b"moved") == (answer.head.split(b"\r\n")[0].decode().removeprefix("HTTP/1.1 "), answer.body)
    assert [("Location", elsewhere), ("Set-Cookie", "a=b; Path=/"), ("Retry-After", "7")] == answer.fields[:3]
    assert answer.fields == again.fields
    assert [("/v1/messages", [])] * 2 == [(request.target, request.header("Cookie")) for request in upstream.requests]


async def _answer_under_limits(
    upstream: ScriptedUpstream, limits: dict[str, str], *, first: bytes, again: bytes
) -> Answer:
    """An upstream that says `first`, and then `again` and again."""

    async def script(received: Received, connection: Connection) -> None:
        if received.body == b"well":
            return await connection.send(WELL)
        await connection.send(first)
        while again:
            await connection.send(again)
            await asyncio.sleep(0.005)
        await connection.closed_by_peer()
        return None

    upstream.script = script
    async with gateway(upstream.url, limits=limits, middlewares=["doubles:Witness"]) as url:
        answer = await exchange(url, post())
        assert await Witness.ending() is Outcome.TIMED_OUT
        assert b"well" == (await exchange(url, post(b"well"))).body
    return answer


@pytest.mark.parametrize(
    ("first", "again"),
    [(b"HTTP", b""), (OK + b"X: ", b""), (OK + b"X: ", b"x"), (OK, b"X: x\r\n")],
    ids=["half a line", "half a field", "a field that never ends", "fields that never end"],
)
async def test_a_head_that_never_ends_is_timed_out(upstream: ScriptedUpstream, first: bytes, again: bytes) -> None:
    answer = await _answer_under_limits(upstream, {"first_byte": "100ms"}, first=first, again=again)
    assert (504, "upstream_timeout") == (answer.status, answer.field("x-sidestream-error"))


@pytest.mark.parametrize("head", [STREAM_HEAD + b"ff\r\nabc", OK + b"Content-Length: 9\r\n\r\nabc", OK + b"\r\nabc"])
async def test_a_body_that_stops_is_timed_out_and_cut(upstream: ScriptedUpstream, head: bytes) -> None:
    answer = await _answer_under_limits(upstream, {"idle": "100ms"}, first=head, again=b"")
    assert (200, False) == (answer.status, answer.complete)


async def test_an_answer_before_the_whole_request_is_relayed_and_the_pool_stays_clean() -> None:
    """Its connection is in the middle of a request: nobody else's may follow there."""

    async def script(received: Received, connection: Connection) -> None:
        await connection.send(WELL if "/well" in received.target else response(b"early", status="413 Too Large"))

    async with ScriptedUpstream(script, early=True) as early, gateway(early.url) as url:
        async with connect(url) as client:
            await client.send(f"POST {path('d')} HTTP/1.1\r\nHost: g\r\n{KEYS}Content-Length: 99\r\n\r\nabc".encode())
            assert (413, b"early") == ((answer := await client.answer()).status, answer.body)
            assert b"well" == (await exchange(url, post(path=path("d") + "/well"))).body
    assert ["/v1/messages", "/v1/messages/well"] == [request.target for request in early.requests]
    assert 2 == early.connections


async def test_an_upstreams_connection_is_used_again_unless_it_says_otherwise(upstream: ScriptedUpstream) -> None:
    async def send(fields: Iterable[tuple[str, str]], count: int) -> int:
        async def script(_received: Received, connection: Connection) -> None:
            await connection.send(response(b"ok", headers=fields))

        upstream.script, upstream.connections = script, 0
        async with gateway(upstream.url) as url:
            for _ in range(count):
                assert b"ok" == (await exchange(url, post())).body
        return upstream.connections

    assert 1 == await send([("Connection", "keep-alive")], 3)
    assert 1 == await send([], 3)
    assert 3 == await send([("Connection", "close")], 3)
