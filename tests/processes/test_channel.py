"""Messages over a pair of sockets: whole, in order, and nonsense passed over."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Any

import pytest

from sidestream.processes.channel import LONGEST, Channel, Document, first_line
from sidestream.sources import MAX_BYTES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@contextlib.asynccontextmanager
async def pair(*, limit: int = LONGEST) -> AsyncIterator[tuple[Channel, socket.socket]]:
    """A channel, and the raw other end."""
    ours, theirs = socket.socketpair()
    with theirs:
        channel = await Channel.over(ours, limit=limit)
        try:
            yield channel, theirs
        finally:
            await channel.close()


async def received(data: bytes, **options: int) -> list[dict[str, Any]]:
    async with pair(**options) as (channel, other):
        await asyncio.to_thread(other.sendall, data)
        other.shutdown(socket.SHUT_WR)
        return [message async for message in channel.messages()]


@pytest.mark.parametrize(
    "document",
    [
        Document(),
        Document("a.yaml", b"\x00\xff\n{}", "::1", 0),
        Document("große datei.yaml", bytes(MAX_BYTES)),
    ],
)
def test_a_document_survives_the_way(document: Document) -> None:
    line = document.encode()
    assert line.endswith(b"\n")
    assert b"\n" not in line[:-1]
    assert len(line) < LONGEST
    assert document == Document.decode(line)


@pytest.mark.parametrize("line", [b"", b"[]", b"{}", b'{"data":1,"file":null,"host":null,"port":null}', b"[" * 100_000])
def test_what_is_no_document_is_an_error_without_its_words(line: bytes) -> None:
    with pytest.raises(ValueError, match=r"^not a document$"):
        Document.decode(line)


async def test_messages_come_in_order_until_the_end() -> None:
    messages = await received(b'{"kind":"a","n":1}\n{"kind":"b"}\n{"kind":"torn"')
    assert [{"kind": "a", "n": 1}, {"kind": "b"}] == messages


@pytest.mark.parametrize(
    "nonsense", [b"\n", b"\xff\xfe\n", b"7\n", b"{}\n", b'{"kind":7}\n', b"[" * 2000 + b"\n", b"x" * 100_000 + b"\n"]
)
async def test_a_line_that_is_no_message_is_passed_over(nonsense: bytes) -> None:
    assert {"kind": "a"} in await received(nonsense + b'{"kind":"a"}\n', limit=4096)


async def test_what_is_sent_to_nobody_is_lost_without_a_word() -> None:
    async with pair() as (channel, other):
        other.close()
        for _ in range(10):
            channel.send("a")
            await asyncio.sleep(0)
        assert [] == [message async for message in channel.messages()]


async def test_it_tells_that_the_other_end_does_not_read() -> None:
    async with pair() as (channel, other):
        channel.send("a")
        before = channel.congested
        channel.send("b", filling="x" * (1 << 22))
        assert (False, True) == (before, channel.congested)
        other.close()


def test_the_first_line_is_taken_and_what_follows_stays() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"one\ntwo\n")
        assert b"one\n" == first_line(ours)
        assert b"two\n" == ours.recv(100)
        theirs.sendall(b"torn")
        theirs.close()
        with pytest.raises(EOFError):
            first_line(ours)
