"""A call knows whether a secret is in it."""

from __future__ import annotations

import pytest

from sidestream.demo.calls import Call


@pytest.mark.parametrize(
    "call",
    [
        Call("/v1/messages?key=inv-0", [], b""),
        Call("/v1/messages", [("x-api-key", "sk;invariant-auth=inv-0")], b""),
        Call("/v1/messages", [("inv-0", "")], b""),
        Call("/v1/messages", [], b'{"key": "inv-0"}'),
    ],
)
def test_a_secret_is_found_anywhere_in_the_request(call: Call) -> None:
    assert call.mentions("inv-0")


def test_a_secret_that_is_not_there_is_not_found() -> None:
    assert not Call("/v1/messages", [("x-api-key", "sk")], b"{}", bytearray(b"inv-0")).mentions("inv-0")
