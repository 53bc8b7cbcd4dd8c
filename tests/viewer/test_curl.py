"""A captured call becomes a command that a shell takes for nothing else."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from hostile import HOSTILE
from sidestream.providers.jsons import clean_text
from sidestream.viewer.captured import request_body
from sidestream.viewer.curl import LONGEST, NoCommand, command
from stored import a_record

if TYPE_CHECKING:
    from pathlib import Path

EVIL = (
    *HOSTILE,
    "'; touch hit; '",
    "$(touch hit)",
    "`touch hit`",
    "!!",
    "END_OF_REQUEST\ntouch hit\n",
    "\r touch hit",
    "\x9b",
)


def run(folder: Path, text: str) -> tuple[list[str], bytes]:
    """What a shell makes of a command: the arguments that curl gets, and its input."""
    curl = folder / "curl"
    curl.write_text('#!/bin/sh\nprintf "%s\\0" "$@" > "$OUT/arguments"\ncat > "$OUT/input"\n')
    curl.chmod(0o700)
    environment = {"PATH": f"{folder}:/usr/bin:/bin", "OUT": str(folder), "ANTHROPIC_API_KEY": "the key"}
    subprocess.run(["bash", "-eu"], input=text.encode(), env=environment, cwd=folder, check=True, timeout=30)
    assert not (folder / "hit").exists()
    return (folder / "arguments").read_text().split("\0")[:-1], (folder / "input").read_bytes()


def test_a_call_is_made_again_with_the_same_body_and_a_key_of_ones_own(tmp_path: Path) -> None:
    record = a_record(request_headers={"anthropic-version": "2023-06-01", "x-session-id": "s", "user-agent": "u"})
    arguments, sent = run(tmp_path, command(record, b'{"model": "m"}'))
    expected = [
        *("--no-buffer", "--globoff", "-X", "POST", "http://127.0.0.1:8005/api/v1/gateway/demo/anthropic/v1/messages"),
        *("-H", "x-api-key: the key", "-H", "content-type: application/json"),
        *("-H", "anthropic-version: 2023-06-01", "--data-binary", "@-"),
    ]
    assert (expected, b'{"model": "m"}\n') == (arguments, sent)


def test_a_call_without_a_body_is_made_without_one(tmp_path: Path) -> None:
    arguments, sent = run(tmp_path, command(a_record(method="GET", path="/v1/models"), b""))
    assert ("GET", b"") == (arguments[3], sent)
    assert "--data-binary" not in arguments


def test_nothing_in_a_body_is_taken_for_more_than_text(tmp_path: Path) -> None:
    body: dict[str, Any] = {"messages": [clean_text(text) for text in EVIL]}
    text = json.dumps(body, ensure_ascii=False, indent=1)
    told = command(a_record(), text.encode())
    _, sent = run(tmp_path, told)
    assert body == json.loads(sent)
    assert all(character == "\n" or character.isprintable() for character in told)


@pytest.mark.parametrize("text", EVIL)
def test_nothing_in_a_header_or_a_path_is_taken_for_more_than_text(tmp_path: Path, text: str) -> None:
    record = a_record(path=f"/v1/{text}", method=text, request_headers={"anthropic-beta": text})
    arguments, _ = run(tmp_path, command(record, b"{}"))
    assert 13 == len(arguments)


def test_pretty_json_with_carriage_returns_is_the_same_json(tmp_path: Path) -> None:
    _, sent = run(tmp_path, command(a_record(), b'{\r\n "a":\r1}'))
    assert {"a": 1} == json.loads(sent)


@pytest.mark.parametrize(
    ("changes", "body", "word"),
    [
        ({"request_truncated": True}, b"{}", "whole"),
        ({"request_complete": False}, b"{}", "whole"),
        ({}, b"x" * (LONGEST + 1), "too large"),
        ({}, b"\xff\xfe{}", "not text"),
        ({}, b"{oh", "no JSON"),
    ],
)
def test_what_would_not_be_the_same_call_has_no_command(changes: dict[str, Any], body: bytes, word: str) -> None:
    with pytest.raises(NoCommand, match=word):
        command(a_record(**changes), body)


def test_an_encoded_body_is_shown_decoded() -> None:
    assert b'{"model": "m"}' == request_body(a_record())
