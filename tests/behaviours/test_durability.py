"""What a client's clean end promises about its trace: under strict durability, that it survives a power cut."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import threading
from typing import TYPE_CHECKING, Any

import pytest

from rawhttp import Answer, connect, exchange, post
from sidestream.store.reading import Journals
from sidestream.testing import gateway
from sidestream.testing.upstream import STREAM_HEAD, Connection, Received, chunk, response

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sidestream.testing import ScriptedUpstream
    from sidestream.traces.record import Record

READY = b"GET /api/v1/gateway/ready HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n"
HEALTH = b"GET /api/v1/gateway/health HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n"


def recorder(folder: Path, **options: Any) -> dict[str, Any]:
    """Journals in `folder`, and nobody who reads them."""
    return {"mode": "external", "dir": str(folder / "data"), "durability": "strict", "min_free": 0, **options}


def as_after_a_crash(folder: Path) -> list[Record]:
    """What a recorder would find if everything died now."""
    copy = folder / "copy"
    shutil.copytree(folder / "data" / "journal", copy)
    return Journals(copy).read(1 << 30).records


async def ready(url: str) -> tuple[int, dict[str, Any]]:
    answer = await exchange(url, READY, method="GET")
    return answer.status, json.loads(answer.body)


async def health(url: str) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((await exchange(url, HEALTH, method="GET")).body)
    return report


ENDINGS: dict[str, bytes] = {
    "chunked": STREAM_HEAD + chunk(b"one") + chunk(b"two") + chunk(b""),
    "with a length": response(b"onetwo"),
    "of one byte": response(b"1"),
    "empty": response(b""),
    "without a body": b"HTTP/1.1 204 No Content\r\n\r\n",
    "an error": response(b"{}", status="529 Overloaded"),
}


@pytest.mark.parametrize("answer", ENDINGS.values(), ids=ENDINGS)
async def test_a_client_that_saw_a_clean_end_has_a_trace_after_a_crash(
    upstream: ScriptedUpstream, tmp_path: Path, answer: bytes
) -> None:
    async def script(_received: Received, connection: Connection) -> None:
        await connection.send(answer)

    upstream.script = script
    async with gateway(upstream.url, recorder=recorder(tmp_path)) as url:
        seen = await exchange(url, post(b'{"model": "m"}'))
        assert seen.complete
        (record,) = as_after_a_crash(tmp_path)
    assert ("completed", seen.status, seen.body) == (record.outcome, record.status, b"".join(record.response_chunks))
    assert b'{"model": "m"}' == b"".join(record.request_chunks)


async def test_an_answer_of_our_own_to_a_call_that_was_forwarded_in_vain_is_held_too(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    async def script(_received: Received, connection: Connection) -> None:
        await connection.reset()

    upstream.script = script
    async with gateway(upstream.url, recorder=recorder(tmp_path)) as url:
        seen = await exchange(url, post())
        assert (502, True) == (seen.status, seen.complete)
        (record,) = as_after_a_crash(tmp_path)
    assert ("upstream_failed", "upstream_failed", None) == (record.outcome, record.error, record.status)


async def test_the_end_is_held_until_the_disk_has_it_and_everything_else_is_not(
    upstream: ScriptedUpstream, tmp_path: Path, held_disk: threading.Event
) -> None:
    async def script(_received: Received, connection: Connection) -> None:
        await connection.send(STREAM_HEAD + chunk(b"one") + chunk(b"two") + chunk(b""))

    upstream.script = script
    async with gateway(upstream.url, recorder=recorder(tmp_path, commit_timeout="30s")) as url, connect(url) as client:
        await client.send(post())
        seen = await client.until(b"two\r\n")
        assert not seen.endswith(b"0\r\n\r\n")
        held_disk.set()
        assert b"0\r\n\r\n" == await client.until(b"0\r\n\r\n")


@pytest.fixture
def held_disk(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Nothing reaches the disk until this is set."""
    let_go = threading.Event()
    sync = os.fdatasync

    def fdatasync(descriptor: int) -> None:
        let_go.wait(30)
        sync(descriptor)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    return let_go


async def test_a_commit_that_takes_too_long_breaks_the_transfer_off(
    upstream: ScriptedUpstream, tmp_path: Path, held_disk: threading.Event
) -> None:
    async def script(_received: Received, connection: Connection) -> None:
        await connection.send(response(b"onetwo"))

    upstream.script = script
    async with gateway(upstream.url, recorder=recorder(tmp_path, commit_timeout="100ms")) as url:
        try:
            seen = await exchange(url, post())
        finally:
            held_disk.set()
        assert (200, b"onetw", False) == (seen.status, seen.body, seen.complete)
    (record,) = as_after_a_crash(tmp_path)
    assert ("cancelled", "NotRecorded") == (record.outcome, record.error)


async def test_a_disk_that_fails_breaks_the_transfer_off_and_then_calls_are_refused_until_it_works(
    upstream: ScriptedUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def script(_received: Received, connection: Connection) -> None:
        await connection.send(response(b"onetwo"))

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    upstream.script = script
    async with gateway(upstream.url, recorder=recorder(tmp_path)) as url:
        assert (200, {"ready": True}) == await ready(url)
        with monkeypatch.context() as broken:
            broken.setattr(os, "fdatasync", full)
            first = await exchange(url, post())
            second = await exchange(url, post())
            assert (503, {"ready": False, "reason": "recording_unavailable"}) == await ready(url)
        assert (200, False) == (first.status, first.complete)
        assert (503, "recording_unavailable") == (second.status, second.field("x-sidestream-error"))
        assert 1 == len(upstream.requests)
        await until(lambda: ready(url), (200, {"ready": True}))
        assert (await exchange(url, post())).complete


async def test_without_room_strict_refuses_before_forwarding(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    async with gateway(upstream.url, recorder=recorder(tmp_path, min_free=1 << 60)) as url:
        await until(lambda: status(url), 503)
        before = len(upstream.requests)
        refused = await exchange(url, post())
    assert (503, "recording_unavailable") == (refused.status, refused.field("x-sidestream-error"))
    assert b'"type":"error"' in refused.body.replace(b" ", b"")
    assert before == len(upstream.requests)


async def test_without_room_async_relays_and_counts(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    settings = recorder(tmp_path, durability="async", min_free=1 << 60)

    async def dropped(url: str) -> bool:
        assert 200 == await status(url)
        dropped: int = (await health(url))["relay"]["dropped"].get("min_free", 0)
        return dropped > 0

    async with gateway(upstream.url, recorder=settings) as url:
        await until(lambda: dropped(url), expected=True)
        assert (200, {"ready": True}) == await ready(url)


async def test_what_is_not_traced_needs_no_journal(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    async with gateway(upstream.url, recorder=recorder(tmp_path, min_free=1 << 60)) as url:
        await until(lambda: status(url), 503)
        bare = await exchange(url, post(path="/api/v1/gateway/anthropic/v1/messages"))
        other = await exchange(url, post(path="/api/v1/gateway/my-agent/anthropic/v1/messages/count_tokens"))
    assert [200, 200] == [bare.status, other.status]


@pytest.mark.parametrize("durability", ["async", "strict"])
async def test_a_directory_that_cannot_be_used_is_no_trouble_of_the_relay_and_heals(
    upstream: ScriptedUpstream, tmp_path: Path, durability: str
) -> None:
    (tmp_path / "data").write_text("a file in the way")

    async def captured(url: str) -> bool:
        await status(url)
        written: int = (await health(url))["relay"]["journal"]["bytes"]
        return written > 0

    async with gateway(upstream.url, recorder=recorder(tmp_path, durability=durability)) as url:
        expected = {"async": 200, "strict": 503}[durability]
        await until(lambda: status(url), expected)
        (tmp_path / "data").unlink()
        await until(lambda: captured(url), expected=True)
        assert 200 == await status(url)


async def status(url: str) -> int:
    """Of one call; 0 if it was broken off, which happens before it is known that there is no room."""
    try:
        answer: Answer = await exchange(url, post())
    except asyncio.IncompleteReadError:
        return 0
    return answer.status


async def until(ask: Callable[[], Any], expected: object) -> None:
    """Ask again and again until the answer is as expected."""
    answer = None
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(20):
            while (answer := await ask()) != expected:  # noqa: ASYNC110  # what a thread does sets no event here
                await asyncio.sleep(0.02)
    assert expected == answer
