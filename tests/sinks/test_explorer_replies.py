"""What the replies to a push and to an append mean; those to a question are in test_explorer.py."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from exploring import an_append, answer, answering, pushed, refused
from sidestream.errors import Ambiguous, Gone, Retryable, Unauthorized, Undeliverable
from sidestream.options import Duration
from sidestream.testing import FakeExplorer


@pytest.fixture
async def explorer() -> AsyncIterator[FakeExplorer]:
    async with FakeExplorer() as explorer:
        yield explorer


@pytest.mark.parametrize("status", [408, 425, 429, 502, 503, 504])
async def test_a_status_that_means_later(explorer: FakeExplorer, status: int) -> None:
    explorer.fail_next(status)
    error = await refused(explorer.url)
    assert (type(error), str(error)) == (Retryable, f"Explorer answered {status}")


@pytest.mark.parametrize("status", [401, 403])
async def test_a_status_that_speaks_of_the_key(explorer: FakeExplorer, status: int) -> None:
    explorer.fail_next(status)
    assert type(await refused(explorer.url)) is Unauthorized


@pytest.mark.parametrize("status", [500, 501, 505, 507, 511, 520, 521, 524, 525, 530, 598, 599])
async def test_after_any_other_5xx_nobody_knows(explorer: FakeExplorer, status: int) -> None:
    explorer.fail_next(status)
    error = await refused(explorer.url)
    assert isinstance(error, Ambiguous)
    assert (True, f"Explorer answered {status}") == (error.server_error, str(error))


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_means_that_the_explorer_is_elsewhere_for_now(explorer: FakeExplorer, status: int) -> None:
    explorer.fail_next(status)
    error = await refused(explorer.url)
    assert isinstance(error, Retryable)
    assert "is `url` the address of the Explorer itself?" in str(error)


@pytest.mark.parametrize("status", [201, 202, 204])
async def test_after_another_success_nobody_knows(explorer: FakeExplorer, status: int) -> None:
    explorer.fail_next(status)
    error = await refused(explorer.url)
    assert isinstance(error, Ambiguous)
    assert not error.server_error


@pytest.mark.parametrize("status", [400, 404, 413, 422, 499, 600])
async def test_any_other_status_is_final(explorer: FakeExplorer, status: int) -> None:
    explorer.fail_next(status)
    error = await refused(explorer.url)
    assert isinstance(error, Undeliverable)
    assert f"Explorer answered {status}" in str(error)


async def test_after_a_lost_answer_nobody_knows(explorer: FakeExplorer) -> None:
    explorer.fail_next(drop=True)
    error = await refused(explorer.url)
    assert isinstance(error, Ambiguous)
    assert not error.server_error


async def test_after_no_answer_within_the_timeout_nobody_knows(explorer: FakeExplorer) -> None:
    explorer.fail_next(hang=True)
    error = await refused(explorer.url, timeout=Duration(0.1))
    assert (type(error), str(error)) == (Ambiguous, "no reply within 100ms")


async def test_what_is_not_there_got_nothing(unused_tcp_port: int) -> None:
    error = await refused(f"http://127.0.0.1:{unused_tcp_port}")
    assert (type(error), str(error)) == (Retryable, "there is no connection: ClientConnectorError")


async def test_what_does_not_answer_a_tls_handshake_got_nothing() -> None:
    async def never(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await left.wait()
        writer.close()

    left = asyncio.Event()
    async with await asyncio.start_server(never, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        error = await refused(f"https://127.0.0.1:{port}", timeout=Duration(0.1))
        left.set()

    assert type(error) is Retryable


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{",
    ],
)
async def test_a_200_whose_body_breaks_off_is_a_stored_trace_whose_id_is_to_be_found_out(answer: bytes) -> None:
    async with answering(answer, answer) as (url, _):
        assert await pushed(url, mode="exchange") is None
        assert isinstance(await refused(url), Ambiguous)


# Appends


@pytest.mark.parametrize(
    "reply",
    [
        answer(b'{"success":true}'),
        b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{",
    ],
)
async def test_a_200_to_an_append_is_done_as_soon_as_it_begins(reply: bytes) -> None:
    async with answering(reply) as (url, _):
        assert "t1" == await pushed(url, an_append("t1"))


@pytest.mark.parametrize("body", [b"", b"{}", b"<html>", b'{"success":false}', b'{"id":["1"]}'])
async def test_after_any_other_200_to_an_append_nobody_knows(body: bytes) -> None:
    async with answering(answer(body)) as (url, _):
        assert isinstance(await refused(url, an_append("t1")), Ambiguous)


@pytest.mark.parametrize("status", [408, 502, 503, 504])
async def test_a_status_from_in_front_says_nothing_of_an_append(explorer: FakeExplorer, status: int) -> None:
    explorer.fail_next(status, retry_after=7)
    error = await refused(explorer.url, an_append("t1"))
    assert isinstance(error, Ambiguous)
    assert (False, 7.0) == (error.server_error, error.after)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (425, Retryable),
        (429, Retryable),
        (302, Retryable),
        (401, Unauthorized),
        (403, Unauthorized),
        (400, Undeliverable),
        (413, Undeliverable),
        (422, Undeliverable),
        (404, Gone),
        (500, Ambiguous),
        (520, Ambiguous),
        (204, Ambiguous),
    ],
)
async def test_what_other_answers_to_an_append_mean(explorer: FakeExplorer, status: int, kind: type[Exception]) -> None:
    explorer.fail_next(status)
    assert kind is type(await refused(explorer.url, an_append("t1")))


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"detail":"Not Found"}'])
async def test_a_404_that_is_not_an_explorers_does_not_mean_that_a_trace_is_gone(body: bytes) -> None:
    async with answering(answer(body, "404 Not Found")) as (url, _):
        error = await refused(url, an_append("t1"))
    assert isinstance(error, Undeliverable)
    assert "is `url` the address of the Explorer itself?" in str(error)


# Both


async def test_after_a_200_that_is_too_long_to_be_read_nobody_knows() -> None:
    async with answering(answer(b"[" * 70_000)) as (url, _):
        assert isinstance(await refused(url), Ambiguous)


@pytest.mark.parametrize("body", [b"<html>Welcome</html>", b"{}", b""])
async def test_a_200_that_is_not_an_explorers_is_no_delivery(body: bytes) -> None:
    async with answering(answer(body)) as (url, _):
        error = await refused(url)

    assert (type(error), str(error)) == (
        Retryable,
        "the answer is 200, but not an Explorer's; is `url` the address of the Explorer itself?",
    )


async def test_after_what_is_not_http_nobody_knows() -> None:
    async with answering(b"SSH-2.0-OpenSSH\r\n\r\n") as (url, _):
        assert type(await refused(url)) is Ambiguous


@pytest.mark.parametrize(("value", "pause"), [("0", 0), ("90", 90), ("Wed, 21 Oct 2015 07:28:00 GMT", 0)])
async def test_a_pause_is_a_number_or_a_date(value: str, pause: int) -> None:
    assert await pause_after(value) == pause


async def test_a_pause_until_a_date_is_the_time_until_then() -> None:
    pause = await pause_after(format_datetime(datetime.now(UTC) + timedelta(seconds=200), usegmt=True))

    assert pause is not None
    assert 100 <= pause <= 200


@pytest.mark.parametrize("value", ["soon", "-5", "1.5", "", "Wed, 99 Oct 2015 07:28:00 GMT"])
async def test_a_pause_that_cannot_be_read_is_none(value: str) -> None:
    assert await pause_after(value) is None


async def pause_after(value: str) -> float | None:
    """The pause that an answer with this ``Retry-After`` asks for."""
    later = f"HTTP/1.1 503 Later\r\nRetry-After: {value}\r\nContent-Length: 0\r\n\r\n".encode()
    async with answering(later) as (url, _):
        error = await refused(url)
    assert isinstance(error, Retryable)
    return error.after
