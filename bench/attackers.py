"""Clients that mean harm, each in its own way: ``python -m bench.attackers NAME PORT`` is one kind, until it is ended.

What a malicious upstream would answer is asked for here, too: the mock sends the files that `write_answers` makes.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import socket
import sys
import zlib
from typing import TYPE_CHECKING, Final, NamedTuple

import uvloop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    Client = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

_PATH: Final = "/api/v1/gateway/attacks/anthropic/v1/messages"
_KEYS: Final = f"x-api-key: sk-ant-attack\r\nInvariant-Authorization: Bearer inv-{'b' * 64}\r\n"
_HEAD: Final = f"POST {_PATH} HTTP/1.1\r\nHost: gateway\r\n{_KEYS}".encode()
_SOURCE: Final = random.Random(1)
_NEVER: Final = 3600.0
_AGAIN: Final = 0.05
"""Seconds until a client that was thrown out comes again."""
_ROOM: Final = 1 << 16


def _post(text: str, *, stream: bool = False) -> bytes:
    mark = '"stream":true,' if stream else ""
    body = f'{{"model":"m","max_tokens":9,{mark}"messages":[{{"role":"user","content":"{text}"}}]}}'.encode()
    return _HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body


async def _trickle(writer: asyncio.StreamWriter, data: bytes, pause: float) -> None:
    for letter in itertools.cycle(data):
        writer.write(bytes([letter]))
        await writer.drain()
        await asyncio.sleep(pause)


async def _slow_head(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(_HEAD)
    await _trickle(writer, b"X-Slow: slow\r\n", 0.5)


async def _slow_body(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(_HEAD + b"Content-Length: 1000000\r\n\r\n")
    await _trickle(writer, b"x", 0.5)


async def _slow_chunks(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(_HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    await _trickle(writer, b"1\r\nx\r\n", 0.1)


async def _silent(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(_HEAD + b"Content-Length: 1000000\r\n\r\n")
    await asyncio.sleep(_NEVER)


async def _idle(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(_NEVER)


async def _flood(writer: asyncio.StreamWriter, data: bytes) -> None:
    while True:
        writer.write(data)
        await writer.drain()


async def _endless_head(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(_HEAD)
    await _flood(writer, b"X-Flood: " + b"y" * 1000 + b"\r\n")


async def _endless_line(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(_HEAD + b"X-Flood: ")
    await _flood(writer, b"y" * _ROOM)


async def _many_headers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(_HEAD + b"".join(b"X-%d: y\r\n" % number for number in range(100_000)) + b"Content-Length: 0\r\n\r\n")
    await writer.drain()
    await reader.read()


async def _large_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    size = 64 << 20
    writer.write(_HEAD + b"Content-Length: %d\r\n\r\n" % size)
    for _ in range(size // _ROOM):
        writer.write(b"y" * _ROOM)
        await writer.drain()
    await reader.readuntil(b"\r\n\r\n")


async def _tiny_chunks(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(_HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    await _flood(writer, b"1\r\ny\r\n" * 10_000)


async def _chunk_extensions(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(_HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    await _flood(writer, b"1;" + b"y" * _ROOM + b"\r\nz\r\n")


async def _stalled(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Nobody reads; asyncio stops to, after two buffers of 64 KB.

    Buffers on the way take up to 2 MB. They come over four seconds: a machine that has to find all of that memory
    within one second is slow for everybody, beside the gateway, too.
    """
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    writer.write(_post("[mock e=0 d=0 b=1 n=4000000]"))
    await asyncio.sleep(_NEVER)


async def _pipelining(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"GET /api/v1/gateway/health HTTP/1.1\r\nHost: gateway\r\n\r\n" * 10_000)
    while await reader.read(_ROOM):
        pass


async def _churn(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(_HEAD[: _SOURCE.randrange(len(_HEAD))])


async def _reset(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(_post("[mock e=1000 d=10000 b=1 n=9]", stream=True))
    await writer.drain()
    await asyncio.sleep(_SOURCE.random() / 10)
    writer.transport.abort()


async def _garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(_SOURCE.randbytes(_SOURCE.randrange(1, 4096)))
    writer.write_eof()
    await reader.read()


async def _streams(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(_post("[mock e=100000 d=1000000 b=1 n=9]", stream=True))
    while await reader.read(_ROOM):
        pass


def _upstream(name: str) -> Client:
    """Ask for one of the answers below."""

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(_post(f"[raw {name}]"))
        while await reader.read(_ROOM):
            pass

    return client


class Attack(NamedTuple):
    """How many clients there are at a time, what each does, again and again, and over how many seconds they come."""

    clients: int
    client: Client
    over: float = 0.0


ATTACKS: Final[dict[str, Attack]] = {
    "slow heads": Attack(500, _slow_head, over=1.0),
    "slow bodies": Attack(500, _slow_body, over=1.0),
    "slow chunks": Attack(200, _slow_chunks, over=1.0),
    "silent bodies": Attack(500, _silent, over=1.0),
    "3,000 connections at once": Attack(3000, _idle),
    "endless heads": Attack(20, _endless_head),
    "endless header lines": Attack(20, _endless_line),
    "100,000 headers": Attack(4, _many_headers),
    "bodies of 64 MB": Attack(4, _large_body),
    "chunks of one byte": Attack(4, _tiny_chunks),
    "chunk extensions": Attack(4, _chunk_extensions),
    "stalled readers": Attack(200, _stalled, over=4.0),
    "10,000 pipelined": Attack(2, _pipelining),
    "connection churn": Attack(20, _churn),
    "resets": Attack(20, _reset),
    "garbage": Attack(20, _garbage),
    "as many streams as allowed": Attack(1500, _streams, over=1.0),
    "as many streams as allowed, begun at once": Attack(1500, _streams),
    "upstream: garbage": Attack(10, _upstream("garbage")),
    "upstream: endless head": Attack(4, _upstream("head")),
    "upstream: resets": Attack(10, _upstream("reset")),
    "upstream: chunk extensions": Attack(4, _upstream("extensions")),
    "upstream: huge events": Attack(4, _upstream("event")),
    "upstream: deep JSON": Attack(4, _upstream("deep")),
    "upstream: gzip bombs": Attack(4, _upstream("bomb")),
}


def write_answers(folder: Path) -> None:
    """What the mock answers with when it is asked for raw bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    ok = b"HTTP/1.1 200 OK\r\n"
    stream = ok + b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    event = b'event: content_block_delta\ndata: {"x":"' + b"y" * (20 << 20) + b'"}\n\n'
    deep = b'{"type":"message","content":' + b"[" * (4 << 20)
    bomb = _bomb()
    answers = {
        "garbage": _SOURCE.randbytes(4096),
        "head": ok + (b"X-Flood: " + b"y" * 1000 + b"\r\n") * 10_000,
        "reset": stream + b"5\r\nevent",
        "extensions": stream + (b"1;" + b"y" * _ROOM + b"\r\nz\r\n") * 100,
        "event": stream + b"%x\r\n" % len(event) + event + b"\r\n0\r\n\r\n",
        "deep": ok + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(deep) + deep,
        "bomb": ok
        + b"Content-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb)
        + bomb,
    }
    for name, answer in answers.items():
        (folder / name).write_bytes(answer)


def _bomb() -> bytes:
    """A gigabyte of zeros in a megabyte of gzip; its checksum is wrong, but who gets there?"""
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    block = squeeze.compress(bytes(1 << 20)) + squeeze.flush(zlib.Z_FULL_FLUSH)
    return b"\x1f\x8b\x08" + bytes(7) + block * 1024 + squeeze.flush() + bytes(8)


async def attack(name: str, port: int) -> None:
    """Attack the gateway at this port of this machine for ever."""
    clients, client, over = ATTACKS[name]

    async def attacker(number: int) -> None:
        await asyncio.sleep(over * number / clients)
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                try:
                    await client(reader, writer)
                finally:
                    writer.close()
            await asyncio.sleep(_AGAIN)

    await asyncio.gather(*map(attacker, range(clients)))


if __name__ == "__main__":
    os.nice(10)  # healthy client and mock come first on the core that they share
    uvloop.run(attack(sys.argv[1], int(sys.argv[2])))
