import json
import tracemalloc
from typing import Any

import pytest

from sidestream.errors import Ambiguous
from sidestream.sinks.base import Found
from sidestream.sinks.explorer_list import Search

MIB = 1 << 20


def entry(number: int, exchange: str | None = None, **metadata: Any) -> dict[str, Any]:
    mark = {"sidestream": {"exchange": exchange or f"x{number}", "attempt": 1}}
    return {"id": str(number), "extra_metadata": mark | metadata}


def listed(*entries: Any) -> bytes:
    return json.dumps(entries, ensure_ascii=False).encode()


def searched(*pieces: bytes, exchange: str = "wanted") -> Found | None:
    search = Search(exchange)
    for piece in pieces:
        search.feed(piece)
        if search.found:
            return search.found
    search.end()
    return search.found


TEXT = 'a "quoted" {[,]} \\ \u00fc \U0001f600 \n'
LIST = listed(entry(1, note=TEXT), entry(2, deep={"a": [[1.5e3, None, True, {}]]}), entry(3, "wanted"), entry(4))


@pytest.mark.parametrize("space", ["", " ", "\r\n\t"])
def test_a_trace_is_found_wherever_it_is_and_however_the_list_is_written(space: str) -> None:
    for place in range(3):
        entries = [json.dumps(entry(number, "wanted" if number == place else None)) for number in range(3)]
        text = f"{space}[{space}" + f"{space},{space}".join(entries) + f"{space}]{space}"
        assert Found(str(place)) == searched(text.encode())


@pytest.mark.parametrize("text", ["[]", " [ ] ", "[{}]".replace("{}", json.dumps(entry(1)))])
def test_a_trace_that_is_not_in_the_list_is_not_found(text: str) -> None:
    assert searched(text.encode()) is None


def test_a_list_may_be_cut_at_every_byte() -> None:
    for at in range(len(LIST) + 1):
        assert Found("3") == searched(LIST[:at], LIST[at:])
        assert searched(LIST[:at], LIST[at:], exchange="x9") is None
    assert Found("3") == searched(*(LIST[at : at + 1] for at in range(len(LIST))))


@pytest.mark.parametrize(
    "metadata",
    [
        b"null",
        b"[]",
        b'"wanted"',
        b'{"sidestream":null}',
        b'{"sidestream":["wanted"]}',
        b'{"sidestream":{"exchange":{"wanted":1}}}',
        b'{"exchange":"wanted"}',
        b'{"a":NaN,"b":' + b"9" * 10_000 + b',"c":1e999}',
        b'{"a":"\\ud83d"}',
        b'{"a":"\xff\xfe"}',
        b'{"a":' + b"[" * 100 + b"]" * 100 + b"}",
    ],
)
def test_what_others_pushed_does_not_disturb_the_search(metadata: bytes) -> None:
    text = b'[{"id":"1","extra_metadata":' + metadata + b'},{"id":"0"},' + listed(entry(2, "wanted"))[1:]
    assert Found("2") == searched(text)
    assert searched(text, exchange="nothing") is None


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"<html>",
        b"{}",
        b'"["',
        b"null",
        b"[1]",
        b"[[]]",
        b"[{}]",
        b'[{"id":1}]',
        b'[{"id":"1"}',
        b'[{"id":"1"},',
        b'[{"id":"1"},]',
        b'[,{"id":"1"}]',
        b'[{"id":"1"}{"id":"2"}]',
        b'[{"id":"1"}]]',
        b'[{"id":"1"}] x',
        b'[{"id":"1" "id":"2"}]',
        b'[{"id":"1',
        b"[" * 3000,
        b'[{"id":' + b'{"a":' * 100_000,
        b"\x00" * 100,
    ],
)
def test_what_is_not_a_list_of_traces_tells_nothing(text: bytes) -> None:
    for pieces in ([text], [text[:7], text[7:]]):
        with pytest.raises(Ambiguous, match="not an Explorer's"):
            searched(*pieces)


def test_a_list_longer_than_anybody_would_wait_for_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidestream.sinks.explorer_list._LONGEST", 1000)
    assert searched(b"[" + b" " * 998 + b"]") is None
    with pytest.raises(Ambiguous, match="too long"):
        searched(b"[" + b" " * 999, b"]")


def test_an_entry_that_does_not_end_tells_nothing() -> None:
    search = Search("wanted")
    with pytest.raises(Ambiguous, match="too much metadata"):  # noqa: PT012 (whichever piece it is)
        for piece in (b'[{"id":"', *[b"x" * MIB] * 20):
            search.feed(piece)


def test_a_long_list_takes_no_more_memory_than_a_few_of_its_entries() -> None:
    """60 MiB in pieces as they come off a socket."""
    one = json.dumps(entry(1, note="x" * 100_000)).encode() + b","
    search = Search("wanted")
    tracemalloc.start()
    try:
        search.feed(b"[")
        for _ in range(60 * MIB // len(one)):
            for at in range(0, len(one), 64 << 10):
                search.feed(one[at : at + (64 << 10)])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    search.feed(listed(entry(2, "wanted"))[1:])
    search.end()
    assert Found("2") == search.found
    assert peak < 2 * MIB
