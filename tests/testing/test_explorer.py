"""The manners of the real Explorer, as they were measured, in its double."""

import asyncio
import gzip
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from sidestream.testing import FakeExplorer

KEY = "inv-" + "0123456789abcdef" * 4
USER = "user-01234567"
AUTH = {"Authorization": f"Bearer {KEY}"}
HELLO = {"role": "user", "content": "Hello"}


class Client:
    """A session bound to one fake Explorer."""

    def __init__(self, explorer: FakeExplorer, session: aiohttp.ClientSession) -> None:
        self.explorer = explorer
        self.session = session

    async def call(self, method: str, path: str, payload: Any = None, **more: Any) -> tuple[int, Any]:
        options: dict[str, Any] = {"headers": AUTH, "allow_redirects": False, **more}
        if payload is not None:
            options["data"] = json.dumps(payload)
        async with self.session.request(method, f"{self.explorer.url}/api/v1/{path}", **options) as reply:
            body = await reply.read()
            return reply.status, json.loads(body) if reply.content_type == "application/json" else body

    async def push(self, *messages: Any, **more: Any) -> tuple[int, Any]:
        return await self.call("POST", "push/trace", {"messages": [list(messages)], "dataset": "demo", **more})

    async def append(self, trace: str, **more: Any) -> tuple[int, Any]:
        return await self.call("POST", f"trace/{trace}/messages", {"messages": [HELLO]}, **more)

    async def pushed(self, *messages: Any, **more: Any) -> str:
        status, reply = await self.push(*messages, **more)
        assert status == 200
        return str(reply["id"][0])


@pytest.fixture
async def explorer() -> AsyncIterator[FakeExplorer]:
    async with FakeExplorer() as explorer:
        yield explorer


@pytest.fixture
async def client(explorer: FakeExplorer) -> AsyncIterator[Client]:
    async with aiohttp.ClientSession() as session:
        yield Client(explorer, session)


def a_call(**function: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": "", "tool_calls": [{"id": "1", "type": "function", "function": function}]}


async def test_a_push_is_stored_and_answered_with_ids_dataset_and_user(explorer: FakeExplorer, client: Client) -> None:
    status, reply = await client.push(HELLO, metadata=[{"name": "First"}])

    (trace,) = await explorer.wait_for(1)
    assert (status, reply) == (200, {"id": [trace.id], "dataset": "demo", "username": USER})
    assert (trace.key, trace.dataset, trace.messages, trace.metadata) == (KEY, "demo", [HELLO], {"name": "First"})


async def test_the_same_push_twice_is_two_traces(explorer: FakeExplorer, client: Client) -> None:
    assert await client.pushed(HELLO) != await client.pushed(HELLO)
    assert len(explorer.traces) == 2


@pytest.mark.parametrize("header", [f"bearer {KEY}", f"Bearer {KEY}0", "Bearer inv-1", KEY, f"Bearer {KEY.upper()}"])
async def test_any_other_key_is_a_401(client: Client, header: str) -> None:
    status, reply = await client.push(HELLO)
    assert status == 200

    status, reply = await client.call("POST", "push/trace", {}, headers={"Authorization": header})
    assert (status, reply) == (401, {"detail": "You must provide a valid API key."})


async def test_identity_answers_the_user_and_403_without_a_header(client: Client) -> None:
    assert await client.call("GET", "user/identity") == (200, {"username": USER})
    assert (await client.call("GET", "user/identity", headers={}))[0] == 403
    assert (await client.call("GET", "user/identity", headers={"Authorization": "Bearer x"}))[0] == 401


async def test_a_trailing_slash_is_a_redirect(client: Client) -> None:
    assert (await client.call("POST", "push/trace/", {}))[0] == 307


async def test_a_compressed_body_is_a_500(client: Client) -> None:
    body = gzip.compress(json.dumps({"messages": [[HELLO]]}).encode())
    status, _ = await client.call("POST", "push/trace", data=body, headers=AUTH | {"Content-Encoding": "gzip"})
    assert status == 500


@pytest.mark.parametrize("payload", [{}, {"messages": []}, {"messages": [HELLO]}, {"messages": [[]], "metadata": {}}])
async def test_a_push_of_another_shape_is_a_400(explorer: FakeExplorer, client: Client, payload: Any) -> None:
    assert (await client.call("POST", "push/trace", payload))[0] == 400
    assert explorer.traces == []


@pytest.mark.parametrize("dataset", ["", "two words", "a/b", "ü", 1])
async def test_a_bad_name_of_a_dataset_is_a_400(client: Client, dataset: Any) -> None:
    assert (await client.push(HELLO, dataset=dataset))[0] == 400


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": float("nan")},
        a_call(name="f"),
        {"role": "assistant", "tool_calls": [{"id": "1"}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]},
    ],
)
async def test_what_explorer_trips_over_fails_the_whole_push_with_500(
    explorer: FakeExplorer, client: Client, message: Any
) -> None:
    assert (await client.push(HELLO, message))[0] == 500
    assert explorer.traces == []


async def test_arguments_that_are_no_object_are_stored_and_then_the_connection_is_closed(
    explorer: FakeExplorer,
) -> None:
    body = json.dumps({"messages": [[a_call(name="f", arguments="{")]]}).encode()
    host, _, port = explorer.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"POST /api/v1/push/trace HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
    writer.write(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)

    answer = await asyncio.wait_for(reader.read(), 5)  # to the end of the connection

    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"connection: close" not in answer.lower()
    assert [trace.has_tool_registry for trace in explorer.traces] == [False]
    writer.close()
    await writer.wait_closed()


async def test_a_lone_surrogate_is_taken_and_then_breaks_the_reading(client: Client) -> None:
    trace = await client.pushed({"role": "user", "content": "\ud83d"})

    assert (await client.call("GET", f"trace/{trace}"))[0] == 500


async def test_reserved_metadata_is_overwritten(client: Client) -> None:
    metadata = {"uploader": "me", "tool_calls": "mine", "name": "First"}
    trace = await client.pushed(a_call(name="f", arguments={}), metadata=[metadata])

    _, shown = await client.call("GET", f"trace/{trace}")
    assert shown["extra_metadata"] == {"uploader": "Via API ...bcdef", "tool_calls": ["f"], "name": "First"}


async def test_a_text_that_begins_like_an_image_is_taken_for_one(explorer: FakeExplorer, client: Client) -> None:
    await client.pushed({"role": "tool", "content": "base64_img: hello"})

    assert explorer.traces[0].messages[0]["content"].startswith("local_img_link: ")


async def test_a_long_text_is_shown_without_its_middle(client: Client) -> None:
    trace = await client.pushed({"role": "user", "content": "a" * 60_000 + "b" * 60_000})

    _, shown = await client.call("GET", f"trace/{trace}")
    content = shown["messages"][0]["content"]
    assert content == "a" * 50_000 + "<...truncated 20000 characters...>" + "b" * 50_000


async def test_traces_are_listed_by_dataset(client: Client) -> None:
    trace = await client.pushed(HELLO, metadata=[{"name": "First"}])
    await client.pushed(HELLO, dataset="other")

    status, listed = await client.call("GET", f"dataset/byuser/{USER}/demo/traces")
    assert status == 200
    assert [(one["id"], one["extra_metadata"]["name"]) for one in listed] == [(trace, "First")]


async def test_policies_exist_only_after_the_first_push(explorer: FakeExplorer, client: Client) -> None:
    explorer.policies = [{"id": "1", "name": "no secrets"}]
    path = f"dataset/byuser/{USER}/demo/policy"

    assert (await client.call("GET", path))[0] == 404
    await client.pushed(HELLO)
    assert await client.call("GET", path) == (200, {"policies": explorer.policies})


async def test_a_trace_is_stored_before_its_annotations_are_looked_at(explorer: FakeExplorer, client: Client) -> None:
    assert (await client.push(HELLO, annotations=[[{"content": "no address"}]]))[0] == 500
    assert len(explorer.traces) == 1

    assert (await client.push(HELLO, annotations=[[{"content": "good", "address": "messages[0]"}]]))[0] == 200
    assert explorer.traces[1].annotations == [{"content": "good", "address": "messages[0]"}]


async def test_appended_messages_are_merged_by_their_timestamps_as_strings(
    explorer: FakeExplorer, client: Client
) -> None:
    trace = await client.pushed({"n": 1, "timestamp": "2026-01-01"}, {"n": 3, "timestamp": "2026-01-03"})
    new = [{"n": 2, "timestamp": "2026-01-02"}, {"n": 4, "timestamp": "2026-01-03"}, {"n": 5}]

    assert await client.call("POST", f"trace/{trace}/messages", {"messages": new}) == (200, {"success": True})
    assert [message["n"] for message in explorer.traces[0].messages] == [1, 2, 4, 3, 5]


async def test_an_append_to_nothing_is_a_404_and_to_no_uuid_a_500(client: Client) -> None:
    body = {"messages": [HELLO]}

    assert await client.call("POST", f"trace/{uuid.uuid4()}/messages", body) == (404, {"detail": "Trace not found"})
    assert (await client.call("POST", "trace/1/messages", body))[0] == 500
    trace = await client.pushed(HELLO)
    assert (await client.call("POST", f"trace/{trace}/messages", {"messages": []}))[0] == 400


async def test_two_appends_at_a_time_to_one_trace_freeze_the_server(explorer: FakeExplorer, client: Client) -> None:
    trace = await client.pushed(HELLO)
    appends = [client.call("POST", f"trace/{trace}/messages", {"messages": [HELLO]}) for _ in range(2)]

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await asyncio.gather(*appends)
    assert explorer.frozen
    with pytest.raises(TimeoutError):
        await client.call("GET", "user/identity", timeout=aiohttp.ClientTimeout(total=0.1))


async def test_an_append_goes_on_when_its_client_has_left(explorer: FakeExplorer, client: Client) -> None:
    trace = await client.pushed(HELLO)
    explorer.append_seconds = 0.1
    with pytest.raises(TimeoutError):
        await client.append(trace, timeout=aiohttp.ClientTimeout(total=0.03))

    assert 1 == explorer.appending
    assert [trace] == await explorer.wait_for_appends(1)
    assert (0, 1, 2) == (explorer.appending, explorer.most_appending, len(explorer.traces[0].messages))


async def test_an_append_that_meets_one_whose_client_has_left_freezes_the_server(
    explorer: FakeExplorer, client: Client
) -> None:
    trace = await client.pushed(HELLO)
    explorer.append_seconds = 0.1
    for _ in range(2):
        with pytest.raises(TimeoutError):
            await client.append(trace, timeout=aiohttp.ClientTimeout(total=0.03))
    assert explorer.frozen


async def test_a_failure_can_be_of_appends_alone(explorer: FakeExplorer, client: Client) -> None:
    explorer.fail_next(413, path="/messages")
    trace = await client.pushed(HELLO)

    assert [413, 200] == [(await client.append(trace))[0] for _ in range(2)]
    assert 2 == len(explorer.traces[0].messages)


async def test_scripted_failures_come_in_order_and_then_all_is_well(explorer: FakeExplorer, client: Client) -> None:
    explorer.fail_next(503, times=2)
    explorer.fail_next(429, store=True)

    assert [(await client.push(HELLO))[0] for _ in range(4)] == [503, 503, 429, 200]
    assert len(explorer.traces) == 2


async def test_a_failure_can_ask_for_a_pause(explorer: FakeExplorer, client: Client) -> None:
    explorer.fail_next(429, retry_after=7)

    async with client.session.post(f"{explorer.url}/api/v1/push/trace", headers=AUTH) as reply:
        assert (reply.status, reply.headers["Retry-After"]) == (429, "7")


async def test_a_failure_can_be_a_lost_connection_or_no_answer(explorer: FakeExplorer, client: Client) -> None:
    explorer.fail_next(drop=True)
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await client.push(HELLO)

    explorer.fail_next(hang=True, store=True)
    with pytest.raises(TimeoutError):
        await client.call("POST", "push/trace", {"messages": [[HELLO]]}, timeout=aiohttp.ClientTimeout(total=0.1))
    assert len(explorer.traces) == 1


async def test_waiting_in_vain_says_what_has_come(explorer: FakeExplorer, client: Client) -> None:
    await client.call("GET", "user/identity")

    with pytest.raises(TimeoutError, match="for 1 traces; there are 1 requests and 0 traces"):
        await explorer.wait_for(1, timeout=0.01)
    assert await explorer.wait_for_requests(1) == [("GET", "/api/v1/user/identity")]


async def test_what_is_not_there_is_a_404(client: Client) -> None:
    assert (await client.call("GET", "nothing"))[0] == 404


async def test_a_failure_can_be_of_a_get(explorer: FakeExplorer, client: Client) -> None:
    explorer.fail_next(503, method="GET")

    assert (await client.push(HELLO))[0] == 200
    assert [(await client.call("GET", "user/identity"))[0] for _ in range(2)] == [503, 200]


async def test_a_key_can_be_refused_for_a_while(explorer: FakeExplorer, client: Client) -> None:
    explorer.refused.add(KEY)
    assert (await client.push(HELLO))[0] == 401
    explorer.refused.clear()
    assert (await client.push(HELLO))[0] == 200


async def test_it_can_go_down_and_come_back_at_the_same_address(explorer: FakeExplorer, client: Client) -> None:
    await client.pushed(HELLO)
    await explorer.go_down()
    with pytest.raises(aiohttp.ClientError):
        await client.push(HELLO)
    await explorer.come_back()
    await client.pushed(HELLO)

    assert len(explorer.traces) == 2


async def test_what_is_under_way_when_it_goes_down_is_cut_off(explorer: FakeExplorer, client: Client) -> None:
    explorer.fail_next(hang=True)
    push = asyncio.ensure_future(client.push(HELLO))
    await explorer.wait_for_requests(1)
    await explorer.go_down()

    with pytest.raises(aiohttp.ClientError):
        await asyncio.wait_for(push, 5)


async def test_the_exchanges_of_a_dataset_are_told_in_order_copies_included(
    explorer: FakeExplorer, client: Client
) -> None:
    for name, dataset in (("x1", "demo"), ("x2", "other"), ("x1", "demo")):
        await client.pushed(HELLO, dataset=dataset, metadata=[{"sidestream": {"exchange": name}}])

    assert explorer.exchanges("demo") == ["x1", "x1"]
    assert explorer.exchanges() == ["x1", "x2", "x1"]
