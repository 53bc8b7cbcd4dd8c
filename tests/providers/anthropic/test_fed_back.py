"""An answer is known again when it comes back as the official SDK hands it on."""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING, Any

import pytest
from anthropic._streaming import SSEDecoder
from anthropic.lib.streaming import _beta_messages, _messages
from httpx2 import Headers

from sidestream.providers.anthropic import Anthropic
from streams import NAMES, recorded, stream

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sidestream.providers.base import Said, Understood

WHERE_THE_SDK_RAISES = {"error_in_mid_stream", "malformed_events", "tool_input_invalid"}
WHOLE = sorted({*NAMES} - WHERE_THE_SDK_RAISES)
FORMS: dict[str, Callable[[Any], Any]] = {
    "to_dict": lambda message: message.to_dict(),
    "model_dump": lambda message: message.model_dump(),
    "model_dump without null fields": lambda message: message.model_dump(exclude_none=True),
    "model_dump as JSON": lambda message: message.model_dump(mode="json", by_alias=True),
}


def beta_message(body: bytes) -> Any:
    """What the SDK's beta client accumulates."""
    message: Any = None
    buffers: dict[int, bytes] = {}
    for data in events(body):
        message = _beta_messages.accumulate_event(
            event=data, current_snapshot=message, json_bufs=buffers, request_headers=Headers()
        )
    return message


def plain_message(body: bytes) -> Any:
    """What the SDK's plain client accumulates."""
    message: Any = None
    buffers: dict[int, bytes] = {}
    for data in events(body):
        message = _messages.accumulate_event(event=data, current_snapshot=message, json_bufs=buffers)
    return message


CASES = [(name, beta_message) for name in WHOLE]
CASES += [(name, plain_message) for name in WHOLE if name != "compaction"]  # of which that client knows nothing


def events(body: bytes) -> list[Any]:
    found = SSEDecoder().iter_bytes(iter([body.removeprefix(b"\xef\xbb\xbf")]))
    return [json.loads(event.data) for event in found if event.data and event.event not in {None, "ping"}]


def understand(answer: bytes, *history: Any) -> Understood:
    request = json.dumps({"messages": history}).encode()
    return Anthropic().understand(request=request, response=answer, content_type="", status=200)


def identity(said: Said | None) -> Any:
    return (said.role, said.text, said.units, said.compaction) if said else None


def content_of(body: bytes, client: Callable[[bytes], Any], form: str) -> Any:
    with warnings.catch_warnings(action="ignore"):  # it warns of blocks that it does not know
        return FORMS[form](client(body))["content"]


def assert_known(answer: bytes, content: Any) -> None:
    fed_back = understand(b"", {"role": "assistant", "content": content}).asked[0]
    assert identity(understand(answer).answer) == identity(fed_back)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("name", "client"), CASES)
def test_an_answer_is_known_in_every_form_of_the_sdk(name: str, form: str, client: Callable[[bytes], Any]) -> None:
    assert_known(stream(name), content_of(stream(name), client, form))


@pytest.mark.parametrize("name", WHOLE)
def test_an_answer_that_was_left_in_the_middle_is_known_as_far_as_the_sdk_had_it(name: str) -> None:
    whole = stream(name).removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").split(b"\n\n")
    for end in range(1, len(whole)):
        body = b"\n\n".join(whole[:end]) + b"\n\n"
        if understand(body).answer is not None:
            assert_known(body, content_of(body, beta_message, "to_dict"))


@pytest.mark.parametrize("folder", recorded("response.*"))
def test_a_recorded_answer_is_known_as_the_sdk_has_it(folder: Path) -> None:
    expected = json.loads((folder / "expected.json").read_bytes())
    if "content" not in expected:
        pytest.skip("the SDK raises")
    (response,) = folder.glob("response.*")
    assert_known(response.read_bytes(), expected["content"])


def test_what_was_said_in_one_answer_may_come_back_in_several_messages() -> None:
    content = content_of(stream("text_after_tool"), beta_message, "to_dict")
    history = understand(b"", *({"role": "assistant", "content": [block]} for block in content)).asked
    whole = understand(stream("text_after_tool")).answer
    assert whole is not None
    assert whole.text == "".join(said.text for said in history)
    assert whole.units == tuple(unit for said in history for unit in said.units)
